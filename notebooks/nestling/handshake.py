"""The opening handshake (RFC 6455, section 4), both sides, as functions on bytes.

A client sends an HTTP request that asks for an upgrade, the server accepts with
status 101 or refuses with another one, and after a 101 the same TCP connection
carries frames.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

# A fixed text that no program uses unless it knows WebSockets (section 1.3).
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"
MAX_HEAD = 16_384  # bytes, start line and header fields together

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HandshakeError(Exception):
    """The other side sent something that is not a valid opening handshake."""


class HeadTooLong(HandshakeError):
    """The head is longer than MAX_HEAD."""


class Refusal(HandshakeError):
    """Why a server refuses a request: the status it answers with, and a sentence.

    status:  the HTTP status, an integer
    headers: what the answer must carry beside it, such as Allow
    """

    def __init__(self, status: int, why: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.headers = list(headers)


class Headers(list[tuple[str, str]]):
    """Header fields in their order; names are compared without regard to case."""

    def get_all(self, name: str) -> list[str]:
        """The values of every field of that name."""
        return [value for field, value in self if field.lower() == name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the first field of that name."""
        return next(iter(self.get_all(name)), default)

    def tokens(self, name: str) -> list[str]:
        """The items of a list such as `Connection: keep-alive, Upgrade`, over all its fields."""
        items = ",".join(self.get_all(name)).split(",")
        return [item.strip(" \t") for item in items if item.strip(" \t")]


@dataclass(frozen=True)
class Request:
    """The head of an HTTP request.

    path: from the first slash on, query included, also if the request named the
          scheme and host before it (RFC 9112, section 3.2.2)
    """

    method: str
    path: str
    headers: Headers


@dataclass(frozen=True)
class Response:
    """The head of an HTTP response."""

    status: int
    reason: str
    headers: Headers


def _build_head(line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    lines = [line]
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"not the name of a header field: {name!r}")
        if not value.isprintable():
            raise ValueError(f"a control character in {name}: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _parse_head(data: bytes) -> tuple[str, Headers, bytes] | None:
    """Start line, header fields and the bytes behind, as RFC 9112 wants them.

    A line ends in CR LF; neither may stand alone, and no field continues on a next
    line. None while the empty line that ends the head has not come.
    """
    head, end, rest = data[: MAX_HEAD + 4].partition(b"\r\n\r\n")
    alone = (head if end else head.removesuffix(b"\r")).replace(b"\r\n", b"")
    if b"\r" in alone or b"\n" in alone:
        raise HandshakeError("a line ends in CR LF; here is one of the two alone")
    if not end:
        if len(data) >= MAX_HEAD + 4:
            raise HeadTooLong(f"the head is longer than {MAX_HEAD} bytes")
        return None
    line, *fields = head.decode("latin-1").split("\r\n")
    return line, Headers(map(_parse_field, fields)), rest + data[MAX_HEAD + 4 :]


def _parse_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if line[:1] in (" ", "\t"):
        raise HandshakeError(f"a header field that goes on over a second line: {line[:80]!r}")
    if not colon or not _TOKEN.fullmatch(name):
        raise HandshakeError(f"not a header field: {line[:80]!r}")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        raise HandshakeError(f"a control character in {name}")
    return name, value.strip(" \t")


def new_key() -> str:
    """A fresh Sec-WebSocket-Key: 16 random bytes in base64 (section 4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def origin_form(target: str) -> str:
    """The path and query of a request's target, from the first slash on.

    A target may name the scheme and host before it (RFC 9112, section 3.2.2).
    """
    return re.sub(r"(?i)^https?://[^/?]*/?", "/", target)


def path_of(target: str) -> str:
    """The path of a request's target, as sent: nothing in it is decoded or resolved."""
    return origin_form(target).partition("?")[0]


def parse_subprotocols(fields: Iterable[str]) -> list[str]:
    """The subprotocols that a client offers, from its fields Sec-WebSocket-Protocol.

    Raises Refusal, 400, for anything but a list of different tokens (section 4.1).
    """
    offered = [item.strip(" \t") for item in ",".join(fields).split(",")]
    for number, item in enumerate(offered):
        if not _TOKEN.fullmatch(item):
            raise Refusal(400, f"not a subprotocol: {item[:80]!r}")
        if item in offered[:number]:
            raise Refusal(400, f"the subprotocol {item[:80]} is offered twice")
    return offered


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers `key` (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def build_request(
    host: str,
    path: str = "/",
    *,
    key: str,
    subprotocols: Sequence[str] = (),
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The client's request. `host` is `name` or `name:port`, `path` may have a query.

    Raises ValueError for what cannot stand in a request, such as a space in the path, a
    line break anywhere, or the same subprotocol twice.
    """
    if not re.fullmatch(r"/[!-~]*", path):
        raise ValueError(f"a slash, then no space or control character, make a path: {path!r}")
    if len(set(subprotocols)) < len(subprotocols) or not all(map(_TOKEN.fullmatch, subprotocols)):
        raise ValueError(f"not a list of different subprotocols: {', '.join(subprotocols)!r}")
    fields = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    ]
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    return _build_head(f"GET {path} HTTP/1.1", [*fields, *headers])


def parse_request(data: bytes) -> tuple[Request, bytes] | None:
    """The request at the beginning of `data`, and the bytes behind it.

    Gives None while the head is not complete. Raises Refusal: 400 if it is no HTTP
    request, 431 if it is longer than MAX_HEAD, 505 for another version than HTTP/1.1.
    """
    try:
        parsed = _parse_head(data)
    except HeadTooLong as error:
        raise Refusal(431, str(error)) from None
    except HandshakeError as error:
        raise Refusal(400, str(error)) from None
    if parsed is None:
        return None
    line, headers, rest = parsed
    match = re.fullmatch(r"(\S+) ([!-~]+) HTTP/(\d\.\d)", line)
    if not match or not _TOKEN.fullmatch(match[1]):
        raise Refusal(400, f"not a request line: {line[:80]!r}")
    if match[3] != "1.1":
        raise Refusal(505, f"HTTP/1.1 is required, not HTTP/{match[3]}")
    return Request(match[1], origin_form(match[2]), headers), rest


def _check_upgrade(headers: Headers) -> None:
    required = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)]
    if "websocket" not in map(str.lower, headers.tokens("Upgrade")):
        raise Refusal(426, "this is a WebSocket server: Upgrade: websocket is missing", required)
    if "upgrade" not in map(str.lower, headers.tokens("Connection")):
        raise Refusal(426, "Connection does not list Upgrade", required)
    if (version := headers.get("Sec-WebSocket-Version")) != VERSION:
        why = f"Sec-WebSocket-Version is {version or 'missing'}, and must be {VERSION}"
        raise Refusal(426, why, required)


def _check_key(key: str | None) -> None:
    if key is None:
        raise Refusal(400, "no Sec-WebSocket-Key")
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        raise Refusal(400, f"Sec-WebSocket-Key is not base64: {key!r}") from None
    if size != 16:
        raise Refusal(400, f"Sec-WebSocket-Key has {size} bytes instead of 16")


def check_request(request: Request, paths: Collection[str] | None = None) -> None:
    """Whether a server may accept the request (section 4.2.1).

    With `paths`, only these are served; the query is not compared. Raises Refusal:
    405 for another method than GET, 404 for another path, 426 if no upgrade is asked
    for or another version of WebSocket, 400 for all else.
    """
    headers = request.headers
    for name in ("Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
        if len(headers.get_all(name)) > 1:
            raise Refusal(400, f"more than one {name}")
    if headers.get("Host") is None:
        raise Refusal(400, "no Host")
    if request.method != "GET":
        raise Refusal(405, f"{request.method} cannot open a WebSocket", [("Allow", "GET")])
    if not request.path.startswith("/"):
        raise Refusal(400, f"a path begins with a slash: {request.path!r}")
    if headers.get("Transfer-Encoding") or headers.get("Content-Length", "0") != "0":
        raise Refusal(400, "a request with a body cannot open a WebSocket")
    if fields := headers.get_all("Sec-WebSocket-Protocol"):
        parse_subprotocols(fields)
    if paths is not None and path_of(request.path) not in paths:
        raise Refusal(404, f"nothing here at {request.path}; there is {', '.join(sorted(paths))}")
    _check_upgrade(headers)
    _check_key(headers.get("Sec-WebSocket-Key"))


def accept(
    request: Request,
    subprotocol: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The server's 101 for a request that `check_request` lets pass (section 4.2.2).

    Raises ValueError for a subprotocol that the client did not offer.
    """
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(request.headers.get("Sec-WebSocket-Key") or "")),
    ]
    if subprotocol is not None:
        if subprotocol not in request.headers.tokens("Sec-WebSocket-Protocol"):
            raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}")
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    return _build_head("HTTP/1.1 101 Switching Protocols", [*fields, *headers])


def refuse(refusal: Refusal) -> bytes:
    """The server's answer to a request it does not accept: what was wrong, as plain text."""
    body = f"{refusal}\n".encode()
    fields = [
        *refusal.headers,
        ("Connection", "close, Upgrade" if refusal.status == 426 else "close"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
    ]
    phrase = HTTPStatus(refusal.status).phrase
    return _build_head(f"HTTP/1.1 {refusal.status} {phrase}", fields) + body


def parse_response(data: bytes) -> tuple[Response, bytes] | None:
    """The response at the beginning of `data`, and the bytes behind it.

    Gives None while the head is not complete. Raises HandshakeError if it is no
    HTTP/1.1 response or longer than MAX_HEAD.
    """
    if (parsed := _parse_head(data)) is None:
        return None
    line, headers, rest = parsed
    if not (match := re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d)(?: ([\t -~\x80-\xff]*))?", line)):
        raise HandshakeError(f"not the status line of an HTTP/1.1 response: {line[:80]!r}")
    return Response(int(match[1]), match[2] or "", headers), rest


def check_response(response: Response, key: str, subprotocols: Sequence[str] = ()) -> str | None:
    """Whether a response opens the connection that the client asked for (section 4.1).

    `key` and `subprotocols` are those of the request. Gives the subprotocol that the
    server has chosen, None if none. Raises HandshakeError that says what is wrong.
    """
    headers = response.headers
    if response.status != 101:
        raise HandshakeError(f"the server refused: {response.status} {response.reason}")
    if list(map(str.lower, headers.tokens("Upgrade"))) != ["websocket"]:
        raise HandshakeError("the response does not upgrade to websocket")
    if "upgrade" not in map(str.lower, headers.tokens("Connection")):
        raise HandshakeError("Connection does not list Upgrade")
    if headers.get_all("Sec-WebSocket-Accept") != [accept_key(key)]:
        raise HandshakeError("Sec-WebSocket-Accept does not match the key")
    if headers.tokens("Sec-WebSocket-Extensions"):
        raise HandshakeError("the server uses an extension that was not offered")
    chosen = headers.tokens("Sec-WebSocket-Protocol")
    if len(chosen) > 1:
        raise HandshakeError(f"the server chose {len(chosen)} subprotocols, and may choose one")
    if chosen and chosen[0] not in subprotocols:
        raise HandshakeError(f"the subprotocol {chosen[0]} was not offered")
    return chosen[0] if chosen else None
