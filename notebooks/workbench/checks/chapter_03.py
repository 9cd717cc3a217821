"""The checks of chapter 03."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import isclose
from typing import Any

from workbench.checks import Words, Wrong, require_coroutine_function, require_plain_function


async def staleness(function: Callable[[float, float], tuple[float, float]]) -> None:
    """03.1: three intervals and delays, one of them without a delay."""
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
    """03.2: seven schedules: events before, between and in the moment of polls, and none."""
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
    """Answers long polls with the numbers after `since`, and fails now and then.

    log: what became of each question, in their order
    """

    def __init__(self) -> None:
        self.there = 0
        self.waiting = 0
        self.log: list[str] = []
        self._more = asyncio.Event()

    @property
    def story(self) -> Words:
        """What was asked and answered, as far as a verdict has room for it."""
        left_out = ["…"] if len(self.log) > 10 else []
        return Words("; ".join([*self.log[:10], *left_out]))

    def add(self, count: int) -> None:
        self.there += count
        self._more.set()

    async def fetch(self, since: int) -> list[int]:
        number = len(self.log)
        self.log.append(f"fetch({since!r}) waits")
        await asyncio.sleep(0.01)
        if number + 1 in (2, 3, 4, 6):
            error = (ConnectionError if number % 2 else TimeoutError)("as happens")
            self.log[number] = f"fetch({since!r}) raised {type(error).__name__}"
            raise error
        self.waiting += 1
        try:
            while self.there <= since:
                self._more.clear()
                await self._more.wait()
        finally:
            self.waiting -= 1
        numbers = list(range(since + 1, self.there + 1))
        self.log[number] = f"fetch({since!r}) gave {numbers}"
        return numbers


async def follow(function: Callable[..., Awaitable[Any]]) -> None:
    """03.3: six events, one or several in an answer, with failures in between, and a cancel."""
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
        _judge_end(server, following)
        _judge_numbers(server, delivered)
        _judge_questions(server)
    finally:
        obeyed = False
        for attempt in range(3):
            following.cancel()
            await asyncio.wait([following], timeout=0.3)
            obeyed = obeyed or (attempt == 0 and following.done())
    if not obeyed:
        hint = "a client that is cancelled ends: catch TimeoutError and ConnectionError alone"
        sent = Words(f"{server.story}; then the task was cancelled")
        raise Wrong.comparing(hint, sent, Words("to end"), Words("it went on"))


def _judge_end(server: Server, following: asyncio.Future[Any]) -> None:
    """Raise Wrong if the client has ended by itself."""
    if not following.done():
        return
    to_go_on = Words("to go on until it is cancelled")
    match following.exception():
        case None:
            hint = "it returned: there may always be another event"
            raise Wrong.comparing(hint, server.story, to_go_on, Words("a return"))
        case NotImplementedError() as error:
            raise error
        case TimeoutError() | ConnectionError() as error:
            hint = "after a TimeoutError or a ConnectionError it asks again"
            raise Wrong.comparing(hint, server.story, to_go_on, error)
        case error:
            hint = "your code raised an error"
            if "await" in str(error):
                hint = "fetch is awaited, deliver is a plain function and is not"
            raise Wrong.comparing(hint, server.story, to_go_on, error)


def _judge_numbers(server: Server, delivered: list[Any]) -> None:
    expected = list(range(1, 7))
    if delivered == expected:
        return
    if not all(isinstance(number, int) for number in delivered):
        hint = "deliver takes one number: call it for each of an answer's"
    elif len(set(delivered)) < len(delivered):
        hint = "an event came twice: after a failure, too, ask for what follows the last you have"
    elif set(delivered) < set(expected):
        hint = (
            "an event was lost, or not there within seconds: ask for what follows the last you have"
        )
    else:
        hint = "each number once and in order"
    raise Wrong.comparing(hint, server.story, expected, delivered)


def _judge_questions(server: Server) -> None:
    if server.waiting > 1:
        hint = "questions at once: wait for the answer, then ask again"
        raise Wrong.comparing(hint, server.story, Words("one at a time"), server.waiting)
    if len(server.log) > 30:
        hint = "fetch waits by itself for something new: ask once and wait"
        asked = Words(f"{len(server.log)} questions")
        raise Wrong.comparing(hint, server.story, Words("about ten questions"), asked)


PROBES = {"1": staleness, "2": schedule, "3": follow}
