"""The checks of chapter 06."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from nestling.frames import Decoder, Frame, FrameError, Opcode, close_payload, encode

from workbench.checks import (
    Blocked,
    Words,
    Wrong,
    require_coroutine_function,
    require_plain_function,
)


async def pieces(function: Callable[[str, int], list[Frame]]) -> None:
    """06.1: texts in one frame and in several, full and not, cut characters, and no text."""
    require_plain_function(function)
    texts = [("Hello", 9), ("Hello", 5), ("Hello", 2), ("four", 2), ("", 3), ("a€", 2), ("é", 1)]
    for text, size in texts:
        expected = _cut(text.encode(), size)
        received = _attempt(function, text, size)
        if hint := _flaw(received, expected):
            raise Wrong.comparing(hint, (text, size), expected, received)


def _cut(data: bytes, size: int) -> list[Frame]:
    """The frames of a text, with `size` bytes in all but the last."""
    frames = []
    for start in range(0, len(data) or 1, size):
        opcode = Opcode.CONTINUATION if start else Opcode.TEXT
        frames.append(Frame(opcode, data[start : start + size], start + size >= len(data)))
    return frames


def _flaw(received: Any, expected: list[Frame]) -> str | None:
    """What is wrong with the frames of a text; None if nothing is."""
    if not isinstance(received, list | Exception):
        return "return a list of frames"
    if expected == [Frame(Opcode.TEXT)] and (isinstance(received, Exception) or not received):
        return "an empty text is one empty frame, and not none"
    if isinstance(received, Exception) or not received:
        return "encode the text, cut its bytes, and make a Frame of each piece"
    try:
        parts = [(each.payload, each.opcode, each.fin, each.mask, each.rsv) for each in received]
    except AttributeError:
        return "each piece is a Frame; encode comes after that"
    if not all(isinstance(payload, bytes | bytearray) for payload, *_ in parts):
        return "a payload is bytes: encode the text before you cut it"
    return _flaw_of(parts, [(each.payload, each.opcode, each.fin) for each in expected])


def _flaw_of(parts: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> str | None:
    """The same for what is in them: payload, opcode, FIN, and two things that are never set."""
    cut = [payload for payload, *_ in expected]
    payloads = [payload for payload, *_ in parts]
    if any(mask or rsv for *_, mask, rsv in parts):
        return "a server never masks, and the reserved bits are for extensions"
    if max(map(len, payloads)) > len(cut[0]):
        return "size counts bytes, not characters: encode the text before you cut it"
    if payloads == [*cut, b""]:
        return "one frame too many: the last is empty only if the text is"
    if payloads != cut:
        return "size bytes in each frame but the last, the rest in that, and all of the text"
    if [each[1] for each in parts] != [each[1] for each in expected]:
        return "the first frame is a TEXT, and each other a CONTINUATION"
    if [each[2] for each in parts] != [each[2] for each in expected]:
        return "FIN is on the last frame, and on no other"
    return None


class Sent(NamedTuple):
    """Frames of a client, what is said of them, and a hint."""

    frames: list[Frame]
    max_size: int
    expected: tuple[int, int] | None
    hint: str


def _text(payload: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, payload, fin)


def _binary(payload: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.BINARY, payload, fin)


def _more(payload: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.CONTINUATION, payload, fin)


_NEW = "a new message, of either kind, needs the end of the one before"
_EMPTY = "an empty first frame begins a message, too"
_ANEW = "after FIN nothing is left of a message, and the next one is counted anew"
_WHOLE = "the size is that of the message, all its frames together"
_CUT = "a character may be cut between two frames: one decoder for the whole message"
_AT_ONCE = "a wrong byte is noticed in the frame that makes it wrong, not at the end"
_HALF = "half a character at the end of a message is an error: final=True"
_TWO = "where a frame breaks two rules, the one that is listed first goes first"

_ORDER = [
    Sent([_text(b"Hello")], 9, None, "there is nothing wrong here: None"),
    Sent([_text(b"Hel", False), _more(b"lo")], 9, None, "there is nothing wrong here: None"),
    Sent([_more(b"lo")], 9, (0, 1002), "a continuation needs a message that has begun"),
    Sent(
        [_text(b"a"), _more(b"b")],
        9,
        (1, 1002),
        "a message that has ended has no continuation: FIN ends it, also in a first frame",
    ),
    Sent(
        [_text(b"a"), _text(b"b", False), _more(b"c"), _more(b"d")],
        9,
        (3, 1002),
        "a message that has ended has no continuation: FIN ends it, also in a continuation",
    ),
    Sent([_text(b"a", False), _text(b"b")], 9, (1, 1002), _NEW),
    Sent([_binary(b"a", False), _more(b"b", False), _binary(b"c")], 9, (2, 1002), _NEW),
    Sent([_text(b"a"), _binary(b"b", False), _more(b"c"), _text(b"d")], 9, None, _ANEW),
    Sent([_text(b"", False), _more(b"a")], 9, None, _EMPTY),
    Sent([_binary(b"", False), _text(b"a")], 9, (1, 1002), _EMPTY),
    Sent([], 9, None, "without frames there is nothing wrong"),
]

_SIZE = [
    Sent([_text(b"12345")], 5, None, "max_size bytes are allowed: only more are too many"),
    Sent([_text(b"123456")], 5, (0, 1009), "more than max_size bytes are too many"),
    Sent([_binary(b"123", False), _more(b"456", False)], 5, (1, 1009), _WHOLE),
    Sent([_binary(b"123", False), _more(b"45", False), _more(b"")], 5, None, _WHOLE),
    Sent([_text(b"123"), _text(b"456")], 5, None, _ANEW),
    Sent([_text(b"12", False), _more(b"3"), _text(b"45", False), _more(b"6")], 5, None, _ANEW),
    Sent([_text("éé".encode())], 3, (0, 1009), "the size is in bytes, not in characters"),
]

_TEXT = [
    Sent([_text("Grüße".encode())], 9, None, "there is nothing wrong here: None"),
    Sent([_text(b"a"), _text(b"\xff")], 9, (1, 1007), "no UTF-8 has such a byte"),
    Sent([_binary(b"\xff")], 9, None, "a binary message may have any bytes"),
    Sent(
        [_text(b"a"), _binary(b"\xff", False), _more(b"\xfe")],
        9,
        None,
        "a continuation is of the kind of the frame that began its message",
    ),
    Sent([_text(b"\xe2", False), _more(b"\x82\xac")], 9, None, _CUT),
    Sent([_text(b"\xe2", False), _more(b"", False), _more(b"\x82\xac")], 9, None, _CUT),
    Sent([_text(b"a", False), _more(b"\xff", False), _more(b"b")], 9, (1, 1007), _AT_ONCE),
    Sent([_text(b"\xe2", False), _more(b"a", False)], 9, (1, 1007), _AT_ONCE),
    Sent([_text(b"\xe2\x82")], 9, (0, 1007), _HALF),
    Sent([_text(b"\xe2\x82", False), _more(b"")], 9, (1, 1007), _HALF),
    Sent([_text(b"\xe2\x82", False)], 9, None, "this message goes on, and so may its text"),
    Sent([_text(b"\xff" * 6)], 5, (0, 1009), _TWO),
    Sent([_more(b"\xff" * 6)], 5, (0, 1002), _TWO),
    Sent([_text(b"1", False), _text(b"\xff")], 5, (1, 1002), _TWO),
    Sent([_text(b"\xff"), _more(b"a")], 5, (0, 1007), "the first mistake is the one to name"),
]


async def first_error(function: Callable[[list[Frame], int], tuple[int, int] | None]) -> None:
    """06.2: each rule kept and broken, in one frame and over several, and two at once."""
    require_plain_function(function)
    # In the chapter, quoted cells may have defined Frame and Opcode anew.
    mine = getattr(function, "__globals__", {})
    make, name = mine.get("Frame", Frame), mine.get("Opcode", Opcode)
    for frames, max_size, expected, hint in [*_ORDER, *_SIZE, *_TEXT]:
        sent = [make(name(each.opcode), each.payload, each.fin) for each in frames]
        received = _attempt(function, list(sent), max_size)
        if received != expected:
            hint = _hint_for_pair(received, expected) or hint
            raise Wrong.comparing(hint, (sent, max_size), expected, received)


def _hint_for_pair(received: Any, expected: tuple[int, int] | None) -> str | None:
    """What to say to something that is no number and code at all, or the two mixed up."""
    if received is None:
        return None
    if isinstance(received, UnicodeDecodeError) and expected and expected[1] == 1007:
        return "UnicodeDecodeError is how Python says 1007: catch it"
    if isinstance(received, Exception):
        return None
    if not isinstance(received, tuple) or len(received) != 2:
        return "return the frame's number and the code, as a pair: (number, code), or None"
    if expected and received == expected[::-1]:
        return "the frame's number comes first, then the code"
    if expected and received == (expected[0] + 1, expected[1]) and expected[0] == 0:
        return "frames are counted from 0"
    return None


Leave = Callable[[StreamReader, StreamWriter, int], Awaitable[int]]

# Longer than the second that is given, with room for a machine that is busy.
LIMIT = 2.0


class Goodbye(NamedTuple):
    """What a server does once a client's close frame is there, and what comes of it.

    says:     seconds to wait and bytes to send, again and again
    end:      and then: "eof", "reset" or "open"
    expected: the code to return
    code:     the one that the client is told to send
    most:     bytes that one read gives
    pings:    their payloads, each of which is to be answered
    """

    story: str
    says: list[tuple[float, bytes]]
    end: str
    expected: int
    hint: str
    code: int = 1000
    most: int = 65_536
    pings: tuple[bytes, ...] = ()


def _close(code: int | None) -> bytes:
    return encode(Frame(Opcode.CLOSE, b"" if code is None else close_payload(code, "bye")))


_MESSAGES = b"".join(
    map(encode, [_text(b"news"), _binary(b"\x88\x00", False), _more(bytes(3000)), _text(b"")])
)
_NOTHING = "without a close frame from the server it is 1006"
_READ_ON = (
    "before the close frame come messages: drop them and read on; one read may bring several "
    "frames, or none that is whole"
)

GOODBYES = [
    Goodbye(
        "the server answers with the same code",
        [(0.05, _close(1000))],
        "eof",
        1000,
        "return the code that parse_close finds in the server's close frame",
    ),
    Goodbye(
        "the server answers with 4001",
        [(0.05, _close(4001))],
        "eof",
        4001,
        "the code is that of the server, which may be another than yours",
        code=1001,
    ),
    Goodbye(
        "the server's close frame is empty",
        [(0.05, _close(None))],
        "eof",
        1005,
        "a close frame without a code is 1005, which parse_close says by itself",
    ),
    Goodbye(
        "messages come first, and then a close frame",
        [(0.05, _MESSAGES + _close(1000))],
        "eof",
        1000,
        _READ_ON,
        code=3000,
    ),
    Goodbye(
        "the same, and one read gives a single byte",
        [(0.05, encode(_text(b"news")) + _close(4001))],
        "eof",
        4001,
        "the bytes come in pieces, and one Decoder must see them all",
        most=1,
    ),
    Goodbye(
        "a ping comes first, and then a close frame",
        [(0.05, encode(Frame(Opcode.PING, b"?"))), (0.1, _close(1000))],
        "eof",
        1000,
        "before the close frame comes a ping: answer it and read on",
        pings=(b"?",),
    ),
    Goodbye(
        "the server hangs up in the middle of its close frame",
        [(0.05, encode(_text(b"news")) + _close(1000)[:3])],
        "eof",
        1006,
        _NOTHING,
    ),
    Goodbye(
        "the server resets the connection",
        [(0.05, b"")],
        "reset",
        1006,
        "a reset is an end, too: read raises ConnectionResetError, and that is 1006",
    ),
    Goodbye(
        "a message after 0.3 s, a close frame after 0.6 s, and the connection stays open",
        [(0.3, encode(_text(b"news"))), (0.3, _close(1000))],
        "open",
        1000,
        "the close frame may take most of a second, and with it you are done: nobody hangs up",
    ),
    Goodbye(
        "the server says nothing at all",
        [],
        "open",
        1006,
        "one second after your close frame it is 1006: asyncio.timeout(1)",
    ),
    Goodbye(
        "a message every 0.1 s, and no close frame",
        [(0.1, encode(_text(b"news")))] * 40,
        "open",
        1006,
        "one second in all, and not for each read: the messages go on and on",
    ),
]


async def say_goodbye(function: Leave) -> None:
    """06.3: eleven goodbyes on a real socket, some in pieces, late, cut off or never answered."""
    require_coroutine_function(function)
    masks = set()
    for goodbye in GOODBYES:
        server = Server(goodbye)
        async with _connected(server, goodbye.most) as (reader, writer):
            start = asyncio.get_running_loop().time()
            received = await _bounded(function(reader, writer, goodbye.code))
            seconds = asyncio.get_running_loop().time() - start
            is_open = not writer.is_closing()
        _has_sent_a_close(server, received)
        _has_returned_the_code(server, received, reader.at_end)
        if not goodbye.says and seconds < 0.9:
            hint = "a whole second is to be given to the server"
            _fail(goodbye, hint, Words("1006 after 1 s"), Words(f"1006 after {seconds:.1f} s"))
        _has_ended(server, is_open)
        if (mask := server.frames[0].mask) in masks:
            hint = "a masking key is new for each frame, and cannot be foreseen: new_mask()"
            _fail(goodbye, hint, Words("a new key"), Words(f"{mask!r} once more"))
        masks.add(mask)


def _fail(goodbye: Goodbye, hint: str, expected: object, received: object) -> None:
    sent = Words(f"close with {goodbye.code}; {goodbye.story}")
    raise Wrong.comparing(hint, sent, expected, received)


def _has_sent_a_close(server: Server, received: object) -> None:
    """Raise Wrong unless the client's first frame is the one that it should be."""
    goodbye = server.goodbye
    expected = Words(f"a masked close frame with {goodbye.code}")
    if server.flaw:
        _fail(goodbye, "what you sent is no frame: encode(Frame(…))", expected, server.flaw)
    if not server.frames:
        what = received if isinstance(received, Exception) else Words("nothing")
        _fail(goodbye, "a close frame must be sent first", expected, what)
    first = server.frames[0]
    if first.opcode != Opcode.CLOSE or not first.fin:
        _fail(goodbye, "the first frame to send is the close frame", expected, first)
    if first.mask is None:
        hint = "a client's frames are masked: Frame(…, mask=new_mask())"
        _fail(goodbye, hint, expected, first)
    if first.payload[:2] != goodbye.code.to_bytes(2, "big"):
        hint = "the payload is close_payload(code), with the code that you are given"
        _fail(goodbye, hint, expected, first)


def _has_returned_the_code(server: Server, received: object, at_end: int) -> None:
    goodbye = server.goodbye
    if at_end > 10:
        hint = 'after the end read gives b"" at once, for ever (or raises): look for it, and leave'
        _fail(goodbye, hint, goodbye.expected, Words(f"{at_end} more reads after the end"))
    if received != goodbye.expected:
        hint = _hint_for_code(server, received) or goodbye.hint
        _fail(goodbye, hint, goodbye.expected, received)


def _hint_for_code(server: Server, received: object) -> str | None:
    """What to say to something that is no code, whatever the server has done."""
    match received:
        case tuple():
            return "the code alone: parse_close gives a code and a reason"
        case TimeoutError():
            return "TimeoutError is how Python says that a second is over: catch it, 1006"
        case Exception() if "client's frame is not masked" in str(received):
            return "a server's frames are not masked: Decoder(masked=False)"
    if server.was_left_early and server.goodbye.expected != 1006:
        return "the writer was closed before the server's close frame had come: close it last"
    return None


def _has_ended(server: Server, is_open: bool) -> None:
    """Raise Wrong if the client has said something more, or left the connection open."""
    goodbye, more = server.goodbye, server.frames[1:]
    pongs = [Frame(Opcode.PONG, payload) for payload in goodbye.pings]
    if [frame._replace(mask=None) for frame in more] != pongs:
        hint = "a ping that comes before the server's close frame gets a pong with its payload"
        if any(frame.opcode == Opcode.CLOSE for frame in more):
            hint = "one close frame each: the server's is the answer to yours"
        elif not pongs:
            hint = "after your close frame only a ping is answered, and nothing else is sent"
        _fail(goodbye, hint, pongs or Words("no frame after the close frame"), more)
    if any(frame.mask is None for frame in more):
        hint = "a client's frames are masked, and so is its pong"
        _fail(goodbye, hint, Words("a masked pong"), more)
    if is_open:
        hint = "the writer was left open: writer.close(), however it has ended"
        _fail(goodbye, hint, Words("a closed writer"), Words("an open one"))


class Server:
    """The other end of one goodbye.

    frames:         what the client has sent
    flaw:           why that is no frame
    was_left_early: whether the client has hung up before anything was said to it
    """

    def __init__(self, goodbye: Goodbye) -> None:
        self.goodbye = goodbye
        self.frames: list[Frame] = []
        self.flaw: FrameError | None = None
        self.was_left_early = False
        self.done = asyncio.Event()
        self._asked = asyncio.Event()
        self._has_spoken = False

    async def handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        talking = asyncio.ensure_future(self._talk(writer))
        decoder = Decoder()
        try:
            while data := await reader.read(1000):
                self._receive(decoder, data)
            self.was_left_early = not self._has_spoken
        except ConnectionError:
            pass  # what came before is there
        finally:
            talking.cancel()
            writer.close()
            self.done.set()

    def _receive(self, decoder: Decoder, data: bytes) -> None:
        try:
            for frame in decoder.feed(data):
                self.frames.append(frame)
                if frame.opcode is Opcode.CLOSE:
                    self._asked.set()
        except FrameError as error:
            self.flaw = error

    async def _talk(self, writer: StreamWriter) -> None:
        await self._asked.wait()
        for seconds, data in self.goodbye.says:
            await asyncio.sleep(seconds)
            writer.write(data)
            self._has_spoken = True
        if self.goodbye.end == "eof":
            writer.write_eof()
        elif self.goodbye.end == "reset":
            # close() with this option sends a TCP reset, instead of an end of stream.
            option = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            opened = writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            writer.transport.abort()


class Reader(StreamReader):
    """Gives at most `most` bytes a read, and waits if it is read from after the end for ever.

    at_end: how often it was read from when there was nothing more to come
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.at_end = 0
        self._most = most

    async def read(self, n: int = -1) -> bytes:
        if self.at_eof() or self.exception():
            self.at_end += 1
            if self.at_end > 100:
                await asyncio.Event().wait()  # others have their turn, and the answer can be ended
        return await super().read(min(n, self._most))


@asynccontextmanager
async def _connected(server: Server, most: int) -> AsyncIterator[tuple[Reader, StreamWriter]]:
    """A client's end of a connection to the server, which is closed after the block."""
    loop, host, reader = asyncio.get_running_loop(), "127.0.0.1", Reader(most)
    async with await asyncio.start_server(server.handle, host, 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        transport, protocol = await loop.create_connection(
            lambda: StreamReaderProtocol(reader), host, port
        )
        writer = StreamWriter(transport, protocol, reader, loop)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(server.done.wait(), 1)


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What an answer returns, or the exception that it raises."""
    try:
        return function(*arguments)
    except (NotImplementedError, Blocked):
        raise
    except Exception as error:
        return error


async def _bounded(answer: Awaitable[Any]) -> Any:
    """What an answer returns within LIMIT, or the exception that it raises, or words for neither.

    One that catches its own cancellation is left behind.
    """
    task = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait({task}, timeout=LIMIT)
    finally:
        task.cancel()
    if not done:
        await asyncio.wait({task}, timeout=0.2)
        return Words(f"nothing: it did not return within {LIMIT:g} s")
    if task.cancelled():
        return Words("nothing: it was cancelled")
    error = task.exception()
    if isinstance(error, NotImplementedError | Blocked):
        raise error
    return task.result() if error is None else error


PROBES = {"1": pieces, "2": first_error, "3": say_goodbye}
