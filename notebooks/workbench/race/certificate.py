"""TLS between two ends in this machine: a certificate for 127.0.0.1 that only they trust."""

from __future__ import annotations

import ssl
from functools import cache

import trustme

from workbench.relay import HOST


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server at 127.0.0.1, and for clients that trust it and no other."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client
