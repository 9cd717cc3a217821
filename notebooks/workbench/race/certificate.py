"""A certificate for 127.0.0.1 that no authority has signed, made with what Python brings.

The key is of the curve P-256 (FIPS 186-4), the certificate X.509 (RFC 5280). Good enough for
a cable in one machine, where both ends are ours. Do not use this arithmetic for anything
that has to be kept secret: how long it takes depends on the key.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
import tempfile
from functools import cache
from pathlib import Path

from workbench.relay import HOST

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

# Object identifiers, as DER has them.
_EC_KEY = bytes.fromhex("06072a8648ce3d0201")
_P256 = bytes.fromhex("06082a8648ce3d030107")
_ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
_COMMON_NAME = bytes.fromhex("0603550403")
_ALT_NAME = bytes.fromhex("0603551d11")
_CONSTRAINTS = bytes.fromhex("0603551d13")

Point = tuple[int, int] | None  # None is the point at infinity


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server at 127.0.0.1, and for clients that trust it and no other."""
    key, certificate = make()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # Python loads a key from a file alone
        file = Path(folder) / "both.pem"
        file.write_text(key + certificate)
        server.load_cert_chain(file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=certificate)
    return server, client


def make() -> tuple[str, str]:
    """A fresh private key, and a certificate for 127.0.0.1 signed with it, both as PEM."""
    secret = 1 + secrets.randbelow(_N - 1)
    public = b"\x04" + b"".join(part.to_bytes(32, "big") for part in _times(secret, _G))
    algorithm = _sequence(_ECDSA_SHA256)
    name = _sequence(_der(0x31, _sequence(_COMMON_NAME, _der(0x0C, HOST.encode()))))
    address = bytes(map(int, HOST.split(".")))
    extensions = _sequence(
        _sequence(_ALT_NAME, _der(0x04, _sequence(_der(0x87, address)))),
        _sequence(_CONSTRAINTS, _der(0x04, _sequence(_der(0x01, b"\xff")))),
    )
    body = _sequence(
        _der(0xA0, _integer(2)),  # version 3
        _integer(secrets.randbits(63)),
        algorithm,
        name,
        _sequence(_der(0x17, b"200101000000Z"), _der(0x17, b"491231235959Z")),
        name,
        _sequence(_sequence(_EC_KEY, _P256), _bits(public)),
        _der(0xA3, extensions),
    )
    certificate = _sequence(body, algorithm, _bits(_sign(secret, body)))
    private = _sequence(_integer(1), _der(0x04, secret.to_bytes(32, "big")), _der(0xA0, _P256))
    return _pem("EC PRIVATE KEY", private), _pem("CERTIFICATE", certificate)


def _sign(secret: int, message: bytes) -> bytes:
    """An ECDSA signature with SHA-256."""
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    once = 1 + secrets.randbelow(_N - 1)
    r = _times(once, _G)[0] % _N
    return _sequence(_integer(r), _integer(pow(once, -1, _N) * (digest + r * secret) % _N))


def _times(factor: int, point: Point) -> Point:
    """A point of the curve, added to itself."""
    total = None
    while factor:
        if factor & 1:
            total = _plus(total, point)
        point, factor = _plus(point, point), factor >> 1
    return total


def _plus(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % _P == 0:
        return None
    if one == other:
        slope = 3 * (x1 * x1 - 1) * pow(2 * y1, -1, _P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, _P)
    x3 = (slope * slope - x1 - x2) % _P
    return x3, (slope * (x1 - x3) - y1) % _P


def _der(tag: int, content: bytes) -> bytes:
    """A value in DER: its tag, its length, its bytes."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _der(0x03, b"\x00" + content)


def _pem(label: str, content: bytes) -> str:
    text = base64.encodebytes(content).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"
