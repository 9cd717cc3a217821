"""Rows on permessage-deflate (RFC 7692)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from nestling.frames import Frame

from workbench.conformance.case import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_SIZE,
    PING,
    PONG,
    TEXT,
    Case,
    fragments,
    text,
)

NAME = "permessage-deflate"
OFFERS = [
    *("", "; client_max_window_bits", '; server_max_window_bits="10"', f"; unknown, {NAME}"),
    *("; server_no_context_takeover", "; client_no_context_takeover"),
    *(f"; server_max_window_bits={bits}" for bits in (9, 10, 12, 15)),
    *(f"; client_max_window_bits={bits}" for bits in (8, 9, 12, 15)),
    "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10"
    "; client_max_window_bits=10",
]
DECLINED = [
    *("; unknown", "; client_no_context_takeover=1", "; server_no_context_takeover=true"),
    *(f"; server_max_window_bits{value}" for value in ("", "=7", "=16", "=010", "=x")),
    *(f"; client_max_window_bits={value}" for value in ("7", "16", "09", "x")),
    *(f"; {name}; {name}" for name in ("client_no_context_takeover", "client_max_window_bits")),
]


def squeeze(payload: bytes, end: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Compressed for every window there is, since 9 bits look back over 250 bytes."""
    stream = zlib.compressobj(wbits=-9)
    return stream.compress(payload) + stream.flush(end)


HELLO, SAID = squeeze(b"Hello")[:-4], text("Hello")
BACK = bytes.fromhex("f200110000")  # Hello again, by pointing at it
FINAL = squeeze(b"Hello", zlib.Z_FINISH) + b"\x00"


def negotiation() -> Iterator[Case]:
    """What a server may agree to, and what not."""
    packed = text(HELLO, rsv=4)
    for offer in OFFERS:
        sent, expected = [packed, SAID, packed], [SAID] * 3
        yield Case("7692 7.1", f"offer{offer}", sent, expected, offer=NAME + offer, agreed=True)
    for offer in DECLINED:
        name = f"an offer that no server may accept{offer}"
        yield Case("7692 7.1", name, [SAID], [SAID], offer=NAME + offer, agreed=False)


def compression() -> Iterator[Case]:
    """Compressed messages in one frame."""
    noise = bytes(n * n % 251 for n in range(2000))
    for section, name, payloads, whole in [
        ("7.2.3.2", "a second message that points into the first", [HELLO, BACK], [b"Hello"] * 2),
        ("7.2.3.3", "a block that is not compressed", [b"\0\5\0\xfa\xffHello\0"], [b"Hello"]),
        ("7.2.3.4", "a final block", [FINAL], [b"Hello"]),
        ("7.2.3.4", "a message after a final block", [FINAL, HELLO], [b"Hello"] * 2),
        ("7.2.3.4", "two final blocks", [FINAL[:-1] + FINAL], [b"HelloHello"]),
        ("7.2.3.5", "two blocks", [squeeze(b"Hel") + squeeze(b"lo")[:-4]], [b"Hello"]),
        ("7.2.3.6", "empty messages", [b"\0"] * 3, [b""] * 3),
        ("7.2.2", "as large as may be", [squeeze(bytes(MAX_SIZE))[:-4]], [bytes(MAX_SIZE)]),
        ("7.2.2", "noise", [squeeze(noise)[:-4]] * 2, [noise] * 2),
    ]:
        sent = [Frame(BINARY, payload, rsv=4) for payload in payloads]
        expected = [Frame(BINARY, payload) for payload in whole]
        yield Case(f"7692 {section}", name, sent, expected, offer=NAME)


def compressed_fragments() -> Iterator[Case]:
    """Compressed messages in several frames."""
    cut = fragments(TEXT, HELLO[:2], b"", HELLO[2:], rsv=4)
    ping, pong = Frame(PING, b"now"), Frame(PONG, b"now")
    euro = squeeze("€".encode())[:-4]
    for name, sent, expected in [
        ("fragments", cut, [SAID]),
        ("a byte in a frame", fragments(TEXT, *(bytes([b]) for b in euro), rsv=4), [text("€")]),
        ("a ping between fragments", [cut[0], ping, *cut[1:]], [pong, SAID]),
        ("an empty last fragment", fragments(TEXT, squeeze(b"Hello"), b"\0", rsv=4), [SAID]),
        ("fragments without RSV1", fragments(TEXT, b"Hel", b"lo"), [SAID]),
    ]:
        yield Case("7692 6.1", f"compressed: {name}", sent, expected, offer=NAME)


def broken_compression() -> Iterator[Case]:
    """What ends a connection with permessage-deflate."""
    begun, again = text(HELLO[:3], False, 4), Frame(CONTINUATION, HELLO[3:], rsv=4)
    for name, sent in [
        ("RSV1 on a continuation", [begun, again]),
        ("RSV1 on a continuation alone", [text(b"a", False), again]),
        *((f"RSV1 on a {o.name.lower()}", [Frame(o, rsv=4)]) for o in (PING, PONG, CLOSE)),
        *((f"reserved bits {rsv:03b}", [text(HELLO, rsv=rsv)]) for rsv in (1, 2, 3, 5, 6, 7)),
    ]:
        yield Case("7692 6", f"compressed: {name}", sent, codes=[1002], offer=NAME)
    for name, payload in [
        ("no DEFLATE", b"\xff" * 9),
        ("it ends inside a block", HELLO[:4]),
        ("it ends inside a stored block", b"\0\x14\0\xeb\xffHello"),
        ("nothing at all", b""),
        ("a final block without the byte behind it", squeeze(b"Hello", zlib.Z_FINISH)),
        ("it points before the first message", BACK),
    ]:
        sent = [text(payload, rsv=4)]
        yield Case("7692 7.2.2", f"compressed: {name}", sent, codes=[1007, 1002], offer=NAME)
    sent = [text(b"\xff" * 9, False, 4)]
    yield Case("7692 7.2.2", "no DEFLATE, before the end", sent, codes=[1007, 1002], offer=NAME)
    for section, name, payload, code in [
        ("8.1", "no UTF-8", b"\xff", 1007),
        ("8.1", "cut inside a character", b"\xe2\x82", 1007),
        ("10.4", "one byte too many", b"*" * (MAX_SIZE + 1), 1009),
        ("10.4", "a bomb of 10 kB that says 10 MB", bytes(10**7), 1009),
    ]:
        sent = [text(squeeze(payload)[:-4], rsv=4)]
        yield Case(section, f"compressed: {name}", sent, codes=[code], offer=NAME)
