"""A server and a client: `protocol` on asyncio, as `transport.Serve` wants it.

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
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from nestling import deflate
from nestling.frames import CloseCode
from nestling.handshake import HandshakeError, Headers, Refusal
from nestling.protocol import Close, Event, Message, Ping, Pong, Protocol, State, StateError
from nestling.transport import PIECE, UNREAD

# Bytes of messages that may wait for their handler before no more are read; until then, pings
# are answered and a close is noticed. Each counts some more, for the object that it is.
WAITING = 2**20
OBJECT = 100

COLLECTED = 2**16  # bytes, at most, that are collected to be sent in one piece
BACKLOG = 2048  # clients that may connect at once
PORTS = {"ws": 80, "wss": 443}
EXTENSIONS: dict[str | None, Any] = {None: None, "deflate": deflate}
GOODBYES = {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}

Opened = TypeVar("Opened", bound="Connection | Server")

log = logging.getLogger(__name__)


class Wire(asyncio.BufferedProtocol):
    """A `Protocol` on a TCP connection: the half of a connection that the event loop calls.

    buffer:        where received bytes lie for a moment; connections of one loop share it
    close_timeout: seconds to end what has begun to close, before the TCP connection is cut
    """

    transport: asyncio.Transport

    def __init__(self, protocol: Protocol, buffer: memoryview, close_timeout: float) -> None:
        self.protocol = protocol
        self._buffer = buffer
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._first: Event | None = None  # a request, a response, or that there is none
        self._messages: deque[str | bytes] = deque()
        self._waiting = 0  # bytes in them
        self._news: asyncio.Future[None] | None = None  # done when anything has come
        self._collected = bytearray()
        self._is_burst = self._is_paused = self._is_leaving = False
        self._writable = asyncio.Event()
        self._lost = self._loop.create_future()
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take(self.protocol.receive(bytes(self._buffer[:nbytes])))

    def eof_received(self) -> None:
        self._take(self.protocol.receive_eof())

    def connection_lost(self, exc: Exception | None) -> None:
        self._take(self.protocol.receive_eof())
        if self._cut is not None:
            self._cut.cancel()
        self._writable.set()
        self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._balance()

    def _take(self, events: list[Event]) -> None:
        """See to what has happened, and say what there is to say to it."""
        self._is_burst = len(events) > 1
        for event in events:
            if isinstance(event, Message):
                if not self._is_leaving:
                    self._messages.append(event.data)
                    self._waiting += len(event.data) + OBJECT
            elif self._first is None and not isinstance(event, Ping | Pong):
                self._first = event
        if answers := self.protocol.take_answers():
            self.write(answers)
        if self.protocol.state is State.CLOSED:
            self._end()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._balance()

    def _end(self) -> None:
        """All is said: the server ends the TCP connection, then the client (section 7.1.1)."""
        self._flush()
        self._limit()
        if not self.protocol.is_client:
            transport = self.transport
            (transport.write_eof if transport.can_write_eof() else transport.close)()

    def _limit(self) -> None:
        """The TCP connection is to end in time."""
        self._cut = self._cut or self._loop.call_later(self._close_timeout, self.transport.abort)

    def _balance(self) -> None:
        """Read on if what came is taken, and what was sent is read."""
        is_behind = self._waiting > WAITING and not self._is_leaving
        self._is_paused = is_behind or self.transport.get_write_buffer_size() > UNREAD
        (self.transport.pause_reading if self._is_paused else self.transport.resume_reading)()

    def write(self, data: bytes) -> None:
        """Send, in one piece with what else answers messages that came in one."""
        if self._is_burst and len(self._collected) + len(data) <= COLLECTED:
            if not self._collected:
                self._loop.call_soon(self._flush)
            self._collected += data
        else:
            self._flush()
            self.transport.write(data)

    def _flush(self) -> None:
        if self._collected:
            collected, self._collected = self._collected, bytearray()
            self.transport.write(collected)


class Connection(Wire):
    """A connection, for whoever sends and receives; `async with` and `async for` do, too.

    protocol: has its `subprotocol`, and the closes that were `sent` and `received`

    Once it is closed, `recv` and `send` raise `websockets.exceptions.ConnectionClosed`.
    """

    @property
    def close_code(self) -> int | None:
        """The other side's, 1006 if it has said none; None while the connection is not closed."""
        if self.protocol.state is not State.CLOSED:
            return None
        received = self.protocol.received
        return received.code if received else CloseCode.ABNORMAL_CLOSURE

    async def recv(self) -> str | bytes:
        """The next message. Raises RuntimeError while another task waits for it."""
        while not self._messages:
            if self.protocol.state is State.CLOSED:
                raise self._closed()
            await self._wait()
        message = self._messages.popleft()
        self._waiting -= len(message) + OBJECT
        if self._is_paused:
            self._balance()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a text or a binary message, then wait while the other side does not read."""
        try:
            self.write(self.encode(message))
        except StateError:
            raise self._closed() from None
        if not self._writable.is_set():
            await self._writable.wait()
            if self._lost.done():
                raise self._closed()

    def encode(self, message: str | bytes) -> bytes:
        """The frame that carries the message. Raises StateError if the connection is not open."""
        if isinstance(message, str):
            return self.protocol.send_text(message)
        return self.protocol.send_binary(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and wait for the end; messages that still come are dropped.

        Raises ValueError for a code that may not be sent, or a reason over 123 bytes.
        """
        self.leave(code, reason)
        await self.wait_closed()

    def leave(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, without waiting; before the handshake is done, that is `abort`."""
        if self.protocol.state is State.OPEN:
            self.write(self.protocol.send_close(code, reason))
            self._is_leaving = True
            self._limit()
            self._balance()
        elif self.protocol.state is State.CONNECTING:
            self.abort()

    def abort(self) -> None:
        """Cut the TCP connection; the other side is not told why."""
        self.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the TCP connection has ended."""
        await asyncio.shield(self._lost)

    async def open(self, request: bytes) -> Connection:
        """Ask a server to be let in."""
        try:
            self.transport.write(request)
            await self.head()
        except BaseException:
            self.abort()
            raise
        return self

    async def head(self) -> Any:
        """The other side's request or response. Raises HandshakeError if there is no good one."""
        while self._first is None:
            await self._wait()
        if isinstance(self._first, Close):
            raise HandshakeError(self._first.reason)
        return self._first

    async def _wait(self) -> None:
        """Wait until anything comes, be it the end."""
        if self._news is not None:
            raise RuntimeError("another task waits for the next message")
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _closed(self) -> ConnectionClosed:
        received: Any = self.protocol.received
        sent: Any = self.protocol.sent
        if received is None or sent is None:
            return ConnectionClosedError(received, sent, None)
        is_goodbye = {received.code, sent.code} <= GOODBYES
        kind = ConnectionClosedOK if is_goodbye else ConnectionClosedError
        return kind(received, sent, sent is received)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        try:
            while True:
                yield await self.recv()
        except ConnectionClosedOK:
            return

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        await self.close(CloseCode.NORMAL_CLOSURE if kind is None else CloseCode.INTERNAL_ERROR)


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
    make: Callable[[], Protocol]
    process_request: Callable[[Any, Any], Any] | None
    select_subprotocol: Callable[[Any, Any], Any] | None
    headers: list[tuple[str, str]]
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
            log.exception("connection handler failed")
        finally:
            await connection.close(code)

    async def _admit(self, connection: ServerConnection) -> bool:
        """Answer the request, as the server's program wants it: is the client let in?"""
        protocol = connection.protocol
        try:
            async with asyncio.timeout(self.open_timeout):
                head = await connection.head()
        except (HandshakeError, TimeoutError):
            return False
        request = connection.request = Request(head.path, Fields(head.headers))
        try:
            if self.process_request and (no := self.process_request(connection, request)):
                no.headers += self.headers
                answer = protocol.refuse(no)
            else:
                offered = head.headers.tokens("Sec-WebSocket-Protocol")
                select = self.select_subprotocol or (lambda *_: None)
                answer = protocol.accept(select(connection, offered), self.headers)
        except Exception:
            log.exception("opening handshake failed")
            answer = protocol.refuse(Refusal(500, "the server has failed"))
        connection.answer(answer)
        return protocol.state is State.OPEN

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()
        await self.wait_closed()


class Opening(Generic[Opened]):
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
    ping_interval: None = None,
    open_timeout: float = 10,
    close_timeout: float = 10,
    **options: Any,
) -> Opening[Server]:
    """Listen, and call `handler` with each connection, as `transport.Serve` says.

    Other options are those of `loop.create_server`. Raises OSError for a port that cannot be
    had, and KeyError for a compression that is not in EXTENSIONS. Nobody is pinged.
    """
    limits: dict[str, Any] = {"max_size": max_size, "max_fragments": max_fragments}
    make = partial(Protocol, extension=EXTENSIONS[compression], **limits)
    headers = [("Server", server_header)] if server_header else []
    timeouts = open_timeout, close_timeout
    server = Server(handler, make, process_request, select_subprotocol, headers, *timeouts)
    return Opening(server.listen(host, port, options))


def connect(url: str, **options: Any) -> Opening[Connection]:
    """Connect to a server, such as ws://127.0.0.1:3000/poll.

    Options are `subprotocols`, `additional_headers`, the limits, timeouts and compression of
    `serve`, and those of `loop.create_connection`. Raises ValueError for what is no such URL,
    OSError, TimeoutError, and HandshakeError if the server does not let us in.
    """
    return Opening(_connect(url, **options))


async def _connect(
    url: str,
    *,
    subprotocols: Iterable[str] = (),
    additional_headers: Any = (),
    open_timeout: float = 10,
    close_timeout: float = 10,
    compression: str | None = None,
    max_size: int = 2**20,
    max_fragments: int = 65_537,
    **options: Any,
) -> Connection:
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"not the URL of a WebSocket: {url!r}")
    limits: dict[str, Any] = {"max_size": max_size, "max_fragments": max_fragments}
    protocol = Protocol(is_client=True, extension=EXTENSIONS[compression], **limits)
    fields: dict[str, Any] = {
        "subprotocols": list(subprotocols),
        "headers": dict(additional_headers).items(),
    }
    path = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
    request = protocol.connect(parts.netloc, path, **fields)
    connection = Connection(protocol, memoryview(bytearray(PIECE)), close_timeout)
    to = parts.hostname, parts.port or PORTS[parts.scheme]
    if parts.scheme == "wss":
        options.setdefault("ssl", True)
    async with asyncio.timeout(open_timeout):
        await asyncio.get_running_loop().create_connection(lambda: connection, *to, **options)
        return await connection.open(request)


def broadcast(connections: Iterable[Connection], message: str | bytes) -> list[Connection]:
    """Send a message to many clients, encoded once, without waiting for any.

    Those that are not open are left out. So are those that leave more than UNREAD bytes
    unread: they are returned.
    """
    behind, encoded = [], b""
    for connection in connections:
        if connection.protocol.state is not State.OPEN:
            continue
        if connection.transport.get_write_buffer_size() > UNREAD:
            behind.append(connection)
        elif connection.protocol.is_plain:
            encoded = encoded or connection.encode(message)
            connection.write(encoded)
        else:
            connection.write(connection.encode(message))
    return behind
