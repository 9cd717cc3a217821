"""A client that connects again: random schedules in a simulated world, and then real sockets."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from conftest import missing
from gateways import serving
from nestling import client as client_module
from nestling.application import Application, create
from nestling.client import BACKLOG, GatewayClient, Question
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.outbox import Outbox
from nestling.poll import PollGateway
from nestling.reconnect import AGAIN, MayHaveRun, NotSent, Reconnect
from nestling.session import ANNOUNCEMENT
from nestling.sessions import Sessions
from nestling.states import State
from simulation import End, Network, simulate, simulated
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
)
from websockets.http11 import Response
from workbench import nest
from workbench.relay import Relay

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


# States, and what is worth another try


class Door:
    """A server in a simulated world that a test plays itself, one connection after the other."""

    def __init__(self) -> None:
        self.network = Network(random.Random(1))
        self.arrived: asyncio.Queue[End] = asyncio.Queue()

    async def open(self) -> None:
        async def handle(end: End) -> None:
            self.arrived.put_nowait(end)
            await end.closed.wait()

        await self.network.serve(handle, "simulated", 0)

    async def next(self) -> Peer:
        async with asyncio.timeout(100):
            return Peer(await self.arrived.get())


class Peer:
    """The server's side of one connection."""

    def __init__(self, end: End) -> None:
        self.end = end

    async def hear(self) -> Any:
        async with asyncio.timeout(100):
            return json.loads(await self.end.recv())

    async def hears(self, *messages: Any) -> None:
        assert [await self.hear() for _ in messages] == list(messages)

    async def say(self, *messages: Any) -> None:
        for message in messages:
            await self.end.send(json.dumps(message))

    async def begin(self, secret: str = "s") -> Peer:
        """Give a session to who asks for one."""
        await self.hears({"id": 0, "session": None})
        await self.say({"id": 0, "session": secret, "lifetime": 60, "done": True})
        return self

    async def go_on(self, last: int, heard: int, secret: str = "s") -> Peer:
        await self.hears({"id": 0, "session": secret, "last": last})
        await self.say({"id": 0, "session": secret, "heard": heard, "done": True})
        return self

    async def lose(self, secret: str = "another") -> Peer:
        """The session is lost, and there is another one."""
        await self.hear()
        answer = {"session": secret, "lifetime": 60, "lost": True}
        await self.say({"id": 0, **answer, "done": True})
        return self


FAST = Reconnect(first=1, most=1, dice=lambda: 1.0)


@asynccontextmanager
async def facing(
    monkeypatch: pytest.MonkeyPatch, rules: Reconnect = FAST, **options: Any
) -> AsyncIterator[tuple[GatewayClient, Door]]:
    """A client and the server that it has connected to; in the end, it has no question left."""
    door = Door()
    monkeypatch.setattr(client_module, "connect", door.network.connect)
    await door.open()
    named = {"timeout": 100} | options
    async with GatewayClient("ws://simulated/", reconnect=rules, **named) as client:
        yield client, door
        await asyncio.sleep(1)
        assert client._matching.questions == {}
    await asyncio.sleep(20)


async def watch(client: GatewayClient, seen: list[State]) -> None:
    async for state in client.states():
        seen.append(state)


def ask(awaitable: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(awaitable)


async def listed(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@simulated
async def test_the_states_of_a_connection(monkeypatch):
    seen: list[State] = []
    async with facing(monkeypatch) as (client, door):
        watching = ask(watch(client, seen))
        assert client.state is State.OPEN
        peer = await (await door.next()).begin()
        await asyncio.sleep(1)
        peer.end.abort()
        door.network.close(close_connections=False)
        await asyncio.sleep(0.001)
        assert (client.state, client.close_code) == (State.WAITING, 1006)
        await asyncio.sleep(5)
        await door.open()
        peer = await (await door.next()).go_on(0, 0)
        await asyncio.sleep(1)
        assert client.state is State.OPEN
    await watching
    assert client.state is State.CLOSED
    cycle = [State.WAITING, State.CONNECTING]
    assert seen == [State.OPEN, *cycle * (len(seen) // 2 - 1), State.OPEN, State.CLOSED]
    assert len(seen) > 7


@pytest.mark.parametrize("reconnect", [None, FAST], ids=["plain", "reconnect"])
@simulated
async def test_every_client_has_states(reconnect, monkeypatch):
    door = Door()
    monkeypatch.setattr(client_module, "connect", door.network.connect)
    client = GatewayClient("ws://simulated/", reconnect=reconnect, timeout=3)
    seen: list[State] = []
    watching = ask(watch(client, seen))
    await asyncio.sleep(0)
    await door.open()
    async with client:
        peer = await door.next()
        await peer.end.close(4000)
        await asyncio.sleep(1)
        assert client.state is State.CLOSED
    await watching
    assert seen == [State.CONNECTING, State.OPEN, State.CLOSED]


CODES = [1000, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 1014, 3000, 4000, 4001, 4999]


@pytest.mark.parametrize("code", [*sorted(AGAIN), *CODES])
@pytest.mark.parametrize("again", [AGAIN, {1000, 4000}], ids=["default", "own"])
@simulated
async def test_which_closes_are_final(code, again, monkeypatch):
    rules = Reconnect(first=1, most=1, again=again)
    async with facing(monkeypatch, rules) as (client, door):
        peer = await (await door.next()).begin()
        question = ask(client.request("e"))
        await peer.hear()
        if code == 1006:
            peer.end.abort()
        else:
            await peer.end.close(code)
        await asyncio.sleep(5)
        if code in again:
            peer = await (await door.next()).go_on(0, 1)
            await peer.say({"id": 1, "event": "e", "data": "well", "done": True})
            assert await question == "well"
        else:
            assert (client.state, client.close_code) == (State.CLOSED, code)
            with pytest.raises(MayHaveRun, match="it may have run"):
                await question
            with pytest.raises(ConnectionClosed):
                await client.emit("e")
            with pytest.raises(ConnectionClosed) as late:
                await client.request("e")
            assert not isinstance(late.value, MayHaveRun)


ERRORS = {
    "refused": (ConnectionRefusedError(), True),
    "reset": (ConnectionResetError(), True),
    "no time": (TimeoutError(), True),
    "cut": (InvalidMessage("no answer"), True),
    "400": (InvalidStatus(Response(400, "", Headers())), False),
    "404": (InvalidStatus(Response(404, "", Headers())), False),
    "426": (InvalidStatus(Response(426, "", Headers())), False),
    "500": (InvalidStatus(Response(500, "", Headers())), True),
    "503": (InvalidStatus(Response(503, "", Headers())), True),
    "another protocol": (InvalidUpgrade("Upgrade", "h2c"), False),
    "no such address": (InvalidURI("x", "no"), False),
}


@pytest.mark.parametrize("error, is_worth", ERRORS.values(), ids=ERRORS)
@simulated
async def test_which_handshakes_are_tried_again(error, is_worth, monkeypatch):
    door, tries = Door(), []

    async def connect(url: str, **options: Any) -> End:
        tries.append(url)
        if len(tries) < 4:
            raise error
        return await door.network.connect(url)

    await door.open()
    monkeypatch.setattr(client_module, "connect", connect)
    client = GatewayClient("ws://simulated/?a=1#top", reconnect=FAST)
    if is_worth:
        async with client:
            assert set(tries) == {f"ws://simulated/?a=1&{ANNOUNCEMENT}#top"}
    else:
        with pytest.raises(type(error)):
            await client.__aenter__()
        assert len(tries) == 1
    assert client.state is State.CLOSED


@simulated
async def test_the_first_connection_has_its_time(monkeypatch):
    monkeypatch.setattr(client_module, "connect", Door().network.connect)
    client = GatewayClient("ws://simulated/", reconnect=FAST, timeout=10)
    with pytest.raises(ConnectionRefusedError):
        await client.__aenter__()
    assert asyncio.get_running_loop().time() == pytest.approx(10)


@simulated
async def test_the_waits_double_and_begin_anew(monkeypatch):
    loop, tries = asyncio.get_running_loop(), []
    rules = Reconnect(first=1, most=8, well=10, dice=lambda: 1.0)
    async with facing(monkeypatch, rules) as (client, door):
        peer = await (await door.next()).begin()
        connect = door.network.connect

        async def refuse(url: str, **options: Any) -> End:
            tries.append(loop.time())
            if len(tries) % 6:
                raise ConnectionRefusedError
            return await connect(url)

        monkeypatch.setattr(door.network, "connect", refuse)
        client._matching._dialer._dial = lambda: refuse("ws://simulated/")
        for _ in range(2):
            await asyncio.sleep(20)
            lost = loop.time()
            peer.end.abort()
            peer = await (await door.next()).go_on(0, 0)
            waits = [after - before for before, after in pairwise([lost, *tries[-6:]])]
            assert waits == pytest.approx([1, 2, 4, 8, 8, 8])


@pytest.mark.parametrize("moment", ["waiting", "connecting", "asking"])
@simulated
async def test_leaving_at_any_moment(moment, monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        loop = ask(listed(aiter(client)))
        question = ask(client.request("e"))
        await peer.hear()
        peer.end.abort()
        await asyncio.sleep(0.5)
        assert client.state is State.WAITING
        meanwhile = ask(client.request("meanwhile"))
        if moment != "waiting":
            await asyncio.sleep(0.501)
            if moment == "asking":
                await (await door.next()).hear()
            assert client.state is State.CONNECTING
        await client.close()
        assert client.state is State.CLOSED
        assert await loop == []
        with pytest.raises(MayHaveRun):
            await question
        with pytest.raises(ConnectionClosed) as error:
            await meanwhile
        assert not isinstance(error.value, MayHaveRun)


# Questions


@simulated
async def test_what_was_heard_is_answered_and_what_was_not_is_sent_again(monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        questions = [ask(client.request("e", number)) for number in range(4)]
        await peer.hears(*({"id": n + 1, "event": "e", "data": n} for n in range(4)))
        await peer.say("news", {"id": 1, "event": "e", "data": "first", "done": True})
        assert await questions[0] == "first"
        peer.end.abort()
        peer = await (await door.next()).go_on(2, 2)
        await peer.hears({"id": 3, "event": "e", "data": 2}, {"id": 4, "event": "e", "data": 3})
        for number in (2, 4):
            await peer.say({"id": number, "event": "e", "data": number, "done": True})
        assert [await questions[1], await questions[3]] == [2, 4]
        peer.end.abort()
        peer = await (await door.next()).go_on(4, 3)  # of four: the two, and these two again
        await peer.say({"id": 3, "event": "e", "data": 3, "done": True})
        assert await questions[2] == 3
        assert client.gaps == 0


@simulated
async def test_a_lost_session_fails_what_was_sent_and_sends_what_was_not(monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        sent = [ask(client.request("e")), ask(listed(client.stream("e")))]
        for _ in sent:
            await peer.hear()
        peer.end.abort()
        await asyncio.sleep(0.1)
        waiting = ask(client.request("meanwhile"))
        peer = await (await door.next()).lose()
        for question in sent:
            with pytest.raises(MayHaveRun):
                await question
        message = await peer.hear()
        assert message["event"] == "meanwhile"
        await peer.say({"id": message["id"], "done": True})
        assert await waiting is None
        assert client.gaps == 1
        peer.end.abort()
        await (await door.next()).go_on(1, 1, "another")


@simulated
async def test_a_stream_goes_on_where_it_was(monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        items = ask(listed(client.stream("e")))
        await peer.hear()
        for number in range(3):
            await peer.say({"id": 1, "event": "e", "data": number})
            await asyncio.sleep(1)
            peer.end.abort()
            peer = await (await door.next()).go_on(number + 1, 1)
        await peer.say({"id": 1, "done": True})
        assert await items == [0, 1, 2]


@pytest.mark.parametrize("answer", [{"session": "another", "lost": True}, {"event": "exception"}])
@simulated
async def test_a_server_that_has_no_sessions_any_more(answer, monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        question = ask(client.request("e"))
        await peer.hear()
        peer.end.abort()
        peer = await door.next()
        await peer.hears({"id": 0, "session": "s", "last": 0})
        await peer.say({"event": "hello", "data": 1}, {"id": 0, **answer, "done": True})
        with pytest.raises(MayHaveRun):
            await question
        assert await anext(aiter(client)) == {"event": "hello", "data": 1}
        peer.end.abort()
        again = await door.next()
        asked = await again.hear()
        assert asked["session"] == answer.get("session")


@simulated
async def test_a_server_that_does_not_answer_is_tried_again(monkeypatch):
    """It may be a black hole: the session is not given up for that."""
    async with facing(monkeypatch, timeout=5) as (client, door):
        peer = await (await door.next()).begin()
        await asyncio.sleep(1)
        peer.end.abort()
        silent = await door.next()
        await silent.hear()
        await asyncio.sleep(7)
        assert silent.end.close_code == 1006
        await (await door.next()).go_on(0, 0)
        await asyncio.sleep(1)
        assert (client.state, client.gaps) == (State.OPEN, 0)


@simulated
async def test_without_an_answer_to_the_first_there_is_no_session(monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await door.next()
        await peer.hears({"id": 0, "session": None})
        question = ask(client.request("e", 1))
        await peer.hears({"id": 1, "event": "e", "data": 1})
        peer.end.abort()
        await asyncio.sleep(0.1)
        assert question.done() and client.state is State.WAITING
        with pytest.raises(MayHaveRun):
            await question
        await (await door.next()).begin()
        await asyncio.sleep(1)
        assert client.gaps == 1


@pytest.mark.parametrize("moment", ["open", "broken", "waiting", "connecting", "unsent"])
@simulated
async def test_what_is_given_up_is_cancelled_sooner_or_later(moment, monkeypatch):
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        await asyncio.sleep(1)
        if moment != "unsent":
            question = ask(client.request("e", 1))
            await peer.hear()
        if moment == "open":
            question.cancel()
            await peer.hears({"id": 1, "cancel": True})
        elif moment == "broken":  # and nobody knows yet
            peer.end._line.cut(10, 10)
            question.cancel()
            await asyncio.sleep(11)
        else:
            peer.end.abort()
            await asyncio.sleep(0.1)
            if moment == "unsent":
                question = ask(client.request("e", 1))
            if moment == "connecting":
                await asyncio.sleep(0.95)
                assert client.state is State.CONNECTING
            await asyncio.sleep(0)
            question.cancel()
        if moment != "open":
            peer = await (await door.next()).go_on(0, int(moment != "unsent"))
        while client.state is not State.OPEN:
            await asyncio.sleep(0.1)
        await client.emit("end")
        heard = []
        while (message := await peer.hear()) != {"event": "end"}:
            heard.append(message)
        cancels = (
            [{"id": 1, "cancel": True}] if moment in ("broken", "waiting", "connecting") else []
        )
        assert heard == cancels


@simulated
async def test_what_has_failed_is_not_sent_again(monkeypatch):
    """Its loop takes its time: it has not heard of it yet."""
    async with facing(monkeypatch) as (client, door):
        peer = await (await door.next()).begin()
        items = client.stream("e")
        first = ask(anext(items))
        await peer.hear()
        await peer.say({"id": 1, "event": "e", "data": "first"})
        assert await first == "first"
        peer.end.abort()
        peer = await (await door.next()).lose()
        await asyncio.sleep(1)
        peer.end.abort()
        peer = await (await door.next()).go_on(0, 0, "another")
        await asyncio.sleep(1)
        await client.emit("marker")
        await peer.hears({"event": "marker"})
        with pytest.raises(MayHaveRun):
            await anext(items)


def test_what_waits_to_be_sent_again_has_not_run():
    questions = {number: Question(wants_one=True) for number in (1, 2)}
    outbox = Outbox(questions)
    for number in questions:
        outbox.ask(str(number), number)
    outbox.go_on(heard=1)
    outbox.start_over(ConnectionResetError())
    assert list(outbox.waiting) == [("2", 2)]
    assert [question._replies.qsize() for question in questions.values()] == [1, 0]


def test_only_the_latest_cancels_are_remembered():
    outbox = Outbox({})
    for number in range(BACKLOG + 10):
        outbox.cancel(number)
    outbox.go_on(heard=0)
    assert outbox.dropped == list(range(10, BACKLOG + 10))


# What wants no reply


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("queue", [0, 1, 3])
@simulated
async def test_what_is_emitted_meanwhile_is_kept_or_refused(queue, is_noticed, monkeypatch):
    async with facing(monkeypatch, Reconnect(first=1, most=1, queue=queue)) as (client, door):
        peer = await (await door.next()).begin()
        await asyncio.sleep(1)
        client._matching.connection.abort()
        if is_noticed:
            await asyncio.sleep(0.001)
            assert client.state is State.WAITING
        for number in range(queue):
            await client.emit("e", number)
        with pytest.raises(NotSent, match="this is not sent"):
            await client.emit("e", queue)
        question = ask(client.request("question"))
        peer = await (await door.next()).go_on(0, 0)
        await peer.hears(*({"event": "e", "data": number} for number in range(queue)))
        await peer.hears({"id": 1, "event": "question"})
        await peer.say({"id": 1, "done": True})
        await question
        await client.emit("open again")
        await peer.hears({"event": "open again"})


# Without ids


@simulated
async def test_without_ids_there_is_no_session(monkeypatch):
    async with facing(monkeypatch, correlate=False) as (client, door):
        peer = await door.next()
        assert peer.end.request.path == "/"
        questions = [ask(client.request("e", number)) for number in range(2)]
        await peer.hears({"event": "e", "data": 0})
        peer.end.abort()
        with pytest.raises(MayHaveRun):
            await questions[0]
        peer = await door.next()
        await peer.hears({"event": "e", "data": 1})
        await peer.say("well")
        assert await questions[1] == "well"
        assert client.gaps == 1


@simulated
async def test_without_ids_giving_up_takes_another_connection(monkeypatch):
    async with facing(monkeypatch, correlate=False) as (client, door):
        peer = await door.next()
        with pytest.raises(TimeoutError):
            await client.request("e", 1, timeout=1)
        await peer.hears({"event": "e", "data": 1})
        assert peer.end.close_code == 1001
        question = ask(client.request("e", 2))
        peer = await door.next()
        await peer.hears({"event": "e", "data": 2})
        await peer.say("well")
        assert await question == "well"


# Over real sockets


async def test_a_real_nest(nothing_left):
    """It has no sessions: the client connects again, and says what it does not know."""
    if why := nest.why_not():
        missing(why)
    rules = Reconnect(first=0.05, most=0.05)
    async with (
        asyncio.timeout(30),
        nest.started("article") as port,
        Relay(port) as relay,
        GatewayClient(relay.url, correlate=False, reconnect=rules) as client,
    ):
        assert await client.request("events") == [1, 2, 3]
        relay.delay = 0.2
        question = ask(client.request("events"))
        await asyncio.sleep(0.05)
        relay.cut()
        with pytest.raises(MayHaveRun, match="it may have run"):
            await question
        relay.delay = 0
        assert await client.request("events") == [1, 2, 3]
        assert client.gaps >= 1


async def test_a_real_nest_that_is_started_again(nothing_left):
    """The process is killed, and another one takes its place behind the relay."""
    if why := nest.why_not():
        missing(why)
    rules = Reconnect(first=0.05, most=0.05)
    async with (
        asyncio.timeout(40),
        nest.running("article") as (process, port),
        Relay(port) as relay,
        GatewayClient(relay.url, correlate=False, reconnect=rules) as client,
    ):
        assert await client.request("events") == [1, 2, 3]
        relay.delay = 0.3
        question = ask(client.request("events"))
        await asyncio.sleep(0.05)
        nest.end(process)
        with pytest.raises(MayHaveRun, match="it may have run"):
            await question
        relay.delay = 0
        assert client.close_code == 1006 and client.state is not State.OPEN
        question = ask(client.request("events"))
        async with nest.started("article") as relay.target:
            assert await question == [1, 2, 3]
            assert client.gaps == 1


async def test_a_restart_loses_what_only_the_server_knew(nothing_left):
    rules = Reconnect(first=0.05, most=0.05)
    poll = {"question": "Tea?", "choices": ["yes", "no"]}
    async with asyncio.timeout(20):
        async with serving(PollGateway(), serve=Sessions()) as app:
            port = app.ports[0]
            client = GatewayClient(f"ws://127.0.0.1:{port}/poll", reconnect=rules)
            async with client:
                await client.request("open", poll)
                await client.request("vote", {"choice": 0, "key": "k", "question": "Tea?"})
                tally = client.stream("tally")
                assert (await anext(tally))["votes"] == [1, 0]
                await app.close(grace=0)
                again = create(PollGateway())
                await again.listen(port, serve=Sessions())
                with pytest.raises(MayHaveRun):
                    await anext(tally)
                assert client.gaps == 1
                assert (await client.request("tally"))["votes"] == []
                await again.close(grace=0)


async def test_a_vote_that_is_repeated_counts_once(nothing_left):
    """Without sessions, who does not know whether a vote has arrived sends it again."""
    rules = Reconnect(first=0.01, most=0.05)
    async with asyncio.timeout(20), serving(PollGateway()) as app, Relay(app.ports[0]) as relay:
        question = {"question": "Tea?", "choices": ["yes", "no"]}
        async with GatewayClient(f"ws://127.0.0.1:{app.ports[0]}/poll") as teacher:
            await teacher.request("open", question)

            async def learn(number: int) -> int:
                failed = 0
                vote = {"choice": number % 2, "key": f"key {number}", "question": "Tea?"}
                url = relay.url + "/poll"
                async with GatewayClient(url, reconnect=rules, timeout=20) as client:
                    for _ in range(10):
                        while True:
                            try:
                                await client.request("vote", vote)
                                break
                            except MayHaveRun:
                                failed += 1
                return failed

            learners = asyncio.gather(*(learn(number) for number in range(30)))
            for _ in range(10):
                await asyncio.sleep(0.03)
                relay.cut()
            assert sum(await learners) > 0
            assert (await teacher.request("tally"))["votes"] == [15, 15]
