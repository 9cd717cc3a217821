"""The checks of chapter 02: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio

import pytest
from conftest import assert_hint, until
from nestling.frames import Decoder, Frame, Opcode, encode, new_mask


def always_short(length):
    return bytes([0x81, length & 0x7F])


def backwards(length):
    return bytes([0x81, length]) if length <= 125 else b"\x81\x7e" + length.to_bytes(2, "little")


def always_long(length):
    return b"\x81\x7e" + length.to_bytes(2, "big")


def without_fin(length):
    return bytes([0x01, length]) if length <= 125 else b"\x01\x7e" + length.to_bytes(2, "big")


def whole_frame(length):
    return encode(Frame(Opcode.TEXT, bytes(length)))


def one_byte(length):
    if length > 125:
        raise ValueError("too long")
    return bytes([0x81, length])


def all_text(frames):
    return [m if isinstance(m, str) else m.decode() for m in joined(frames)]


def one_by_one(frames):
    return ", ".join(map(str, joined(frames)))


def fails_on_control(frames):
    done, parts, first = [], [], None
    for frame in frames:
        known = {Opcode.TEXT: "text", Opcode.BINARY: "binary", Opcode.CONTINUATION: first}
        first = known[frame.opcode]
        parts.append(frame.payload)
        if frame.fin:
            whole, parts = b"".join(parts), []
            done.append(whole.decode() if first == "text" else whole)
    return done


async def a_decoder_each(reader, writer):
    while data := await reader.read(1000):
        for frame in Decoder(masked=True).feed(data):
            writer.write(encode(Frame(frame.opcode, frame.payload)))


async def never_closes(reader, writer, goes_on=False):
    decoder = Decoder(masked=True)
    answers = {Opcode.TEXT: Opcode.TEXT, Opcode.PING: Opcode.PONG, Opcode.CLOSE: Opcode.CLOSE}
    while data := await reader.read(1000):
        for frame in decoder.feed(data):
            writer.write(encode(Frame(answers[frame.opcode], frame.payload)))
            if frame.opcode is Opcode.CLOSE and not goes_on:
                return


async def break_for_return(reader, writer):
    await never_closes(reader, writer, goes_on=True)
    writer.close()


def each_frame(frames):
    return [f.payload.decode() if f.opcode is Opcode.TEXT else f.payload for f in frames]


def joined(frames, control=True, late=True, text=True, clear=True):
    """Puts messages together, with one of four things left out."""
    done, parts, opcode = [], [], None
    for frame in frames:
        if control and frame.opcode.is_control:
            continue
        if frame.opcode is not Opcode.CONTINUATION:
            opcode = frame.opcode
            parts = [] if clear else parts
        decoded = not late and opcode is Opcode.TEXT
        parts.append(frame.payload.decode() if decoded else frame.payload)
        if frame.fin:
            whole = "".join(parts) if decoded else b"".join(parts)
            as_text = text and not decoded and opcode is Opcode.TEXT
            done.append(whole.decode() if as_text else whole)
    return done


def all_bytes(frames):
    return joined(frames, text=False)


def decoded_too_early(frames):
    return joined(frames, late=False)


def never_cleared(frames):
    return joined(frames, clear=False)


def without_empty(frames):
    return [message for message in joined(frames) if message]


async def answering(reader, writer, texts=True, pings=True, closes=b"\x03\xe9", mask=False):
    """The server's side of a connection, with one thing wrong."""
    decoder = Decoder(masked=True)
    while data := await reader.read(1000):
        for frame in decoder.feed(data):
            key = new_mask() if mask else None
            if frame.opcode is Opcode.TEXT and texts:
                writer.write(encode(Frame(Opcode.TEXT, frame.payload, mask=key)))
            if frame.opcode is Opcode.PING and pings:
                writer.write(encode(Frame(Opcode.PONG, frame.payload)))
            if frame.opcode is Opcode.CLOSE:
                if closes:
                    writer.write(encode(Frame(Opcode.CLOSE, closes)))
                writer.close()
                return


async def no_texts(reader, writer):
    await answering(reader, writer, texts=False)


async def no_pongs(reader, writer):
    await answering(reader, writer, pings=False)


async def no_goodbye(reader, writer):
    await answering(reader, writer, closes=None)


async def another_goodbye(reader, writer):
    await answering(reader, writer)


async def stays_after_the_close(reader, writer):
    decoder = Decoder(masked=True)
    answers = {Opcode.TEXT: Opcode.TEXT, Opcode.PING: Opcode.PONG, Opcode.CLOSE: Opcode.CLOSE}
    while True:
        for frame in decoder.feed(await reader.read(1000)):
            writer.write(encode(Frame(answers[frame.opcode], frame.payload)))
        await asyncio.sleep(0.01)


async def waits(frames):
    return []


def counts_close(frames):
    return joined([frame for frame in frames if frame.opcode is not Opcode.PING], control=False)


async def masked_answers(reader, writer):
    await answering(reader, writer, mask=True)


async def one_read_one_frame(reader, writer):
    while data := await reader.read(1000):
        [frame] = Decoder(masked=True).feed(data)
        writer.write(encode(Frame(frame.opcode, frame.payload)))


async def sent_back_as_it_came(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("02.1", always_short, "from 126 on the second byte is 126"),
        ("02.1", backwards, "the more significant one first"),
        ("02.1", always_long, "the length in the second"),
        ("02.1", without_fin, "FIN and opcode 1 in the first byte"),
        ("02.2", each_frame, "a message ends with the frame that has FIN"),
        ("02.2", all_bytes, "text as str, not bytes"),
        ("02.2", decoded_too_early, "a character may be cut in two"),
        ("02.2", never_cleared, "nothing of the last"),
        ("02.2", without_empty, "an empty message is one"),
        ("02.1", whole_frame, r"the header alone(.|\n)*sent +5\n(.|\n)*received +the whole frame"),
        ("02.1", one_byte, r"sent +126\n +expected +b'\\x81~(.|\n)*received +ValueError"),
        (
            "02.2",
            all_text,
            r"binary as bytes, not str\n(.|\n)*expected +\[b'b'\]\n +received +\['b'\]",
        ),
        ("02.2", one_by_one, "return a list"),
        ("02.2", fails_on_control, r"may stand between(.|\n)*received +KeyError"),
        ("02.3", a_decoder_each, r"one Decoder must see them all\n +sent +texts(.|\n)*FrameError"),
        ("02.3", break_for_return, "break leaves only the inner loop"),
        ("02.3", no_texts, r"no frame came back(.|\n)*sent +'Hello'"),
        ("02.3", no_pongs, "a ping was not answered"),
        ("02.2", counts_close, "pong and close are control frames, too"),
        ("02.2", waits, "def without async"),
        ("02.3", no_goodbye, "a close is answered with a close of the same payload"),
        ("02.3", another_goodbye, "a close is answered with a close of the same payload"),
        ("02.3", never_closes, r"writer.close\(\)"),
        ("02.3", masked_answers, r"a server never masks(.|\n)*incorrect masking"),
        ("02.3", one_read_one_frame, "ValueError"),
        ("02.3", sent_back_as_it_came, "a server never masks"),
        ("02.3", without_empty, "made with async def"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)


async def test_an_answer_that_never_returns_is_told_so_and_ended(caplog):
    await assert_hint("02.3", stays_after_the_close, "did not return after the close")
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert caplog.text == ""
