"""Frames: the RFC's examples, every rule, any bytes at all, and the websockets library."""

from __future__ import annotations

import ast
import asyncio
import itertools
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import pytest
from conftest import read_head
from hypothesis import given
from hypothesis import strategies as st
from nestling import frames
from nestling.frames import (
    CloseCode,
    Decoder,
    Frame,
    FrameError,
    Opcode,
    apply_mask,
    close_payload,
    encode,
    new_mask,
    parse_close,
)
from nestling.handshake import (
    accept,
    build_request,
    check_request,
    check_response,
    new_key,
    parse_request,
    parse_response,
)
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close
from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode as LibraryOpcode
from websockets.streams import StreamReader

MIB = 2**20
TIMEOUT = 10
MASK = bytes.fromhex("37fa213d")

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, over and over."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(data):
            return
        yield data[start : start + size]
        start += size


def decode(data: bytes, sizes: Iterable[int] = (2**30,), **options) -> list[Frame]:
    """The frames in `data`, of which nothing is left over."""
    decoder = Decoder(**options)
    decoded = [frame for piece in cut(data, sizes) for frame in decoder.feed(piece)]
    assert decoder.pending == 0
    return decoded


# The RFC's examples (section 5.7)

EXAMPLES = [
    ("81 05 48 65 6c 6c 6f", Frame(TEXT, b"Hello")),
    ("81 85 37 fa 21 3d 7f 9f 4d 51 58", Frame(TEXT, b"Hello", mask=MASK)),
    ("01 03 48 65 6c", Frame(TEXT, b"Hel", fin=False)),
    ("80 02 6c 6f", Frame(CONTINUATION, b"lo")),
    ("89 05 48 65 6c 6c 6f", Frame(PING, b"Hello")),
    ("8a 85 37 fa 21 3d 7f 9f 4d 51 58", Frame(PONG, b"Hello", mask=MASK)),
    ("82 7e 01 00" + "ab" * 256, Frame(BINARY, b"\xab" * 256)),
    ("82 7f 00 00 00 00 00 01 00 00" + "ab" * 65536, Frame(BINARY, b"\xab" * 65536)),
]


@pytest.mark.parametrize(("wire", "frame"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_rfc_go_both_ways(wire, frame):
    data = bytes.fromhex(wire)
    assert encode(frame) == data
    assert decode(data) == decode(data, [1]) == [frame]


def test_a_decoded_frame_has_the_types_that_it_names():
    [frame] = decode(bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58"))
    kinds = [type(part) for part in (frame.opcode, frame.payload, frame.fin, frame.rsv, frame.mask)]
    assert kinds == [Opcode, bytes, bool, int, bytes]


# Any frame, cut anywhere

SIZES = st.sampled_from([0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537])
SMALL = st.integers(0, 125)


@st.composite
def any_frames(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES | SMALL) -> Frame:
    opcode = draw(st.sampled_from(Opcode))
    size = draw(SMALL if opcode.is_control else sizes)
    payload = random.Random(draw(st.integers(0, 999))).randbytes(size)
    fin = opcode.is_control or draw(st.booleans())
    mask = draw(st.none() | st.binary(min_size=4, max_size=4))
    return Frame(opcode, payload, fin, draw(st.integers(0, 7)), mask)


@given(st.lists(any_frames(), max_size=6), st.lists(st.integers(1, 9_000), min_size=1, max_size=9))
def test_frames_encode_and_decode_to_themselves_through_any_cutting(sent, sizes):
    data = b"".join(map(encode, sent))
    assert decode(data, sizes, allowed_rsv=7) == sent
    lengths = [len(frame.payload) for frame in sent]
    expected = sum(
        2 + length + (0 if length < 126 else 2 if length < 65_536 else 8) for length in lengths
    )
    assert len(data) == expected + 4 * sum(frame.mask is not None for frame in sent)


@given(st.lists(any_frames(st.integers(0, 300)), max_size=3))
def test_a_frame_is_given_with_its_last_byte_and_not_before(sent):
    decoder = Decoder(allowed_rsv=7)
    for frame in sent:
        data = encode(frame)
        for held, byte in enumerate(data[:-1], start=1):
            assert list(decoder.feed(bytes([byte]))) == []
            assert decoder.pending == held
        assert list(decoder.feed(data[-1:])) == [frame]
        assert decoder.pending == 0


def test_a_frame_that_nobody_fetched_is_given_later():
    decoder = Decoder()
    given = decoder.feed(bytes.fromhex("81 01 61 81 01 62 81"))
    assert next(given).payload == b"a"
    decoder.feed(bytes.fromhex("01 63"))
    assert [frame.payload for frame in decoder.feed(b"")] == [b"b", b"c"]


# Masks


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4))
def test_a_mask_is_a_byte_by_byte_xor_and_twice_is_nothing(data, mask):
    masked = apply_mask(data, mask)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    assert apply_mask(masked, mask) == data


def test_masking_keys_are_fresh_and_have_4_bytes():
    masks = [new_mask() for _ in range(200)]
    assert {len(mask) for mask in masks} == {4}
    assert len(set(masks)) > 190


# What the format has no room for


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Frame(TEXT, b"", rsv=8), "rsv has 3 bits and opcode 4: 8, 1"),
        (Frame(TEXT, b"", rsv=-1), "rsv has 3 bits and opcode 4: -1, 1"),
        (Frame(16), "rsv has 3 bits and opcode 4: 0, 16"),
        (Frame(TEXT, b"", mask=b""), "a masking key has 4 bytes, not 0"),
        (Frame(TEXT, b"", mask=b"123"), "a masking key has 4 bytes, not 3"),
        (Frame(TEXT, bytes(70_000), mask=b"12345"), "a masking key has 4 bytes, not 5"),
    ],
    ids=repr,
)
def test_what_the_format_has_no_room_for_is_a_value_error(frame, why):
    with pytest.raises(ValueError) as caught:
        encode(frame)
    assert str(caught.value) == why


def test_a_frame_that_breaks_a_rule_is_encoded_as_it_is():
    assert encode(Frame(PING, bytes(126))) == bytes.fromhex("89 7e 00 7e") + bytes(126)
    assert encode(Frame(CLOSE, b"", fin=False, rsv=7)) == bytes.fromhex("78 00")


# The rules

CLIENT, SERVER = {"masked": True}, {"masked": False}
RULES = [
    ("c1 00", {}, "a reserved bit is set that no extension uses (section 5.2)"),
    ("a1 00", {}, "a reserved bit is set that no extension uses (section 5.2)"),
    ("91 00", {}, "a reserved bit is set that no extension uses (section 5.2)"),
    ("b1 00", {"allowed_rsv": 6}, "a reserved bit is set that no extension uses (section 5.2)"),
    *(
        (f"8{opcode:x} 00", {}, f"opcode {opcode} is reserved (section 5.2)")
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    ("08 00", {}, "a control frame is fragmented (section 5.5)"),
    ("09 00", {}, "a control frame is fragmented (section 5.5)"),
    ("0a 00", {}, "a control frame is fragmented (section 5.5)"),
    ("88 7e", {}, "a control frame is longer than 125 bytes (section 5.5)"),
    ("89 fe", CLIENT, "a control frame is longer than 125 bytes (section 5.5)"),
    ("8a 7f", {}, "a control frame is longer than 125 bytes (section 5.5)"),
    ("81 00", CLIENT, "a client's frame is not masked (section 5.1)"),
    ("89 05", CLIENT, "a client's frame is not masked (section 5.1)"),
    ("81 80", SERVER, "a server's frame is masked (section 5.1)"),
    ("8a 85", SERVER, "a server's frame is masked (section 5.1)"),
    ("82 7f 8000000000000000", {}, "the top bit of the length is set (section 5.2)"),
    ("82 ff ffffffffffffffff", CLIENT, "the top bit of the length is set (section 5.2)"),
    ("82 7e 0000", {}, "the length 0 is not in the fewest bytes (section 5.2)"),
    ("82 7e 007d", SERVER, "the length 125 is not in the fewest bytes (section 5.2)"),
    ("82 7f 0000000000000005", {}, "the length 5 is not in the fewest bytes (section 5.2)"),
    ("82 7f 000000000000ffff", {}, "the length 65535 is not in the fewest bytes (section 5.2)"),
]
BIG = [
    ("82 06", {"max_payload": 5}, "a payload of 6 bytes, where 5 are allowed"),
    ("89 81", {"max_payload": 0}, "a payload of 1 bytes, where 0 are allowed"),
    ("82 7e 007e", {"max_payload": 125}, "a payload of 126 bytes, where 125 are allowed"),
    ("82 7f 0000000000100001", {}, "a payload of 1048577 bytes, where 1048576 are allowed"),
    (
        "82 ff 7fffffffffffffff",
        {"max_payload": 2**40},
        f"a payload of {2**63 - 1} bytes, where {2**40} are allowed",
    ),
]
ALL_RULES = [(*rule, CloseCode.PROTOCOL_ERROR) for rule in RULES] + [
    (*rule, CloseCode.MESSAGE_TOO_BIG) for rule in BIG
]


@pytest.mark.parametrize(("wire", "options", "rule", "code"), ALL_RULES)
def test_a_broken_rule_is_named_as_soon_as_the_header_shows_it(wire, options, rule, code):
    header = bytes.fromhex(wire)
    for sizes in ([len(header)], [1]):
        decoder = Decoder(**options)
        *before, last = cut(header, sizes)
        for piece in before:
            assert list(decoder.feed(piece)) == []
        with pytest.raises(FrameError) as caught:
            next(decoder.feed(last))
        assert (str(caught.value), caught.value.code) == (rule, code)
        assert decoder.pending == 0


@pytest.mark.parametrize(("wire", "options", "rule", "code"), ALL_RULES)
def test_the_frames_before_an_error_are_given_and_from_then_on_every_feed_raises_it(
    wire, options, rule, code
):
    mask = MASK if options.get("masked") else None
    good = [Frame(TEXT, b"", mask=mask), Frame(PING, b"", mask=mask)]
    data = b"".join(map(encode, good)) + bytes.fromhex(wire) + bytes(100)
    decoder = Decoder(**options)
    decoded = []
    with pytest.raises(FrameError):
        for frame in decoder.feed(data):
            decoded.append(frame)
    assert decoded == good
    for more in (b"", encode(good[0]), bytes(1000)):
        with pytest.raises(FrameError) as caught:
            list(decoder.feed(more))
        assert (str(caught.value), caught.value.code) == (rule, code)
        assert decoder.pending == 0


def test_an_error_that_is_raised_again_and_again_does_not_grow():
    """An exception keeps the frames it came through, and so all the data in them."""
    decoder = Decoder()

    def depth() -> int:
        with pytest.raises(FrameError) as caught:
            list(decoder.feed(b"\xff\xff"))
        trace, steps = caught.value.__traceback__, 0
        while trace := trace.tb_next:
            steps += 1
        return steps

    depths = [depth() for _ in range(20)]
    assert depths[-1] <= depths[0]


@pytest.mark.parametrize(
    ("wire", "options"),
    [
        ("82 05 0000000000", {"max_payload": 5}),
        ("89 80 00000000", CLIENT),
        ("89 00", SERVER),
        ("f1 00", {"allowed_rsv": 7}),
        ("91 00", {"allowed_rsv": 1}),
        ("8a 7d" + "00" * 125, {"max_payload": 125}),
        ("82 7e 007e" + "00" * 126, {"max_payload": 126}),
    ],
)
def test_what_is_just_within_the_rules_is_a_frame(wire, options):
    [frame] = decode(bytes.fromhex(wire), **options)
    assert not any(frame.payload)


# Any bytes at all

HEADS = st.sampled_from([bytes.fromhex(wire) for wire, *_ in ALL_RULES] + [b"\x81\x7e", b"\x82"])
SHORT_FRAMES = any_frames(st.integers(0, 300)).map(encode)
FED = st.lists(st.one_of(SHORT_FRAMES, SHORT_FRAMES, HEADS, st.binary(max_size=40)), max_size=12)


@given(FED, st.sampled_from([None, True, False]), st.integers(0, 200), st.integers(0, 7))
def test_any_bytes_give_frames_or_a_frame_error_within_bounded_memory(fed, masked, most, rsv):
    decoder = Decoder(masked=masked, max_payload=most, allowed_rsv=rsv)
    failed = None
    for data in fed:
        try:
            for frame in decoder.feed(data):
                assert failed is None
                assert len(frame.payload) <= most
                assert frame.rsv & ~rsv == 0
                assert masked in (None, frame.mask is not None)
        except FrameError as error:
            assert failed in (None, str(error))
            failed = str(error)
            assert error.code in (CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG)
        else:
            assert failed is None
        assert decoder.pending <= (0 if failed else most + 14 + len(data))


@given(FED.map(b"".join), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_the_outcome_does_not_depend_on_the_pieces(data, sizes):
    def outcome(sizes: Sequence[int]) -> tuple[list[Frame], str, int]:
        decoder, decoded = Decoder(max_payload=200, allowed_rsv=3), []
        try:
            for piece in cut(data, sizes):
                for frame in decoder.feed(piece):
                    decoded.append(frame)
        except FrameError as error:
            return decoded, str(error), decoder.pending
        return decoded, "", decoder.pending

    assert outcome(sizes) == outcome([len(data) + 1])


def test_only_the_bytes_of_one_unfinished_frame_are_held():
    decoder = Decoder(max_payload=70_000)
    data = encode(Frame(BINARY, bytes(70_000), mask=MASK))
    for piece in cut(data * 5 + data[:-1], [1400]):
        for frame in decoder.feed(piece):
            assert len(frame.payload) == 70_000
        assert decoder.pending <= 70_000 + 14
    assert decoder.pending == len(data) - 1


# Close frames


@pytest.mark.parametrize(
    ("code", "reason", "wire"),
    [
        (1000, "", "03e8"),
        (CloseCode.GOING_AWAY, "bye", "03e9 627965"),
        (3000, "\N{SNOWMAN}", "0bb8 e29883"),
        (4999, "", "1387"),
        (1002, "a" * 123, "03ea" + "61" * 123),
    ],
)
def test_a_close_payload_is_a_code_and_a_reason_both_ways(code, reason, wire):
    payload = bytes.fromhex(wire)
    assert close_payload(code, reason) == payload
    assert parse_close(payload) == (code, reason)


def test_an_empty_close_payload_gives_1005():
    assert parse_close(b"") == (CloseCode.NO_STATUS_RECEIVED, "")


def test_the_codes_that_may_be_sent_are_those_of_the_registry_and_of_applications():
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(65_536):
        payload = code.to_bytes(2, "big")
        try:
            Close.parse(payload)
        except ProtocolError:
            assert code not in allowed
            rule = f"close code {code} may not be sent (section 7.4)"
            with pytest.raises(FrameError) as received:
                parse_close(payload)
            assert (str(received.value), received.value.code) == (rule, 1002)
            with pytest.raises(ValueError) as sent:
                close_payload(code)
            assert str(sent.value) == rule
        else:
            assert code in allowed
            assert parse_close(payload) == (code, "")
            assert close_payload(code) == payload
    assert [code.value for code in CloseCode if not code.may_be_sent] == [1005, 1006, 1015]


@pytest.mark.parametrize("code", [-1, 0, 65_536 + 1000, 2**40])
def test_a_code_outside_two_bytes_is_a_value_error(code):
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        close_payload(code)


@pytest.mark.parametrize(("reason", "size"), [("a" * 124, 124), ("\xe9" * 62, 124)])
def test_a_reason_over_123_bytes_is_a_value_error(reason, size):
    with pytest.raises(ValueError) as caught:
        close_payload(1000, reason)
    assert str(caught.value) == f"the reason has {size} bytes, and may have 123"


@pytest.mark.parametrize(
    ("wire", "rule", "code"),
    [
        ("03", "a close code has two bytes, and here is one (section 5.5.1)", 1002),
        ("03ed", "close code 1005 may not be sent (section 7.4)", 1002),
        ("03ed ff", "close code 1005 may not be sent (section 7.4)", 1002),
        ("03e8 ff", "the reason is not UTF-8 (section 5.5.1)", 1007),
        ("03e8 e298", "the reason is not UTF-8 (section 5.5.1)", 1007),
        ("03e8 eda080", "the reason is not UTF-8 (section 5.5.1)", 1007),
        ("03e8 c080", "the reason is not UTF-8 (section 5.5.1)", 1007),
    ],
)
def test_a_close_payload_that_breaks_a_rule_is_refused(wire, rule, code):
    with pytest.raises(FrameError) as caught:
        parse_close(bytes.fromhex(wire))
    assert (str(caught.value), caught.value.code) == (rule, code)


@given(st.binary(max_size=125))
def test_any_close_payload_is_read_as_the_library_reads_it_or_refused_by_both(payload):
    try:
        code, reason = parse_close(payload)
    except FrameError as error:
        refused = ProtocolError if error.code == 1002 else UnicodeDecodeError
        with pytest.raises((ProtocolError, UnicodeDecodeError)) as caught:
            Close.parse(payload)
        # The library reads the reason before it looks at the code.
        assert caught.type in (refused, UnicodeDecodeError)
    else:
        assert (Close.parse(payload).code, Close.parse(payload).reason) == (code, reason)


# Agreement with the websockets library


def library_decode(data: bytes, *, mask: bool, most: int | None = None) -> list[LibraryFrame]:
    """The frames that the library reads in `data`, all of it."""
    reader, decoded = StreamReader(), []
    reader.feed_data(data)
    while reader.buffer:
        parsing = LibraryFrame.parse(reader.read_exact, mask=mask, max_size=most)
        with pytest.raises(StopIteration) as done:
            next(parsing)
        decoded.append(done.value.value)
    return decoded


def same(frame: LibraryFrame) -> tuple[int, bytes, bool, int]:
    rsv = frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3
    return int(frame.opcode), bytes(frame.data), frame.fin, rsv


def parts(frame: Frame) -> tuple[int, bytes, bool, int]:
    return int(frame.opcode), frame.payload, frame.fin, frame.rsv


def random_frames(source: random.Random, masked: bool, count: int) -> list[Frame]:
    sent = []
    for _ in range(count):
        opcode = source.choice(list(Opcode))
        size = source.choice([0, source.randrange(126), source.randrange(126)])
        if not opcode.is_control and source.random() < 0.1:
            size = source.choice([126, 127, 300, 4000])
        if not opcode.is_control and source.random() < 0.005:
            size = source.choice([65_534, 65_535, 65_536, 65_537])
        fin = opcode.is_control or source.random() < 0.7
        mask = source.randbytes(4) if masked else None
        sent.append(Frame(opcode, source.randbytes(size), fin, mask=mask))
    return sent


@pytest.mark.parametrize("masked", [True, False])
def test_five_thousand_frames_of_ours_are_read_by_the_library_as_they_were_sent(masked):
    sent = random_frames(random.Random(6455), masked, 5000)
    assert {len(frame.payload) for frame in sent} >= {0, 125, 126, 127, 65_535, 65_536}
    received = library_decode(b"".join(map(encode, sent)), mask=masked)
    assert list(map(same, received)) == list(map(parts, sent))


@pytest.mark.parametrize("masked", [True, False])
def test_five_thousand_frames_of_the_library_are_read_as_they_were_sent(masked):
    source = random.Random(5546)
    sent = [
        LibraryFrame(LibraryOpcode(frame.opcode), frame.payload, frame.fin)
        for frame in random_frames(source, masked, 5000)
    ]
    data = b"".join(frame.serialize(mask=masked) for frame in sent)
    received = decode(data, [source.randrange(1, 3000) for _ in range(50)], masked=masked)
    assert list(map(parts, received)) == list(map(same, sent))
    assert b"".join(map(encode, received)) == data


LIMIT = 66_000


def random_header(source: random.Random, masked: bool) -> bytes:
    """The header of a frame of which one or the other rule may be broken."""
    usual = source.random() < 0.7
    first = source.choice([0x00, 0x80, 0x80]) | source.choice([0, 1, 2, 8, 9, 10])
    first = first if usual else source.randrange(256)
    second = 0x80 if masked == (source.random() < 0.9) else 0
    length = source.choice([source.randrange(126), 125, 126, 300, 65_535, 65_536, LIMIT, LIMIT + 1])
    length = 2**63 + length if source.random() < 0.05 else length
    least = 0 if length <= 125 else 2 if length <= 0xFFFF else 8
    size = source.choice([2, 8]) if source.random() < 0.1 else least
    size = max(size, least)
    second |= {0: length, 2: 126, 8: 127}[size]
    mask = source.randbytes(4) if second & 0x80 else b""
    return bytes((first, second)) + (length.to_bytes(size, "big") if size else b"") + mask


def verdict(read: Callable[[], list]) -> tuple[object, Exception | None]:
    """The one frame that is read, or the error."""
    try:
        [frame] = read()
    except (FrameError, ProtocolError, PayloadTooBig) as error:
        return None, error
    return frame, None


@pytest.mark.parametrize("masked", [True, False])
def test_what_the_library_refuses_is_refused_and_nothing_else_but_the_listed_differences(masked):
    source = random.Random(1002)
    payload = source.randbytes(LIMIT)
    seen: Counter[str] = Counter()
    for _ in range(4000):
        header = random_header(source, masked)
        short = header[1] & 0x7F
        end = {126: 4, 127: 10}.get(short, 2)
        length = int.from_bytes(header[2:end], "big") if short > 125 else short
        data = header + payload[:length]
        ours, error = verdict(lambda data=data: decode(data, masked=masked, max_payload=LIMIT))
        theirs, reason = verdict(lambda data=data: library_decode(data, mask=masked, most=LIMIT))
        shown = (header, error, reason)
        if short > 125 and length <= (125 if short == 126 else 0xFFFF):
            # The library reads a length in more bytes than it needs, in control frames too.
            difference = "not the fewest bytes"
            assert error is not None and error.code == CloseCode.PROTOCOL_ERROR, shown
        elif length > LIMIT:
            # The library knows no top bit, and looks at the size before it looks at the reserved
            # bits and at what holds for control frames; so both refuse, with other codes.
            difference = "top bit" if length >= 2**63 else "too long"
            assert error is not None and reason is not None, shown
            if error.code == CloseCode.MESSAGE_TOO_BIG:
                assert isinstance(reason, PayloadTooBig), shown
        else:
            difference = "none"
            assert (error is None) == (reason is None), shown
            assert reason is None or isinstance(reason, ProtocolError), shown
            assert error is None or error.code == CloseCode.PROTOCOL_ERROR, shown
            assert error is not None or parts(ours) == same(theirs), shown
        seen[f"difference: {difference}"] += 1
        seen["refused by both" if error and reason else "let pass" if ours else "stricter"] += 1
        seen[re.sub(r"\d+", "N", str(error))] += 1
    # Four differences, three outcomes, no error and the eight errors of a header.
    assert len(seen) == 4 + 3 + 1 + 8 and min(seen.values()) > 10, seen


# Time, as ratios


def best_of_three(work: Callable[[], object]) -> float:
    def once() -> float:
        start = perf_counter()
        work()
        return perf_counter() - start

    return min(once() for _ in range(3))


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_four_times_the_payload_in_small_pieces_takes_about_four_times_as_long(mask):
    """Without the last piece, at which the frame is cut off and unmasked, all of it, once."""

    def seconds(size: int) -> float:
        data = encode(Frame(BINARY, random.Random(size).randbytes(size), mask=mask))
        *pieces, last = cut(data, [1400])

        def work() -> Decoder:
            decoder = Decoder(max_payload=16 * MIB)
            for piece in pieces:
                assert next(decoder.feed(piece), None) is None
            return decoder

        [frame] = work().feed(last)
        assert encode(frame) == data
        return best_of_three(work)

    # The larger one first: the memory it got and gave back is there for the smaller one too.
    large = seconds(16 * MIB)
    assert large / seconds(4 * MIB) < 10


@pytest.mark.measures
def test_four_times_the_frames_in_one_piece_take_about_four_times_as_long():
    def seconds(count: int) -> float:
        data = encode(Frame(TEXT, bytes(60), mask=MASK)) * count
        return best_of_three(lambda: decode(data))

    assert seconds(40_000) / seconds(10_000) < 10


# The websockets library on a real socket


class Wire:
    """A TCP connection on which frames travel, read by our decoder."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        behind: bytes,
        masked: bool,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = Decoder(masked=masked)
        self.frames = list(self.decoder.feed(behind))

    def send(self, *sent: Frame) -> None:
        self.writer.write(b"".join(map(encode, sent)))

    async def receive(self) -> Frame:
        while not self.frames:
            data = await self.reader.read(1000)
            assert data, "closed before the frame came"
            self.frames += self.decoder.feed(data)
        return self.frames.pop(0)


async def test_our_masked_frames_come_back_from_the_librarys_echo_server():
    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)

    def frame(opcode: Opcode, payload: bytes, fin: bool = True) -> Frame:
        return Frame(opcode, payload, fin, mask=new_mask())

    async with serve(echo, "127.0.0.1", 0) as server, asyncio.timeout(TIMEOUT):
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            key = new_key()
            writer.write(build_request(f"127.0.0.1:{port}", key=key))
            response, behind = await read_head(reader, parse_response)
            check_response(response, key)
            wire = Wire(reader, writer, behind, masked=False)

            for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
                payload = random.Random(size).randbytes(size)
                wire.send(frame(BINARY, payload))
                assert await wire.receive() == Frame(BINARY, payload)
            wire.send(frame(TEXT, "\N{SNOWMAN} in ".encode(), False), frame(PING, b"between"))
            wire.send(frame(CONTINUATION, b"two"))
            assert await wire.receive() == Frame(PONG, b"between")
            assert await wire.receive() == Frame(TEXT, "\N{SNOWMAN} in two".encode())
            wire.send(frame(CLOSE, close_payload(4000, "enough")))
            answer = await wire.receive()
            assert (answer.opcode, parse_close(answer.payload)) == (CLOSE, (4000, "enough"))
            assert await reader.read() == b""
        finally:
            writer.close()


async def test_the_librarys_masked_frames_come_back_from_our_echo_server():
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                request, behind = await read_head(reader, parse_request)
                check_request(request)
                writer.write(accept(request))
                wire = Wire(reader, writer, behind, masked=True)
                while (frame := await wire.receive()).opcode is not CLOSE:
                    wire.send(Frame(PONG if frame.opcode is PING else frame.opcode, frame.payload))
                wire.send(Frame(CLOSE, frame.payload))
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server, asyncio.timeout(TIMEOUT):
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as websocket:
            for message in ("", "\N{SNOWMAN}", b"\x00" * 125, b"\xff" * 126, "a" * 70_000):
                await websocket.send(message)
                assert await websocket.recv() == message
            await (await websocket.ping(b"there?"))
            await websocket.close(4000, "enough")
        assert (websocket.close_code, websocket.close_reason) == (4000, "enough")


def test_the_module_imports_nothing_but_the_standard_library():
    tree = ast.parse(Path(frames.__file__).read_text(encoding="utf-8"))
    modules = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "struct" in modules
    assert {module.partition(".")[0] for module in modules} <= sys.stdlib_module_names
