"""The cable of every experiment: a TCP relay that does what the world does, on command.

::

    async with Relay(server.port, delay=0.05, jitter=0.02) as relay:
        async with connect(relay.url) as client: ...
        relay.taps            # every piece of bytes that was sent
        relay.bandwidth = 1e4 # from the next byte on
        relay.black_hole()    # nothing arrives any more, and nobody is told
        relay.lift()
        relay.cut()           # every connection is lost, on both sides
"""

from __future__ import annotations

import asyncio
import math
from typing import Literal

from workbench.cable import HOST, IN_FLIGHT, Connection, Tap

__all__ = ["HOST", "IN_FLIGHT", "Relay", "Tap"]


class Relay:
    """Passes TCP connections on to a port of 127.0.0.1, everything `delay` seconds late.

    port: the TCP port to connect to, 0 until it is started
    url:  the same for a WebSocket client, `ws://127.0.0.1:port`
    taps: what clients and servers sent, a `Tap` each, in the order it reached the relay

    What the cable is like can be set at any time, for all that is sent from then on:

    delay:        seconds one way
    jitter:       seconds that each piece may take longer, drawn anew for each; none overtakes
    bandwidth:    bytes a second, for each connection and each way
    idle_timeout: seconds after which a connection is closed on both sides if nobody has sent
                  anything, as a proxy does; None is never

    A fresh connection costs a round trip first, as the TCP handshake does: what a client
    sends at once reaches the server after three delays, the answer is back after four.
    Later bytes take one delay each way. An end of stream takes its turn after all bytes,
    and so does a reset. A target that refuses is seen as a reset after two delays.

    The first argument is the target's TCP port on 127.0.0.1. Raises ValueError if any is out
    of its range.
    """

    def __init__(
        self,
        port: int,
        delay: float = 0.0,
        *,
        jitter: float = 0.0,
        bandwidth: float = math.inf,
        idle_timeout: float | None = None,
    ) -> None:
        _check(port, delay, jitter, bandwidth, idle_timeout)
        self.port = 0
        self.delay, self.jitter, self.bandwidth = delay, jitter, bandwidth
        self.idle_timeout = idle_timeout
        self.taps: list[Tap] = []
        self.target = port
        self.swallowed: set[str] = set()  # whose bytes a black hole takes
        self.lifted = asyncio.Event()
        self.lifted.set()
        # A listening socket queues 100 connections unless told otherwise. One that finds
        # the queue full is tried again by the system only after a whole second.
        self.dialing = asyncio.Semaphore(50)
        self._listener: asyncio.Server | None = None
        self._accepted = 0
        self._connections: set[Connection] = set()

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

    def black_hole(self, sender: Literal["client", "server"] | None = None) -> None:
        """From now on nothing arrives, and nobody is told: no bytes, no end, no reset.

        With a `sender`, "client" or "server", what the other side sends goes on arriving. The
        sender notices nothing: the relay takes its bytes, up to IN_FLIGHT, as TCP's buffer
        does. Who connects meanwhile is accepted by the relay, but does not reach the server.
        """
        if sender not in (None, "client", "server"):
            raise ValueError(f'who sends is "client" or "server", not {sender!r}')
        self.swallowed |= {sender} if sender else {"client", "server"}
        self.lifted.clear()

    def lift(self) -> None:
        """End the black hole. What it has swallowed arrives now, as TCP sends it again.

        Who gave up waiting for a connection has not connected.
        """
        self.swallowed.clear()
        self.lifted.set()
        for connection in self._connections:
            connection.send_again()

    def forget(self, connection: Connection) -> None:
        """The connection is closed, on both sides."""
        self._connections.discard(connection)

    def _accept(self) -> asyncio.Protocol:
        self._accepted += 1
        connection = Connection(self, self._accepted)
        self._connections.add(connection)
        return connection.client


def _check(port: int, delay: float, jitter: float, bandwidth: float, idle: float | None) -> None:
    """Raise ValueError for an argument of a relay that is out of its range."""
    if type(port) is not int or not 1 <= port <= 65535:
        raise ValueError(f"a port to relay to is an integer from 1 to 65535, not {port!r}")
    for name, seconds in (("delay", delay), ("jitter", jitter)):
        if not _is_number(seconds) or not 0 <= seconds < math.inf:
            raise ValueError(f"a {name} is a number of seconds, 0 or more, not {seconds!r}")
    if not _is_number(bandwidth) or not bandwidth > 0:
        raise ValueError(f"a bandwidth is bytes a second, more than 0, not {bandwidth!r}")
    if idle is not None and not (_is_number(idle) and idle > 0):
        raise ValueError(f"an idle timeout is seconds, more than 0, not {idle!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
