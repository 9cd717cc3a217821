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

GOODBYES = {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}

log = logging.getLogger(__name__)
Opened = TypeVar("Opened", bound="Connection | Server")


class Wire(asyncio.BufferedProtocol):
    """A `Protocol` on a TCP connection: the half of a connection that the event loop calls.

    buffer:        where received bytes lie for a moment; connections of one loop can share it
    close_timeout: seconds to end what has begun to close, before the TCP connection is cut
    lost:          done when the TCP connection has ended
    """

    transport: asyncio.Transport

    def __init__(self, protocol: Protocol, buffer: memoryview, close_timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.lost = loop.create_future()
        self._loop = loop
        self._buffer = buffer
        self._close_timeout = close_timeout
        self._end = Close(CloseCode.ABNORMAL_CLOSURE)
        self._messages: deque[str | bytes] = deque()
        self._waiting = 0  # bytes in them
        self._reader: asyncio.Future[None] | None = None  # done when something has come
        self._collected = bytearray()
        self._is_burst = self._is_paused = self._is_leaving = False
        self._writable = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None

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
        self._limit(None)
        self._writable.set()
        self.lost.set_result(None)

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
            elif isinstance(event, Close):
                self._end = event
            elif not isinstance(event, Ping | Pong):
                self._open(event)
        if answers := self.protocol.take_answers():
            self._write(answers)
        if events and events[-1] is self._end:
            self._finish()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._balance()

    def _open(self, head: Any) -> None:
        """The other side's part of the handshake has come."""

    def _finish(self) -> None:
        """All is said: the server ends the TCP connection, then the client (section 7.1.1)."""
        self._flush()
        self._limit(self._close_timeout)
        if not self.protocol.is_client:
            transport = self.transport
            (transport.write_eof if transport.can_write_eof() else transport.close)()

    def _limit(self, seconds: float | None) -> None:
        """Say how long the TCP connection may still last; None is for any time."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._loop.call_later(seconds, self.transport.abort)

    def _balance(self) -> None:
        """Read on if what came is taken, and what was sent is read."""
        is_behind = self._waiting > WAITING and not self._is_leaving
        self._is_paused = is_behind or self.transport.get_write_buffer_size() > UNREAD
        (self.transport.pause_reading if self._is_paused else self.transport.resume_reading)()

    def _write(self, data: bytes) -> None:
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
    """A connection, as who sends and receives on it has it; `async with` closes it.

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
            self.write(message)
        except StateError:
            raise self._closed() from None
        if not self._writable.is_set():
            await self._writable.wait()
            if self.lost.done():
                raise self._closed()

    def write(self, message: str | bytes) -> None:
        """Send without waiting. Raises StateError if the connection is not open."""
        if isinstance(message, str):
            self._write(self.protocol.send_text(message))
        else:
            self._write(self.protocol.send_binary(message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and wait for the end; messages that still come are dropped.

        Raises ValueError for a code that may not be sent, or a reason over 123 bytes.
        """
        self.leave(code, reason)
        await self.wait_closed()

    def leave(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close, without waiting."""
        if self.protocol.state is State.OPEN:
            self._write(self.protocol.send_close(code, reason))
            self._is_leaving = True
            self._limit(self._close_timeout)
            self._balance()
        elif self.protocol.state is State.CONNECTING:
            self.abort()

    def abort(self) -> None:
        """Cut the TCP connection at once; the other side is not told why."""
        self.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the TCP connection has ended."""
        await asyncio.shield(self.lost)

    async def open(self, request: bytes) -> None:
        """Send a client's request, and wait for a good answer. Raises HandshakeError."""
        self.transport.write(request)
        while self.protocol.state is State.CONNECTING:
            await self._wait()
        if self.protocol.state is State.CLOSED and self.protocol.received is None:
            raise HandshakeError(self._end.reason)

    async def _wait(self) -> None:
        """Wait until anything comes, be it the end."""
        if self._reader is not None:
            raise RuntimeError("another task waits for the next message")
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _closed(self) -> ConnectionClosed:
        received: Any = self.protocol.received
        sent: Any = self.protocol.sent
        if received is None or sent is None:
            return ConnectionClosedError(received, sent, None)
        is_goodbye = {received.code, sent.code} <= GOODBYES
        kind = ConnectionClosedOK if is_goodbye else ConnectionClosedError
        return kind(received, sent, sent is received)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """The messages, until the connection is closed with one of GOODBYES on both sides."""
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
    """A connection to a client.

    request: what the client has asked for
    """

    request: Request

    def __init__(self, server: Server, protocol: Protocol, buffer: memoryview) -> None:
        super().__init__(protocol, buffer, server.close_timeout)
        self._server = server

    def respond(self, status: int, text: str) -> Refusal:
        """What `process_request` returns to refuse; its `headers` can be added to."""
        refusal = Refusal(status, text.removesuffix("\n"))
        refusal.headers = Fields()
        return refusal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limit(self._server.open_timeout)
        self._server.connections.add(self)
        if self._server.is_closing:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(self)

    def _open(self, head: Any) -> None:
        """Let the client in, or not, as the server's program wants it."""
        self.request = Request(head.path, Fields(head.headers))
        try:
            answer = self._server.answer(self)
        except Exception:
            log.exception("opening handshake failed")
            answer = self.protocol.refuse(Refusal(500, "the server has failed"))
        self._write(answer)
        if self.protocol.state is State.OPEN:
            self._limit(None)
            self._server.run(self)
            self._take(self.protocol.receive(b""))
        else:
            self._finish()


@dataclass(eq=False)
class Server:
    """A server that listens; `serve` makes one, and `async with` closes it.

    The fields are the options of `serve`.
    """

    handler: Callable[[Any], Awaitable[None]]
    process_request: Callable[[Any, Any], Any] | None
    select_subprotocol: Callable[[Any, Any], Any] | None
    server_header: str | None
    open_timeout: float
    close_timeout: float

    def __post_init__(self) -> None:
        self.connections: set[ServerConnection] = set()
        self.is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, options: dict[str, Any]) -> Server:
        """Let clients in."""
        _, others = new_protocol(**options)
        buffer = memoryview(bytearray(PIECE))
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: ServerConnection(self, new_protocol(**options)[0], buffer),
            host,
            port,
            **{"backlog": BACKLOG} | others,
        )
        return self

    @property
    def sockets(self) -> tuple[Any, ...]:
        """Those that listen."""
        return self._listener.sockets

    def close(self, close_connections: bool = True) -> None:
        """Let no more clients in, and close the connections to those that are there with 1001."""
        self.is_closing = True
        self._listener.close()
        for connection in self.connections:
            if close_connections or connection.protocol.state is State.CONNECTING:
                connection.leave(CloseCode.GOING_AWAY)

    async def wait_closed(self) -> None:
        """Wait until all clients have gone and all handlers have returned."""
        while waiting := self._tasks | {each.lost for each in self.connections}:
            await asyncio.wait(waiting)

    def answer(self, connection: ServerConnection) -> bytes:
        """What to send to a client that asks to be let in."""
        headers = [("Server", self.server_header)] if self.server_header else []
        request = connection.request
        if self.process_request and (refusal := self.process_request(connection, request)):
            refusal.headers += headers
            return connection.protocol.refuse(refusal)
        chosen = None
        if self.select_subprotocol:
            offered = request.headers.tokens("Sec-WebSocket-Protocol")
            chosen = self.select_subprotocol(connection, offered)
        return connection.protocol.accept(chosen, headers)

    def run(self, connection: ServerConnection) -> None:
        """Begin the handler of a connection, in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._handle(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, connection: ServerConnection) -> None:
        code = CloseCode.INTERNAL_ERROR
        try:
            await self.handler(connection)
            code = CloseCode.NORMAL_CLOSURE
        except ConnectionClosed:
            pass  # the client has gone, and with it the handler
        except Exception:
            log.exception("connection handler failed")
        finally:
            await connection.close(code)

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
    process_request: Callable[[Any, Any], Any] | None = None,
    select_subprotocol: Callable[[Any, Any], Any] | None = None,
    server_header: str | None = None,
    ping_interval: None = None,
    open_timeout: float = 10,
    close_timeout: float = 10,
    **options: Any,
) -> Opening[Server]:
    """Listen, and call `handler` with each connection, as `transport.Serve` says.

    Options are those of `new_protocol` and `loop.create_server`, which raises OSError for a
    port that cannot be had. Nobody is pinged.
    """
    server = Server(
        handler, process_request, select_subprotocol, server_header, open_timeout, close_timeout
    )
    return Opening(server.listen(host, port, options))


def connect(url: str, **options: Any) -> Opening[Connection]:
    """Connect to a server, such as ws://127.0.0.1:3000/poll.

    Options are `open_timeout` and `close_timeout` in seconds, `subprotocols`,
    `additional_headers`, and those of `new_protocol` and `loop.create_connection`. Raises
    ValueError for what is no such URL, OSError, TimeoutError, and HandshakeError if the
    server does not let us in.
    """
    return Opening(_connect(url, **options))


async def _connect(
    url: str,
    *,
    open_timeout: float = 10,
    close_timeout: float = 10,
    subprotocols: Iterable[str] = (),
    additional_headers: Any = (),
    **options: Any,
) -> Connection:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not the URL of a WebSocket: {url!r}")
    protocol, others = new_protocol(is_client=True, **options)
    connection = Connection(protocol, memoryview(bytearray(PIECE)), close_timeout)
    if parts.scheme == "wss":
        others.setdefault("ssl", True)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    headers = dict(additional_headers).items()
    request = protocol.connect(parts.netloc, path, subprotocols=list(subprotocols), headers=headers)
    async with asyncio.timeout(open_timeout):
        create = asyncio.get_running_loop().create_connection
        transport, _ = await create(lambda: connection, parts.hostname, port, **others)
        try:
            await connection.open(request)
        except BaseException:
            transport.abort()
            raise
    return connection


def new_protocol(
    *,
    is_client: bool = False,
    max_size: int = 2**20,
    max_fragments: int = 65_537,
    compression: str | None = None,
    **others: Any,
) -> tuple[Protocol, dict[str, Any]]:
    """A `Protocol` with these limits, and the options that are not for it.

    compression: None, or "deflate" to compress with whoever can
    """
    if compression not in (None, "deflate"):
        raise ValueError(f'compression is None or "deflate", not {compression!r}')
    extension = deflate if compression else None
    protocol = Protocol(
        is_client=is_client, max_size=max_size, max_fragments=max_fragments, extension=extension
    )
    return protocol, others


def broadcast(connections: Iterable[Connection], message: str | bytes) -> list[Connection]:
    """Send a message to many clients, encoded once, without waiting for any.

    Who is not open is left out. Who leaves more than UNREAD bytes unread is so, too, and
    returned.
    """
    return []
