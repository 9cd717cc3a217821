"""What crossed a relay, decoded with nestling and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from nestling.frames import Decoder, Frame, FrameError, Opcode, encode, parse_close
from nestling.handshake import (
    HandshakeError,
    Headers,
    Request,
    Response,
    parse_request,
    parse_response,
)

from workbench.relay import Tap

_SECRET = re.compile(rb"(?im)^((?:set-)?cookie|(?:proxy-)?authorization):([^\r\n]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;.*)?")


@dataclass(frozen=True)
class Body:
    """Part of the body of an HTTP message, or a chunk of it; the last chunk is empty."""

    data: bytes


@dataclass(frozen=True)
class Undecoded:
    """Bytes that are neither a head nor a frame, and why."""

    why: str


@dataclass(frozen=True)
class End:
    """The end of a direction: nothing more is sent."""


Content = Request | Response | Frame | Body | Undecoded | End


@dataclass(frozen=True)
class Item:
    """One thing that was sent.

    connection: 1 for the first that the relay saw, and so on
    sender:     "client" or "server"
    sent:       when its last byte entered the relay, in seconds on time.perf_counter
    raw:        its bytes on the wire, cookies and credentials made illegible
    content:    what they say
    """

    connection: int
    sender: str
    sent: float
    raw: bytes
    content: Content

    @property
    def label(self) -> str:
        """The item in a few words."""
        match self.content:
            case Request(method, path, headers):
                upgrade = headers.get("Upgrade")
                return f"{method} {path}" + (f", upgrade to {upgrade}" if upgrade else "")
            case Response(status, reason):
                return f"{status} {reason}"
            case Frame():
                return frame_label(self.content)
            case Body(data):
                return f"body {_short(data.decode(errors='replace'))}"
            case Undecoded(why):
                return f"not decoded, {why}: {_short(self.raw)}"
        return "end of stream"


class Trace(list[Item]):
    """Items in the order in which they entered the relay. A cell shows them as a table."""

    @property
    def frames(self) -> list[Frame]:
        """The frames among the items."""
        return [item.content for item in self if isinstance(item.content, Frame)]

    def of(self, sender: str) -> Trace:
        """The items that "client" or "server" has sent."""
        return Trace(item for item in self if item.sender == sender)

    def __repr__(self) -> str:
        rows = [f"{i.sender:8}{len(i.raw):>8} bytes  {i.label}" for i in self]
        return "\n".join(rows) or "(nothing was sent)"

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{i.sender}</td><td>{len(i.raw)}</td>"
            f"<td style='text-align:left'>{escape(i.label)}</td></tr>"
            for i in self
        ]
        head = "<tr><th>sender</th><th>bytes</th><th style='text-align:left'>what</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


def decode(taps: Iterable[Tap]) -> Trace:
    """What the taps of a relay say, over all of its connections.

    Bytes that do not make a whole head or frame yet come last, as Undecoded. So is all that
    follows a head that does not say clearly how long its body is.
    """
    trace = Trace()
    directions: dict[tuple[int, str], _Direction] = {}
    last = 0.0
    for tap in taps:
        key, last = (tap.connection, tap.sender), tap.sent
        direction = directions.setdefault(key, _Direction(tap.sender))
        contents = direction.feed(tap.data) if tap.data else iter([(b"", End())])
        trace += [Item(*key, tap.sent, raw, content) for raw, content in contents]
    for key, direction in directions.items():
        if direction.rest:
            trace.append(Item(*key, last, direction.rest, Undecoded("incomplete")))
    return trace


class _Direction:
    """One direction of one connection: heads with their bodies, and frames after an upgrade."""

    def __init__(self, sender: str) -> None:
        self.rest = b""
        self._parse = parse_request if sender == "client" else parse_response
        self._body = 0
        self._chunked = False
        self._decoder: Decoder | None = None
        self._lost: str | None = None

    def feed(self, data: bytes) -> Iterator[tuple[bytes, Content]]:
        self.rest += data
        if self._decoder:
            yield from self._frames(data)
        while self.rest and not self._decoder:
            if self._lost or self._body:
                yield self._take(self._body or len(self.rest))
                continue
            try:
                if self._chunked:
                    parsed = self._parse_chunk()
                else:
                    self.rest = _SECRET.sub(_illegible, self.rest)
                    parsed = self._parse(self.rest)
            except HandshakeError as error:
                self._lost = str(error)
                continue
            if parsed is None:
                return
            content, rest = parsed
            yield self.rest[: len(self.rest) - len(rest)], content
            self.rest = rest
            if isinstance(content, Body):
                self._chunked = bool(content.data)
            else:
                yield from self._after(content)

    def _take(self, size: int) -> tuple[bytes, Content]:
        """Up to `size` bytes that are a body, or not understood."""
        raw, self.rest = self.rest[:size], self.rest[size:]
        if self._lost:
            return _SECRET.sub(_illegible, raw), Undecoded(self._lost)
        self._body -= len(raw)
        return raw, Body(raw)

    def _parse_chunk(self) -> tuple[Body, bytes] | None:
        """The chunk at the beginning, and the bytes behind it; None while it is not complete.

        Raises HandshakeError if there is none.
        """
        line, end, rest = self.rest.partition(b"\r\n")
        if not end:
            return None
        if not (match := _CHUNK_SIZE.fullmatch(line)):
            raise HandshakeError("not the size of a chunk")
        if (size := int(match[1], 16)) == 0:  # trailer fields may follow, an empty line does
            _, end, rest = (end + rest).partition(b"\r\n\r\n")
            return (Body(b""), rest) if end else None
        if len(rest) < size + 2:
            return None
        if rest[size : size + 2] != b"\r\n":
            raise HandshakeError("a chunk longer than its size")
        return Body(rest[:size]), rest[size + 2 :]

    def _after(self, head: Request | Response) -> Iterator[tuple[bytes, Content]]:
        """Find out what follows a head; gives the frames that are already there."""
        if (head.status == 101) if isinstance(head, Response) else head.headers.get("Upgrade"):
            self._decoder = Decoder(max_payload=2**40, allowed_rsv=7)
            yield from self._frames(self.rest)
            return
        codings = [coding.lower() for coding in head.headers.tokens("Transfer-Encoding")]
        self._chunked = "chunked" in codings
        if not self._chunked:
            try:
                self._body = _content_length(head.headers)
            except HandshakeError as error:
                self._lost = str(error)

    def _frames(self, data: bytes) -> Iterator[tuple[bytes, Content]]:
        try:
            for frame in self._decoder.feed(data):
                size = len(encode(frame))
                yield self.rest[:size], frame
                self.rest = self.rest[size:]
        except FrameError as error:
            yield self.rest, Undecoded(str(error))
            self.rest = b""


def _content_length(headers: Headers) -> int:
    """How many bytes of a body follow a head (RFC 9110, section 8.6), 0 if it does not say.

    Raises HandshakeError if it says no number, or two.
    """
    values = headers.tokens("Content-Length")
    for value in values:
        if not re.fullmatch("[0-9]+", value):
            raise HandshakeError(f"Content-Length is no number: {value[:30]!r}")
    # More bytes than 19 digits say never come, and Python refuses to read thousands of digits.
    lengths = {int(value.lstrip("0")[:19] or 0) for value in values}
    if len(lengths) > 1:
        raise HandshakeError("different values of Content-Length")
    return lengths.pop() if lengths else 0


def _illegible(field: re.Match[bytes]) -> bytes:
    """A header field with its value overwritten, as long as before."""
    return field[1] + b":" + b"x" * len(field[2])


def frame_label(frame: Frame) -> str:
    """A frame in a few words: its opcode, and what it says."""
    name = frame.opcode.name + ("" if frame.fin else ", more to come")
    if frame.opcode is Opcode.CLOSE:
        try:
            code, reason = parse_close(frame.payload)
        except FrameError as error:
            return f"{name}, {error}"
        return f"{name} {code} {reason}".rstrip() if frame.payload else name
    if frame.opcode is not Opcode.BINARY and (text := _as_text(frame.payload)) is not None:
        return f"{name} {_short(text)}" if text else name
    return f"{name} {_short(frame.payload)}" if frame.payload else name


def _as_text(payload: bytes) -> str | None:
    """The payload as text, None if it does not look like any."""
    text = payload.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else None


def _short(data: bytes | str) -> str:
    """A payload as a line has room for it: text as text, other bytes in hexadecimal."""
    if isinstance(data, str):
        return repr(data) if len(data) <= 30 else f"{data[:24]!r}… {len(data)} characters"
    return data.hex(" ") if len(data) <= 10 else f"{data[:8].hex(' ')} … {len(data)} bytes"
