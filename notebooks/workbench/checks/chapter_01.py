"""The checks of chapter 01."""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

from nestling.handshake import accept, parse_request
from websockets.asyncio.server import ServerConnection

from workbench.checks import (
    Words,
    Wrong,
    require_coroutine_function,
    require_plain_function,
    serving,
)


async def lists_upgrade(function: Callable[[str], bool]) -> None:
    """01.1: ten values of Connection, in some of which Upgrade is only a part of a word."""
    cases = {
        "Upgrade": (True, "the plainest case"),
        "keep-alive, Upgrade": (True, "the value is a list: split it at its commas"),
        "keep-alive,Upgrade": (True, "there need not be a space behind the comma"),
        "UPGRADE": (True, "case means nothing"),
        "upgrade , close": (True, "spaces around an item mean nothing"),
        "no-upgrade": (False, "an item is compared as a whole"),
        "upgrade-insecure": (False, "an item is compared as a whole"),
        "not upgrade": (False, "items are parted by commas, not by spaces"),
        "keep-alive": (False, "Upgrade is not in it"),
        "": (False, "an empty list"),
    }
    require_plain_function(function)
    for sent, (expected, hint) in cases.items():
        try:
            received = function(sent)
        except NotImplementedError:
            raise
        except Exception as error:
            raise Wrong.comparing(hint, sent, expected, error) from None
        if not isinstance(received, bool):
            raise Wrong.comparing("return True or False", sent, expected, received)
        if received is not expected:
            raise Wrong.comparing(hint, sent, expected, received)


async def choose(function: Callable[[list[str], list[str]], str | None]) -> None:
    """01.2: six pairs of lists, in both orders, with nothing in common, and empty."""
    cases = [
        (["a", "b"], ["a", "b"], "a", "the first of the client's list"),
        (["a", "b"], ["b", "a"], "a", "the order is the client's, not the server's"),
        (["b", "a"], ["a", "b"], "b", "the order is the client's, not the alphabet's"),
        (["a", "b"], ["b"], "b", "the server does not support the first"),
        (["a"], ["b"], None, "none is supported: give None"),
        ([], ["b"], None, "nothing was offered: give None"),
    ]
    require_plain_function(function)
    for offered, supported, expected, hint in cases:
        sent = Words(f"choose({offered}, {supported})")
        try:
            received = function(list(offered), list(supported))
        except NotImplementedError:
            raise
        except Exception as error:
            received = error
        if received != expected:
            raise Wrong.comparing(hint, sent, expected, received)


OpenWebSocket = Callable[[StreamReader, StreamWriter, str], Awaitable[Any]]


async def open_websocket(function: OpenWebSocket) -> None:
    """01.3: a real server, answers not to be believed, one in pieces, a 401 and a 403."""
    require_coroutine_function(function)
    await _opens_a_real_one(function)
    for what, spoil in _SPOILED.items():
        await _is_refused(function, what, spoil)
    await _reads_pieces(function)
    for status in ("401 Unauthorized", "403 Forbidden"):
        await _is_not_permitted(function, status)


async def _opens_a_real_one(function: OpenWebSocket) -> None:
    requests = []

    async def note(connection: ServerConnection) -> None:
        requests.append(connection.request)
        await connection.wait_closed()

    async with serving(note) as server:
        for _ in range(2):
            response = await _call(function, server.port, Words("a right 101"))
            if getattr(response, "status", None) != 101:
                hint = "return the response, as parse_response gives it"
                expected = Words("a Response with status 101")
                raise Wrong.comparing(hint, Words("a right 101"), expected, response)
    if requests[0].path != "/learn":
        hint = "another path was asked for"
        raise Wrong.comparing(hint, Words("the path '/learn'"), "/learn", requests[0].path)
    keys = [request.headers["Sec-WebSocket-Key"] for request in requests]
    if len(set(keys)) == 1:
        hint = "the same key was sent twice: new_key() for each connection"
        raise Wrong.comparing(hint, Words("two calls"), Words("two keys"), keys)


# Answers that a client must not believe, each made from the right one.
_SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "a 101 without Sec-WebSocket-Accept": lambda right: re.sub(
        rb"Sec-WebSocket-Accept.*\r\n", b"", right
    ),
    "a 101 whose Sec-WebSocket-Accept does not match the key": lambda right: re.sub(
        rb"Accept: .*\r\n", b"Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", right
    ),
    "a 101 that does not upgrade": lambda right: right.replace(b"Upgrade: websocket\r\n", b""),
    "a 101 with a subprotocol that was not offered": lambda right: right.replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chess\r\n\r\n"
    ),
    "404 Not Found": lambda _: b"HTTP/1.1 404 Not Found\r\n\r\n",
    "the end of the stream, and no answer": lambda _: b"",
}


async def _is_refused(function: OpenWebSocket, what: str, spoil: Callable[[bytes], bytes]) -> None:
    received = await _raised(function, what, lambda request: spoil(accept(request)))
    # A chapter's reader may raise the class that a quoted cell has defined.
    if "HandshakeError" in [base.__name__ for base in type(received).__mro__]:
        return
    hint = f"the server sent {what}: raise HandshakeError"
    if not isinstance(received, Exception):
        hint = f"the server sent {what}, and your function believed it"
    raise Wrong.comparing(hint, Words(what), Words("HandshakeError"), received)


async def _is_not_permitted(function: OpenWebSocket, status: str) -> None:
    head = f"HTTP/1.1 {status}\r\n\r\n".encode()
    received = await _raised(function, status, lambda _: head)
    if not isinstance(received, PermissionError):
        hint = "look at the status before check_response: it says HandshakeError to all but 101"
        raise Wrong.comparing(hint, Words(status), Words("PermissionError"), received)


async def _raised(function: OpenWebSocket, what: str, answer: Callable[[Any], bytes]) -> Any:
    """What the function raises, or returns, when a server answers in some way."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        request, _ = parse_request(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(request))
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        try:
            return await _call(function, server.sockets[0].getsockname()[1], Words(what))
        except (Wrong, NotImplementedError):
            raise
        except Exception as error:
            return error


async def _reads_pieces(function: OpenWebSocket) -> None:
    sent = Words("a right 101, a byte at a time")

    async def dribble(reader: StreamReader, writer: StreamWriter) -> None:
        request, _ = parse_request(await reader.readuntil(b"\r\n\r\n"))
        for byte in accept(request):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        writer.close()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        try:
            await _call(function, server.sockets[0].getsockname()[1], sent)
        except Wrong:
            raise
        except Exception as error:
            hint = "an answer came byte by byte: read again while parse_response gives None"
            raise Wrong.comparing(hint, sent, Words("a Response"), error) from None


async def _call(function: OpenWebSocket, port: int, sent: Words) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(function(reader, writer, "/learn"), 3)
    except TimeoutError:
        hint = "your function waits for ever: read gives b'' when the server has closed"
        expected = Words("an end within 3 s")
        raise Wrong.comparing(hint, sent, expected, Words("none")) from None
    finally:
        writer.close()


PROBES = {"1": lists_upgrade, "2": choose, "3": open_websocket}
