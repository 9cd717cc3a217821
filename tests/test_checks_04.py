"""The checks of chapter 04: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from conftest import assert_hint
from nestling.gateway import WsException, subscribe_message, websocket_gateway
from workbench.checks import check


def adder(reply, refuse=True, text="a list of numbers"):
    """A gateway that adds, with one thing wrong."""

    @websocket_gateway()
    class Adder:
        @subscribe_message("add")
        def add(self, client, data):
            is_list = isinstance(data, list) and all(isinstance(n, int | float) for n in data)
            if refuse and not is_list:
                raise WsException(text)
            return reply(data)

    return Adder


bare = adder(sum)
of_another_event = adder(lambda data: {"event": "add", "data": sum(data)})
without_zero = adder(lambda data: {"event": "sum", "data": sum(data)} if data else None)
in_integers = adder(lambda data: {"event": "sum", "data": int(sum(data))})
unchecked = adder(lambda data: {"event": "sum", "data": sum(data)}, refuse=False)
broken = adder(lambda data: data.total)
silent = adder(lambda data: None)
in_words = adder(lambda data: {"event": "sum", "data": str(sum(data))})
with_booleans = adder(lambda data: {"event": "sum", "data": sum(data)})
wordless = adder(lambda data: {"event": "sum", "data": sum(data)}, text="")


@websocket_gateway()
class WithTheWrongEvent:
    @subscribe_message("sum")
    def add(self, client, data):
        return {"event": "sum", "data": sum(data)}


@websocket_gateway()
class ResetBySomebody:
    """Who leaves ends everybody's countdown."""

    def __init__(self):
        self.count = 0

    @subscribe_message("countdown")
    async def countdown(self, client, data):
        self.count += 1
        for left in range(data, -1, -1):
            yield {"event": "countdown", "data": left}
            await asyncio.sleep(0.01)
        self.count -= 1

    @subscribe_message("running")
    def running(self, client, data):
        return {"event": "running", "data": self.count}

    def handle_disconnect(self, client, code):
        self.count = 0


@websocket_gateway()
class ByName:
    """A room of names, of which each is somebody once."""

    def __init__(self):
        self.clients = {}

    async def tell(self, client, event, data):
        for other in list(self.clients.values()):
            if other is not client:
                await other.send({"event": event, "data": data})

    def name_of(self, client):
        return next((name for name, it in self.clients.items() if it is client), None)

    @subscribe_message("join")
    async def join(self, client, data):
        self.clients[data] = client
        await self.tell(client, "joined", data)

    @subscribe_message("say")
    async def say(self, client, data):
        if not (name := self.name_of(client)):
            raise WsException("join first")
        await self.tell(client, "said", {"name": name, "text": data})

    async def handle_disconnect(self, client, code):
        if name := self.name_of(client):
            del self.clients[name]
            await self.tell(client, "left", name)


class NoGateway:
    pass


def countdowns(
    end=0, counted=True, cleanly=True, own=False, named=True, every=0.01, blocking=False
):
    """A gateway that counts down, with one thing wrong."""

    @websocket_gateway()
    class Countdowns:
        def __init__(self):
            self.running = {}

        @subscribe_message("countdown")
        async def countdown(self, client, data):
            self.running[client] = self.running.get(client, 0) + counted
            try:
                for left in range(data, end - 1, -1):
                    yield {"event": "countdown", "data": left} if named else left
                    if blocking:
                        time.sleep(every)
                    else:
                        await asyncio.sleep(every)
                if not cleanly:
                    self.running[client] -= 1
            finally:
                if cleanly:
                    self.running[client] -= counted

        @subscribe_message("running")
        def count(self, client, data):
            mine = self.running.get(client, 0)
            return {"event": "running", "data": mine if own else sum(self.running.values())}

    return Countdowns


def room(
    echo=False,
    strangers=False,
    deaf=False,
    farewell=True,
    anybody=False,
    most=9,
    keeps=False,
    careless=False,
    listed=True,
    as_text=False,
    awaited=True,
    late=False,
):
    """A room, with one thing wrong."""

    @websocket_gateway()
    class Room:
        def __init__(self):
            self.names = {}

        async def tell(self, client, event, data):
            everybody = self.server.clients if strangers else self.names
            value = {"event": event, "data": data}
            others = (one for one in everybody if echo or one is not client)
            for other in list(others)[:most] if listed else others:
                sending = other.send(json.dumps(value) if as_text else value)
                if awaited:
                    await sending

        @subscribe_message("join")
        async def join(self, client, data):
            if not late:
                self.names[client] = data
            if not deaf:
                await self.tell(client, "joined", data)
            self.names[client] = data

        @subscribe_message("say")
        async def say(self, client, data):
            if not anybody and careless is not True and client not in self.names:
                raise WsException("join first")
            name = self.names[client] if careless is True else self.names.get(client)
            said = {"name": name, "text": data}
            await self.tell(client, "said", said)

        async def handle_disconnect(self, client, code):
            if farewell and (anybody or careless == "at the end" or client in self.names):
                found = self.names.get if anybody else self.names.__getitem__
                name = found(client)
                if not keeps:
                    self.names.pop(client, None)
                await self.tell(client, "left", name)

    return Room


@websocket_gateway()
class Sleepy(room()):
    @subscribe_message("say")
    def say(self, client, data):
        time.sleep(4)


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("04.1", bare, "an event of its own"),
        ("04.1", of_another_event, "an event of its own"),
        ("04.1", without_zero, "0 is a reply"),
        ("04.1", in_integers, "not whole"),
        ("04.1", unchecked, "a message of yours"),
        ("04.1", broken, r"(?s)AttributeError.*sent +.*\[1, 2, 3\].*expected.*received"),
        ("04.1", WithTheWrongEvent, r"(?s)subscribed to 'add'.*received +\(no frame\)$"),
        ("04.1", silent, "return its reply"),
        ("04.1", in_words, "the data is a number, 6, and not a text"),
        ("04.1", with_booleans, "true is no number"),
        ("04.1", wordless, "give the WsException a text"),
        ("04.1", NoGateway, "put @websocket_gateway"),
        ("04.1", bare(), "without parentheses"),
        ("04.2", countdowns(end=1), "from the number down to 0"),
        ("04.2", countdowns(named=False), "from the number down to 0"),
        ("04.2", countdowns(every=0.001), r"asyncio.sleep\(0.01\)"),
        ("04.2", countdowns(every=0.1), "it ends 10 ms after its 0"),
        ("04.2", ResetBySomebody, "somebody else has left, and both go on"),
        ("04.2", countdowns(blocking=True), "the loop stands still meanwhile, for everybody"),
        ("04.2", countdowns(counted=False), "count them in the gateway"),
        ("04.2", countdowns(own=True), "count them in the gateway"),
        ("04.2", countdowns(cleanly=False), "finally runs"),
        ("04.3", room(deaf=True), "she hears of it"),
        ("04.3", room(echo=True), "does not hear it himself"),
        ("04.3", room(anybody=True), "may not say anything"),
        ("04.3", room(farewell=False), r"(?s)handle_disconnect.*sent +\(Carol leaves\)"),
        ("04.3", room(most=1), "all who are there"),
        ("04.3", room(keeps=True), "still keeps her"),
        (
            "04.3",
            room(careless=True),
            r"(?s)may not say.*sent +.*let me in.*expected.*raised +KeyError",
        ),
        (
            "04.3",
            room(careless="at the end"),
            r"(?s)sent +\(a client that never joined leaves\).*received +KeyError",
        ),
        ("04.3", room(late=True), "from the first await on"),
        ("04.3", ByName, "two may have the same name"),
        ("04.3", Sleepy, "stopped the whole kernel"),
        ("04.3", room(listed=False), "make a list first"),
        ("04.3", room(as_text=True), "client.send makes JSON of a value"),
        (
            "04.3",
            room(awaited=False),
            "await is missing: coroutine 'Client.send' was never awaited",
        ),
        ("04.3", room(strangers=True), "who has not joined does not hear the others"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)


async def test_a_stub_says_which_method_is_still_to_be_written():
    @websocket_gateway()
    class Half:
        @subscribe_message("running")
        def running(self, client, data):
            return {"event": "running", "data": 0}

        @subscribe_message("countdown")
        async def countdown(self, client, data):
            raise NotImplementedError

    verdict = await check("04.2", Half)
    assert verdict.passed is None
    assert verdict.text.endswith("raise NotImplementedError is still there, in countdown")
