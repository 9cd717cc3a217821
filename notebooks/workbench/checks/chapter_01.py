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
    Wrong,
    require_coroutine_function,
    require_plain_function,
    serving,
)


async def lists_upgrade(function: Callable[[str], bool]) -> None:
    """01.1: whether the value of Connection lists Upgrade."""
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
        received = function(sent)
        if not isinstance(received, bool):
            raise Wrong.comparing("return True or False", sent, expected, received)
        if received is not expected:
            raise Wrong.comparing(hint, sent, expected, received)


async def choose(function: Callable[[list[str], list[str]], str | None]) -> None:
    """01.2: the client's first subprotocol that the server supports."""
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
        received = function(list(offered), list(supported))
        if received != expected:
            raise Wrong.comparing(hint, (offered, supported), expected, received)


OpenWebSocket = Callable[[StreamReader, StreamWriter, str], Awaitable[Any]]


async def open_websocket(function: OpenWebSocket) -> None:
    """01.3: a client's handshake, with a real server and with four that are not to be believed."""
    require_coroutine_function(function)
    await _opens_a_real_one(function)
    for what, spoil in _SPOILED.items():
        await _is_refused(function, what, spoil)
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


# Answers that a client must not believe, each made from the right one.
_SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "the server sent no Sec-WebSocket-Accept": lambda right: re.sub(
        rb"Sec-WebSocket-Accept.*\r\n", b"", right
    ),
    "Sec-WebSocket-Accept did not match the key": lambda right: re.sub(
        rb"Accept: .*\r\n", b"Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", right
    ),
    "the server did not upgrade": lambda right: right.replace(b"Upgrade: websocket\r\n", b""),
    "the server chose a subprotocol that was not offered": lambda right: right.replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chess\r\n\r\n"
    ),
    "the server refused with 404": lambda _: b"HTTP/1.1 404 Not Found\r\n\r\n",
    "the server closed the connection without an answer": lambda _: b"",
}


async def _is_refused(function: OpenWebSocket, what: str, spoil: Callable[[bytes], bytes]) -> None:
    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        request, _ = parse_request(await reader.readuntil(b"\r\n\r\n"))
        writer.write(spoil(accept(request)))
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        try:
            await _call(function, server.sockets[0].getsockname()[1])
        except (Wrong, NotImplementedError):
            raise
        except Exception as error:
            # A chapter's reader may raise the class that a quoted cell has defined.
            if "HandshakeError" not in [base.__name__ for base in type(error).__mro__]:
                raised = f"your function raised {type(error).__name__}: {error}"
                raise Wrong(f"{what}, and {raised}; raise HandshakeError") from None
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
        except Wrong:
            raise
        except Exception as error:
            raised = f"your function raised {type(error).__name__}: {error}"
            raise Wrong(f"an answer came byte by byte, and {raised}") from None


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
