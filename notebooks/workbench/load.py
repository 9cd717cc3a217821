"""What a message costs a server: the processor's time, beside that of others in the same run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
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
    """A client that asks some questions in one piece, and as many again when all are answered.

    left:     the questions that it may still ask
    answered: those that the server has answered
    opened:   done when the server has answered the handshake
    done:     done when all that it asked is answered

    `opened` and `done` fail with ConnectionError if the server goes, and `done` with ValueError
    if it answers anything but the message.
    """

    def __init__(self, message: bytes = MESSAGE) -> None:
        self._question = encode(Frame(Opcode.TEXT, message, mask=b"vote"))
        self._answer = encode(Frame(Opcode.TEXT, message))
        self._expected = self._received = b""
        self._in_flight = self.answered = 0
        self.left: float = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(build_request(HOST, key=new_key()))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self.opened.set_result(None)  # nothing but the 101: no frame comes before a question
            return
        self._received += data
        if len(self._received) < len(self._expected):
            return
        if self._received != self._expected:
            self._fail(ValueError(f"another answer than the question: {self._received[:80]!r}"))
            return
        self.answered += len(self._expected) // len(self._answer)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError("the server has gone"))

    def begin(self, in_flight: int, questions: float) -> asyncio.Future[None]:
        """Ask so many questions, so many at a time; what becomes `done`."""
        self._in_flight, self.left, self.answered = in_flight, questions, 0
        self.done = asyncio.get_running_loop().create_future()
        self._ask()
        return self.done

    def _ask(self) -> None:
        """Ask as many as may be in flight, or what is left."""
        questions = int(min(self._in_flight, self.left))
        self.left -= questions
        self._expected, self._received = self._answer * questions, b""
        if questions:
            self.transport.write(self._question * questions)
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        for waiting in (self.opened, self.done):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever does not wait need not hear of it


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
    server = await serve(_echo, HOST, 0, compression=None, ping_interval=None)
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(PATIENCE), connected(port) as askers:
            begin = process_time()
            await asyncio.gather(*(asker.begin(in_flight, questions) for asker in askers))
            return (process_time() - begin) / (CONNECTIONS * questions)
    finally:
        server.close()


@asynccontextmanager
async def connected(port: int, message: bytes = MESSAGE) -> AsyncIterator[list[Asker]]:
    """CONNECTIONS clients of the server on this port of 127.0.0.1, all past the handshake."""
    askers: list[Asker] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in range(CONNECTIONS):
                _, asker = await loop.create_connection(lambda: Asker(message), HOST, port)
                askers.append(asker)
            await asyncio.gather(*(asker.opened for asker in askers))
        yield askers
    finally:
        for asker in askers:
            asker.transport.abort()


async def _floor(handler: Any, host: str, port: int, **options: Any) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(Floor, host, port)


async def _echo(connection: Any) -> None:
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)
