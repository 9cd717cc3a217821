"""A connection through a relay: its two sockets, and the bytes that are under way between them.

What a `Relay` is told of the cable, each piece of bytes asks when it enters it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from random import uniform
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.relay import Relay

HOST = "127.0.0.1"

# Bytes on their way in one direction of one connection, above which its sender is read no further.
IN_FLIGHT = 1 << 20

# Bytes that cross a cable of limited bandwidth in one piece, as a packet on Ethernet has.
SEGMENT = 1460

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


class Connection:
    """One connection through the relay: its two ends, and what becomes of them."""

    def __init__(self, relay: Relay, number: int) -> None:
        self.relay = relay
        self.number = number
        self.over = False
        self.closed = asyncio.Event()
        self.client = End(self, "client")
        self.server = End(self, "server")
        self.client.other, self.server.other = self.server, self.client
        self._dial: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        """The client has connected: its SYN enters the cable."""
        loop = asyncio.get_running_loop()
        now, delay = loop.time(), self.relay.delay
        self.server.opens = now + 2 * delay  # the SYN-ACK is back, the client may send
        self.client.opens = now + 3 * delay  # the ACK is there too, the server may send
        self._dial = loop.create_task(self._reach_the_target())
        self._dial.add_done_callback(lambda _: self.forget_if_closed())
        self.touch()

    async def _reach_the_target(self) -> None:
        await asyncio.sleep(self.relay.delay)
        if not self.relay.lifted.is_set():
            await self.relay.lifted.wait()
            if self.client.has_left:
                self.cut()
                return
        loop = asyncio.get_running_loop()
        try:
            async with self.relay.dialing:
                await loop.create_connection(lambda: self.server, HOST, self.relay.target)
        except OSError:
            await asyncio.sleep(self.relay.delay)
            self.cut()

    def touch(self) -> None:
        """Somebody has sent something: how long nobody has is counted anew."""
        if self._idle is not None:
            self._idle.cancel()
        if (timeout := self.relay.idle_timeout) is not None and not self.over:
            self._idle = asyncio.get_running_loop().call_later(timeout, self._hang_up)

    def _hang_up(self) -> None:
        """End both directions; no close frame says why."""
        self.client.carry(b"")
        self.server.carry(b"")

    def send_again(self) -> None:
        """The cable is whole again."""
        self.client.send_again()
        self.server.send_again()

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
            if self._idle is not None:
                self._idle.cancel()
            self.relay.forget(self)
            self.closed.set()


class End(asyncio.Protocol):
    """The socket to the client or to the server, and the bytes on their way to it."""

    other: End

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.transport: asyncio.Transport | None = None
        self.opens = 0.0  # loop time from which bytes may enter the cable to here
        self.in_flight = 0
        self.ended = False  # whether the end of the stream has reached it
        self.has_left = False  # whether it has sent its own
        self.lost = False
        self._connection = connection
        # Loop time of arrival and bytes, b"" for the end of the stream, None for a reset.
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._free = 0.0  # loop time from which the cable to here takes more bytes

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
        self._connection.touch()
        self.other.carry(data)
        if self.other.in_flight > IN_FLIGHT:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.has_left = True
        self.data_received(b"")
        return True  # the other direction stays open

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.has_left = True
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
            for piece in _pieces(data, self._connection.relay.bandwidth):
                self._queue.append((self._arrival(len(piece or b"")), piece))
            self.in_flight += len(data or b"")
            self._schedule()

    def _arrival(self, size: int) -> float:
        """The loop time at which so many bytes arrive if they enter the cable now."""
        relay, now = self._connection.relay, asyncio.get_running_loop().time()
        self._free = max(now, self.opens, self._free) + size / relay.bandwidth
        return self._free + relay.delay + uniform(0, relay.jitter)

    def send_again(self) -> None:
        """What a black hole has swallowed begins its way anew."""
        arrival = self._arrival(0)
        self._queue = deque((max(arrival, due), data) for due, data in self._queue)
        self._schedule()

    def reset(self) -> None:
        """Drop the connection of this end at once."""
        self._discard()
        if self.transport is not None and not self.lost:
            opened = self.transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    @property
    def _is_flowing(self) -> bool:
        """Whether what is due may be handed to the socket."""
        return self._writable and self.other.name not in self._connection.relay.swallowed

    def _schedule(self) -> None:
        if self._queue and self._timer is None and self._is_flowing and self.transport is not None:
            self._timer = asyncio.get_running_loop().call_at(self._queue[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._queue[0][0] <= now and self._is_flowing:
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
        elif self.ended:
            pass  # who hung up takes no more
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


def _pieces(data: bytes | None, bandwidth: float) -> Iterator[bytes | None]:
    """What crosses the cable by itself: all at once if there is no limit, else in packets."""
    if data is None or len(data) <= SEGMENT or bandwidth == inf:
        yield data
    else:
        yield from (data[at : at + SEGMENT] for at in range(0, len(data), SEGMENT))
