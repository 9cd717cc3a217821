"""A connection on asyncio: a `Protocol`, a TCP connection, and whoever sends and receives on it.

Neither side gets ahead of the other: what is not taken is not read, and who does not read
makes `send` wait.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from nestling.frames import CloseCode
from nestling.handshake import HandshakeError
from nestling.protocol import Close, Event, Message, Ping, Pong, Protocol, State, StateError
from nestling.transport import UNREAD

# Bytes of messages that may wait for their handler before no more are read; until then, pings
# are answered and a close is noticed. Each counts some more, for the object that it is.
WAITING = 2**20
OBJECT = 100

# Seconds between two looks whether one that is not read from has ended TCP. Then nothing comes
# but what the system holds already, and that is read, while fewer bytes than this wait.
LOOK = 1.0
LEFT_BEHIND = 8 * 2**20

COLLECTED = 2**16  # bytes, at most, that are collected to be sent in one piece


class Wire(asyncio.BufferedProtocol):
    """A `Protocol` on a TCP connection: the half of a connection that the event loop calls.

    buffer:        where received bytes lie for a moment; the connections of a loop may share it
    close_timeout: seconds to end what has begun to close, before the TCP connection is cut
    latency:       seconds that the last pong took, None while none has come

    While more than WAITING bytes wait for the handler, nothing is read: no ping is answered, no
    close is seen. That the other side has ended TCP, or was cut, is noticed all the same, within
    LOOK seconds, and so is the code of the close that it has sent; its messages can still be
    received. That takes Linux, which tells, and that all it has sent has arrived, which the
    system's buffer has room for (some 100 KB). Otherwise, as with `websockets`, it is noticed
    when the handler has read on.
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
        self.latency: float | None = None
        self._pinged = 0
        self._pings: dict[bytes, tuple[float, asyncio.Future[float]]] = {}  # those without a pong
        self._is_burst = self._is_paused = self._is_leaving = False
        self._has_ended = False  # the other side, though not all is read that it had sent
        self._writable = asyncio.Event()
        self._lost = self._loop.create_future()
        self._cut: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

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
        for timer in (self._cut, self._look):
            if timer is not None:
                timer.cancel()
        self._writable.set()
        self._lost.set_result(None)
        for _, pong in self._pings.values():
            if not pong.done():
                pong.set_exception(closed(self.protocol))
                pong.exception()  # which is no mistake if nobody waits for it

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
            elif isinstance(event, Pong):
                self._hear(event.payload)
            elif self._first is None and not isinstance(event, Ping):
                self._first = event
        if answers := self.protocol.take_answers():
            self.write(answers)
        if self.protocol.state is State.CLOSED:
            self._flush()
            self._limit()
            if not self.protocol.is_client:  # which waits for the server's end (section 7.1.1)
                can = self.transport.can_write_eof()
                (self.transport.write_eof if can else self.transport.close)()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._balance()

    def _hear(self, payload: bytes) -> None:
        """A pong has come; it may stand for those to earlier pings, too (section 5.5.3)."""
        while payload in self._pings:
            earliest = next(iter(self._pings))
            sent, pong = self._pings.pop(earliest)
            self.latency = self._loop.time() - sent
            if not pong.done():
                pong.set_result(self.latency)

    def _limit(self) -> None:
        """The TCP connection is to end in time."""
        self._cut = self._cut or self._loop.call_later(self._close_timeout, self.transport.abort)

    def _balance(self) -> None:
        """Read on if what came is taken, and what was sent is read."""
        limit = LEFT_BEHIND if self._has_ended else WAITING
        is_behind = self._waiting > limit and not self._is_leaving
        self._is_paused = is_behind or self.transport.get_write_buffer_size() > UNREAD
        (self.transport.pause_reading if self._is_paused else self.transport.resume_reading)()
        if is_behind and self._look is None and not self._has_ended:
            self._look = self._loop.call_later(LOOK, self._look_up)

    def _look_up(self) -> None:
        """See whether the other side has ended, and look again later if it is still not read."""
        self._look = None
        self._has_ended = has_ended(self.transport.get_extra_info("socket"))
        self._balance()

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


def has_ended(socket: Any) -> bool:
    """Whether the other side has ended TCP, or was cut, though data may be unread.

    Linux tells; elsewhere, nobody has ended.
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(socket, select.POLLRDHUP)  # and, unasked, POLLHUP and POLLERR
    return bool(poll.poll(0))


def closed(protocol: Protocol) -> ConnectionClosed:
    """The error of whoever receives or sends when a connection is closed."""
    received: Any = protocol.received
    sent: Any = protocol.sent
    if received is None or sent is None:
        return ConnectionClosedError(received, sent, None)
    is_goodbye = {received.code, sent.code} <= {1000, 1001, 1005}
    kind = ConnectionClosedOK if is_goodbye else ConnectionClosedError
    return kind(received, sent, sent is received)


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
        return self.protocol.received.code if self.protocol.received else 1006

    async def recv(self) -> str | bytes:
        """The next message. Raises RuntimeError while another task waits for it."""
        while not self._messages:
            if self.protocol.state is State.CLOSED:
                raise closed(self.protocol)
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
            raise closed(self.protocol) from None
        if not self._writable.is_set():
            await self._writable.wait()
            if self._lost.done():
                raise closed(self.protocol)

    def encode(self, message: str | bytes) -> bytes:
        """The frame that carries the message. Raises StateError if the connection is not open."""
        if isinstance(message, str):
            return self.protocol.send_text(message)
        return self.protocol.send_binary(message)

    async def ping(self) -> asyncio.Future[float]:
        """Send a ping, and give what is done when its pong has come, with the seconds that took.

        Both raise ConnectionClosed: this if it is closed, what is given if it ends before.
        """
        self._pinged += 1
        payload = self._pinged.to_bytes(4)
        try:
            self.write(self.protocol.send_ping(payload))
        except StateError:
            raise closed(self.protocol) from None
        pong: asyncio.Future[float] = self._loop.create_future()
        self._pings[payload] = self._loop.time(), pong
        return pong

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
