"""What a message costs a server: the processor's time, beside that of others in the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from statistics import median
from time import process_time
from typing import Any

from nestling.frames import Frame, Opcode, encode
from nestling.handshake import build_request, new_key
from websockets.exceptions import ConnectionClosed

HOST = "127.0.0.1"
MESSAGE = b'{"id":1,"event":"vote","data":2,"question":"is it 60 bytes"}'
QUESTION = encode(Frame(Opcode.TEXT, MESSAGE, mask=b"vote"))
ANSWER = encode(Frame(Opcode.TEXT, MESSAGE))
CONNECTIONS = 10
PATIENCE = 10.0  # seconds for a turn


class Asker(asyncio.Protocol):
    """A client that keeps some questions in flight, and asks another for each answer.

    is_open: done when the server has answered the handshake
    is_done: done when all questions are answered
    """

    def __init__(self, questions: int) -> None:
        self._left = self._unanswered = questions
        self._received = 0
        self.is_open, self.is_done = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(build_request(HOST, key=new_key()))

    def data_received(self, data: bytes) -> None:
        if not self.is_open.is_set():
            self.is_open.set()  # nothing but the 101: no frame comes before a question
            return
        answers, self._received = divmod(self._received + len(data), len(ANSWER))
        self._unanswered -= answers
        self.ask(answers)
        if not self._unanswered:
            self.is_done.set()

    def ask(self, questions: int) -> None:
        """Ask so many more, or what is left."""
        questions = min(questions, self._left)
        self._left -= questions
        self.transport.write(QUESTION * questions)


class Floor(asyncio.Protocol):
    """A server that knows the answer by heart: what the client and the loop cost."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received: int | None = None

    def data_received(self, data: bytes) -> None:
        if self._received is None:
            self._received = 0
            self._transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            return
        questions, self._received = divmod(self._received + len(data), len(QUESTION))
        self._transport.write(ANSWER * questions)


async def costs(
    serves: Mapping[str, Callable[..., Any]], in_flight: int, questions: int = 200, turns: int = 5
) -> dict[str, float]:
    """Microseconds of the processor that an echoed message costs each server.

    `serves` maps a name to a function such as `websockets.asyncio.server.serve`. Each is asked
    `questions` times over each of CONNECTIONS connections, so many of them in flight on each,
    in turns with a server that does nothing: what that costs is the client's and the loop's,
    and is taken off. The median of the turns. Raises TimeoutError for a server that stops
    answering.
    """
    spent: dict[str, list[float]] = {name: [] for name in serves}
    for _ in range(turns):
        floor = await _turn(_floor, questions, in_flight)
        for name, serve in serves.items():
            spent[name].append(await _turn(serve, questions, in_flight) - floor)
    return {name: 1e6 * median(seconds) for name, seconds in spent.items()}


async def _turn(serve: Callable[..., Any], questions: int, in_flight: int) -> float:
    """Seconds of the processor for a message, of client and server together."""
    loop = asyncio.get_running_loop()
    server = await serve(_echo, HOST, 0, compression=None, ping_interval=None)
    port = server.sockets[0].getsockname()[1]
    askers = [Asker(questions) for _ in range(CONNECTIONS)]
    try:
        async with asyncio.timeout(PATIENCE):
            for asker in askers:
                await loop.create_connection(lambda asker=asker: asker, HOST, port)
            for asker in askers:
                await asker.is_open.wait()
            begin = process_time()
            for asker in askers:
                asker.ask(in_flight)
            for asker in askers:
                await asker.is_done.wait()
            return (process_time() - begin) / (CONNECTIONS * questions)
    finally:
        for asker in askers:
            asker.transport.abort()
        server.close()


async def _floor(handler: Any, host: str, port: int, **options: Any) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(Floor, host, port)


async def _echo(connection: Any) -> None:
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)
