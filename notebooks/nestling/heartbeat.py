"""Whether the other side is still there: pings, a time limit for the pong, and how long it took.

::

    async with connect(url) as connection, Heartbeat(connection, 20, 20) as heartbeat:
        async for message in connection: ...
        heartbeat.latency

TCP does not say that the other side has vanished: to it, somebody who is silent and somebody
who is gone are the same. A connection is anything with the `ping`, `close` and `transport` of
`websockets`, be it a server's or a client's; `nestling.connection` has them, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

REASON = "keepalive ping timeout"  # as `websockets` words it


class Pinged(Protocol):
    """A connection whose other side can be asked for a sign of life."""

    transport: Any

    async def ping(self) -> Awaitable[float]: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Heartbeat:
    """Pings a connection while its block lasts, and ends it when a pong does not come in time.

    connection: to whom
    interval:   seconds from the beginning, and from each pong, to the next ping
    timeout:    seconds for the pong
    latency:    seconds that the last pong took, None before the first

    The end is close code 1011, and TCP is cut, since nobody is there to answer: whoever receives
    or sends gets a ConnectionClosedError, and `close_code` is 1006. Where a pong may have come
    unseen, because our own program blocks or does not receive, the time limit begins anew.

    Raises ValueError if either number of seconds is not more than 0.
    """

    def __init__(self, connection: Pinged, interval: float = 20.0, timeout: float = 20.0) -> None:
        if not (interval > 0 and timeout > 0):
            raise ValueError(f"seconds are more than 0, not {interval!r} and {timeout!r}")
        self.connection = connection
        self.interval = interval
        self.timeout = timeout
        self.latency: float | None = None

    async def __aenter__(self) -> Heartbeat:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])
        if not self._beating.cancelled():
            self._beating.result()

    async def _beat(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self.interval)
                asking = asyncio.create_task(self._ask())
                try:
                    if not await self._is_answered(asking):
                        await self._give_up()
                        return
                    self.latency = asking.result()
                finally:
                    asking.cancel()

    async def _ask(self) -> float:
        return await (await self.connection.ping())

    async def _is_answered(self, asking: asyncio.Task[float]) -> bool:
        """Wait for the pong, but not count the time in which our own program took nothing."""
        loop = asyncio.get_running_loop()
        while True:
            begin, was_deaf = loop.time(), self._is_deaf()
            await asyncio.wait([asking], timeout=self.timeout)
            if asking.done():
                return True
            was_held_up = loop.time() - begin > 1.5 * self.timeout
            if not (was_held_up or was_deaf or self._is_deaf()):
                return False

    def _is_deaf(self) -> bool:
        """Whether our program does not read, though nothing that it has sent is in the way."""
        transport = self.connection.transport
        return not transport.is_reading() and transport.get_write_buffer_size() == 0

    async def _give_up(self) -> None:
        """Say why, in case it is heard, and wait for nothing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self.connection.close(1011, REASON)
        self.connection.transport.abort()


def kept_alive(
    handler: Callable[[Any], Awaitable[None]], interval: float | None, timeout: float | None
) -> Callable[[Any], Awaitable[None]]:
    """The handler of a server, with a heartbeat for each of its connections.

    An interval of None is no heartbeat, and the handler as it is; a timeout of None is as long
    as the interval.
    """
    if interval is None:
        return handler
    between, limit = interval, interval if timeout is None else timeout

    async def handle(connection: Any) -> None:
        async with Heartbeat(connection, between, limit):
            await handler(connection)

    return handle
