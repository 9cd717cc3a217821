"""A row of the conformance board, and what rows are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestling.frames import Frame, Opcode

MAX_SIZE = 100_000  # bytes that a message may have
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = bytes.fromhex("37fa213d")

CONTINUATION, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG


@dataclass(frozen=True)
class Case:
    """A row.

    section:  where the rule stands
    name:     what is special, in a few words; no two rows have the same
    sent:     what the client sends once the connection is open; frames without a mask get one
    expected: the pongs and (whole) messages that must come, in order
    codes:    the close codes of which one must come, 1005 for none in the close frame; if
              there are none, the connection must still be open, and the client closes it
    request:  what the client sends first
    status:   a regular expression for the status that must come; "" for the end of TCP
    offer:    the client's Sec-WebSocket-Extensions
    agreed:   whether the server must, or must not, answer that it will compress
    cut:      bytes in a TCP segment, 0 for as many as there are
    family:   the part of the board
    """

    section: str
    name: str
    sent: Sequence[Frame | bytes] = ()
    expected: Sequence[Frame] = ()
    codes: Sequence[int] = ()
    request: bytes = b""
    status: str = "101"
    offer: str = ""
    agreed: bool | None = None
    cut: int = 0
    family: str = ""


def text(payload: str | bytes, fin: bool = True, rsv: int = 0) -> Frame:
    """A text frame, or the first fragment of one."""
    return Frame(TEXT, payload.encode() if isinstance(payload, str) else payload, fin, rsv)


def fragments(opcode: Opcode, *payloads: bytes, rsv: int = 0) -> list[Frame]:
    """A message with a frame for each payload."""
    last = len(payloads) - 1
    return [
        Frame(CONTINUATION if n else opcode, payload, n == last, 0 if n else rsv)
        for n, payload in enumerate(payloads)
    ]


def close(code: int, reason: bytes = b"") -> Frame:
    """A close frame, whatever the code."""
    return Frame(CLOSE, code.to_bytes(2, "big") + reason)


def ask(*lines: str, without: str = "", line: str = "GET / HTTP/1.1", end: str = "\r\n") -> bytes:
    """A request with these lines, in place of those of its fields that are named in `without`."""
    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    kept = [f"{name}: {value}" for name, value in fields.items() if name not in without.split()]
    return end.join([line, *kept, *lines, "", ""]).encode("latin-1")
