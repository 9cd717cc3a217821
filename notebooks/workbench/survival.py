"""A class poll over cables that fail at random: who has voted, and what was counted.

::

    outcome = await survive(learners=30, seconds=3)
    outcome          # votes cast and counted, tallies that are right, what failed
    lanes(outcome, "No vote is lost")
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from secrets import token_urlsafe
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from nestling import transport
from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import WsException
from nestling.poll import PollGateway
from nestling.reconnect import MayHaveRun, Reconnect
from nestling.sessions import Sessions
from nestling.states import State

from workbench.drawings import DATA, LOOP, STYLE, TROUBLE, Picture
from workbench.relay import HOST, Relay

QUESTION = {"question": "Does your vote survive?", "choices": ["yes", "no"]}

# Everything is ten to a hundred times as fast here as it would be with people.
AGAIN = Reconnect(first=0.1, most=0.5, well=1.0)
BEAT = {"ping_interval": 0.25, "ping_timeout": 0.25}
ANSWERED = 1.0  # seconds that a vote may take
HEALED = 10.0  # seconds for everybody to have the last tally, once all cables are whole


@dataclass
class Learner:
    """One learner's run, in seconds since the beginning.

    choice:     the index of the answer that is voted for
    open:       when a connection was open: pairs of a beginning and an end
    tried:      when the vote was sent, each time
    counted:    when the answer to it came
    tally:      the last that was seen
    """

    choice: int
    open: list[tuple[float, float]] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)
    counted: float | None = None
    tally: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Survival:
    """What became of a class.

    seconds:  how long the cables failed
    learners: what each has done and seen
    votes:    the poll's own tally in the end
    failures: how often each kind of failure happened
    """

    seconds: float
    learners: list[Learner]
    votes: list[int]
    failures: Counter[str]

    @property
    def reconnects(self) -> int:
        return sum(len(learner.open) - 1 for learner in self.learners)

    @property
    def cast(self) -> list[int]:
        """The tally as it should be."""
        choices = [learner.choice for learner in self.learners]
        return [choices.count(choice) for choice in range(len(self.votes))]

    @property
    def right(self) -> int:
        """How many learners' last tally is that of the poll."""
        return sum(learner.tally == self.votes for learner in self.learners)

    def __repr__(self) -> str:
        failed = ", ".join(f"{kind} {times}" for kind, times in sorted(self.failures.items()))
        tries = sum(len(learner.tried) for learner in self.learners)
        return (
            f"failures:   {failed}\n"
            f"reconnects: {self.reconnects}\n"
            f"votes:      {sum(self.cast)} cast in {tries} tries, {self.cast}\n"
            f"counted:    {sum(self.votes)}, {self.votes}\n"
            f"right:      the last tally of {self.right} of {len(self.learners)}"
        )


async def survive(
    *, learners: int = 30, seconds: float = 3.0, seed: int = 0, keyed: bool = True
) -> Survival:
    """Let a class vote, each over a cable of its own that fails again and again.

    keyed: whether votes have a key and connections a session; without, a vote is sent until an
           answer comes, and that is all
    """
    dice, gateway, failures = Random(seed), PollGateway(), Counter()
    app = create(gateway)
    serve: transport.Serve = Sessions() if keyed else transport.serve
    await app.listen(0, host=HOST, serve=serve, **BEAT)
    runs = [_Run(app.ports[0], Random(dice.random()), seconds, keyed) for _ in range(learners)]
    everybody = asyncio.Barrier(learners)
    try:
        async with GatewayClient(f"ws://{HOST}:{app.ports[0]}/poll") as teacher:
            await teacher.request("open", QUESTION)
            async with asyncio.TaskGroup() as group:
                for run in runs:
                    group.create_task(run.run(teacher, failures, everybody))
            votes = (await teacher.request("tally"))["votes"]
    finally:
        await app.close(grace=0)
    return Survival(seconds, [run.learner for run in runs], votes, failures)


class _Run:
    """A learner at work, and the cable that fails."""

    def __init__(self, port: int, dice: Random, seconds: float, keyed: bool) -> None:
        self.learner = Learner(dice.choice([0, 0, 1]))
        self._dice, self._seconds = dice, seconds
        self._relay = Relay(port, jitter=0.02)
        self._vote: Any = self.learner.choice
        if keyed:
            names = {"key": token_urlsafe(), "question": QUESTION["question"]}
            self._vote = {"choice": self.learner.choice, **names}
        self._begin = asyncio.get_running_loop().time()

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._begin

    async def run(
        self, teacher: GatewayClient, failures: Counter[str], everybody: asyncio.Barrier
    ) -> None:
        async with self._relay as relay:
            client = GatewayClient(f"{relay.url}/poll", timeout=2.0, reconnect=AGAIN, **BEAT)
            async with client:
                watching = [asyncio.create_task(self._watch(client))]
                watching.append(asyncio.create_task(self._follow(client)))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fail(failures))
                    group.create_task(self._cast(client))
                await everybody.wait()  # for the last vote, and the last cable
                await self._healed(teacher)
                watching[1].cancel()
        await asyncio.wait(watching)

    async def _fail(self, failures: Counter[str]) -> None:
        """Break the cable again and again, until the time is over; then it is whole."""
        while (pause := self._dice.uniform(0.1, 1.0)) < self._seconds - self._now():
            await asyncio.sleep(pause)
            kind = self._dice.choice(["cut", "black hole", "one way"])
            failures[kind] += 1
            if kind != "cut":
                sender = self._dice.choice(["client", "server"]) if kind == "one way" else None
                self._relay.black_hole(sender)
                await asyncio.sleep(self._dice.uniform(0.1, 0.8))
            self._relay.cut()
            self._relay.lift()

    async def _cast(self, client: GatewayClient) -> None:
        """Vote, at some time, and go on until there is an answer."""
        await asyncio.sleep(self._dice.uniform(0, self._seconds))
        while self.learner.counted is None:
            self.learner.tried.append(self._now())
            with suppress(MayHaveRun, TimeoutError):
                with suppress(WsException):  # a vote without a key that was counted already
                    await client.request("vote", self._vote, timeout=ANSWERED)
                self.learner.counted = self._now()

    async def _follow(self, client: GatewayClient) -> None:
        while True:
            with suppress(MayHaveRun, TimeoutError):
                async for tally in client.stream("tally"):
                    self.learner.tally = tally["votes"]

    async def _watch(self, client: GatewayClient) -> None:
        """Note when a connection is open."""
        since: float | None = None
        async for state in client.states():
            if since is not None:
                self.learner.open.append((since, self._now()))
            since = self._now() if state is State.OPEN else None

    async def _healed(self, teacher: GatewayClient) -> None:
        """Wait until the learner's tally is the poll's, for some HEALED seconds at most."""
        for _ in range(round(HEALED / 0.1)):
            if self.learner.tally == (await teacher.request("tally"))["votes"]:
                return
            await asyncio.sleep(0.1)


def lanes(survival: Survival, title: str) -> Picture:
    """A lane for each learner: dark where a connection was open, and the marks of their vote."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.13 * len(survival.learners)))
        axes = figure.subplots()
        for row, learner in enumerate(survival.learners):
            spans = [(begin, end - begin) for begin, end in learner.open]
            axes.broken_barh(spans, (row - 0.35, 0.7), color=LOOP, alpha=0.35, linewidth=0)
            axes.plot(learner.tried, [row] * len(learner.tried), "x", color=TROUBLE, markersize=6)
            axes.plot(learner.counted, row, "o", color=DATA, markersize=5)
        axes.set(
            ylim=(len(survival.learners) - 0.3, -0.7), yticks=[], ylabel="learners", title=title
        )
        axes.set_xlabel("seconds; grey: connected, x voted, ● answered")
        return Picture(figure, f"{title}. A lane for each learner.\n{survival}")
