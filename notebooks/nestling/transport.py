"""The transport contract: what stands between gateways and the network, and the library as one.

In Nest an adapter, here a function that listens: `serve`. It is all that an application is
told of the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection

from nestling.heartbeat import kept_alive

# Bytes that wait for a client to read them, above which it is not read from.
UNREAD = 4 * 2**20

# Bytes that are taken from the network at a time: 680 empty pings fit, some 8 ms of work.
PIECE = 2**12


class Transport(Protocol):
    """The methods of an `asyncio.Transport` that are needed."""

    def abort(self) -> None: ...
    def is_reading(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


class Connection(Protocol):
    """A connection to a client, as `serve` hands it to its handler.

    Once it is closed, `recv` and `send` raise `websockets.exceptions.ConnectionClosed`. `send`
    writes at once, then waits while the client does not read.

    request:    its `path`, query included, and its `headers`
    close_code: None while it is open
    """

    @property
    def request(self) -> Any: ...
    @property
    def close_code(self) -> int | None: ...
    @property
    def transport(self) -> Transport: ...
    async def recv(self) -> str | bytes: ...
    async def send(self, message: str) -> None: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    async def ping(self) -> Awaitable[float]: ...


class Opening(Protocol):
    """The same before the handshake, as `process_request` gets it.

    `respond` gives the HTTP response that `process_request` returns to refuse it, with
    `headers` that may be added to.
    """

    def respond(self, status: Any, text: str) -> Any: ...


class Listener(Protocol):
    """A server that listens.

    `close(close_connections=False)` lets no more clients in, and `wait_closed` waits until
    those that are there have gone and their handlers have returned.
    """

    @property
    def sockets(self) -> Any: ...
    def close(self, close_connections: bool = True) -> None: ...
    async def wait_closed(self) -> None: ...


class Serve(Protocol):
    """What listens: `serve` below, or a function that does the same.

    It calls `handler` with each connection once its handshake is done, and closes the
    connection when the handler returns. It does not read from a client that has UNREAD bytes
    to read, not even its pings, lets others run while it takes in what one client sends, and
    cuts a client that does not end within `close_timeout` seconds what it has begun to close.
    With `ping_interval`, `heartbeat.kept_alive` says what becomes of a client that is silent.
    """

    def __call__(
        self,
        handler: Callable[[Any], Awaitable[None]],
        host: str,
        port: int,
        *,
        process_request: Callable[[Any, Any], Any],
        select_subprotocol: Callable[[Any, Sequence[Any]], Any],
        compression: str | None,
        max_size: int,
        ping_interval: float | None,
        server_header: str | None,
        **options: Any,
    ) -> Awaitable[Listener]: ...


def serve(
    handler: Callable[[Any], Awaitable[None]],
    host: str,
    port: int,
    *,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    **options: Any,
) -> Awaitable[Listener]:
    """`websockets.asyncio.server.serve`, which keeps the contract for hostile clients, too.

    Its pings are ours: who does not answer is cut at once, not after `close_timeout`.
    """
    pinging = kept_alive(handler, ping_interval, ping_timeout)
    ours: dict[str, Any] = {"ping_interval": None, "create_connection": _Connection}
    return websockets.asyncio.server.serve(pinging, host, port, **ours, **options)


class _Connection(ServerConnection, asyncio.BufferedProtocol):
    """A connection of the library that neither holds up the loop nor holds what is not read.

    asyncio fills the buffer of a `BufferedProtocol`; another protocol gets up to 256 KiB at
    once, and the frames in it would be taken apart without a pause.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.resume = self._resume_reading
        self._buffer = memoryview(bytearray(PIECE))
        self._is_behind = False
        self._cut: asyncio.TimerHandle | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))
        if self.transport.get_write_buffer_size() > UNREAD:
            self._is_behind = True
            self.transport.pause_reading()
        if self.close_deadline is not None and self._cut is None:
            self._cut = self.loop.call_at(self.close_deadline, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_behind = False
        self._resume_reading()

    def _resume_reading(self) -> None:
        if not (self._is_behind or self.recv_messages.paused):
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()
