"""The checks of chapter 04: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio

import pytest
from conftest import assert_hint
from nestling.gateway import WsException, subscribe_message, websocket_gateway


def adder(reply, refuse=True):
    """A gateway that adds, with one thing wrong."""

    @websocket_gateway()
    class Adder:
        @subscribe_message("add")
        def add(self, client, data):
            is_list = isinstance(data, list) and all(isinstance(n, int | float) for n in data)
            if refuse and not is_list:
                raise WsException("a list of numbers")
            return reply(data)

    return Adder


bare = adder(sum)
of_another_event = adder(lambda data: {"event": "add", "data": sum(data)})
without_zero = adder(lambda data: {"event": "sum", "data": sum(data)} if data else None)
in_integers = adder(lambda data: {"event": "sum", "data": int(sum(data))})
unchecked = adder(lambda data: {"event": "sum", "data": sum(data)}, refuse=False)
broken = adder(lambda data: data.total)


@websocket_gateway()
class WithTheWrongEvent:
    @subscribe_message("sum")
    def add(self, client, data):
        return {"event": "sum", "data": sum(data)}


class NoGateway:
    pass


def countdowns(end=0, counted=True, cleanly=True, own=False, named=True, every=0.01):
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
):
    """A room, with one thing wrong."""

    @websocket_gateway()
    class Room:
        def __init__(self):
            self.names = {}

        async def tell(self, client, event, data):
            everybody = self.server.clients if strangers else self.names
            for other in [one for one in everybody if echo or one is not client][:most]:
                await other.send({"event": event, "data": data})

        @subscribe_message("join")
        async def join(self, client, data):
            self.names[client] = data
            if not deaf:
                await self.tell(client, "joined", data)

        @subscribe_message("say")
        async def say(self, client, data):
            if not anybody and not careless and client not in self.names:
                raise WsException("join first")
            name = self.names[client] if careless else self.names.get(client)
            said = {"name": name, "text": data}
            await self.tell(client, "said", said)

        async def handle_disconnect(self, client, code):
            if farewell and (anybody or client in self.names):
                name = self.names[client] if keeps else self.names.pop(client, None)
                await self.tell(client, "left", name)

    return Room


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("04.1", bare, "an event of its own"),
        ("04.1", of_another_event, "an event of its own"),
        ("04.1", without_zero, "0 is a reply"),
        ("04.1", in_integers, "not whole"),
        ("04.1", unchecked, "a message of yours"),
        ("04.1", broken, r"(?s)AttributeError.*sent +.*\[1, 2, 3\].*expected.*received"),
        ("04.1", WithTheWrongEvent, r"\(no frame\)"),
        ("04.1", NoGateway, "put @websocket_gateway"),
        ("04.1", bare(), "without parentheses"),
        ("04.2", countdowns(end=1), "from the number down to 0"),
        ("04.2", countdowns(named=False), "from the number down to 0"),
        ("04.2", countdowns(every=0.001), r"asyncio.sleep\(0.01\)"),
        ("04.2", countdowns(counted=False), "count them in the gateway"),
        ("04.2", countdowns(own=True), "count them in the gateway"),
        ("04.2", countdowns(cleanly=False), "finally runs"),
        ("04.3", room(deaf=True), "she hears of it"),
        ("04.3", room(echo=True), "does not hear it himself"),
        ("04.3", room(anybody=True), "may not say anything"),
        ("04.3", room(farewell=False), "handle_disconnect"),
        ("04.3", room(most=1), "all who are there"),
        ("04.3", room(keeps=True), "still keeps her"),
        (
            "04.3",
            room(careless=True),
            r"(?s)may not say.*sent +.*let me in.*expected.*raised +KeyError",
        ),
        ("04.3", room(strangers=True), "who has not joined does not hear the others"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)
