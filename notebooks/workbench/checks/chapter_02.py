"""The checks of chapter 02."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable

from nestling.frames import Frame, Opcode, encode
from nestling.handshake import accept, parse_request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from workbench.checks import (
    Words,
    Wrong,
    require_coroutine_function,
    require_plain_function,
)


async def text_header(function: Callable[[int], bytes]) -> None:
    """02.1: headers for 0, 5, 125, 126, 300 and 65,535 bytes of text."""
    hints = {
        5: "FIN and opcode 1 in the first byte, the length in the second",
        0: "an empty text has a header, too",
        125: "125 is the largest length that the second byte holds itself",
        126: "from 126 on the second byte is 126, and the next two are the length, "
        "the more significant one first",
        300: "the length is in the third and fourth byte",
        65_535: "the largest length that two bytes hold",
    }
    require_plain_function(function)
    for length, hint in hints.items():
        expected = encode(Frame(Opcode.TEXT, bytes(length)))[: -length or None]
        try:
            received = function(length)
        except NotImplementedError:
            raise
        except Exception as error:
            received = error
        if isinstance(received, bytes) and received[len(expected) :] == bytes(length) != b"":
            hint, received = "the header alone, without the payload", Words("the whole frame")
        if received != expected:
            raise Wrong.comparing(hint, length, expected, received)


async def messages(function: Callable[[list[Frame]], list[str | bytes]]) -> None:
    """02.2: lists of frames: pieces, control frames in between, messages one after the other."""
    require_plain_function(function)
    # In the chapter, quoted cells have defined Frame and Opcode anew.
    mine = getattr(function, "__globals__", {})
    for frames, expected, hint in _conversations(
        mine.get("Frame", Frame), mine.get("Opcode", Opcode)
    ):
        try:
            received = function(list(frames))
        except NotImplementedError:
            raise
        except Exception as error:
            received = error
        if not isinstance(received, list | Exception):
            hint = "return a list, also of one message or none"
        if received != expected:
            raise Wrong.comparing(hint, frames, expected, received)


def _conversations(
    Frame: type[Frame], Opcode: type[Opcode]
) -> list[tuple[list[Frame], list[str | bytes], str]]:
    """Frames, the messages they make, and a hint."""
    euro = "€".encode()
    first, rest = Opcode.TEXT, Opcode.CONTINUATION
    begins_anew = "the next message begins with nothing of the last"
    return [
        ([Frame(first, b"a")], ["a"], "text as str, not bytes"),
        ([Frame(Opcode.BINARY, b"b")], [b"b"], "binary as bytes, not str"),
        ([Frame(first, b"a"), Frame(Opcode.BINARY, b"b")], ["a", b"b"], begins_anew),
        (
            [Frame(first, b"Hel", fin=False), Frame(rest, b"lo")],
            ["Hello"],
            "a message ends with the frame that has FIN",
        ),
        (
            [Frame(first, b"Hel", fin=False), Frame(Opcode.PING, b"?"), Frame(rest, b"lo")],
            ["Hello"],
            "control frames may stand between the pieces, and are no messages",
        ),
        (
            [Frame(Opcode.BINARY, b"\xff", fin=False), Frame(rest, b"\xfe")],
            [b"\xff\xfe"],
            "the first frame of a message says what it is",
        ),
        (
            [Frame(first, euro[:1], fin=False), Frame(rest, euro[1:])],
            ["€"],
            "decode when the message is whole: a character may be cut in two",
        ),
        (
            [Frame(first, b"1", fin=False), Frame(rest, b"2"), Frame(first, b"3")],
            ["12", "3"],
            begins_anew,
        ),
        ([Frame(first, b"")], [""], "an empty message is one"),
        (
            [Frame(Opcode.PONG, b"!"), Frame(first, b"a"), Frame(Opcode.CLOSE)],
            ["a"],
            "pong and close are control frames, too",
        ),
    ]


Converse = Callable[[StreamReader, StreamWriter], Awaitable[None]]


async def converse(function: Converse) -> None:
    """02.3: a conversation with a real client, whose bytes came three at a time."""
    require_coroutine_function(function)
    failures: list[Exception] = []
    returned = asyncio.Event()
    handling: list[asyncio.Task[None]] = []

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        handling.append(asyncio.current_task())
        slow = StreamReader()
        feeding = asyncio.ensure_future(_dribble(reader, slow))
        try:
            request, rest = parse_request(await slow.readuntil(b"\r\n\r\n"))
            writer.write(accept(request) + rest)
            await function(slow, writer)
            _has_ended_well(slow, writer)
            returned.set()
        except Exception as error:
            if type(error).__name__ == "FrameError":  # also one that a quoted cell has defined
                sent = Words("texts, in pieces of 3 bytes")
                error = Wrong.comparing(_ONE_DECODER, sent, Words("frames"), error)
            failures.append(error)
        except asyncio.CancelledError:
            pass  # asyncio would report a handler that was cancelled as one that failed
        finally:
            feeding.cancel()
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with connect(url, compression=None, close_timeout=1) as client:
                await _talk(client)
                await client.close(1001, "leaving")
            await asyncio.wait_for(returned.wait(), 2)
        except TimeoutError:
            hint = "your function did not return after the close"
            late = Wrong.comparing(hint, _CLOSE, Words("an end"), Words("none within 2 s"))
            raise (failures or [late])[0] from None
        except Exception as error:
            raise (failures or [error])[0] from None
        finally:
            # A function that does not return is ended: from Python 3.12 on, the server
            # would wait for it.
            for task in handling:
                task.cancel()
    seen = (client.close_code, client.close_reason)
    if seen != (1001, "leaving"):
        hint = "a close is answered with a close of the same payload"
        received = Words("no close") if seen[0] == 1006 else seen
        raise Wrong.comparing(hint, _CLOSE, (1001, "leaving"), received)


_ONE_DECODER = "the bytes come in pieces, and one Decoder must see them all"
_CLOSE = Words("a close, 1001 'leaving'")


def _has_ended_well(reader: StreamReader, writer: StreamWriter) -> None:
    """Raise Wrong unless a function has closed the writer and left at the close."""
    if not writer.is_closing():
        hint = "your function returned and left the writer open: writer.close()"
        raise Wrong.comparing(hint, _CLOSE, Words("a closed writer"), Words("an open one"))
    if reader.at_eof():
        hint = "your function went on reading: break leaves only the inner loop, return leaves both"
        waited = Words("until the client hung up")
        raise Wrong.comparing(hint, _CLOSE, Words("an end right after the close"), waited)


async def _dribble(reader: StreamReader, slow: StreamReader) -> None:
    """Pass on what comes in pieces of three bytes."""
    while data := await reader.read(1000):
        for start in range(0, len(data), 3):
            slow.feed_data(data[start : start + 3])
            await asyncio.sleep(0)
    slow.feed_eof()


async def _talk(client: ClientConnection) -> None:
    for sent in ("Hello", "Grüße", "x" * 1000, ""):
        try:
            await client.send(sent)
            received = await asyncio.wait_for(client.recv(), 2)
        except (TimeoutError, ConnectionClosed) as error:
            hint = f"no frame came back: {_ONE_DECODER}"
            what = "nothing within 2 s"
            if client.state is not State.OPEN:
                hint = "the client hung up: a server never masks, so an answer is a new Frame"
                what = f"the end. {error}".strip()
            raise Wrong.comparing(hint, _short(sent), _short(sent), Words(what)) from None
        if received != sent:
            raise Wrong.comparing("another text came back", sent, sent, received)
    ping = Words("a ping, 'still there?'")
    try:
        await asyncio.wait_for(await client.ping(b"still there?"), 2)
    except (TimeoutError, ConnectionClosed) as error:
        hint = "a ping was not answered: a pong, with the payload of the ping"
        what = error if isinstance(error, ConnectionClosed) else Words("nothing within 2 s")
        raise Wrong.comparing(hint, ping, Words("a pong, 'still there?'"), what) from None


def _short(text: str) -> str:
    return text if len(text) <= 20 else Words(f"a text of {len(text)} characters")


PROBES = {"1": text_header, "2": messages, "3": converse}
