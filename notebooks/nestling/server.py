"""A server and a client: what listens and what connects, as `transport.Serve` wants it.

::

    async def handler(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(handler, "127.0.0.1", 3000):
        async with connect("ws://127.0.0.1:3000/") as connection: ...
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed

from nestling import deflate
from nestling.connection import Connection, broadcast
from nestling.frames import CloseCode
from nestling.handshake import HandshakeError, Headers, Refusal
from nestling.heartbeat import kept_alive
from nestling.protocol import Protocol, State, StateError
from nestling.transport import PIECE

__all__ = ["Connection", "Server", "broadcast", "connect", "serve"]

BACKLOG = 2048  # clients that may connect at once
PORTS = {"ws": 80, "wss": 443}
EXTENSIONS: dict[str | None, Any] = {None: None, "deflate": deflate}

log = logging.getLogger(__name__)
Opened = TypeVar("Opened", bound="Connection | Server")


class Fields(Headers):
    """Header fields, as `websockets` has them, too: `fields["Host"]`, `"Host" in fields`."""

    def __getitem__(self, name: str) -> str:  # type: ignore[override]
        if (value := self.get(name)) is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:  # type: ignore[override]
        self.append((name, value))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))


@dataclass
class Request:
    """What a client asks for: the path, query included, and the header fields."""

    path: str
    headers: Fields


class ServerConnection(Connection):
    """A connection to a client, whose `request` is there once it has come."""

    request: Request

    def __init__(self, server: Server) -> None:
        super().__init__(server.make(), server.buffer, server.close_timeout)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.begin(self)

    def respond(self, status: int, text: str) -> Refusal:
        """What `process_request` returns to refuse; its `headers` can be added to."""
        refusal = Refusal(status, text.removesuffix("\n"))
        refusal.headers = Fields()
        return refusal

    def answer(self, data: bytes) -> None:
        """Send the answer to the request, and read what has come meanwhile."""
        self.write(data)
        self._take(self.protocol.receive(b""))


@dataclass(eq=False)
class Server:
    """A server that listens; `async with` closes it. Its fields are parameters of `serve`."""

    handler: Callable[[Any], Awaitable[None]]
    process_request: Callable[[Any, Any], Any] | None
    select_subprotocol: Callable[[Any, Any], Any] | None
    make: Callable[[], Protocol]
    headers: list[tuple[str, str]]
    log: logging.Logger
    open_timeout: float
    close_timeout: float

    def __post_init__(self) -> None:
        self.buffer = memoryview(bytearray(PIECE))
        self._running: dict[asyncio.Task[None], ServerConnection] = {}
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int, options: dict[str, Any]) -> Server:
        """Let clients in."""
        create = asyncio.get_running_loop().create_server
        options = {"backlog": BACKLOG} | options
        self._listener = await create(partial(ServerConnection, self), host, port, **options)
        return self

    @property
    def sockets(self) -> tuple[Any, ...]:
        """Those that listen."""
        return self._listener.sockets if self._listener else ()

    def close(self, close_connections: bool = True) -> None:
        """Let no more clients in, and say goodbye to those that are there, with code 1001."""
        if self._listener:
            self._listener.close()
        for connection in self._running.values():
            if close_connections or connection.protocol.state is State.CONNECTING:
                connection.leave(CloseCode.GOING_AWAY)

    async def wait_closed(self) -> None:
        """Wait until all clients have gone and all handlers have returned."""
        while self._running:
            await asyncio.wait(self._running)

    def begin(self, connection: ServerConnection) -> None:
        """Serve a client, in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._running[task] = connection
        if self._listener and not self._listener.is_serving():
            connection.abort()
        task.add_done_callback(self._running.pop)

    async def _serve(self, connection: ServerConnection) -> None:
        code = CloseCode.INTERNAL_ERROR
        try:
            if await self._admit(connection):
                await self.handler(connection)
            code = CloseCode.NORMAL_CLOSURE
        except ConnectionClosed:
            pass  # the client has gone, and with it the handler
        except Exception:
            self.log.exception("connection handler failed")
        finally:
            await connection.close(code)

    async def _admit(self, connection: ServerConnection) -> bool:
        """Answer the request, as the server's program wants it: is the client let in?"""
        try:
            async with asyncio.timeout(self.open_timeout):
                head = await connection.head()
        except (HandshakeError, TimeoutError):
            return False
        connection.request = Request(head.path, Fields(head.headers))
        try:
            answer = self._answer(connection, head.headers.tokens("Sec-WebSocket-Protocol"))
        except StateError:  # it has gone in the meantime
            return False
        except Exception:
            self.log.exception("opening handshake failed")
            answer = connection.protocol.refuse(Refusal(500, "the server has failed"))
        connection.answer(answer)
        return connection.protocol.state is State.OPEN

    def _answer(self, connection: ServerConnection, offered: list[str]) -> bytes:
        if self.process_request:
            if refusal := self.process_request(connection, connection.request):
                refusal.headers += self.headers
                return connection.protocol.refuse(refusal)
        chosen = self.select_subprotocol and self.select_subprotocol(connection, offered)
        return connection.protocol.accept(chosen, self.headers)

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
        await self.wait_closed()


class Starting(Generic[Opened]):
    """What `serve` and `connect` give: `await` it, or enter it with `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, Opened]) -> None:
        self._opening = opening

    def __await__(self) -> Generator[Any, None, Opened]:
        return self._opening.__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self._opening
        return self._opened

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)


def serve(
    handler: Callable[[Any], Awaitable[None]],
    host: str,
    port: int,
    *,
    max_size: int = 2**20,
    max_fragments: int = 65_537,
    compression: str | None = None,
    process_request: Callable[[Any, Any], Any] | None = None,
    select_subprotocol: Callable[[Any, Any], Any] | None = None,
    server_header: str | None = None,
    ping_interval: float | None = None,
    ping_timeout: float | None = None,
    logger: logging.Logger = log,
    open_timeout: float = 10,
    close_timeout: float = 10,
    **options: Any,
) -> Starting[Server]:
    """Listen, and call `handler` with each connection, as `transport.Serve` says.

    Pings are those of `heartbeat.kept_alive`. Other options are those of `loop.create_server`.
    Raises OSError for a port that cannot be had, and KeyError for a compression that is not in
    EXTENSIONS.
    """
    limits: dict[str, Any] = {"max_size": max_size, "max_fragments": max_fragments}
    make = partial(Protocol, extension=EXTENSIONS[compression], **limits)
    headers = [("Server", server_header)] if server_header else []
    pinging = kept_alive(handler, ping_interval, ping_timeout)
    programs = pinging, process_request, select_subprotocol
    server = Server(*programs, make, headers, logger, open_timeout, close_timeout)
    return Starting(server.listen(host, port, options))


def connect(
    url: str,
    *,
    max_size: int = 2**20,
    max_fragments: int = 65_537,
    compression: str | None = None,
    subprotocols: Iterable[str] = (),
    additional_headers: Any = (),
    close_timeout: float = 10,
    **options: Any,
) -> Starting[Connection]:
    """Connect to a server, such as ws://127.0.0.1:3000/poll, in `open_timeout` seconds, or 10.

    Other options are those of `loop.create_connection`. Raises ValueError for what is no such
    URL, OSError, TimeoutError, and HandshakeError if the server does not let us in.
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"not the URL of a WebSocket: {url!r}")
    limits: dict[str, Any] = {"max_size": max_size, "max_fragments": max_fragments}
    protocol = Protocol(is_client=True, extension=EXTENSIONS[compression], **limits)
    fields = {"subprotocols": list(subprotocols), "headers": dict(additional_headers).items()}
    path = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
    request = protocol.connect(parts.netloc.rpartition("@")[2], path, **fields)
    connection = Connection(protocol, memoryview(bytearray(PIECE)), close_timeout)
    to: dict[str, Any] = {"host": parts.hostname, "port": parts.port or PORTS[parts.scheme]}
    if parts.scheme == "wss":
        to["ssl"] = True
    return Starting(_dial(connection, request, **to | options))


async def _dial(
    connection: Connection, request: bytes, open_timeout: float = 10, **options: Any
) -> Connection:
    async with asyncio.timeout(open_timeout):
        await asyncio.get_running_loop().create_connection(lambda: connection, **options)
        try:
            connection.write(request)
            await connection.head()
        except BaseException:
            connection.abort()
            raise
    return connection
