"""Rows on frames and messages (RFC 6455, sections 5, 7 and 8)."""

from __future__ import annotations

from collections.abc import Iterator

from nestling.frames import Frame, Opcode, encode

from workbench.conformance.case import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    MAX_SIZE,
    PING,
    PONG,
    TEXT,
    Case,
    close,
    fragments,
    text,
)


def framing() -> Iterator[Case]:
    """Lengths, and how bytes are cut."""
    for size in (0, 1, 125, 126, 127, 65_535, 65_536):
        for frame in (text("*" * size), Frame(BINARY, b"\xfe" * size)):
            yield Case("5.2", f"{frame.opcode.name.lower()} of {size} bytes", [frame], [frame])
    for size, width in [(0, 2), (5, 2), (125, 2), (5, 8), (126, 8), (65_535, 8)]:
        head = bytes([0x82, 0x80 | (126 if width == 2 else 127)]) + size.to_bytes(width, "big")
        name = f"the length {size} in {width} bytes, which are too many"
        yield Case("5.2", name, [head + bytes(4 + size)], codes=[1002])
    head = b"\x82\xff" + (2**63 + 5).to_bytes(8, "big") + bytes(4)
    yield Case("5.2", "a length with the top bit set", [head], codes=[1002, 1009])
    several = [text("a"), Frame(BINARY, b"b" * 200), text("c" * 70_000), text("")]
    yield Case("5.2", "several messages at once", several, several)
    yield Case("5.2", "a byte at a time", [text("*" * 130)], [text("*" * 130)], cut=1)
    yield Case("5.2", "seven bytes at a time", several[:2], several[:2], cut=7)


def control() -> Iterator[Case]:
    """Pings, pongs, and the limits of control frames."""
    for name, payload in [
        ("without a payload", b""),
        ("with a text", b"Hello"),
        ("with what is no UTF-8", b"\x00\xff\xfe"),
        ("with 125 bytes", b"*" * 125),
    ]:
        yield Case("5.5.2", f"a ping {name}", [Frame(PING, payload)], [Frame(PONG, payload)])
        yield Case("5.5.3", f"a pong {name} that nobody waits for", [Frame(PONG, payload)])
    ten = [str(n).encode() for n in range(10)]
    yield Case("5.5.2", "ten pings", [Frame(PING, n) for n in ten], [Frame(PONG, n) for n in ten])
    yield Case("5.5.2", "a ping a byte at a time", [Frame(PING, b"*")], [Frame(PONG, b"*")], cut=1)
    both = [Frame(PONG, b"no"), Frame(PING, b"yes")]
    yield Case("5.5.3", "a pong, then a ping", both, [Frame(PONG, b"yes")])
    for opcode in (CLOSE, PING, PONG):
        name, payload = opcode.name.lower(), b"\x03\xe8" if opcode == CLOSE else b""
        for size in (126, 200, 70_000):
            frame = Frame(opcode, payload.ljust(size, b"*"))
            yield Case("5.5", f"a {name} of {size} bytes", [frame], codes=[1002])
        yield Case("5.5", f"a {name} without FIN", [Frame(opcode, payload, False)], codes=[1002])
        two = fragments(opcode, payload, b"")
        yield Case("5.5", f"a {name} in two fragments", two, codes=[1002])


def reserved() -> Iterator[Case]:
    """Bits and opcodes that have no meaning."""
    for rsv in range(1, 8):
        for opcode in Opcode:
            begun = [text("begun", fin=False)] if opcode == CONTINUATION else []
            payload = b"\x03\xe8" if opcode == CLOSE else b"*"
            name = f"{opcode.name.lower()} with reserved bits {rsv:03b}"
            yield Case("5.2", name, [*begun, Frame(opcode, payload, rsv=rsv)], codes=[1002])
    for opcode in (*range(3, 8), *range(11, 16)):
        for name, frame in [
            ("", bytes([0x80 | opcode, 0x80]) + MASK),
            (" and a payload", bytes([0x80 | opcode, 0x81]) + MASK + b"*"),
            (" without FIN", bytes([opcode, 0x80]) + MASK),
        ]:
            yield Case("5.2", f"opcode {opcode}{name}", [frame], codes=[1002])
        begun = [text("begun", fin=False), bytes([0x80 | opcode, 0x80]) + MASK]
        yield Case("5.2", f"opcode {opcode} inside a message", begun, codes=[1002])


FRAGMENTS = {
    "two": [b"Hel", b"lo"],
    "three": [b"a", b"b", b"c"],
    "three empty": [b"", b"", b""],
    "the first empty of two": [b"", b"Hello"],
    "the last empty of two": [b"Hello", b""],
    "the middle empty of three": [b"Hel", b"", b"lo"],
    "a hundred": [b"*"] * 100,
    "two large": [b"*" * 40_000] * 2,
}


def fragmentation() -> Iterator[Case]:
    """Messages in several frames, and what may stand between these."""
    for name, payloads in FRAGMENTS.items():
        for opcode in (TEXT, BINARY):
            whole = [Frame(opcode, b"".join(payloads))]
            sent = fragments(opcode, *payloads)
            yield Case("5.4", f"{opcode.name.lower()} in fragments: {name}", sent, whole)
    sent, whole = fragments(TEXT, b"Hel", b"lo"), [text("Hello")]
    yield Case("5.4", "fragments, a byte at a time", sent, whole, cut=1)
    yield Case("5.4", "two messages in fragments", sent * 2, whole * 2)
    yield Case("5.4", "fragments, then one frame", [*sent, *whole], whole * 2)
    ping, pong = Frame(PING, b"now"), Frame(PONG, b"now")
    yield Case("5.4", "a ping between fragments", [sent[0], ping, sent[1]], [pong, *whole])
    yield Case("5.4", "a pong between fragments", [sent[0], pong, sent[1]], whole)
    many = [f for frame in fragments(BINARY, *[b"*"] * 9) for f in (ping, frame)]
    nine = [*[pong] * 9, Frame(BINARY, b"*" * 9)]
    yield Case("5.4", "a ping before every fragment", many, nine)
    for fin in (True, False):
        for payload in (b"", b"lo"):
            name = f"{'last' if fin else 'not last'}, {len(payload)} bytes"
            lost = Frame(CONTINUATION, payload, fin)
            yield Case("5.4", f"a continuation of nothing: {name}", [lost], codes=[1002])
        for opcode in (TEXT, BINARY):
            name = f"{opcode.name.lower()}{'' if fin else ' without FIN'} inside a message"
            yield Case("5.4", name, [sent[0], Frame(opcode, b"new", fin)], codes=[1002])


VALID = "a \x00 \x7f \x80 é \u07ff \u0800 € \ud7ff \ue000 \ufeff \ufffd \ufffe \uffff κόσμε"
VALID += " 😀 \U00010000 \U0001fffe \U0010fffe \U0010ffff"
INVALID = {
    "a byte that only continues": "80 bf 4180",
    "an overlong form": "c080 c1bf e08080 e09fbf f0808080 f08fbfbf",
    "a surrogate": "eda080 edafbf edb080 edbfbf eda080edb080",
    "above U+10FFFF": "f4908080 f7bfbfbf f888808080 fc8480808080",
    "a byte that is never there": "fe ff 41ff42",
    "a character that is cut": "c3 e282 f09f98 e28241 f09f9841",
}


def utf8() -> Iterator[Case]:
    """Texts are UTF-8, over all fragments."""
    for word in VALID.split(" "):
        name, frame = ascii(word).strip("'"), text(word)
        yield Case("5.6", f"text {name}", [frame], [frame])
        single = [bytes([byte]) for byte in frame.payload]
        if len(single) > 1:
            cut = fragments(TEXT, *single)
            yield Case("5.6", f"text {name}, a byte in a frame", cut, [frame])
    cut = [text(b"\xe2\x82", fin=False), Frame(PING), Frame(CONTINUATION, b"\xac")]
    yield Case("5.6", "a ping inside a character", cut, [Frame(PONG), text("€")])
    yield Case("5.6", "binary that is no UTF-8", [Frame(BINARY, b"\xff")], [Frame(BINARY, b"\xff")])
    for what, examples in INVALID.items():
        for word in examples.split():
            payload = bytes.fromhex(word)
            yield Case("8.1", f"{what}: {word}", [text(payload)], codes=[1007])
            split = fragments(TEXT, b"ok ", payload, b"")
            yield Case("8.1", f"{what}: {word}, in the middle", split, codes=[1007])
    for word in ("ff", "c0", "eda0", "f490", "e28241"):
        begun = text(b"ok " + bytes.fromhex(word), fin=False)
        yield Case("8.1", f"at once, before the end: {word}", [begun], codes=[1007])


def closing() -> Iterator[Case]:
    """Close codes, reasons, and what comes behind a close."""
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999):
        yield Case("7.4", f"close {code}", [close(code)], codes=[code])
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield Case("7.4", f"close {code}, which may not be sent", [close(code)], codes=[1002])
    yield Case("5.5.1", "close without a code", [Frame(CLOSE)], codes=[1005, 1000])
    yield Case("5.5.1", "close with one byte", [Frame(CLOSE, b"\x03")], codes=[1002])
    for reason in (b"*", "é".encode() * 61, b"*" * 123):
        name = f"a reason of {len(reason)} bytes"
        yield Case("5.5.1", name, [close(1000, reason)], codes=[1000])
    for word in ("ff", "c080", "eda080", "e282"):
        bad = close(1000, bytes.fromhex(word))
        yield Case("5.5.1", f"a reason that is no UTF-8: {word}", [bad], codes=[1007])
    end = close(1000)
    for name, sent in [
        ("a second close", [end, close(1001)]),
        ("a text after close", [end, text("late")]),
        ("a ping after close", [end, Frame(PING)]),
        ("nonsense after close", [end, b"\xff" * 20]),
        ("close inside a message", [text("begun", fin=False), end]),
        ("close a byte at a time", [end]),
    ]:
        cut = 1 if "byte" in name else 0
        yield Case("5.5.1", name, sent, codes=[1000], cut=cut)


def masking() -> Iterator[Case]:
    """A client masks, with any key."""
    for opcode in Opcode:
        payload = b"\x03\xe8" if opcode == CLOSE else b""
        begun = [text("begun", fin=False)] if opcode == CONTINUATION else []
        bare = encode(Frame(opcode, payload))
        yield Case("5.1", f"{opcode.name.lower()} without a mask", [*begun, bare], codes=[1002])
    bare = encode(text("Hello"))
    yield Case("5.1", "Hello without a mask", [bare], codes=[1002])
    for key in ("00000000", "ffffffff", "00ff00ff", "48656c6c"):
        masked = text("Hello")._replace(mask=bytes.fromhex(key))
        yield Case("5.3", f"the masking key {key}", [masked], [text("Hello")])


def size() -> Iterator[Case]:
    """The limit on a message."""
    most = Frame(BINARY, b"*" * MAX_SIZE)
    half = b"*" * (MAX_SIZE // 2)
    yield Case("10.4", "a message of the most bytes", [most], [most])
    yield Case("10.4", "fragments of the most bytes", fragments(BINARY, half, half), [most])
    yield Case("10.4", "one byte too many", [Frame(BINARY, most.payload + b"*")], codes=[1009])
    yield Case("10.4", "fragments too many", fragments(TEXT, half, half, b"*"), codes=[1009])
    for exponent in (20, 31, 32, 53, 62):
        head = b"\x82\xff" + (2**exponent).to_bytes(8, "big") + MASK
        yield Case("10.4", f"a header that promises 2**{exponent} bytes", [head], codes=[1009])
    promise = b"\x80\xff" + MAX_SIZE.to_bytes(8, "big") + MASK
    begun = [Frame(TEXT, half, False), promise]
    yield Case("10.4", "a fragment that promises too much", begun, codes=[1009])
