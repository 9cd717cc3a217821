"""A class poll over cables that fail at random: which votes were counted, and how often.

::

    outcome = await survive(learners=30, seconds=3)
    outcome                  # as a table
    outcome.votes[0].counted # when the poll counted it, in seconds: once, one would hope
    lanes(outcome, "Every vote is counted once")

Each learner votes for a choice of their own, so that the tally itself says whose vote was
counted how often.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from secrets import token_urlsafe
from typing import Any, NamedTuple

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
from websockets.exceptions import ConnectionClosed

from workbench.drawings import DATA, LOOP, STYLE, TROUBLE, Picture
from workbench.relay import HOST, Relay

# In seconds: everything is ten to a hundred times as fast here as it would be with people.
BETWEEN = 0.1, 0.9  # from the end of a failure to the next of that cable
DELAY = 0.05  # of each cable, one way, while cables fail
LASTING = 0.05, 0.8  # a failure, unless it is a cut
CONNECTED = 1.0  # for a client to connect
BEAT = {"ping_interval": 0.25, "ping_timeout": 0.25, "close_timeout": 0.05}
BACKOFF = {"first": 0.02, "most": 0.3, "well": 0.5}

PATIENCE = 15.0  # for a vote to be answered, and for the last tally once all cables are whole

FAILURES = ["cut", "black hole", "one way", "hang-up", "slow"]


@dataclass
class Vote:
    """Of a learner, in a question: when it was first sent, and each time it was counted."""

    learner: int
    question: int
    tried: float
    counted: list[float] = field(default_factory=list)


@dataclass
class Learner:
    """What one of them has seen.

    open:  when there was a connection, as far as the client knew: pairs of a begin and an end
    gaps:  how often it was without the session of the one before
    tally: the last
    """

    open: list[tuple[float, float]] = field(default_factory=list)
    gaps: int = 0
    tally: dict[str, Any] | None = None


class Failure(NamedTuple):
    """Of a learner's cable: which of FAILURES, from when to when."""

    learner: int
    kind: str
    begin: float
    end: float


@dataclass(frozen=True)
class Survival:
    """What became of a class. Times are in seconds since everybody was there.

    votes:    in the order in which they were first sent
    learners: what each has seen
    failures: in the order of their ends
    tally:    the poll's own in the end
    """

    votes: list[Vote]
    learners: list[Learner]
    failures: list[Failure]
    tally: dict[str, Any]

    @property
    def cast(self) -> int:
        return len(self.votes)

    @property
    def counted(self) -> int:
        """How much the poll has counted in all."""
        return sum(len(vote.counted) for vote in self.votes)

    @property
    def doubled(self) -> int:
        """How many votes were counted more than once."""
        return sum(len(vote.counted) > 1 for vote in self.votes)

    @property
    def lost(self) -> int:
        """How many votes were never counted."""
        return sum(not vote.counted for vote in self.votes)

    @property
    def right(self) -> int:
        """How many learners' last tally is that of the poll."""
        return sum(learner.tally == self.tally for learner in self.learners)

    @property
    def reconnects(self) -> int:
        return sum(len(learner.open) - 1 for learner in self.learners)

    @property
    def resumed(self) -> int:
        """How many of the reconnects went on with the session."""
        return self.reconnects - sum(learner.gaps for learner in self.learners)

    def __repr__(self) -> str:
        kinds = Counter(failure.kind for failure in self.failures)
        failed = ", ".join(f"{kind} {kinds[kind]}" for kind in FAILURES)
        return (
            f"failures:   {len(self.failures)} ({failed})\n"
            f"reconnects: {self.reconnects}, {self.resumed} of them with their session\n"
            f"votes:      {self.cast} cast, {self.counted} counted\n"
            f"doubled:    {self.doubled}\n"
            f"lost:       {self.lost}\n"
            f"right:      the last tally of {self.right} of {len(self.learners)}"
        )


async def survive(
    *,
    learners: int = 30,
    seconds: float = 3.0,
    seed: int = 0,
    questions: int = 1,
    keyed: bool = True,
    resume: bool = True,
    again: bool = True,
    lifetime: float = 60.0,
) -> Survival:
    """Let a class vote, each over a cable of their own that fails again and again.

    seconds:  in which the cables fail, and the questions are asked, one after the other
    keyed:    whether votes have a key
    resume:   whether the server has sessions; each waits `lifetime` seconds for its client
    again:    whether who does not know what has become of a vote sends it again
    """
    app = create(PollGateway())
    serve: transport.Serve = Sessions(lifetime=lifetime) if resume else transport.serve
    await app.listen(0, host=HOST, serve=serve)
    room = _Room(app.ports[0], learners, questions)
    seats = [_Seat(room, number, seed, keyed, again) for number in range(learners)]
    try:
        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            for each in (room, *seats):
                await stack.enter_async_context(each.open(group))
            room.begin = room.clock()
            failing = [group.create_task(seat.fail(seconds)) for seat in seats]
            await room.ask(seats, seconds)
            await asyncio.wait(failing)
            await room.settled(seats)
    finally:
        await app.close(grace=0)
    return Survival(room.votes, [seat.learner for seat in seats], room.failures, room.tally)


class _Room:
    """The teacher, whose cable does not fail, and what is written down."""

    def __init__(self, port: int, learners: int, questions: int) -> None:
        self.port = port
        self.clock = asyncio.get_running_loop().time
        self.begin = math.inf
        self.votes: list[Vote] = []
        self.failures: list[Failure] = []
        self.tally: dict[str, Any] = {}
        self.questions = [f"Question {number + 1}: who is here?" for number in range(questions)]
        self._choices = [f"learner {number + 1}" for number in range(learners)]
        self._teacher = GatewayClient(f"ws://{HOST}:{port}/poll", timeout=PATIENCE)

    def now(self) -> float:
        return max(0.0, self.clock() - self.begin)

    @asynccontextmanager
    async def open(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        async with self._teacher:
            group.create_task(self._count())
            yield

    async def _count(self) -> None:
        """Note when each vote is counted, as the poll's own tally grows."""
        with suppress(ConnectionClosed):
            async for tally in self._teacher.stream("tally"):
                self.tally = tally
                for vote in self.votes:
                    if self.questions[vote.question] == tally["question"]:
                        more = tally["votes"][vote.learner] - len(vote.counted)
                        vote.counted += [self.now()] * more

    async def ask(self, seats: Sequence[_Seat], seconds: float) -> None:
        """Open each question in its turn, and wait until everybody is done with it."""
        for number, question in enumerate(self.questions):
            await self._teacher.request("open", {"question": question, "choices": self._choices})
            within = seconds / len(self.questions)
            await asyncio.gather(*(seat.vote(number, within) for seat in seats))

    async def settled(self, seats: Sequence[_Seat]) -> None:
        """Wait until everybody has the last tally, or for PATIENCE seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                self.tally = await self._teacher.request("tally")
                for seat in seats:
                    while seat.learner.tally != self.tally:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)


class _Seat:
    """A learner at work, and their cable."""

    def __init__(self, room: _Room, number: int, seed: int, keyed: bool, again: bool) -> None:
        self.learner = Learner()
        self._room, self._number, self._again = room, number, again
        self._key = token_urlsafe() if keyed else None
        # Dice for each purpose, so that none depends on what happens first.
        self._failing, self._voting, waiting = (
            Random(f"{seed} {number} {what}") for what in ("failing", "voting", "waiting")
        )
        self._relay = Relay(room.port)
        self._reconnect = Reconnect(**BACKOFF, dice=waiting.random)

    @asynccontextmanager
    async def open(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        """The learner has a connection, and follows the tally."""
        async with self._relay as relay:
            self._client = GatewayClient(
                f"{relay.url}/poll", timeout=CONNECTED, reconnect=self._reconnect, **BEAT
            )
            async with self._client:
                group.create_task(self._watch())
                group.create_task(self._follow())
                yield
                self.learner.gaps = self._client.gaps

    async def _watch(self) -> None:
        """Note when there is a connection."""
        begin: float | None = None
        async for state in self._client.states():
            if begin is not None:
                self.learner.open.append((begin, self._room.now()))
            begin = self._room.now() if state is State.OPEN else None

    async def _follow(self) -> None:
        while self._client.state is not State.CLOSED:
            with suppress(ConnectionClosed):
                async for tally in self._client.stream("tally"):
                    self.learner.tally = tally

    async def vote(self, question: int, within: float) -> None:
        """Vote at some time, and perhaps again if it is not known what has become of it."""
        await asyncio.sleep(self._voting.uniform(0, within))
        data: Any = self._number
        if self._key is not None:
            name = self._room.questions[question]
            data = {"choice": self._number, "key": self._key, "question": name}
        self._room.votes.append(Vote(self._number, question, self._room.now()))
        while True:
            with suppress(MayHaveRun):
                with suppress(WsException):  # one without a key that has been counted
                    await self._client.request("vote", data, timeout=PATIENCE)
                return
            if not self._again:
                return

    async def fail(self, seconds: float) -> None:
        """Break the cable again and again while time lasts; then it is whole."""
        dice, relay, now = self._failing, self._relay, self._room.now
        relay.delay = DELAY
        while (pause := dice.uniform(*BETWEEN)) < seconds - now():
            await asyncio.sleep(pause)
            begin, kind, lasting = now(), dice.choice(FAILURES), dice.uniform(*LASTING)
            if kind != "cut":
                self._spoil(kind)
                await asyncio.sleep(min(lasting, max(0.0, seconds - now())))
            if kind in ("cut", "black hole"):  # out of the tunnel, with another address
                relay.cut()
            relay.lift()
            relay.jitter, relay.bandwidth, relay.idle_timeout = 0.0, math.inf, None
            self._room.failures.append(Failure(self._number, kind, begin, now()))
        relay.delay = 0.0

    def _spoil(self, kind: str) -> None:
        match kind:
            case "black hole":
                self._relay.black_hole()
            case "one way":
                self._relay.black_hole(self._failing.choice(["client", "server"]))
            case "hang-up":
                self._relay.idle_timeout = 0.05
            case "slow":
                self._relay.jitter, self._relay.bandwidth = 0.2, 5e4


def lanes(outcome: Survival, title: str) -> Picture:
    """A lane for each learner: grey while there is a connection, and the marks of each vote."""
    learners = len(outcome.learners)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.13 * learners))
        axes = figure.subplots()
        for row, learner in enumerate(outcome.learners):
            spans = [(begin, end - begin) for begin, end in learner.open]
            axes.broken_barh(spans, (row - 0.36, 0.72), color=LOOP, alpha=0.3, linewidth=0)
        for vote in outcome.votes:
            rows = [vote.learner] * len(vote.counted)
            axes.plot(vote.counted, rows, "-o", color=DATA, markersize=5)
            axes.plot(vote.tried, vote.learner, "x", color=TROUBLE, markersize=6)
        axes.set(ylim=(learners - 0.3, -0.7), yticks=[], ylabel="learners", title=title)
        axes.set_xlabel("seconds (grey: connected)\nx  vote first sent   ●  counted")
        return Picture(figure, f"{title}. A lane for each learner.\n{outcome}")
