"""The race itself: all arms at once, and again if the event loop was too late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from time import perf_counter

from workbench.race.arms import Arm
from workbench.race.events import Event, Inbox, Source
from workbench.race.results import Race, Result, requests_answered, waits
from workbench.relay import Relay, Tap

# Seconds, besides ten delays, in which every client has to be connected.
READY_WITHIN = 10.0


class RaceError(Exception):
    """An arm failed in the middle of a race; `__cause__` is its error, if it had one."""


async def race(
    arms: Sequence[Arm],
    events: Sequence[Event],
    delay: float,
    *,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Race:
    """Let all arms deliver the same events at once, through cables of `delay` one way.

    It ends when every arm has delivered all, or the longest interval, ten delays and a
    second after the last event. `seed` decides what clients do at random; `progress` is
    called about every second with a short text.

    Raises RaceError if an arm fails or its client returns, and ValueError if there is no
    event, if their numbers are not 1, 2, … in the order of their times, if two arms have
    the same name or the delay is out of its range.
    """
    _check(arms, events, delay)
    source = Source(events)
    lag: list[float] = []
    tell = progress or (lambda text: None)
    lanes = [_Lane(arm, Inbox(Random(f"{seed} {arm.name}"), source)) for arm in arms]
    running = [lane.run(source, delay) for lane in lanes]
    running += [_watch(source, lag, tell), _conduct(lanes, source, delay)]
    tasks = [asyncio.create_task(each) for each in running]
    tell(f"{len(lanes)} arms connect")
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        end = perf_counter()
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results = {lane.arm.name: lane.result(source, end, delay) for lane in lanes}
    return Race(delay, events, results, lag)


async def careful(make_race: Callable[[], Awaitable[Race]], tries: int = 3) -> tuple[Race, int]:
    """Run a race again, up to `tries` times in all, while the event loop was too late.

    Gives the race that was least late, and how many others were thrown away.
    """
    races: list[Race] = []
    while len(races) < max(tries, 1):
        races.append(await make_race())
        if not races[-1].is_late:
            break
    return min(races, key=lambda each: each.lag_p99), len(races) - 1


@dataclass(frozen=True)
class Plan:
    """A race to be run: the arguments of `race`."""

    arms: Sequence[Arm]
    events: Sequence[Event]
    delay: float
    seed: int = 0

    def run(self, progress: Callable[[str], object] | None = None) -> Awaitable[Race]:
        return race(self.arms, self.events, self.delay, seed=self.seed, progress=progress)


async def side_by_side(plans: Sequence[Plan]) -> list[Race]:
    """Run races at the same time, each again if it was late; gives them in the plans' order.

    Prints how far the first has come, and at the end how many were run again, and how many
    were late in both tries.
    """

    def tell(text: str) -> None:
        print(f"\r{text:78}", end="", flush=True)

    tellers = [tell, *[None] * (len(plans) - 1)]
    makers = [lambda p=plan, t=t: p.run(t) for plan, t in zip(plans, tellers, strict=True)]
    done = await asyncio.gather(*(careful(make, tries=2) for make in makers))
    again, late = sum(thrown for _, thrown in done), [race for race, _ in done if race.is_late]
    tell(f"{len(done)} races; {again} tries were thrown away, for the event loop was late")
    print()
    if late:
        print(_excuse(late, done))
    return [found for found, _ in done]


@contextmanager
def judging(races: Sequence[Race]) -> Iterator[None]:
    """Let the assertions of a block judge races, unless one of them was late.

    Then a failed assertion is not raised: it prints that nothing is judged, and why.
    """
    try:
        yield
    except AssertionError as error:
        late = [race for race in races if race.is_late]
        if not late:
            what = f"{error}: " if str(error) else ""
            raise AssertionError(f"{what}measured on time, and not what the law says") from None
        print(f"Not judged. {_excuse(late, races)}")


def _excuse(late: Sequence[Race], races: Sequence[object]) -> str:
    return (
        f"This machine is busy: {len(late)} of {len(races)} races were late in both tries.\n"
        "What came is shown, but it may miss the law by as much."
    )


class _Lane:
    """An arm in a race."""

    def __init__(self, arm: Arm, inbox: Inbox) -> None:
        self.arm = arm
        self.inbox = inbox
        self.taps: list[Tap] = []

    async def run(self, source: Source, delay: float) -> None:
        try:
            async with self.arm.serve(source) as port:
                try:
                    async with Relay(port, delay) as relay:
                        self.taps = relay.taps
                        await self.arm.receive(relay.port, self.inbox)
                finally:
                    # Once a timer has fired, the server has accepted what it had begun to;
                    # asyncio forgets a connection that is being accepted while it closes.
                    await asyncio.sleep(0.001)
        except Exception as error:
            raise RaceError(f"{self.arm.name}: {type(error).__name__}: {error}") from error
        raise RaceError(f"{self.arm.name}: its client returned in the middle of the race")

    def result(self, source: Source, end: float, delay: float) -> Result:
        begin, arrived = source.begin.result(), self.inbox.arrived
        end = max(arrived.values()) if self.inbox.is_full.is_set() else end
        counted = [tap for tap in self.taps if begin <= tap.sent <= end]
        # An empty answer is noted a delay after it was sent.
        answers = [what for at, what in self.inbox.notes if begin + delay <= at <= end]
        return Result(
            arm=self.arm.name,
            waits=waits(source.events, arrived, begin),
            missing=[e.id for e in source.events if e.id not in arrived],
            doubled=self.inbox.doubled,
            begin=begin,
            end=end,
            requests=requests_answered(self.taps, begin, end),
            empty=answers.count("empty"),
            connections=len({tap.connection for tap in counted}),
            bytes_up=sum(len(tap.data) for tap in counted if tap.sender == "client"),
            bytes_down=sum(len(tap.data) for tap in counted if tap.sender == "server"),
            setup_bytes=sum(len(tap.data) for tap in self.taps if tap.sent < begin),
            taps=self.taps,
        )


def _check(arms: Sequence[Arm], events: Sequence[Event], delay: float) -> None:
    Relay(1, delay)  # Raises ValueError for the delay. It is not started.
    if not events:
        raise ValueError("a race needs events, and there is none")
    in_order = all(a.at <= b.at and b.id == a.id + 1 for a, b in pairwise(events))
    if not in_order or events[0].id != 1:
        raise ValueError("events are numbered 1, 2, … in the order of their times")
    names = Counter(arm.name for arm in arms)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"two arms have the name {twice[0]!r}")


async def _conduct(lanes: Sequence[_Lane], source: Source, delay: float) -> None:
    """Wait for the clients, publish, and wait until all has arrived."""
    try:
        async with asyncio.timeout(READY_WITHIN + 10 * delay):
            for lane in lanes:
                await lane.inbox.is_ready.wait()
    except TimeoutError:
        raise RaceError(f"{lane.arm.name}: its client did not connect in time") from None
    await asyncio.sleep(4 * delay + 0.1)  # A first long poll reaches its server.
    await source.publish()
    interval = max((getattr(lane.arm, "interval", 0) for lane in lanes), default=0)
    with suppress(TimeoutError):
        async with asyncio.timeout(interval + 10 * delay + 1):
            for lane in lanes:
                await lane.inbox.is_full.wait()


async def _watch(source: Source, lag: list[float], tell: Callable[[str], object]) -> None:
    """Every 10 ms, note by how much the loop is late; every second, tell how far it is."""
    begin, tick = await asyncio.shield(source.begin), 1
    while True:
        await asyncio.sleep(begin + tick / 100 - perf_counter())
        # A stall counts at each of the moments that it covers, not once.
        while (late := perf_counter() - begin - tick / 100) >= 0:
            lag.append(late)
            tick += 1
            if tick % 100 == 0:
                tell(f"{source.published} of {len(source.events)} events published")
