"""A client that connects again: random schedules in a simulated world, and then real sockets."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from nestling import client as client_module
from nestling.application import Application, create
from nestling.client import GatewayClient
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.reconnect import MayHaveRun, Reconnect
from nestling.sessions import Sessions
from simulation import Network, simulate
from websockets.exceptions import ConnectionClosed

SCHEDULES = 2_000
PIECES = 10

ITEMS = 25  # of a stream
NEWS = 30
REQUESTS = 12
MARKS = 20


# Random schedules


@websocket_gateway()
class World:
    """Counts what runs, streams numbers, and is told `mark`s."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.ran: Counter[int] = Counter()
        self.marks: list[int] = []

    @subscribe_message("add")
    async def add(self, client: Client, data: Any) -> Any:
        self.ran[data] += 1
        await asyncio.sleep(self.dice.uniform(0, 2))
        return data

    @subscribe_message("count")
    async def count(self, client: Client, data: Any) -> AsyncIterator[int]:
        for number in range(ITEMS):
            await asyncio.sleep(self.dice.expovariate(1))
            yield number

    @subscribe_message("mark")
    def mark(self, client: Client, data: Any) -> None:
        self.marks.append(data)


@dataclass
class Outcome:
    """What a program saw, and what there was to see."""

    gaps: int = 0
    lines: int = 0
    restarts: int = 0
    news: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    replies: dict[int, Any] = field(default_factory=dict)
    stream: BaseException | None = None
    refused: int = 0
    ran: Counter[int] = field(default_factory=Counter)
    marks: list[int] = field(default_factory=list)


class Schedule:
    """A minute of a client and its server, with what happens to the line between them."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dice = dice = random.Random(seed)
        self.network = Network(dice)
        monkeypatch.setattr(client_module, "connect", self.network.connect)
        self.world = World(dice)
        self.limits = {"lifetime": dice.choice([8, 60, 60]), "frames": dice.choice([6, 1000, 1000])}
        self.out = Outcome(ran=self.world.ran, marks=self.world.marks)
        self.sessions: list[Sessions] = []
        self.app: Application

    async def run(self) -> Outcome:
        await self.start()
        rules = Reconnect(first=0.5, most=5, queue=self.dice.choice([0, 3]), dice=self.dice.random)
        url = "ws://simulated/"
        async with GatewayClient(url, reconnect=rules, timeout=1_000) as client:
            reading = asyncio.create_task(self.read(client))
            await asyncio.gather(
                self.tell(),
                self.follow(client),
                self.ask(client),
                self.mark(client),
                self.disturb(),
            )
            while True:
                with suppress(MayHaveRun):
                    await client.request("add", -1)
                    break
            self.out.gaps = client.gaps
        await reading
        await self.app.close(grace=0)
        await asyncio.sleep(100)  # ends learn of what has happened to their lines
        for sessions in self.sessions:
            assert (sessions.live, sessions.waiting, sessions.held) == ({}, {}, 0)
            assert not sessions.tasks and not sessions.asking
        self.out.lines = self.network.made
        return self.out

    async def start(self) -> None:
        self.sessions.append(Sessions(serve=self.network.serve, **self.limits))
        self.app = create(self.world)
        await self.app.listen(0, serve=self.sessions[-1])

    async def disturb(self) -> None:
        for _ in range(self.dice.randrange(5)):
            await asyncio.sleep(self.dice.expovariate(1 / 8))
            match self.dice.choice(["cut", "cut", "half open", "black hole", "restart"]):
                case "cut":
                    self.network.break_all(lambda: self.dice.uniform(0, 0.5))
                case "half open":
                    self.network.break_all(lambda: self.dice.choice([0.1, 20]))
                case "black hole":
                    self.network.break_all(lambda: self.dice.uniform(10, 40))
                case "restart":
                    self.out.restarts += 1
                    await self.app.close(grace=0)
                    await asyncio.sleep(self.dice.uniform(0, 5))
                    await self.start()

    async def tell(self) -> None:
        for number in range(NEWS):
            await asyncio.sleep(self.dice.expovariate(1.5))
            for client in self.world.server.clients:
                await client.send({"event": "news", "data": number})

    async def read(self, client: GatewayClient) -> None:
        async for message in client:
            self.out.news.append(message["data"])

    async def follow(self, client: GatewayClient) -> None:
        try:
            async for item in client.stream("count"):
                self.out.items.append(item)
        except MayHaveRun as error:
            self.out.stream = error

    async def ask(self, client: GatewayClient) -> None:
        async def one(number: int) -> None:
            await asyncio.sleep(self.dice.uniform(0, 30))
            try:
                self.out.replies[number] = await client.request("add", number)
            except MayHaveRun as error:
                self.out.replies[number] = error

        await asyncio.gather(*(one(number) for number in range(REQUESTS)))

    async def mark(self, client: GatewayClient) -> None:
        for number in range(MARKS):
            await asyncio.sleep(self.dice.expovariate(1))
            with suppress(ConnectionClosed):
                await client.emit("mark", number)


def holes(numbers: list[int]) -> int:
    return sum(after != before + 1 for before, after in pairwise(numbers))


def check(out: Outcome) -> None:
    assert all(before < after for before, after in pairwise(out.news))
    assert holes(out.news) <= out.gaps
    assert out.items == list(range(len(out.items)))
    assert all(before < after for before, after in pairwise(out.marks))
    for number, reply in out.replies.items():
        if isinstance(reply, MayHaveRun):
            assert out.ran[number] <= 1
        else:
            assert (reply, out.ran[number]) == (number, 1)
    assert out.gaps >= min(1, out.restarts)
    if out.gaps == 0:
        assert out.stream is None
        assert out.news == list(range(out.news[0], NEWS))
        assert set(map(type, out.replies.values())) == {int}
    if out.stream is None:
        assert out.items == list(range(ITEMS))


@pytest.mark.parametrize("piece", range(PIECES))
def test_nothing_is_lost_unsaid_and_nothing_doubled(piece, monkeypatch):
    outs = []
    for seed in range(piece, SCHEDULES, PIECES):
        try:
            out = simulate(Schedule(seed, monkeypatch).run())
            check(out)
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
        outs.append(out)
    # It is about something: sessions went on, and others were lost.
    assert sum(out.lines > 1 and out.gaps == 0 for out in outs) > len(outs) / 8
    assert sum(out.gaps > 0 for out in outs) > len(outs) / 8
    assert any(out.gaps > 0 and not out.restarts for out in outs)
    assert any(isinstance(reply, MayHaveRun) for out in outs for reply in out.replies.values())
    assert any(out.stream is None and out.lines > 1 for out in outs)
