"""The cable of every experiment: a TCP relay with a set delay, a cut and a tap.

::

    async with Relay(server.port, delay=0.05) as relay:
        async with connect(relay.url) as client: ...
        relay.taps      # every piece of bytes that crossed
        relay.cut()     # every connection is lost, on both sides
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from time import perf_counter

HOST = "127.0.0.1"

# Bytes on their way in one direction of one connection, above which its sender is read no further.
IN_FLIGHT = 1 << 20

# close() with this option discards unsent bytes and sends a TCP reset, instead of an end of stream.
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


@dataclass(frozen=True)
class Tap:
    """Bytes that entered the cable.

    connection: 1, 2, … in the order in which clients connected
    sender:     "client" or "server"
    sent:       when the relay received them, in seconds of `time.perf_counter`
    data:       the bytes, at least one; b"" is the end of this direction (EOF)
    """

    connection: int
    sender: str
    sent: float
    data: bytes


class Relay:
    """Passes TCP connections on to a port of 127.0.0.1, everything `delay` seconds late.

    port: the TCP port to connect to, 0 until it is started
    url:  the same for a WebSocket client, `ws://127.0.0.1:port`
    taps: what clients and servers sent, a `Tap` each, in the order it reached the relay

    A fresh connection costs a round trip first, as the TCP handshake does: what a client
    sends at once reaches the server after three delays, the answer is back after four.
    Later bytes take one delay each way. An end of stream takes its turn after all bytes,
    and so does a reset. A target that refuses is seen as a reset after two delays.

    The arguments are the target's TCP port on 127.0.0.1 and the one-way delay in seconds.
    Raises ValueError if either is out of its range.
    """

    def __init__(self, port: int, delay: float = 0.0) -> None:
        if type(port) is not int or not 1 <= port <= 65535:
            raise ValueError(f"a port to relay to is an integer from 1 to 65535, not {port!r}")
        number = isinstance(delay, int | float) and not isinstance(delay, bool)
        if not number or not 0 <= delay < math.inf:
            raise ValueError(f"a delay is a number of seconds, 0 or more, not {delay!r}")
        self.port = 0
        self.delay = delay
        self.taps: list[Tap] = []
        self._target = port
        self._listener: asyncio.Server | None = None
        self._accepted = 0
        self._connections: set[_Connection] = set()
        # A listening socket queues 100 connections unless told otherwise. One that finds
        # the queue full is tried again by the system only after a whole second.
        self._dialing = asyncio.Semaphore(50)

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    async def __aenter__(self) -> Relay:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def start(self) -> Relay:
        """Listen on any free port of 127.0.0.1; gives the relay. Does nothing if it listens."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._accept, HOST, 0, backlog=1024)
            self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Listen no more, `cut` what is open and wait until it is closed. May be repeated."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # asyncio fails on a client that it is about to accept when the listener closes.
            # Once a timer has fired, it has accepted every client that it had begun with.
            await asyncio.sleep(0.001)
            listener.close()
        self.cut()
        while self._connections:
            await next(iter(self._connections)).closed.wait()

    def cut(self) -> None:
        """Reset every connection, on both sides, at once: bytes on their way are lost.

        New connections can be made afterwards.
        """
        for connection in list(self._connections):
            connection.cut()

    def _accept(self) -> asyncio.Protocol:
        self._accepted += 1
        connection = _Connection(self, self._accepted)
        self._connections.add(connection)
        return connection.client


class _Connection:
    """One connection through the relay: its two ends, and what becomes of them."""

    def __init__(self, relay: Relay, number: int) -> None:
        self.relay = relay
        self.number = number
        self.over = False
        self.closed = asyncio.Event()
        self.client = _End(self, "client")
        self.server = _End(self, "server")
        self.client.other, self.server.other = self.server, self.client
        self._dial: asyncio.Task[None] | None = None

    def opened(self) -> None:
        """The client has connected: its SYN enters the cable."""
        loop = asyncio.get_running_loop()
        now, delay = loop.time(), self.relay.delay
        self.server.opens = now + 2 * delay  # the SYN-ACK is back, the client may send
        self.client.opens = now + 3 * delay  # the ACK is there too, the server may send
        self._dial = loop.create_task(self._reach_the_target())
        self._dial.add_done_callback(lambda _: self.forget_if_closed())

    async def _reach_the_target(self) -> None:
        await asyncio.sleep(self.relay.delay)
        loop = asyncio.get_running_loop()
        try:
            async with self.relay._dialing:
                await loop.create_connection(lambda: self.server, HOST, self.relay._target)
        except OSError:
            await asyncio.sleep(self.relay.delay)
            self.cut()

    def finish(self) -> None:
        """Both directions have ended: close both sockets once all is written."""
        self.over = True
        self.client.transport.close()
        self.server.transport.close()

    def cut(self) -> None:
        self.over = True
        if self._dial is not None:
            self._dial.cancel()
        self.client.reset()
        self.server.reset()

    def forget_if_closed(self) -> None:
        dialed = self._dial is None or self._dial.done()
        if dialed and self.client.lost and (self.server.lost or self.server.transport is None):
            self.relay._connections.discard(self)
            self.closed.set()


class _End(asyncio.Protocol):
    """The socket to the client or to the server, and the bytes on their way to it."""

    other: _End

    def __init__(self, connection: _Connection, name: str) -> None:
        self.name = name
        self.transport: asyncio.Transport | None = None
        self.opens = 0.0  # loop time from which bytes may enter the cable to here
        self.in_flight = 0
        self.ended = False
        self.lost = False
        self._connection = connection
        # Loop time of arrival and bytes, b"" for the end of the stream, None for a reset.
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True

    # What the socket reports

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        if self._connection.over:
            self.reset()
        elif self.name == "client":
            self._connection.opened()
        else:
            self._schedule()

    def data_received(self, data: bytes) -> None:
        tap = Tap(self._connection.number, self.name, perf_counter(), data)
        self._connection.relay.taps.append(tap)
        self.other.carry(data)
        if self.other.in_flight > IN_FLIGHT:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.data_received(b"")
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._discard()
        if not self._connection.over:
            self.other.carry(None)
        self._connection.forget_if_closed()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._schedule()

    # What the cable brings

    def carry(self, data: bytes | None) -> None:
        """Bytes for this end enter the cable, or the end of the stream, or a reset."""
        if not self.lost:
            now = asyncio.get_running_loop().time()
            self._queue.append((max(now, self.opens) + self._connection.relay.delay, data))
            self.in_flight += len(data or b"")
            self._schedule()

    def reset(self) -> None:
        """Drop the connection of this end at once."""
        self._discard()
        if self.transport is not None and not self.lost:
            opened = self.transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _schedule(self) -> None:
        if self._queue and self._timer is None and self._writable and self.transport is not None:
            self._timer = asyncio.get_running_loop().call_at(self._queue[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._queue[0][0] <= now and self._writable:
            if self.transport.is_closing():
                return
            data = self._queue.popleft()[1]
            self.in_flight -= len(data or b"")
            self._hand_over(data)
        if self.in_flight <= IN_FLIGHT:
            self.other.transport.resume_reading()
        self._schedule()

    def _hand_over(self, data: bytes | None) -> None:
        if data is None:
            self.reset()
        elif data:
            self.transport.write(data)
        else:
            self.ended = True
            try:
                self.transport.write_eof()
            except OSError:  # its peer has reset it, unnoticed since its own end of stream
                self.reset()
            if self.other.ended:
                self._connection.finish()

    def _discard(self) -> None:
        self._queue.clear()
        self.in_flight = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
