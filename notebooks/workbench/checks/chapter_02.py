"""The checks of chapter 02."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable

from nestling.frames import Frame, Opcode, encode
from nestling.handshake import accept, parse_request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench.checks import Wrong, require_coroutine_function, require_plain_function


async def text_header(function: Callable[[int], bytes]) -> None:
    """02.1: the header of an unmasked text frame."""
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
        received = function(length)
        if received != expected:
            raise Wrong.comparing(hint, length, expected, received)


async def messages(function: Callable[[list[Frame]], list[str | bytes]]) -> None:
    """02.2: the messages that a list of frames makes."""
    require_plain_function(function)
    # In the chapter, quoted cells have defined Frame and Opcode anew.
    mine = getattr(function, "__globals__", {})
    for frames, expected, hint in _conversations(
        mine.get("Frame", Frame), mine.get("Opcode", Opcode)
    ):
        try:
            received = function(list(frames))
        except UnicodeDecodeError as error:
            received = error
        if received != expected:
            raise Wrong.comparing(hint, frames, expected, received)


def _conversations(
    Frame: type[Frame], Opcode: type[Opcode]
) -> list[tuple[list[Frame], list[str | bytes], str]]:
    """Frames, the messages they make, and a hint."""
    euro = "€".encode()
    first, rest = Opcode.TEXT, Opcode.CONTINUATION
    return [
        ([Frame(first, b"a"), Frame(Opcode.BINARY, b"b")], ["a", b"b"], "text as str, not bytes"),
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
            "the next message begins with nothing of the last",
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
    """02.3: a server's side of a connection, against a real client."""
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
            if not writer.is_closing():
                raise Wrong("your function returned and left the writer open: writer.close()")
            returned.set()
        except Exception as error:
            failures.append(error)
        except asyncio.CancelledError:
            pass  # asyncio would report a handler that was cancelled as one that failed
        finally:
            feeding.cancel()
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with connect(url, compression=None, close_timeout=2) as client:
                await _talk(client)
                await client.close(1001, "leaving")
            await asyncio.wait_for(returned.wait(), 2)
        except TimeoutError:
            late = Wrong("your function did not return after the close")
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
        raise Wrong.comparing(hint, (1001, "leaving"), (1001, "leaving"), seen)


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
            what = "no frame came back" if isinstance(error, TimeoutError) else f"it ended: {error}"
            raise Wrong(f"{what}, after the text {sent[:20]!r} (a server never masks)") from None
        if received != sent:
            raise Wrong.comparing("another text came back", sent, sent, received)
    try:
        await asyncio.wait_for(await client.ping(b"still there?"), 2)
    except TimeoutError:
        raise Wrong("a ping was not answered: a pong, with the payload of the ping") from None


PROBES = {"1": text_header, "2": messages, "3": converse}
