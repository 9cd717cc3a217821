"""The checks of chapter 06: stubs, right answers, and wrong ones with the hint for each."""

from __future__ import annotations

import asyncio
import time
from codecs import getincrementaldecoder
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from conftest import assert_hint, until
from nestling.frames import (
    CloseCode,
    Decoder,
    Frame,
    Opcode,
    close_payload,
    encode,
    new_mask,
    parse_close,
)
from workbench.checks import check


def cut(fin=None, opcode=None, empty=True, extra=False, mask=None, rsv=0, most=0):
    """The frames of a text, with one thing wrong."""

    def pieces(text, size):
        data, frames = text.encode(), []
        size = min(size, most) if most else size
        for start in range(0, len(data) + extra or empty, size):
            kind = Opcode.CONTINUATION if start and opcode is None else opcode or Opcode.TEXT
            is_last = start + size >= len(data) + extra if fin is None else fin
            frames.append(Frame(kind, data[start : start + size], is_last, rsv, mask))
        return frames

    return pieces


def by_characters(text, size):
    parts = [text[start : start + size].encode() for start in range(0, len(text) or 1, size)]
    return framed(parts)


def framed(parts):
    last = len(parts) - 1
    return [
        Frame(Opcode.CONTINUATION if number else Opcode.TEXT, part, number == last)
        for number, part in enumerate(parts)
    ]


def not_encoded(text, size):
    return framed([text[start : start + size] for start in range(0, len(text) or 1, size)])


def of_an_empty_text(text, size):
    data = text.encode()
    frames = framed([data[start : start + size] for start in range(0, len(data), size)])
    return [*frames[:-1], Frame(frames[-1].opcode, frames[-1].payload)]


def as_tuple(text, size):
    return tuple(cut()(text, size))


def on_the_wire(text, size):
    return [encode(frame) for frame in cut()(text, size)]


def yielding(text, size):
    yield from cut()(text, size)


def last_lost(text, size):
    frames = cut()(text, size)
    return frames[: len(text.encode()) // size or 1]


@dataclass
class Judge:
    """Finds the first mistake in a client's frames, or something else with one thing wrong."""

    order: bool = True
    inside: bool = True
    ends: bool = True
    begun: Callable = lambda opcode, size, begins: opcode is not None
    whole: bool = True
    anew: bool = True
    too_big: Callable = lambda size, limit: size > limit
    length: Callable = len
    text_first: bool = False
    is_text: Callable = lambda opcode, frame: opcode is Opcode.TEXT
    kept: bool = True
    at_once: bool = True
    final: Callable = lambda fin: fin
    caught: type = UnicodeDecodeError
    counted: int = 0
    unfinished: object = None

    def __call__(self, frames, max_size):
        self.opcode, self.size = None, 0
        for number, frame in enumerate(frames, self.counted):
            if code := self.code_of(frame, max_size):
                return number, code
            if frame.fin and self.ends:
                self.opcode, self.size = None, 0 if self.anew else self.size
        return self.unfinished

    def code_of(self, frame, max_size):
        begins = frame.opcode is not Opcode.CONTINUATION
        is_inside = self.begun(self.opcode, self.size, begins)
        if (self.inside and is_inside) if begins else (self.order and not is_inside):
            return 1002
        if begins:
            self.opcode, self.text = frame.opcode, b""
            self.decoder = getincrementaldecoder("utf-8")()
            self.size = 0 if self.anew else self.size
        self.size = (self.size if self.whole else 0) + self.length(frame.payload)
        codes = [self.too_big(self.size, max_size) and 1009, self.no_text(frame) and 1007]
        return next(filter(None, codes[::-1] if self.text_first else codes), None)

    def no_text(self, frame):
        self.text += frame.payload
        try:
            if self.is_text(self.opcode, frame):
                self.decode(frame)
        except self.caught:
            return True

    def decode(self, frame):
        if not self.kept:
            frame.payload.decode()
        elif self.at_once:
            self.decoder.decode(frame.payload, self.final(frame.fin))
        elif frame.fin:
            self.text.decode()


def size_of_the_text(frames, max_size):
    def characters(payload):
        return len(payload.decode(errors="ignore"))

    return Judge(length=characters)(frames, max_size)


def number_alone(frames, max_size):
    found = Judge()(frames, max_size)
    return found and found[0]


def code_first(frames, max_size):
    found = Judge()(frames, max_size)
    return found and found[::-1]


def as_list(frames, max_size):
    found = Judge()(frames, max_size)
    return found and list(found)


def rule_by_rule(frames, max_size):
    """All frames against the first rule, then all against the next."""
    empty = [Frame(frame.opcode, b"", frame.fin) for frame in frames]
    harmless = [Frame(frame.opcode, b"a" * len(frame.payload), frame.fin) for frame in frames]
    errors = (Judge()(each, max_size) for each in (empty, harmless, frames))
    return next(filter(None, errors), None)


def first_frame_forgotten(frames, max_size):
    """FIN is looked at in continuations alone."""
    opcode = None
    for number, frame in enumerate(frames):
        if frame.opcode is Opcode.CONTINUATION:
            if opcode is None:
                return number, 1002
            if frame.fin:
                opcode = None
        else:
            if opcode is not None and frames[number - 1].opcode is Opcode.CONTINUATION:
                return number, 1002
            opcode = frame.opcode
    return None


def unfinished_is_wrong(frames, max_size):
    found = Judge()(frames, max_size)
    if found is None and frames and not frames[-1].fin:
        return len(frames) - 1, 1007
    return found


def fails_on_none(frames, max_size):
    frames[0]
    return Judge()(frames, max_size)


@dataclass
class Leaver:
    """The end of a client, or something else with one thing wrong."""

    opcode: Opcode | None = Opcode.CLOSE
    mask: Callable | None = new_mask
    own: Callable = lambda code: code
    closes_first: bool = False
    seconds: float | None = 1
    every: float | None = None
    caught: tuple = (TimeoutError, ConnectionError)
    closes: bool = True
    size: int = 1000
    masked: bool = False
    keeps: bool = True
    looks: bool = True
    one: bool = False
    skips: bool = True
    pongs: Callable | None = lambda payload: payload
    pong_mask: Callable | None = new_mask
    echoes: bool = False
    given: Callable = lambda close: close[0]

    async def say_goodbye(self, reader, writer, code):
        if self.opcode is not None:
            self.send(writer, self.opcode, close_payload(self.own(code)))
        if self.closes_first:
            writer.close()
        try:
            async with asyncio.timeout(self.seconds):
                return await self.read_on(reader, writer)
        except self.caught:
            return 1006
        finally:
            if self.closes:
                writer.close()

    async def read_on(self, reader, writer):
        decoder = Decoder(masked=self.masked)
        while True:
            data = await asyncio.wait_for(reader.read(self.size), self.every)
            if self.looks and not data:
                return 1006
            if not self.keeps:
                decoder = Decoder(masked=self.masked)
            frames = list(decoder.feed(data))
            for frame in frames[:1] if self.one else frames:
                if frame.opcode is Opcode.CLOSE:
                    if self.echoes:
                        self.send(writer, Opcode.CLOSE, frame.payload)
                    return self.given(parse_close(frame.payload))
                if frame.opcode is Opcode.PING and self.pongs:
                    mask = self.pong_mask and self.pong_mask()
                    pong = Frame(Opcode.PONG, self.pongs(frame.payload), mask=mask)
                    writer.write(encode(pong))
                if not self.skips:
                    return 1006

    def send(self, writer, opcode, payload):
        writer.write(encode(Frame(opcode, payload, mask=self.mask and self.mask())))


def leaving(**wrong):
    return Leaver(**wrong).say_goodbye


async def own_code(reader, writer, code):
    await leaving()(reader, writer, code)
    return code


async def nothing_returned(reader, writer, code):
    await leaving()(reader, writer, code)


async def to_the_end(reader, writer, code):
    """The server's close frame is looked at only when the server has hung up."""
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    data = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            while piece := await reader.read(1000):
                data += piece
                if piece == encode(Frame(Opcode.PING, b"?")):
                    writer.write(encode(Frame(Opcode.PONG, b"?", mask=new_mask())))
    writer.close()
    if not reader.at_eof():
        return 1006
    closes = [frame for frame in Decoder().feed(data) if frame.opcode is Opcode.CLOSE]
    return parse_close(closes[0].payload)[0] if closes else 1006


async def one_frame_a_read(reader, writer, code):
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    decoder = Decoder()
    while True:
        [frame] = decoder.feed(await reader.read(1000))
        if frame.opcode is Opcode.CLOSE:
            writer.close()
            return parse_close(frame.payload)[0]


async def chatting(reader, writer, code):
    """One more message, after the close frame."""
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    writer.write(encode(Frame(Opcode.TEXT, b"bye", mask=new_mask())))
    return await leaving(opcode=None)(reader, writer, code)


async def open_after_an_end(reader, writer, code):
    """The writer is closed where a close frame comes, and only there."""
    found = await leaving(closes=False)(reader, writer, code)
    if found != 1006:
        writer.close()
    return found


async def unencoded(reader, writer, code):
    writer.write(b"close, please")
    return await leaving(opcode=None)(reader, writer, code)


async def deaf_to_cancelling(reader, writer, code):
    """Whatever happens, it reads on."""
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    for _ in range(110):
        with suppress(BaseException):
            await reader.read(1000)
    return 1006


async def blocking(reader, writer, code):
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    time.sleep(5)


async def fixed_length(reader, writer, code):
    """Only the header's two bytes and a code of two, and what they do not fit is left."""
    writer.write(encode(Frame(Opcode.CLOSE, close_payload(code), mask=new_mask())))
    data = await reader.readexactly(4)
    writer.close()
    return int.from_bytes(data[2:], "big")


async def stub(reader, writer, code):
    raise NotImplementedError


def plain_stub(first, second):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("exercise", "answer"), [("06.1", plain_stub), ("06.2", plain_stub), ("06.3", stub)]
)
async def test_a_stub_is_not_attempted_yet(exercise, answer, nothing_left):
    verdict = await check(exercise, answer)
    assert verdict.passed is None
    assert "not attempted yet" in verdict.text


async def with_a_reason_and_patience(reader, writer, code):
    """Another right answer: a reason, CloseCode, wait_for, and the last bytes waited for."""
    payload = close_payload(code, "bye")
    writer.write(encode(Frame(Opcode.CLOSE, payload, mask=new_mask())))
    await writer.drain()

    async def answer():
        decoder = Decoder(masked=False)
        while data := await reader.read(7):
            for frame in decoder.feed(data):
                if frame.opcode is Opcode.PING:
                    pong = Frame(Opcode.PONG, frame.payload, mask=new_mask())
                    writer.write(encode(pong))
                if frame.opcode is Opcode.CLOSE:
                    return CloseCode.NORMAL_CLOSURE if frame.payload[:2] == b"\x03\xe8" else frame
        return CloseCode.ABNORMAL_CLOSURE

    try:
        found = await asyncio.wait_for(answer(), 1)
        return parse_close(found.payload)[0] if isinstance(found, Frame) else found
    except (TimeoutError, OSError):
        return CloseCode.ABNORMAL_CLOSURE
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def named(frames, max_size):
    found = Judge()(frames, max_size)
    return found and (found[0], CloseCode(found[1]))


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("06.1", cut()),
        ("06.2", Judge()),
        ("06.2", named),
        ("06.3", leaving()),
        ("06.3", with_a_reason_and_patience),
    ],
)
async def test_a_right_answer_is_right_and_leaves_nothing(exercise, answer, nothing_left):
    verdict = await check(exercise, answer)
    assert verdict.passed, verdict.text
    assert verdict.text.startswith("right: ")


async def test_an_answer_with_a_frame_and_an_opcode_of_its_own_is_right():
    namespace = {"__name__": "quoted"}
    source = (
        "from dataclasses import dataclass\nfrom enum import IntEnum\n"
        "class Opcode(IntEnum):\n    CONTINUATION, TEXT, BINARY = 0, 1, 2\n"
        "class Frame:\n    def __init__(self, opcode, payload, fin=True):\n"
        "        self.opcode, self.payload, self.fin = opcode, payload, fin\n"
        "        self.rsv, self.mask = 0, None\n"
        "def first_error(frames, max_size):\n"
        "    assert all(isinstance(f, Frame) and isinstance(f.opcode, Opcode) for f in frames)\n"
        "    return judge(frames, max_size)\n"
        "def pieces(text, size):\n"
        "    return [Frame(Opcode(f.opcode), f.payload, f.fin) for f in cut(text, size)]\n"
    )
    exec(source, namespace)
    theirs = namespace["Opcode"]

    def judge(frames, max_size):
        assert all(type(frame.opcode) is theirs for frame in frames)
        ours = [Frame(Opcode(f.opcode), f.payload, f.fin) for f in frames]
        return Judge()(ours, max_size)

    namespace |= {"judge": judge, "cut": cut()}
    for exercise, name in (("06.1", "pieces"), ("06.2", "first_error")):
        verdict = await check(exercise, namespace[name])
        assert verdict.passed, verdict.text


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("06.1", cut(fin=True), r"FIN is on the last frame(?s:.*)sent +\('Hello', 2\)"),
        ("06.1", cut(fin=False), "FIN is on the last frame"),
        ("06.1", cut(opcode=Opcode.TEXT), "each other a CONTINUATION"),
        ("06.1", cut(opcode=Opcode.BINARY), "the first frame is a TEXT"),
        (
            "06.1",
            cut(empty=False),
            r"an empty text is one empty frame(?s:.*)sent +\('', 3\)(?s:.*)received +\[\]",
        ),
        ("06.1", of_an_empty_text, r"an empty text is one empty frame(?s:.*)IndexError"),
        ("06.1", by_characters, r"size counts bytes, not characters(?s:.*)sent +\('a€', 2\)"),
        ("06.1", not_encoded, "a payload is bytes"),
        ("06.1", cut(extra=True), r"one frame too many(?s:.*)sent +\('Hello', 5\)"),
        ("06.1", cut(most=2), "size bytes in each frame but the last"),
        ("06.1", last_lost, r"all of the text(?s:.*)sent +\('Hello', 2\)"),
        ("06.1", cut(mask=b"abcd"), "a server never masks"),
        ("06.1", cut(rsv=4), "reserved bits"),
        ("06.1", as_tuple, "return a list"),
        ("06.1", on_the_wire, "each piece is a Frame"),
        ("06.1", lambda text, size: None, "return a list"),
        ("06.1", lambda text: [], r"encode the text, cut its bytes(?s:.*)TypeError"),
        ("06.1", yielding, "return without yield"),
        ("06.2", Judge(order=False), "needs a message that has begun"),
        ("06.2", Judge(inside=False), r"of either kind(?s:.*)expected +\(1, 1002\)"),
        ("06.2", Judge(ends=False), "FIN ends it, also in a first frame"),
        ("06.2", first_frame_forgotten, "FIN ends it, also in a first frame"),
        (
            "06.2",
            Judge(begun=lambda opcode, size, begins: size > 0),
            r"an empty first frame begins(?s:.*)expected +None",
        ),
        (
            "06.2",
            Judge(begun=lambda opcode, size, begins: size > 0 if begins else opcode is not None),
            r"an empty first frame begins(?s:.*)expected +\(1, 1002\)",
        ),
        ("06.2", Judge(whole=False), "all its frames together"),
        ("06.2", Judge(anew=False), "counted anew(?s:.*)expected +None"),
        ("06.2", Judge(too_big=lambda size, limit: size >= limit), "only more are too many"),
        ("06.2", Judge(too_big=lambda size, limit: False), "more than max_size bytes"),
        ("06.2", size_of_the_text, "in bytes, not in characters"),
        ("06.2", Judge(kept=False), "one decoder for the whole message"),
        ("06.2", Judge(at_once=False), r"not at the end(?s:.*)received +\(2, 1007\)"),
        ("06.2", Judge(final=lambda fin: False), "final=True"),
        ("06.2", Judge(final=lambda fin: True), "one decoder for the whole message"),
        ("06.2", Judge(caught=KeyError), "UnicodeDecodeError is how Python says 1007: catch it"),
        ("06.2", Judge(is_text=lambda opcode, frame: True), "a binary message may have any bytes"),
        (
            "06.2",
            Judge(is_text=lambda opcode, frame: frame.opcode is Opcode.TEXT),
            "noticed in the frame that makes it wrong",
        ),
        ("06.2", Judge(text_first=True), r"two rules(?s:.*)expected +\(0, 1009\)"),
        ("06.2", Judge(counted=1), "counted from 0"),
        ("06.2", Judge(unfinished=False), r"or None(?s:.*)received +False"),
        ("06.2", Judge(unfinished=(None, None)), "nothing wrong here: None"),
        ("06.2", unfinished_is_wrong, "this message goes on"),
        ("06.2", rule_by_rule, "the first mistake is the one to name"),
        ("06.2", number_alone, r"as a pair(?s:.*)received +0"),
        ("06.2", as_list, r"as a pair(?s:.*)received +\[0, 1002\]"),
        ("06.2", code_first, "number comes first"),
        ("06.2", fails_on_none, "without frames there is nothing wrong(?s:.*)IndexError"),
        ("06.3", leaving(mask=None), "a client's frames are masked"),
        ("06.3", leaving(mask=lambda: b"abcd"), r"new_mask\(\)(?s:.*)b'abcd'"),
        ("06.3", leaving(own=lambda code: 1000), r"with the code that you are given"),
        ("06.3", leaving(opcode=None), "a close frame must be sent first"),
        ("06.3", lambda reader, writer, code: None, "async def"),
        ("06.3", leaving(opcode=Opcode.PING), "the first frame to send is the close frame"),
        ("06.3", unencoded, "no frame(?s:.*)FrameError"),
        ("06.3", own_code, r"which may be another than yours(?s:.*)expected +4001"),
        ("06.3", nothing_returned, r"that parse_close finds(?s:.*)received +None"),
        ("06.3", leaving(given=lambda close: close), r"the code alone(?s:.*)\(1000, 'bye'\)"),
        ("06.3", leaving(given=lambda close: 0 if close[0] == 1005 else close[0]), "is 1005"),
        ("06.3", leaving(skips=False), "drop them and read on"),
        ("06.3", leaving(one=True), "one read may bring several"),
        ("06.3", one_frame_a_read, "one read may bring several(?s:.*)ValueError"),
        ("06.3", leaving(keeps=False, size=65_536), "one Decoder must see them all"),
        ("06.3", leaving(masked=True), r"Decoder\(masked=False\)"),
        ("06.3", leaving(pongs=None), r"gets a pong with its payload(?s:.*)received +\[\]"),
        ("06.3", leaving(pongs=lambda _: b""), r"gets a pong with its payload(?s:.*)PONG"),
        ("06.3", leaving(pong_mask=None), r"and so is its pong(?s:.*)mask=None"),
        ("06.3", chatting, "only a ping is answered"),
        ("06.3", leaving(echoes=True), "one close frame each"),
        ("06.3", leaving(looks=False), "for ever(?s:.*)hangs up in the middle"),
        ("06.3", leaving(looks=False, seconds=None), "for ever(?s:.*)hangs up in the middle"),
        ("06.3", leaving(caught=TimeoutError), "a reset is an end, too(?s:.*)ConnectionResetError"),
        ("06.3", leaving(seconds=0.5), "most of a second"),
        ("06.3", to_the_end, "nobody hangs up"),
        ("06.3", leaving(seconds=None), r"asyncio\.timeout\(1\)(?s:.*)did not return within 2 s"),
        ("06.3", leaving(seconds=0.75), "a whole second(?s:.*)1006 after 0.[78] s"),
        ("06.3", leaving(seconds=None, every=1), "not for each read"),
        ("06.3", leaving(caught=ConnectionResetError), "TimeoutError is how(?s:.*)TimeoutError()"),
        ("06.3", leaving(closes=False), "the writer was left open"),
        ("06.3", open_after_an_end, "however it has ended(?s:.*)hangs up in the middle"),
        ("06.3", leaving(closes_first=True), "closed before the server's close frame had come"),
        ("06.3", fixed_length, r"a close frame without a code is 1005(?s:.*)IncompleteReadError"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_an_answer_that_cannot_be_cancelled_is_left_behind():
    await assert_hint("06.3", deaf_to_cancelling, "after the end read gives")
    [left] = [each for each in asyncio.all_tasks() if "deaf" in repr(each.get_coro())]
    while not left.done():
        left.cancel()
        await asyncio.sleep(0)
    assert left.result() == 1006


async def test_an_answer_that_blocks_is_stopped():
    await assert_hint("06.3", blocking, "stopped the whole kernel")


async def test_an_answer_that_blocks_without_a_socket_is_stopped():
    def forever(first, second):
        while True:
            pass

    await assert_hint("06.1", forever, "stopped the whole kernel")
