"""The checks of chapter 01."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

from nestling.handshake import HandshakeError, accept, parse_request
from websockets.asyncio.server import ServerConnection

from workbench.checks import Wrong, require_coroutine_function, serving


async def lists_upgrade(function: Callable[[str], bool]) -> None:
    """01.1: whether the value of Connection lists Upgrade."""
    cases = {
        "Upgrade": (True, "the plainest case"),
        "keep-alive, Upgrade": (True, "the value is a list: split it at its commas"),
        "keep-alive,Upgrade": (True, "there need not be a space behind the comma"),
        "UPGRADE": (True, "case means nothing"),
        "upgrade , close": (True, "spaces around an item mean nothing"),
        "no-upgrade": (False, "an item is compared as a whole"),
        "keep-alive": (False, "Upgrade is not in it"),
        "": (False, "an empty list"),
    }
    if inspect.iscoroutinefunction(function):
        raise Wrong("nothing waits here: def, without async")
    for sent, (expected, hint) in cases.items():
        received = function(sent)
        if received is not expected:
            raise Wrong.comparing(hint, sent, expected, received)


async def choose(function: Callable[[list[str], list[str]], str | None]) -> None:
    """01.2: the client's first subprotocol that the server supports."""
    cases = [
        (["a", "b"], ["a", "b"], "a", "the first of the client's list"),
        (["a", "b"], ["b", "a"], "a", "the order is the client's, not the server's"),
        (["a", "b"], ["b"], "b", "the server does not support the first"),
        (["a"], ["b"], None, "none is supported: give None"),
        ([], ["b"], None, "nothing was offered: give None"),
    ]
    for offered, supported, expected, hint in cases:
        received = function(list(offered), list(supported))
        if received != expected:
            raise Wrong.comparing(hint, (offered, supported), expected, received)


OpenWebSocket = Callable[[StreamReader, StreamWriter, str], Awaitable[Any]]


async def open_websocket(function: OpenWebSocket) -> None:
    """01.3: a client's handshake, with a real server and with four that are not to be believed."""
    require_coroutine_function(function)
    await _opens_a_real_one(function)
    lies = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    untrusted = {
        "the server sent no Sec-WebSocket-Accept": lies + b"\r\n",
        "Sec-WebSocket-Accept did not match the key": lies
        + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "the server refused with 404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "the server closed the connection without an answer": b"",
    }
    for what, answer in untrusted.items():
        await _is_refused(function, what, answer)
    await _reads_pieces(function)


async def _opens_a_real_one(function: OpenWebSocket) -> None:
    requests = []

    async def note(connection: ServerConnection) -> None:
        requests.append(connection.request)
        await connection.wait_closed()

    async with serving(note) as server:
        for _ in range(2):
            response = await _call(function, server.port)
            if getattr(response, "status", None) != 101:
                hint = "return the response, as parse_response gives it"
                raise Wrong.comparing(hint, "a request", "a Response with status 101", response)
    if requests[0].path != "/learn":
        raise Wrong.comparing("another path was asked for", "/learn", "/learn", requests[0].path)
    if len({request.headers["Sec-WebSocket-Key"] for request in requests}) == 1:
        raise Wrong("the same key was sent twice: new_key() for each connection")


async def _is_refused(function: OpenWebSocket, what: str, answer: bytes) -> None:
    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        try:
            await _call(function, server.sockets[0].getsockname()[1])
        except Exception as error:
            # A chapter's reader may raise the class that a quoted cell has defined.
            if "HandshakeError" not in [base.__name__ for base in type(error).__mro__]:
                raise
        else:
            raise Wrong(f"{what}, and your function believed it: raise HandshakeError")


async def _reads_pieces(function: OpenWebSocket) -> None:
    async def dribble(reader: StreamReader, writer: StreamWriter) -> None:
        request, _ = parse_request(await reader.readuntil(b"\r\n\r\n"))
        for byte in accept(request):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        writer.close()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        try:
            await _call(function, server.sockets[0].getsockname()[1])
        except HandshakeError as error:
            raise Wrong(f"an answer that came byte by byte was not understood: {error}") from None


async def _call(function: OpenWebSocket, port: int) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(function(reader, writer, "/learn"), 3)
    except TimeoutError:
        hint = "your function waits for ever: read gives b'' when the server has closed"
        raise Wrong(hint) from None
    finally:
        writer.close()


PROBES = {"1": lists_upgrade, "2": choose, "3": open_websocket}
