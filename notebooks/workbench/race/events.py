"""What happens in a race, who publishes it, and where it arrives."""

from __future__ import annotations

import asyncio
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Event:
    """Event number `id`, from 1, due `at` seconds after the start."""

    id: int
    at: float
    text: str

    @property
    def message(self) -> dict[str, Any]:
        """What travels, as JSON."""
        return {"id": self.id, "text": self.text}


def schedule(
    rate: float, seconds: float, seed: int, *, size: int = 50, periodic: bool = False
) -> list[Event]:
    """Events at `rate` per second for some seconds, the same ones for the same seed.

    They come at random and independently of each other (Poisson), or evenly spaced if
    periodic. Each has a text of `size` ASCII characters. Raises ValueError if rate or
    seconds is not a positive number.
    """
    check_positive("rate", rate)
    check_positive("seconds", seconds)
    random, times = Random(seed), [0.0]
    while times[-1] <= seconds:
        times.append(len(times) / rate if periodic else times[-1] + random.expovariate(rate))
    letters = string.ascii_letters + string.digits
    due = enumerate(times[1:-1], 1)
    return [Event(n, at, "".join(random.choices(letters, k=size))) for n, at in due]


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name} is a positive number, not {value!r}")


class Source:
    """Publishes each event at its time, whatever becomes of the earlier ones.

    begin: a future of the moment when the clock starts
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.published = 0
        self.begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._change = asyncio.Event()

    async def publish(self) -> None:
        """Start the clock now, and publish all."""
        self.begin.set_result(perf_counter())
        for event in self.events:
            await asyncio.sleep(self.begin.result() + event.at - perf_counter())
            self.published = event.id
            self._change.set()
            self._change = asyncio.Event()

    def since(self, n: int) -> Sequence[Event]:
        """What was published after the n-th event."""
        return self.events[n : self.published]

    async def changed(self) -> None:
        """Wait until an event is published."""
        await self._change.wait()

    async def after(self, n: int) -> Sequence[Event]:
        """What was published after the n-th event; waits if there is nothing yet."""
        while not (events := self.since(n)):
            await self.changed()
        return events


class Inbox:
    """Where the client of an arm hands over what it receives.

    random: seeded, for what a client does at random
    """

    def __init__(self, random: Random, source: Source) -> None:
        self.random = random
        self.is_ready, self.is_full = asyncio.Event(), asyncio.Event()
        self.arrived: dict[int, float] = {}
        self.doubled: list[int] = []
        self.notes: list[tuple[float, str]] = []
        self._source = source

    def ready(self) -> asyncio.Future[float]:
        """Say that the client is connected. Gives a future of the moment the clock starts,
        which is when the clients of all arms are.
        """
        self.is_ready.set()
        return asyncio.shield(self._source.begin)

    def deliver(self, event_ids: Sequence[int]) -> None:
        """These events arrive now. Raises ValueError for one that was not published."""
        now = perf_counter()
        for number in event_ids:
            if not 1 <= number <= self._source.published:
                raise ValueError(f"event {number} was not published")
            if number in self.arrived:
                self.doubled.append(number)
            self.arrived.setdefault(number, now)
        if len(self.arrived) == len(self._source.events):
            self.is_full.set()

    def note(self, what: str) -> None:
        """Something happens now; "empty" is an answer without an event."""
        self.notes.append((perf_counter(), what))
