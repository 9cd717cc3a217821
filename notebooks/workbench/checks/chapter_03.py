"""The checks of chapter 03."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import isclose
from typing import Any

from workbench.checks import Wrong, require_coroutine_function, require_plain_function


async def staleness(function: Callable[[float, float], tuple[float, float]]) -> None:
    """03.1: the mean and the worst latency of short polling."""
    require_plain_function(function)
    hints = {
        (
            1,
            0,
        ): "with no delay, an event waits for half an interval on average, for all of it at worst",
        (1, 0.05): "an answer travels for one delay; the request was on its way before the event",
        (10, 0.2): "the mean is interval / 2 + delay, the worst is interval + delay",
    }
    for (interval, delay), hint in hints.items():
        expected = (interval / 2 + delay, interval + delay)
        received = function(interval, delay)
        pair = isinstance(received, tuple | list) and len(received) == 2
        if not pair or not all(map(isclose, received, expected)):
            raise Wrong.comparing(hint, (interval, delay), expected, received)


async def schedule(function: Callable[..., list[float]]) -> None:
    """03.2: the latency of each event, for polls on a schedule."""
    require_plain_function(function)
    cases = [
        (([0.0], 1.0, 0.25, 0.0), [0.25], "the first poll reaches the server at the phase"),
        (([0.3], 1.0, 0.25, 0.0), [0.95], "after that poll comes the next, an interval later"),
        (([0.3], 1.0, 0.25, 0.1), [1.05], "the answer travels for one delay"),
        (([3.0, 0.1, 0.2], 0.5, 0.0, 0.0), [0.0, 0.4, 0.3], "an event in the moment of a poll "
         "is found by it; the latencies are in the order of the events"),
        (([7.75], 0.5, 0.0, 0.0), [0.25], "there is a poll every interval, for ever"),
        (([0.0], 1.0, 2.5, 0.0), [2.5], "there is no poll before the phase"),
        (([], 1.0, 0.5, 0.1), [], "no events, no latencies"),
    ]  # fmt: skip
    for arguments, expected, hint in cases:
        received = function(*arguments)
        right = isinstance(received, list) and len(received) == len(expected)
        if not right or not all(
            isclose(*p, abs_tol=1e-9) for p in zip(received, expected, strict=True)
        ):
            raise Wrong.comparing(hint, arguments, expected, received)


class Server:
    """Answers long polls with the numbers after `since`, and fails now and then."""

    def __init__(self) -> None:
        self.there = 0
        self.waiting = 0
        self.asked: list[int] = []
        self._more = asyncio.Event()

    def add(self, count: int) -> None:
        self.there += count
        self._more.set()

    async def fetch(self, since: int) -> list[int]:
        self.asked.append(since)
        await asyncio.sleep(0.01)
        if len(self.asked) in (2, 3, 4, 6):
            raise (TimeoutError if len(self.asked) % 2 else ConnectionError)("as happens")
        self.waiting += 1
        try:
            while self.there <= since:
                self._more.clear()
                await self._more.wait()
        finally:
            self.waiting -= 1
        return list(range(since + 1, self.there + 1))


async def follow(function: Callable[..., Awaitable[Any]]) -> None:
    """03.3: a long-polling client that loses nothing."""
    require_coroutine_function(function)
    server, delivered = Server(), []
    following = asyncio.ensure_future(function(server.fetch, delivered.append))
    try:
        for more in (1, 2, 3):
            await asyncio.sleep(0.1)
            server.add(more)
        for _ in range(40):
            if following.done() or len(delivered) >= 6:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        _judge(server, delivered, following)
    finally:
        obeyed = False
        for attempt in range(3):
            following.cancel()
            await asyncio.wait([following], timeout=0.3)
            obeyed = obeyed or (attempt == 0 and following.done())
    if not obeyed:
        raise Wrong("a client that is cancelled ends: catch TimeoutError and ConnectionError alone")


def _judge(server: Server, delivered: list[int], following: asyncio.Future[Any]) -> None:
    if following.done():
        if isinstance(following.exception(), NotImplementedError):
            raise following.exception()
        if error := following.exception():
            hint = "after a TimeoutError or a ConnectionError it asks again"
            raise Wrong.comparing(hint, server.asked, "to go on", error)
        raise Wrong("it returned: there may always be another event")
    expected = list(range(1, 7))
    if delivered != expected:
        hint = (
            "each number once and in order, within seconds: ask, also after a failure, for what "
            "comes after the last that you have"
        )
        raise Wrong.comparing(hint, server.asked, expected, delivered)
    if server.waiting > 1:
        raise Wrong(f"{server.waiting} questions at once: wait for the answer, then ask again")
    if len(server.asked) > 30:
        raise Wrong(
            f"it has asked {len(server.asked)} times: fetch waits by itself for something new"
        )


PROBES = {"1": staleness, "2": schedule, "3": follow}
