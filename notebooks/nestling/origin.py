"""Whose web page asks? What a server can know of it, before it answers the handshake.

A page may open a WebSocket to every server that its browser reaches, one on 127.0.0.1 or behind
a proxy included, and the browser sends the reader's cookies for that server along. It also says
where the page is from, in the field Origin, and no script can change that. (A program can write
there what it likes, but it has nobody's cookies.) So this is where a server turns pages away.
"""

from __future__ import annotations

import re
from typing import Any

REFUSAL = "Only programs may connect, and pages of the site that this server belongs to.\n"

_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(?::(\d+))?")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


def is_foreign(headers: Any, port: int) -> bool:
    """Whether a handshake comes from a web page of another site.

    headers: of the request; `get_all(name)` gives the values of a field
    port: the one that the server listens on

    A program, which sends no Origin, is not foreign. Nor is a page from this machine, if it
    asks for this machine; nor one from the very host that it asks for, as Origin and Host say
    when Jupyter's proxy hands them on. But that host is not one with our own port, at which
    nobody arrives from elsewhere: a name that was made to lead to 127.0.0.1 (DNS rebinding).
    """
    origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
    if not origins:
        return False
    if len(origins) > 1 or len(hosts) != 1:
        return True
    page, asked = origins[0].lower().partition("://")[2], hosts[0].lower()
    (name, asked_port), (page_name, _) = _parts(asked), _parts(page)
    if name in _LOOPBACK:
        return page_name not in _LOOPBACK
    return not page or page != asked or asked_port == str(port)


def _parts(host: str) -> tuple[str, str | None]:
    """The name and the port of a host as it stands in Host, or in Origin after the scheme."""
    found = _HOST.fullmatch(host)
    return (found[1], found[2]) if found else ("", None)
