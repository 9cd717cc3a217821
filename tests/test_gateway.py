"""Gateways on the wire: what a Nest gateway does, and what ours does better.

The tests `test_nest_<number>` are the list of what Nest's own tests hold a gateway to; those
about ports and paths are in test_application.py.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from collections import defaultdict, deque
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import until
from gateways import (
    CORRELATED,
    FULL,
    INTERNAL,
    ITEM,
    ITEMS,
    LEAVING,
    MOMENTS,
    SILENT,
    TEXTS,
    TIMEOUT,
    UNDERSTOOD,
    UNSENDABLE,
    VALUES,
    WAYS,
    Echo,
    Gates,
    Hooked,
    Talk,
    asking,
    asking_only,
    at_rest,
    done,
    error_frame,
    fill,
    items_and_an_end,
    later,
    leave_abruptly,
    leave_politely,
    narrow,
    raising,
    serving,
    stream,
    talk,
)
from nestling import answers, dispatch
from nestling.application import create
from nestling.conversation import HELD, IN_A_ROW, IN_FLIGHT
from nestling.envelope import parse
from nestling.events import EventsGateway
from nestling.frames import Frame, Opcode, encode, new_mask
from nestling.gateway import (
    GatewayServer,
    WsException,
    subscribe_message,
    websocket_gateway,
)
from nestling.poll import PollGateway

pytestmark = pytest.mark.usefixtures("nothing_left")

# In


@pytest.mark.parametrize("message", SILENT.values(), ids=SILENT)
async def test_what_cannot_be_understood_is_answered_with_silence(message, caplog):
    """Nest says nothing to anyone; we count it, and log it where a learner can look."""
    caplog.set_level(logging.INFO, "nestling.gateway")
    echo = Echo()
    async with serving(echo) as app, talk(app) as client:
        await client.send(message)
        await client.say("echo", "good")
        assert await client.hear() == "good"
        assert echo.server.ignored == 1
    said = [(r.name, r.levelname) for r in caplog.records if r.name == "nestling.gateway"]
    assert said == [("nestling.gateway", "INFO")]


@pytest.mark.parametrize(
    "message, why",
    [
        ("hello", "ignored: no JSON: "),
        ('{"event":"echo","data":NaN}', "NaN is not JSON"),
        ("[]", "ignored: no object: '[]'"),
        ('{"event":"ecko"}', 'ignored: There is no such event: \'{"event":"ecko"}\''),
        ('["%s"]' % ("x" * 500), " (504 in all)"),
    ],
)
async def test_the_log_says_why_and_shows_the_message(message, why, caplog):
    caplog.set_level(logging.INFO, "nestling.gateway")
    async with serving(Echo()) as app, talk(app) as client:
        await client.send(message)
        await client.hears_no_more()
    (line,) = [r.getMessage() for r in caplog.records if r.name == "nestling.gateway"]
    assert why in line
    assert len(line) < 200


@pytest.mark.parametrize("message, answer", UNDERSTOOD.values(), ids=UNDERSTOOD)
async def test_what_is_understood(message, answer):
    async with serving(Echo()) as app, talk(app) as client:
        await client.send(message)
        await client.hears(answer)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_text_or_binary_fragmented_or_not(binary, pieces):
    message = '{"event":"echo","data":"Grüße ☃"}'.encode()
    size = -(-len(message) // pieces)
    payloads = [message[start : start + size] for start in range(0, len(message), size)]
    first = Opcode.BINARY if binary else Opcode.TEXT
    async with serving(Echo()) as app, talk(app) as client:
        for number, payload in enumerate(payloads):
            opcode = first if number == 0 else Opcode.CONTINUATION
            frame = Frame(opcode, payload, fin=number == len(payloads) - 1, mask=new_mask())
            client.connection.transport.write(encode(frame))
        await client.hears("Grüße ☃")


@pytest.mark.parametrize("event", ["", "*", "ask", "Ask", " ask", "é☃", "__proto__", "constructor"])
async def test_any_string_is_an_event_and_is_compared_exactly(event):
    @websocket_gateway()
    class Named(Echo):
        @subscribe_message(event)
        def ask(self, client, data):
            return ["asked", data]

    async with serving(Named()) as app, talk(app) as client:
        for other in {"", "*", "ask", "Ask", " ask", "é☃"} - {event}:
            await client.say(other, 1)
        await client.say(event, 2)
        await client.hears(["asked", 2])


async def test_of_two_methods_for_one_event_the_last_wins():
    @websocket_gateway()
    class Twice(Echo):
        @subscribe_message("ask")
        def zero(self, client, data):
            return "first"

        @subscribe_message("ask")
        def again(self, client, data):
            return "last"

    async with serving(Twice()) as app, talk(app) as client:
        await client.say("ask")
        await client.hears("last")


async def test_a_subclass_has_the_handlers_of_its_base_and_may_replace_them():
    @websocket_gateway()
    class Base(Echo):
        @subscribe_message("ask")
        def ask(self, client, data):
            return "base"

        @subscribe_message("other")
        def other(self, client, data):
            return "base, too"

    @websocket_gateway()
    class Derived(Base):
        @subscribe_message("ask")
        def ask(self, client, data):
            return "derived"

        @subscribe_message("echo")
        def under_another_name(self, client, data):
            return ["derived", data]

    async with serving(Derived()) as app, talk(app) as client:
        for event in "ask", "other", "echo":
            await client.say(event, 1)
        heard = [await client.hear() for _ in range(3)]
    assert heard == ["derived", "base, too", ["derived", 1]]


async def test_a_method_for_two_events():
    @websocket_gateway()
    class Two(Echo):
        @subscribe_message("one")
        @subscribe_message("two")
        def both(self, client, data, event):
            return event

    async with serving(Two()) as app, talk(app) as client:
        await client.say("two")
        await client.say("one")
        await client.hears("two", "one")


async def test_an_event_of_several_gateways_is_answered_by_each():
    first = asking(lambda self, client, data: ["first", data])
    second = asking(lambda self, client, data: ["second", data])
    async with serving(first, second) as app, talk(app) as client:
        await client.say("ask", 1)
        assert [await client.hear(), await client.hear()] == [["first", 1], ["second", 1]]


@pytest.mark.parametrize("data", [(), (None,), (0,), ([],)], ids=["none", "null", "0", "[]"])
async def test_data_that_are_missing_are_none(data):
    gateway = asking(lambda self, client, data: [data])
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask", *data)
        await client.hears([*data] or [None])


# Out


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_value_is_sent_bare_however_it_is_given(way):
    values = iter(VALUES.values())
    gateway = asking(lambda self, client, data: way(next(values)))
    async with serving(gateway) as app, talk(app) as client:
        for value in VALUES.values():
            await client.say("ask")
            heard = await client.hear()
            assert heard == value and type(heard) is type(value)
        await client.hears_no_more()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_nothing_is_no_frame(way):
    gateway = asking(lambda self, client, data: way(None))
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask", 1)
        await client.pong()
        await client.hears_no_more()


@pytest.mark.parametrize("value, text", TEXTS)
async def test_the_spelling_of_json(value, text):
    gateway = asking(lambda self, client, data: value)
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask")
        assert await client.text() == text
        await client.hears_no_more()


@pytest.mark.parametrize(
    "data, text",
    [
        (r'"\ud800"', r'"\ud800"'),
        (r'"\ud83d\ude00"', '"\U0001f600"'),
        ("9007199254740993", "9007199254740993"),
        ("1e999", "null"),
        ('{"b":1,"a":2}', '{"b":1,"a":2}'),
    ],
)
async def test_what_was_sent_comes_back(data, text):
    """Integers beyond 2^53 are kept, which Nest rounds."""
    async with serving(Echo()) as app, talk(app) as client:
        await client.send(f'{{"event":"echo","data":{data}}}')
        assert await client.text() == text


async def test_one_item_that_is_an_array_is_one_frame():
    gateway = asking(lambda self, client, data: stream([1, 2, 3]))
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask")
        await client.hears([1, 2, 3])


async def test_items_are_sent_as_they_come():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("count")
        await client.hears_no_more()
        for number in range(3):
            gates.gates[number].set()
            await client.hears(number)


async def test_a_stream_without_items_is_no_frame():
    gateway = asking(lambda self, client, data: stream())
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask")
        await client.pong()
        await client.hears_no_more()


@LEAVING
async def test_an_endless_stream_is_closed_when_its_client_goes(leave):
    gates = Gates()
    async with serving(gates) as app:
        before = asyncio.all_tasks()
        async with talk(app) as client:
            gates.gates[0].set()
            await client.say("count", "mine")
            assert await client.hear() == 0
            assert gates.ended == []
            await leave(client)
            await until(lambda: gates.ended == ["mine"])
        await until(lambda: asyncio.all_tasks() == before)


@LEAVING
async def test_a_stream_that_waits_for_nothing_is_closed_when_its_client_goes(leave):
    """And holds up nobody: that sending to a client that has gone does nothing is no licence."""
    last, ended = 50_000, []

    async def ask(self, client, data):
        given = 0
        try:
            while given < last:
                given += 1
                yield "x" * 1000
        finally:
            ended.append(given)

    async with serving(asking(ask)) as app, talk(app) as client, talk(app) as other:
        await client.say("ask", 1)
        assert await client.hear() == "x" * 1000
        await other.hears_no_more()
        await leave(client)
        await until(lambda: len(ended) == 1)
    assert ended[0] < last


async def test_a_handler_that_sends_to_a_client_that_has_gone_lets_others_be_served():
    last, sent = 20_000, []

    async def ask(self, client, data):
        for number in range(last):
            await client.send("x" * 1000)
            sent.append(number)

    async with serving(asking(ask)) as app, talk(app) as client, talk(app) as other:
        await client.say("ask", 1)
        assert await client.hear() == "x" * 1000
        await leave_abruptly(client)
        await other.hears_no_more()
        assert len(sent) < last
        await until(lambda: len(sent) == last)


async def test_a_stream_may_wait_while_it_is_closed():
    release, ended = asyncio.Event(), []

    async def ask(self, client, data):
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await release.wait()
            ended.append(data)

    async with serving(asking(ask)) as app:
        before = asyncio.all_tasks()
        async with talk(app) as client:
            await client.say("ask", "mine")
            assert await client.hear() == 1
        await asyncio.sleep(0.01)
        assert ended == []
        release.set()
        await until(lambda: asyncio.all_tasks() == before)
    assert ended == ["mine"]


# Order


async def test_slow_a_slow_b_fast_c_answer_c_b_a():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("pass", "A")
        await client.say("pass", "B")
        await client.say("echo", "C")
        assert await client.hear() == "C"
        gates.gates["B"].set()
        assert await client.hear() == "B"
        gates.gates["A"].set()
        await client.hears("A")
    assert gates.begun == ["A", "B"]


async def test_a_slow_handler_of_one_client_holds_up_no_other():
    gates = Gates()
    async with serving(gates) as app, talk(app) as one, talk(app) as other:
        await one.say("pass", "A")
        await until(lambda: gates.begun == ["A"])
        await other.hears_no_more()
        gates.gates["A"].set()
        await one.hears("A")


async def test_handlers_that_finish_at_once_keep_their_order():
    @websocket_gateway()
    class Mixed(Echo):
        @subscribe_message("coroutine")
        async def coroutine(self, client, data):
            return data

        @subscribe_message("stream")
        async def stream(self, client, data):
            yield data

        @subscribe_message("error")
        def error(self, client, data):
            raise WsException({"n": data})

    kinds = ["echo", "coroutine", "stream", "error", "coroutine", "echo"] * 50
    async with serving(Mixed()) as app, talk(app) as client:
        for number, kind in enumerate(kinds):
            await client.say(kind, number)
        heard = [await client.hear() for _ in kinds]
    numbers = [frame if type(frame) is int else frame["data"]["n"] for frame in heard]
    assert numbers == list(range(len(kinds)))


async def test_handlers_begin_in_the_order_of_their_messages():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        for number in range(IN_FLIGHT):
            await client.say("pass", number)
        await until(lambda: len(gates.begun) == IN_FLIGHT)
        assert gates.begun == list(range(IN_FLIGHT))
        for number in reversed(range(IN_FLIGHT)):
            gates.gates[number].set()
            assert await client.hear() == number


async def test_two_streams_interleave():
    turns = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def ask(self, client, data):
        for number in range(3):
            await turns[data].wait()
            turns[data].clear()
            yield [data, number]

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", "a")
        await client.say("ask", "b")
        heard = []
        for name in "abbaba":
            turns[name].set()
            heard.append(await client.hear())
        assert heard == [["a", 0], ["b", 0], ["b", 1], ["a", 1], ["b", 2], ["a", 2]]
        await client.hears_no_more()


@LEAVING
async def test_a_handler_goes_on_after_the_close_and_its_reply_is_dropped(leave, caplog):
    gates = Gates()
    async with serving(gates) as app:
        before = asyncio.all_tasks()
        async with talk(app) as client:
            await client.say("pass", "A")
            await client.say("pass", "B", id=1)
            await until(lambda: gates.begun == ["A", "B"])
            await leave(client)
            await until(lambda: not gates.server.clients)
            assert gates.ended == []
            gates.gates["A"].set()
            gates.gates["B"].set()
            await until(lambda: sorted(gates.ended) == ["A", "B"])
        await until(lambda: asyncio.all_tasks() == before)
    assert [r for r in caplog.records if r.name == "nestling.gateway"] == []


async def test_a_message_that_was_sent_before_the_close_is_handled():
    gates = Gates()
    async with serving(gates) as app:
        async with talk(app) as client:
            for number in range(10):
                await client.say("pass", number)
        await until(lambda: gates.begun == list(range(10)))


# At most 256 messages in flight


def test_256_is_the_bound():
    assert IN_FLIGHT == 256


@pytest.mark.parametrize("event", ["echo", "pass", "count"])
async def test_the_257th_message_is_refused_until_one_ends(event):
    """Nest has no such bound."""
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await fill(client, gates)
        await client.say(event, "257th")
        assert await client.hear() == error_frame(FULL, event, data="257th")
        await client.say(event, "257th", id=7)
        assert await client.hear() == done(**error_frame(FULL, event, data="257th"))
        assert "257th" not in gates.begun
        gates.gates[9].set()
        assert await client.hear() == 9
        gates.gates["258th"].set()
        await client.say("pass", "258th")
        await client.hears("258th")


async def test_a_stream_counts_as_one_however_many_items_it_has_given():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await fill(client, gates, "count", ids=True)
        gates.gates[0].set()
        heard = [await client.hear() for _ in range(IN_FLIGHT)]
        assert {frame["data"] for frame in heard} == {0}
        await client.say("echo", "257th")
        assert await client.hear() == error_frame(FULL, "echo", data="257th")
        await client.cancel(5)
        assert await client.hear() == {"id": 5, "done": True}
        await client.hears_no_more()


async def test_what_need_not_wait_is_never_refused_however_much_of_it_comes_at_once():
    """Even where all but one of the places are taken."""
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        for number in range(IN_FLIGHT - 1):
            await client.say("pass", number)
        await until(lambda: len(gates.begun) == IN_FLIGHT - 1)
        message = '{"event":"echo","data":%d}'
        frames = [
            encode(Frame(Opcode.TEXT, (message % n).encode(), mask=new_mask())) for n in range(2000)
        ]
        client.connection.transport.write(b"".join(frames))
        assert [await client.hear() for _ in frames] == list(range(len(frames)))


async def test_the_bound_is_each_clients_own():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client, talk(app) as other:
        await fill(client, gates)
        await client.say("echo", "257th")
        assert (await client.hear())["event"] == "exception"
        await other.hears_no_more()


async def test_a_message_of_two_gateways_is_one_in_flight():
    first, second = Gates(), Gates()
    async with serving(first, second) as app, talk(app) as client:
        await fill(client, first)
        await until(lambda: len(second.begun) == IN_FLIGHT)
        first.gates[0].set()
        assert await client.hear() == 0
        await client.say("pass", "too early")
        assert (await client.hear())["data"]["message"] == FULL
        second.gates[0].set()
        assert await client.hear() == 0
        await client.say("pass", "late enough")
        await until(lambda: first.begun[-1] == second.begun[-1] == "late enough")


async def test_what_is_in_flight_is_bounded_in_characters_too():
    """So that a few clients with large messages and slow handlers cannot take all memory."""
    gates = Gates()
    large = "x" * 1_000_000
    async with serving(gates) as app, talk(app) as client:
        for number in range(HELD // len(large) + 1):
            await client.send(json.dumps({"event": "pass", "data": number, "more": large}))
        await until(lambda: len(gates.begun) == number + 1)
        await client.say("pass", "too much")
        assert (await client.hear())["data"]["message"] == FULL
        gates.gates[0].set()
        assert await client.hear() == 0
        await client.hears_no_more()


async def test_a_reply_that_waits_for_its_client_to_read_is_not_in_flight():
    """A client that asks a thousand times before it reads is refused nothing."""
    gateway = asking(lambda self, client, data: [data, ITEM[:100_000]])
    async with serving(gateway) as app, narrow(app) as client:
        for number in range(1_000):
            await client.say("ask", number)
        heard = [(await client.hear())[0] for _ in range(1_000)]
        assert heard == list(range(1_000))


@pytest.mark.parametrize("full", [True, False], ids=["full", "not full"])
async def test_cancels_pings_and_closes_are_noticed_whatever_is_in_flight(full):
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await fill(client, gates, "count", ids=True)
        if full:
            for number in range(100):
                await client.say("pass", number)
                assert (await client.hear())["data"]["message"] == FULL
        for number in range(IN_FLIGHT):
            await client.cancel(number)
        heard = [await client.hear() for _ in range(IN_FLIGHT)]
        assert heard == [{"id": number, "done": True} for number in range(IN_FLIGHT)]
        assert len(gates.ended) == IN_FLIGHT
        await client.hears_no_more()


@LEAVING
@pytest.mark.parametrize("event", ["pass", "count"])
async def test_a_client_that_leaves_with_all_places_taken_leaves_no_task(event, leave):
    gates = Gates()
    async with serving(gates) as app:
        before = asyncio.all_tasks()
        async with talk(app) as client:
            await fill(client, gates, event)
            for _ in range(20):
                await client.say("pass", "too much")
            await client.pong()
            await leave(client)
            await until(lambda: not gates.server.clients)
            for number in range(IN_FLIGHT if event == "pass" else 0):
                gates.gates[number].set()
            await until(lambda: len(gates.ended) == IN_FLIGHT)
        await until(lambda: asyncio.all_tasks() == before)
        assert "too much" not in gates.begun
        async with talk(app) as again:
            await again.hears_no_more()


# Backpressure


async def test_a_stream_waits_while_its_client_does_not_read():
    given = []

    async def ask(self, client, data):
        for number in range(ITEMS):
            given.append(number)
            yield ITEM

    async with serving(asking(ask)) as app, narrow(app) as client, talk(app) as other:
        await client.say("ask")
        assert await at_rest(given) < ITEMS
        await other.hears_no_more()
        for _ in range(ITEMS):
            assert await client.hear() == ITEM
        await client.hears_no_more()
    assert len(given) == ITEMS


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["plain", "coroutine"])
async def test_a_client_that_only_sends_is_read_no_further(is_coroutine):
    asked = []

    def plain(self, client, data):
        asked.append(data)
        return ITEM

    async def coroutine(self, client, data):
        return plain(self, client, data)

    many = 3 * ITEMS
    gateway = asking(coroutine if is_coroutine else plain)
    async with serving(gateway) as app, narrow(app) as client:
        for number in range(many):
            await client.say("ask", number)
        assert await at_rest(asked) < many
        for _ in range(many):
            assert await client.hear() == ITEM
        await client.hears_no_more()
    assert sorted(asked) == list(range(many))


async def test_a_client_that_does_not_read_and_leaves_has_its_stream_closed():
    given, ask = items_and_an_end()
    async with serving(asking(ask)) as app, narrow(app) as client:
        await client.say("ask")
        await at_rest(given)
        client.connection.transport.abort()
        await until(lambda: given[-1] == "end")
    assert len(given) < 1_000


async def test_small_replies_that_are_not_read_are_bounded_in_number():
    """Each waits in a task of its own, which is more than its bytes."""
    gateway = asking(lambda self, client, data: ITEM if data == "large" else data)
    async with serving(gateway) as app, narrow(app) as client:
        large = 0
        while not gateway.server.tasks:
            await client.say("ask", "large")
            large += 1
            await asyncio.sleep(0.05)
        for number in range(3_000):
            await client.say("ask", number)
        await asyncio.sleep(0.5)
        assert answers.SENDS <= len(gateway.server.tasks) <= answers.SENDS + 2 * IN_A_ROW
        for _ in range(large):
            assert await client.hear() == ITEM
        assert [await client.hear() for _ in range(3_000)] == list(range(3_000))


async def test_of_two_gateways_exactly_one_is_done_for_a_client_that_reads_late():
    """Which is the last is known before it is sent, and sending may take long."""
    one = asking(lambda self, client, data: ITEM)
    two = asking_only(lambda self, client, data: ITEM)
    async with serving(one, two) as app, narrow(app) as client:
        for number in range(20):
            await client.say("ask", id=number)
        await asyncio.sleep(0.1)
        ends: dict[int, list[bool]] = defaultdict(list)
        for _ in range(40):
            frame = await client.hear()
            ends[frame["id"]].append("done" in frame)
    assert list(ends.values()) == [[False, True]] * 20


async def test_a_close_of_a_client_that_does_not_read_ends(monkeypatch):
    monkeypatch.setattr(answers, "PATIENCE", 0.2)
    given, ask = items_and_an_end()
    gateway = asking(ask)
    async with serving(gateway) as app, narrow(app) as client:
        await client.say("ask")
        await at_rest(given)
        (connected,) = gateway.server.clients
        async with asyncio.timeout(TIMEOUT):
            await connected.close(4000)
        await until(lambda: given[-1] == "end" and not gateway.server.clients)


def test_a_client_has_ten_seconds_to_answer_a_close():
    assert answers.PATIENCE == 10


# Errors


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "error, data, logged",
    [
        (WsException("no such room"), "no such room", 0),
        (WsException(""), "", 0),
        (ValueError("secret"), INTERNAL, 1),
        (TimeoutError(), INTERNAL, 1),
        (ExceptionGroup("two", [ValueError(), WsException("told")]), INTERNAL, 1),
        (asyncio.CancelledError(), INTERNAL, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_nest_10_the_exception_frame(moment, error, data, logged, caplog):
    """And 19: an error is reported once. Nest 9 to 11 sent no exception frame at all."""
    async with serving(asking(raising(moment, error))) as app, talk(app) as client:
        await client.say("ask", {"a": 1})
        await client.hears(*MOMENTS[moment], error_frame(data, data={"a": 1}))
    records = [r for r in caplog.records if r.name == "nestling.gateway"]
    assert [r.exc_info[1] for r in records] == [error] * logged
    assert all(r.levelname == "ERROR" for r in records)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error", [{"code": 7, "why": ["a"]}, {}, [1], []])
async def test_an_exception_of_an_object_is_that_object(moment, error):
    async with serving(asking(raising(moment, WsException(error)))) as app, talk(app) as client:
        await client.say("ask", 1)
        await client.hears(*MOMENTS[moment], {"event": "exception", "data": error})


@pytest.mark.parametrize("error", [5, 0, False, None])
async def test_an_exception_of_anything_else_is_its_message(error):
    """Seen with Nest 12: only an object or an array takes the place of the whole data."""
    async with serving(asking(raising("plain", WsException(error)))) as app, talk(app) as client:
        await client.say("ask", 1)
        await client.hears(error_frame(error, data=1))


@pytest.mark.parametrize("data", [(), (None,), (0,), ("",), ({"event": "x"},)])
async def test_the_cause_has_data_where_the_message_has(data):
    async with serving(asking(raising("plain", WsException("no")))) as app, talk(app) as client:
        await client.say("ask", *data, more="ignored")
        await client.hears(error_frame("no", **dict(zip(["data"], data, strict=False))))


async def test_the_cause_names_the_event_as_it_was_sent():
    async with serving(asking(raising("plain", WsException("no")))) as app, talk(app) as client:
        await client.send('{"event":"a\\u0073k"}')
        await client.hears(error_frame("no", pattern="ask"))


async def test_what_an_awaited_task_raises_when_it_is_cancelled_is_an_error():
    async def ask(self, client, data):
        task = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(error_frame(INTERNAL))


async def test_an_error_of_one_of_two_gateways_is_only_its_own():
    bad, good = asking(raising("plain", WsException("no"))), asking(lambda self, client, data: 5)
    async with serving(bad, good) as app, talk(app) as client:
        await client.say("ask")
        assert [await client.hear(), await client.hear()] == [error_frame("no"), 5]


# Hooks


class AsyncHooked(Hooked):
    """The same, in coroutines."""

    async def after_init(self, server):
        await asyncio.sleep(0)
        super().after_init(server)

    async def handle_connection(self, client, request):
        await asyncio.sleep(0)
        super().handle_connection(client, request)

    async def handle_disconnect(self, client, code):
        await asyncio.sleep(0)
        super().handle_disconnect(client, code)


@pytest.mark.parametrize("kind", [Hooked, AsyncHooked], ids=["plain", "coroutines"])
async def test_hooks_are_called_by_name(kind):
    gateway = kind()
    async with serving(gateway) as app:
        server = gateway.server
        assert gateway.called == [("init", server, server)]
        assert server.clients == frozenset()
        async with talk(app, "/?name=eva") as client:
            await client.hears_no_more()
            (connected,) = server.clients
            await client.connection.close(4321, "bye")
        await until(lambda: len(gateway.called) == 3)
        assert server.clients == frozenset()
    host = f"127.0.0.1:{client.connection.remote_address[1]}"
    assert gateway.called[1:] == [
        ("connect", connected, "/?name=eva", host),
        ("disconnect", connected, 4321),
    ]


async def test_a_client_has_the_request_and_handlers_get_that_client():
    seen = []
    gateway = asking(lambda self, client, data: seen.append(client))
    async with serving(gateway) as app, talk(app, "/?a=1") as client:
        await client.say("ask")
        await client.hears_no_more()
        assert set(seen) == gateway.server.clients
        assert seen[0].request.path == "/?a=1"
        assert seen[0].request.headers["Upgrade"] == "websocket"


@pytest.mark.parametrize("hook", ["after_init", "handle_connection", "handle_disconnect"])
async def test_nest_16_hooks_are_called_only_where_present(hook):
    called = []
    members = {hook: lambda self, *arguments: called.append(hook)}
    gateway = websocket_gateway()(type("One", (Echo,), members))()
    async with serving(gateway, Echo()) as app:
        async with talk(app) as client:
            await client.say("echo", 1)
            assert [await client.hear(), await client.hear()] == [1, 1]
        await until(lambda: not gateway.server.clients)
        await until(lambda: called == [hook])


@pytest.mark.parametrize(
    "leave, code",
    [
        (lambda client: client.close(), 1000),
        (lambda client: client.close(1001), 1001),
        (lambda client: client.close(4000), 4000),
        (lambda client: asyncio.sleep(0, client.transport.abort()), 1006),
        (lambda client: asyncio.sleep(0, client.transport.write(b"\x81\x00")), 1006),
    ],
    ids=["1000", "1001", "4000", "cut", "protocol error"],
)
async def test_the_disconnect_hook_has_the_code(leave, code):
    gateway = Hooked()
    async with serving(gateway) as app, talk(app) as client:
        await client.hears_no_more()
        await leave(client.connection)
        await until(lambda: len(gateway.called) == 3)
    assert gateway.called[-1][0::2] == ("disconnect", code)


async def test_messages_wait_for_the_connect_hook():
    let_in = asyncio.Event()

    class Door(Hooked):
        async def handle_connection(self, client, request):
            await let_in.wait()
            await client.send("welcome")

    async with serving(Door()) as app, talk(app) as client:
        await client.say("echo", 1)
        await client.pong()
        let_in.set()
        await client.hears("welcome", 1)


async def test_a_connect_hook_may_turn_a_client_away():
    class Door(Hooked):
        async def handle_connection(self, client, request):
            await client.close(4401, "who are you?")

    gateway = Door()
    async with serving(gateway) as app, talk(app) as client:
        assert await client.closed() == (4401, "who are you?")
        await until(lambda: len(gateway.called) == 2)
    assert gateway.called[-1][0::2] == ("disconnect", 4401)


async def test_a_disconnect_hook_that_raises_is_logged_and_the_others_are_called(caplog):
    class Bad(Hooked):
        def handle_disconnect(self, client, code):
            raise ValueError("bad goodbye")

    first, bad, last = Hooked(), Bad(), Hooked()
    async with serving(first, bad, last) as app:
        async with talk(app):
            await until(lambda: len(last.called) == 2)
        await until(lambda: len(first.called) == len(last.called) == 3)
        assert first.server.clients == frozenset()
    records = [r for r in caplog.records if r.name == "nestling.gateway"]
    assert [str(r.exc_info[1]) for r in records] == ["bad goodbye"]


async def test_clients_can_be_told_while_they_come_and_go():
    told = asyncio.Event()

    async def ask(self, client, data):
        for each in self.server.clients:
            await told.wait()
            await each.send({"news": data})

    gateway = asking(ask)
    async with serving(gateway) as app, talk(app) as one, talk(app) as other:
        async with talk(app) as leaving:
            await leaving.hears_no_more()
            await one.say("ask", 1)
            await one.hears_no_more()
        async with talk(app) as newcomer:
            await newcomer.hears_no_more()
            told.set()
            await one.hears({"news": 1})
            await other.hears({"news": 1})
            await newcomer.hears_no_more()


async def test_a_client_that_has_left_is_among_the_clients_no_more_when_its_hook_is_called():
    class Leaving(Hooked):
        async def handle_disconnect(self, client, code):
            self.called.append(len(self.server.clients))
            for each in self.server.clients:
                await each.send("one has left")

    gateway = Leaving()
    async with serving(gateway) as app, talk(app) as client:
        await client.hears_no_more()
        async with talk(app) as leaving:
            await leaving.hears_no_more()
        await client.hears("one has left")
        assert gateway.called[-1] == 1


async def test_send_text_sends_what_is_serialised_already():
    async def ask(self, client, data):
        await client.send_text('{"a" : 1}')

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask")
        assert await client.text() == '{"a" : 1}'


class Still:
    """A connection on which nothing happens."""

    request = SimpleNamespace(path="/", headers={})
    close_code = None

    async def recv(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("hook", ["ended", "waiting"])
async def test_a_client_that_is_dropped_while_it_is_open_was_lost(hook):
    """Who serves it may be cancelled before anybody knows how its connection ends."""
    codes = []

    @websocket_gateway()
    class Door:
        async def handle_connection(self, client, request):
            if hook == "waiting":
                await asyncio.Event().wait()

        def handle_disconnect(self, client, code):
            codes.append(code)

    server = GatewayServer("/", [Door()], parse, deque())
    before = asyncio.all_tasks()
    serving = asyncio.create_task(server.serve(Still()))
    await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.wait([serving])
    assert codes == ([1006] if hook == "ended" else [])
    assert server.clients == frozenset()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# What ends a Nest process


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_a_reply_that_cannot_be_serialised_is_an_exception_frame(way, caplog):
    values = iter(UNSENDABLE.values())
    gateway = asking(lambda self, client, data: way(next(values)))
    async with serving(gateway) as app, talk(app) as client:
        for name in UNSENDABLE:
            await client.say("ask", name)
            await client.hears(error_frame(INTERNAL, data=name))
    assert len([r for r in caplog.records if r.name == "nestling.gateway"]) == len(UNSENDABLE)


@pytest.mark.parametrize("error", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_an_exception_that_cannot_be_serialised_is_an_internal_error(error):
    async with serving(asking(raising("plain", WsException(error)))) as app, talk(app) as client:
        await client.say("ask", 5)
        await client.hears(error_frame(INTERNAL))


async def test_an_item_that_cannot_be_serialised_closes_its_stream():
    ended = []

    async def ask(self, client, data):
        try:
            yield 1
            yield {2}
            yield 3
        finally:
            ended.append(data)

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", "mine")
        await client.hears(1, error_frame(INTERNAL, data="mine"))
    assert ended == ["mine"]


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("depth", [10, 300, *range(900, 1000, 3), 2_000, 10_000, 200_000])
async def test_brackets_end_nothing(depth, is_closed):
    """They are echoed, refused, or silent: how deep Python goes is its own matter."""
    data = "[" * depth + "]" * depth * is_closed
    echo = Echo()
    async with serving(echo) as app, talk(app) as client:
        await client.send(f'{{"event":"echo","data":{data}}}')
        await client.say("echo", "alive")
        heard = await client.text()
        assert echo.server.ignored == (heard == '"alive"')
        if heard == data:
            heard = await client.text()
        elif heard != '"alive"':
            assert json.loads(heard)["data"]["message"] == INTERNAL
            heard = await client.text()
        assert heard == '"alive"'
        await client.hears_no_more()
    assert depth > 300 or not is_closed or parse(f'{{"data":{data}}}')


class Refusing(Hooked):
    def handle_connection(self, client, request):
        raise self.error


class RefusingLater(Hooked):
    async def handle_connection(self, client, request):
        await asyncio.sleep(0)
        raise self.error


@pytest.mark.parametrize("kind", [Refusing, RefusingLater])
@pytest.mark.parametrize(
    "error, data, code",
    [
        (WsException("a token, please"), {"status": "error", "message": "a token, please"}, 1008),
        (WsException({"code": 4}), {"code": 4}, 1008),
        (ValueError("secret"), {"status": "error", "message": INTERNAL}, 1011),
        (WsException({1}), {"status": "error", "message": INTERNAL}, 1008),
    ],
    ids=["text", "object", "other", "unsendable"],
)
async def test_a_connect_hook_that_raises_closes_its_client_only(kind, error, data, code, caplog):
    """Nest dies. Here: an exception frame, close code 1008 or 1011, and no disconnect hook."""
    gateway = kind()
    async with serving(gateway) as app:
        gateway.error = error
        async with talk(app) as client:
            assert await client.hear() == {"event": "exception", "data": data}
            assert (await client.closed())[0] == code
        await until(lambda: gateway.server.clients == frozenset())
        assert [name for name, *_ in gateway.called] == ["init"]
    records = [r for r in caplog.records if r.name == "nestling.gateway"]
    assert [r.exc_info[1] for r in records] == [error] * (code == 1011)


async def test_after_a_connect_hook_that_raised_only_those_that_greeted_say_goodbye():
    first, bad, last = Hooked(), Refusing(), Hooked()
    bad.error = WsException("no")
    async with serving(first, bad, last) as app:
        async with talk(app) as client:
            assert (await client.hear())["data"]["message"] == "no"
            assert (await client.closed())[0] == 1008
        await until(lambda: len(first.called) == 3)
        assert first.called[-1][0::2] == ("disconnect", 1008)
        assert (len(bad.called), len(last.called)) == (1, 1)


async def test_a_message_is_not_handled_after_a_connect_hook_that_raised():
    refuse, asked = asyncio.Event(), []

    @websocket_gateway()
    class Bad(Echo):
        async def handle_connection(self, client, request):
            await refuse.wait()
            raise WsException("no")

        @subscribe_message("ask")
        def ask(self, client, data):
            asked.append(data)

    async with serving(Bad()) as app, talk(app) as client:
        await client.say("ask")
        await client.pong()
        refuse.set()
        assert (await client.hear())["event"] == "exception"
        assert (await client.closed())[0] == 1008
    assert asked == []


# Correlation, which Nest does not have


@pytest.mark.parametrize("give, frames", CORRELATED.values(), ids=CORRELATED)
async def test_a_message_with_an_id_ends_in_exactly_one_frame_that_is_done(give, frames):
    gateway = asking(lambda self, client, data: give())
    async with serving(gateway) as app, talk(app) as client:
        for _ in range(2):  # the id is free again
            await client.say("ask", 0, id=7)
            await client.hears(*frames)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "error, frame",
    [
        (WsException("no"), error_frame("no", data=0)),
        (WsException({"a": 1}), {"event": "exception", "data": {"a": 1}}),
        (WsException(None), error_frame(None, data=0)),
        (WsException({1}), error_frame(INTERNAL)),
        (KeyError(), error_frame(INTERNAL, data=0)),
        (asyncio.CancelledError(), error_frame(INTERNAL, data=0)),
    ],
    ids=["text", "object", "null", "unsendable", "other", "cancelled"],
)
async def test_an_error_is_the_last_frame_of_its_id(moment, error, frame):
    async with serving(asking(raising(moment, error))) as app, talk(app) as client:
        for _ in range(2):
            await client.say("ask", 0, id=7)
            items = [{"id": 7, "event": "ask", "data": item} for item in MOMENTS[moment]]
            await client.hears(*items, done(**frame))


@pytest.mark.parametrize("id", ["a", "", "1", "é\n", 0, 1, -1, 2**53 + 1, 10**40])
async def test_an_id_is_a_string_or_an_integer(id):
    async with serving(Echo()) as app, talk(app) as client:
        await client.say("echo", 5, id=id)
        heard = await client.hear()
        assert heard == {"id": id, "event": "echo", "data": 5, "done": True}
        assert type(heard["id"]) is type(id)


@pytest.mark.parametrize("id", [True, False, None, 1.0, 1.5, [], [1], {}, {"a": 1}])
async def test_anything_else_is_no_id(id):
    echo = Echo()
    async with serving(echo) as app, talk(app) as client:
        await client.say("echo", 5, id=id)
        await client.hears(5)
        await client.say("unknown", 5, id=id)
        await client.hears_no_more()
        assert echo.server.ignored == 1


@pytest.mark.parametrize("event", ["unknown", "", "Echo", None, 5, [], {}, ...])
async def test_an_unknown_event_with_an_id_is_an_exception(event):
    """Without one it is silent, as in Nest."""
    named = {} if event is ... else {"event": event}
    echo = Echo()
    async with serving(echo) as app, talk(app) as client:
        await client.send(json.dumps({**named, "data": 1, "id": "x"}))
        heard = await client.hear()
        assert heard.pop("data")["status"] == "error"
        assert heard == {"id": "x", "event": "exception", "done": True}
        await client.hears_no_more()
        assert echo.server.ignored == 0


async def test_the_exception_of_an_unknown_event_names_it():
    async with serving(Echo()) as app, talk(app) as client:
        await client.say("unknown", 1, id="x")
        frame = error_frame("There is no such event", pattern="unknown", data=1)
        await client.hears({"id": "x", **frame, "done": True})


async def test_an_id_that_is_live_cannot_be_used_again():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("pass", "A", id=7)
        await until(lambda: gates.begun == ["A"])
        for event in "pass", "echo", "unknown":
            await client.say(event, "B", id=7)
            frame = error_frame("This id is still in use", pattern=event, data="B")
            await client.hears(done(**frame))
        await client.say("pass", "B", id=7, cancel=True)
        assert (await client.hear())["data"]["message"] == "This id is still in use"
        assert gates.begun == ["A"]
        gates.gates["A"].set()
        await client.hears(done(event="pass", data="A"))
        await client.say("pass", "A", id=7)
        await client.hears(done(event="pass", data="A"))


async def test_ids_of_other_types_and_of_other_clients_are_others():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client, talk(app) as other:
        await client.say("pass", "A", id=1)
        await client.say("pass", "B", id="1")
        await other.say("pass", "C", id=1)
        await until(lambda: sorted(gates.begun) == ["A", "B", "C"])
        gates.gates["B"].set()
        await client.hears({"id": "1", "event": "pass", "data": "B", "done": True})
        gates.gates["C"].set()
        await other.hears({"id": 1, "event": "pass", "data": "C", "done": True})
        gates.gates["A"].set()
        await client.hears({"id": 1, "event": "pass", "data": "A", "done": True})


async def test_messages_without_an_id_are_live_side_by_side():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("pass", "A")
        await client.say("pass", "B")
        await client.say("pass", "C", id=None)
        await until(lambda: gates.begun == ["A", "B", "C"])
        await client.cancel(None)
        for name in "ABC":
            gates.gates[name].set()
            await client.hears(name)


async def test_a_cancel_closes_a_stream():
    gates = Gates()
    gates.gates[0].set()
    async with serving(gates) as app, talk(app) as client:
        await client.say("count", "first", id=7)
        await client.say("count", "second", id=8)
        heard = [await client.hear(), await client.hear()]
        assert heard == [{"id": id, "event": "count", "data": 0} for id in (7, 8)]
        await client.cancel(7)
        assert await client.hear() == {"id": 7, "done": True}
        assert gates.ended == ["first"]
        gates.gates[1].set()
        await client.hears({"id": 8, "event": "count", "data": 1})


async def test_a_cancel_while_its_client_does_not_read_closes_the_stream():
    given, ask = items_and_an_end()
    async with serving(asking(ask)) as app, narrow(app) as client:
        await client.say("ask", id=7)
        await at_rest(given)
        await client.cancel(7)
        await until(lambda: given[-1] == "end")
        frames = [await client.hear() for _ in range(given.count("item"))]
        if frames[-1] == done():  # the item that was being sent may be lost
            del frames[-1]
        else:
            assert await client.hear() == done()
        assert all(frame == {"id": 7, "event": "ask", "data": ITEM} for frame in frames)
        await client.hears_no_more()


async def test_a_cancel_of_a_coroutine_closes_the_stream_that_it_returns_later():
    release, begun = asyncio.Event(), []

    async def items():
        begun.append("stream")
        yield 1

    async def ask(self, client, data):
        begun.append("coroutine")
        await release.wait()
        return items()

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", id=7)
        await until(lambda: begun == ["coroutine"])
        await client.cancel(7)
        await client.hears_no_more()
        release.set()
        await client.hears(done())
    assert begun == ["coroutine"]


@pytest.mark.parametrize("again", ["cancel", "leave"])
async def test_a_stream_that_is_being_closed_is_not_disturbed(again):
    closing, release, ended = asyncio.Event(), asyncio.Event(), []

    async def ask(self, client, data):
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            closing.set()
            await release.wait()
            ended.append(data)

    gateway = asking(ask)
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask", "mine", id=7)
        await client.hears_no_more()
        await client.cancel(7)
        await closing.wait()
        if again == "cancel":
            await client.cancel(7)
            await client.hears_no_more()
        else:
            await leave_politely(client)
            await until(lambda: not gateway.server.clients)
        await asyncio.sleep(0.01)
        release.set()
        await until(lambda: ended == ["mine"])
        if again == "cancel":
            await client.hears(done())


async def test_a_stream_that_swallows_its_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(answers, "PATIENCE", 0.05)
    caught = []

    async def ask(self, client, data):
        yield 1
        while len(caught) < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                caught.append("one")

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", id=7)
        assert (await client.hear())["data"] == 1
        await client.cancel(7)
        await client.hears(done())
    assert len(caught) == 3


async def test_a_stream_that_swallows_its_cancellation_and_goes_on_gives_nothing_more():
    ended = []

    async def ask(self, client, data):
        try:
            while True:
                try:
                    yield 1
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
        finally:
            ended.append(data)

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", "mine", id=7)
        assert (await client.hear())["data"] == 1
        await client.cancel(7)
        await client.hears(done())
    assert ended == ["mine"]


async def test_a_cancel_leaves_a_coroutine_that_returns_a_value_alone():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("pass", "A", id=7)
        await until(lambda: gates.begun == ["A"])
        await client.cancel(7)
        await client.hears_no_more()
        gates.gates["A"].set()
        await client.hears(done(event="pass", data="A"))


async def test_a_cancel_twice_is_one_done():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("count", id=7)
        await until(lambda: len(gates.begun) == 1)
        await client.cancel(7)
        await client.cancel(7)
        await client.hears(done())


@pytest.mark.parametrize("id", [7, "7", 0, ""])
async def test_a_cancel_of_something_unknown_is_silent(id):
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.cancel(id)
        await client.hears_no_more()
        await client.say("count", id=8)
        await until(lambda: len(gates.begun) == 1)
        await client.cancel(id)
        await client.hears_no_more()
        assert gates.ended == []


@pytest.mark.parametrize("cancel", [False, 1, "true", None, [True]])
async def test_only_true_cancels(cancel):
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        await client.say("count", id=7)
        await until(lambda: len(gates.begun) == 1)
        await client.send(json.dumps({"id": 7, "cancel": cancel}))
        assert (await client.hear())["data"]["message"] == "This id is still in use"
        await client.hears_no_more()
        assert gates.ended == []


async def test_a_stream_that_raises_when_it_is_cancelled_ends_in_an_exception():
    async def ask(self, client, data):
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            raise WsException("not like this")

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", id=7)
        assert await client.hear() == {"id": 7, "event": "ask", "data": 1}
        await client.cancel(7)
        await client.hears(done(**error_frame("not like this")))


TWO = {
    "values": (lambda: 1, lambda: 2, [1, 2]),
    "a value and nothing": (lambda: 1, lambda: None, [1]),
    "nothing and a value": (lambda: None, lambda: 2, [2]),
    "nothing": (lambda: None, lambda: None, []),
    "a coroutine and a value": (lambda: later(1), lambda: 2, [2, 1]),
    "a value and a coroutine": (lambda: 1, lambda: later(2), [1, 2]),
    "coroutines": (lambda: later(1), lambda: later(2), [1, 2]),
    "streams": (lambda: stream(1, 2), lambda: stream(3, 4), [1, 2, 3, 4]),
    "a stream and a value": (lambda: stream(1, 2), lambda: 3, [1, 2, 3]),
    "a stream and a coroutine": (lambda: stream(1, 2), lambda: later(3), [1, 2, 3]),
}


@pytest.mark.parametrize("first, second, data", TWO.values(), ids=TWO)
async def test_of_two_gateways_exactly_one_is_done(first, second, data):
    one = asking(lambda self, client, data: first())
    two = asking_only(lambda self, client, data: second())
    async with serving(one, two) as app, talk(app) as client:
        for _ in range(2):
            await client.say("ask", id=7)
            heard = []
            while not heard or not heard[-1].get("done"):
                heard.append(await client.hear())
                assert heard[-1]["id"] == 7
            assert sorted(f["data"] for f in heard if "data" in f) == sorted(data)
            await client.hears_no_more()


@pytest.mark.parametrize("moment", ["plain", "coroutine", "coroutine_later", "stream_at_once"])
async def test_of_two_gateways_that_fail_exactly_one_is_done(moment):
    fail = raising(moment, WsException("no"))
    async with serving(asking(fail), asking_only(fail)) as app, talk(app) as client:
        await client.say("ask", id=7)
        frame = {"id": 7, **error_frame("no")}
        await client.hears(frame, {**frame, "done": True})


async def test_a_cancel_closes_the_streams_of_two_gateways_and_one_is_done():
    first, second = Gates(), Gates()
    async with serving(first, second) as app, talk(app) as client:
        await client.say("count", "mine", id=7)
        await until(lambda: first.begun == second.begun == ["mine"])
        await client.cancel(7)
        assert await client.hear() == done()
        assert first.ended == second.ended == ["mine"]
        await client.say("count", "again", id=7)
        await until(lambda: first.begun == second.begun == ["mine", "again"])


# Inside handlers


async def test_what_a_handler_sets_is_not_seen_by_the_next():
    seen: list[int] = []
    variable: ContextVar[int] = ContextVar("variable", default=0)

    @websocket_gateway()
    class Setting(Echo):
        @subscribe_message("plain")
        def plain(self, client, data):
            seen.append(variable.get())
            variable.set(data)

        @subscribe_message("coroutine")
        async def coroutine(self, client, data):
            self.plain(client, data)

    async with serving(Setting()) as app, talk(app) as client:
        for number, event in enumerate(["plain", "coroutine", "plain", "coroutine"], 1):
            await client.say(event, number)
        await client.hears_no_more()
    assert seen == [0, 0, 0, 0]


EXITING = """
import asyncio
from gateways import serving, talk, asking

async def main(ask):
    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", id=7)
        print(await client.text(), flush=True)

def plain(self, client, data):
    raise SystemExit(5)

async def coroutine(self, client, data):
    await asyncio.sleep(0)
    raise SystemExit(5)

asyncio.run(main(KIND))
"""


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_an_exit_in_a_handler_is_one(kind):
    """Its client is told that it failed, if it can be told still."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EXITING.replace("KIND", kind)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(TIMEOUT):
        assert await process.wait() == 5


async def test_a_timeout_works_inside_handlers():
    async def ask(self, client, data):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return ["timeout", asyncio.current_task().cancelling()]

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(["timeout", 0])


async def test_a_timeout_works_inside_streams():
    async def ask(self, client, data):
        for _ in range(2):
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                yield "timeout"

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", id=7)
        item = {"id": 7, "event": "ask", "data": "timeout"}
        await client.hears(item, item, done())


async def test_a_timeout_that_is_not_caught_is_an_error():
    async def ask(self, client, data):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(error_frame(INTERNAL))


async def test_a_task_group_works_inside_handlers():
    async def fail():
        raise LookupError

    async def ask(self, client, data):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* LookupError:
            return_value.append("caught")
        return return_value

    return_value = []
    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(["caught"])


async def test_a_handler_has_one_task_of_its_own_while_it_waits():
    tasks: dict[str, list[Any]] = defaultdict(list)
    gate = asyncio.Event()

    async def ask(self, client, data):
        tasks[data].append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks[data].append(asyncio.current_task())
        await gate.wait()
        tasks[data].append(asyncio.current_task())
        return data

    async with serving(asking(ask)) as app, talk(app) as client:
        for name in "abc":
            await client.say("ask", name)
        await until(lambda: [len(found) for found in tasks.values()] == [2, 2, 2])
        gate.set()
        assert sorted([await client.hear() for _ in "abc"]) == ["a", "b", "c"]
    assert [len(set(found)) for found in tasks.values()] == [1, 1, 1]
    assert len({task for found in tasks.values() for task in found}) == 3


# What Nest's own tests hold a gateway to


async def test_nest_07_a_handler_can_learn_its_event():
    @websocket_gateway()
    class Learning(Echo):
        @subscribe_message("plain")
        def plain(self, client, data, event):
            return [event, data]

        @subscribe_message("keyword")
        async def keyword(self, client, data, *, event):
            return [event, data]

        @subscribe_message("stream")
        async def stream(self, client, data, event="none"):
            yield [event, data]

    async with serving(Learning()) as app, talk(app) as client:
        for name in "plain", "keyword", "stream":
            await client.say(name, 1)
            await client.hears([name, 1])


def parse_pair(message: str | bytes) -> Any:
    event, data = json.loads(message)
    if event == "strange":
        raise LookupError("a strange event")
    return None if event == "nothing" else {"event": event, "data": data}


async def test_nest_08_a_parser_of_ones_own():
    async with serving(Echo(), parse=parse_pair) as app, talk(app) as client:
        await client.send('["echo",5]')
        assert await client.hear() == 5


async def test_nest_09_a_parser_of_ones_own_gets_what_was_sent():
    got = []

    def keep(message: str | bytes) -> Any:
        got.append(message)
        return {"event": "echo", "data": len(got)}

    async with serving(Echo(), parse=keep) as app, talk(app) as client:
        await client.send("text")
        await client.send(b"\xff\x00")
        assert [await client.hear(), await client.hear()] == [1, 2]
    assert got == ["text", b"\xff\x00"]


async def test_nest_11_a_failing_validation_does_not_block_the_next_message():
    def ask(self, client, data):
        if not isinstance(data, int):
            raise WsException(["data must be an integer"])
        return data + 1

    async with serving(asking(ask)) as app, talk(app) as client:
        await client.say("ask", "one")
        await client.say("ask", 1)
        await client.hears({"event": "exception", "data": ["data must be an integer"]}, 2)


async def test_nest_12_three_items_are_three_frames_in_order():
    gateway = asking(lambda self, client, data: stream(1, 2, 3))
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(1, 2, 3)


@pytest.mark.parametrize(
    "message, level, ignored",
    [
        ('["strange",1]', "ERROR", 0),
        ('["nothing",1]', "INFO", 1),
        ("no JSON", "INFO", 1),
        ('["unknown",1]', "INFO", 1),
    ],
)
async def test_nest_13_a_parser_that_throws_is_reported_once(message, level, ignored, caplog):
    """That the default one is silent, see what is answered with silence."""
    caplog.set_level(logging.INFO, "nestling.gateway")
    echo = Echo()
    async with serving(echo, parse=parse_pair) as app, talk(app) as client:
        await client.send(message)
        await client.send('["echo","good"]')
        assert await client.hear() == "good"
        assert echo.server.ignored == ignored
    assert [r.levelname for r in caplog.records if r.name == "nestling.gateway"] == [level]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_nest_14_a_handler_that_throws_does_not_tear_down_the_stream(moment):
    class Failing(Gates):
        fail = subscribe_message("fail")(raising(moment, ValueError()))

    gates = Failing()
    async with serving(gates) as app, talk(app) as client:
        gates.gates[0].set()
        await client.say("count")
        assert await client.hear() == 0
        await client.say("fail")
        await client.hears(*MOMENTS[moment], error_frame(INTERNAL, pattern="fail"))
        gates.gates[1].set()
        await client.hears(1)


async def test_nest_18_a_promise_of_a_stream():
    gateway = asking(lambda self, client, data: later(stream(1, 2, 3)))
    async with serving(gateway) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(1, 2, 3)


async def test_nest_19_an_error_is_reported_once_for_each_message(caplog):
    async with serving(asking(raising("stream_later", ValueError("bad")))) as app:
        async with talk(app) as client:
            for _ in range(3):
                await client.say("ask")
                await client.hears(1, 2, error_frame(INTERNAL))
    assert [str(r.exc_info[1]) for r in caplog.records if r.exc_info] == ["bad"] * 3
    assert all("ask" in r.getMessage() for r in caplog.records if r.exc_info)


# Decorators


@pytest.mark.parametrize("path", ["", "poll", "poll/", "/poll?a=1", "/poll#top", None, 5, b"/poll"])
def test_a_path_that_is_no_path(path):
    with pytest.raises(ValueError, match=r"path begins with / and has no \? or #: not ") as caught:
        websocket_gateway(path=path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536, "3000", 3000.0, True, False, [3000]])
def test_nest_15_the_port_of_a_gateway_is_an_integer(port):
    with pytest.raises(ValueError, match=r"integer from 0 .* to 65535, not ") as caught:
        websocket_gateway(port=port)
    assert repr(port) in str(caught.value)


def test_a_gateway_decorator_without_parentheses():
    with pytest.raises(TypeError):

        @websocket_gateway
        class Forgotten: ...


@pytest.mark.parametrize("event", [None, 5, b"vote", ["vote"], {"event": "vote"}])
def test_an_event_that_is_no_string(event):
    with pytest.raises(TypeError, match=r'as in @subscribe_message\("vote"\), not ') as caught:
        subscribe_message(event)
    assert repr(event) in str(caught.value)


def test_a_handler_decorator_without_parentheses():
    with pytest.raises(TypeError, match=r'as in @subscribe_message\("vote"\)'):

        @subscribe_message
        def vote(self, client, data): ...


def no_data(self, client): ...
def one_more(self, client, data, room): ...
def no_self(client, data): ...
def keyword(self, client, data, *, room): ...
def event_before(self, event, client, data): ...
async def coroutine(self): ...
async def generator(self, client):
    yield


WRONG = [no_data, one_more, no_self, keyword, event_before, coroutine, generator]


@pytest.mark.parametrize("method", WRONG, ids=lambda method: method.__name__)
def test_a_handler_that_cannot_be_called_with_a_message(method):
    name = method.__name__
    wanted = rf"{name} cannot be called with a message: def {name}\(self, client, data\)"
    with pytest.raises(TypeError, match=wanted):
        subscribe_message("vote")(method)


def test_a_generator_function_is_no_handler():
    def tally(self, client, data):
        yield 1

    with pytest.raises(TypeError, match="tally has a yield: .* async def tally"):
        subscribe_message("tally")(tally)


@pytest.mark.parametrize(
    "method",
    [
        lambda self, client, data: None,
        lambda self, client, data, event: None,
        lambda self, client, data, *, event: None,
        lambda self, client, data=None, room="x": None,
        lambda self, client, data, **more: None,
        lambda *arguments: None,
    ],
)
def test_a_handler_that_can_be_called_is_returned_as_it_is(method):
    assert subscribe_message("vote")(method) is method


def test_create_wants_instances():
    with pytest.raises(TypeError, match=r"takes instances: Echo\(\), with parentheses"):
        create(Echo)
    with pytest.raises(TypeError, match=r"takes instances: Echo\(\), with parentheses"):
        create(EventsGateway(), Echo)


@pytest.mark.parametrize("thing", [5, None, "gateway", object(), parse])
def test_create_wants_gateways(thing):
    name = type(thing).__name__
    wanted = rf"{name} is no gateway: put @websocket_gateway\(\) above its class"
    with pytest.raises(TypeError, match=wanted):
        create(EventsGateway(), thing)


# The gateway of the article


async def test_the_events_of_the_article():
    async with serving(EventsGateway()) as app, talk(app) as client:
        await client.say("events", "anything")
        await client.say("identity", 0)
        await client.say("identity", None)
        await client.say("identity", {"a": 1})
        heard = [await client.hear() for _ in range(3)]
    assert heard == [{"event": "events", "data": [1, 2, 3]}, 0, {"a": 1}]


# The class poll

QUESTION = {"question": "Tabs?", "choices": ["yes", "no", "both"]}


def tally(*votes: int, **question: Any) -> dict[str, Any]:
    return {"event": "tally", "data": {**(question or QUESTION), "votes": list(votes)}}


async def vote(client: Talk, data: Any) -> Any:
    """What the client hears: None if the vote counts."""
    await client.say("vote", data, id="vote")
    frame = await client.hear()
    assert frame["id"] == "vote" and frame["done"] is True
    return frame["data"]["message"] if "event" in frame else None


async def test_a_poll_from_its_opening_to_its_tally():
    async with serving(PollGateway()) as app, talk(app, "/poll") as teacher:
        await teacher.say("tally")
        assert await teacher.hear() == tally(question=None, choices=[])
        await teacher.say("open", QUESTION)
        assert await teacher.hear() == tally(0, 0, 0)
        async with talk(app, "/poll") as eva, talk(app, "/poll") as ben:
            assert await vote(eva, 2) is None
            assert await teacher.hear() == tally(0, 0, 1)
            assert await vote(ben, 0) is None
            assert await teacher.hear() == tally(1, 0, 1)
            assert await vote(eva, 0) == "You have voted"
            await ben.say("tally", id=5)
            assert await ben.hear() == {"id": 5, **tally(1, 0, 1)}
        other = {"question": "Spaces?", "choices": ["two", "four"]}
        await teacher.say("open", other)
        assert await teacher.hear() == tally(0, 0, **other)


async def test_a_learner_votes_once_for_each_question():
    async with serving(PollGateway()) as app, talk(app, "/poll") as eva:
        for _ in range(2):
            await eva.say("open", QUESTION)
            assert await vote(eva, 1) is None
            assert await vote(eva, 1) == "You have voted"


@pytest.mark.parametrize("choice", [-1, 3, 2**70, True, False, "1", 1.0, None, [1], {}])
async def test_a_vote_for_no_choice(choice):
    async with serving(PollGateway()) as app, talk(app, "/poll") as eva:
        await eva.say("open", QUESTION)
        assert await vote(eva, choice) == "There is no such choice"
        assert await vote(eva, 0) is None


async def test_a_vote_before_the_question():
    async with serving(PollGateway()) as app, talk(app, "/poll") as eva:
        assert await vote(eva, 0) == "There is no such choice"


@pytest.mark.parametrize(
    "question",
    [
        None,
        "Tabs?",
        [],
        {},
        {"question": "Tabs?"},
        {"choices": ["yes", "no"]},
        {"question": 5, "choices": ["yes", "no"]},
        {"question": "Tabs?", "choices": []},
        {"question": "Tabs?", "choices": ["yes"]},
        {"question": "Tabs?", "choices": "yes"},
        {"question": "Tabs?", "choices": {"0": "yes", "1": "no"}},
        {"question": "Tabs?", "choices": ["yes", 5]},
        {"question": "Tabs?", "choices": [None, "yes"]},
        {"question": "Tabs?", "choices": ["yes", "no", 5]},
    ],
)
async def test_a_question_that_is_none_changes_nothing(question):
    async with serving(PollGateway()) as app, talk(app, "/poll") as teacher:
        await teacher.say("open", QUESTION)
        assert await vote(teacher, 1) is None
        await teacher.say("open", question, id=1)
        told = (await teacher.hear())["data"]["message"]
        assert told == "A question has a text and at least two choices"
        await teacher.say("tally")
        assert await teacher.hear() == tally(0, 1, 0)


async def test_a_tally_that_came_late_counts_those_that_left():
    async with serving(PollGateway()) as app, talk(app, "/poll") as teacher:
        await teacher.say("open", QUESTION)
        async with talk(app, "/poll") as eva:
            assert await vote(eva, 2) is None
        await teacher.say("tally")
        assert await teacher.hear() == tally(0, 0, 1)


async def test_who_has_left_is_forgotten_and_who_comes_back_may_vote_again():
    poll = PollGateway()
    async with serving(poll) as app, talk(app, "/poll") as teacher:
        await teacher.say("open", QUESTION)
        for _ in range(3):
            async with talk(app, "/poll") as eva:
                assert await vote(eva, 2) is None
            await until(lambda: len(poll.server.clients) == 1)
            gc.collect()
            assert len(poll._voters) == 0
        await teacher.say("tally")
        assert await teacher.hear() == tally(0, 0, 3)


async def test_a_class_of_thirty_is_counted():
    async with serving(PollGateway()) as app, talk(app, "/poll") as teacher:
        await teacher.say("open", QUESTION)
        await teacher.say("tally", id="t")

        async def learner(number: int) -> None:
            async with talk(app, "/poll") as client:
                assert await vote(client, number % 3) is None

        await asyncio.gather(*(learner(number) for number in range(30)))
        counted = 0
        while counted < 30:
            votes = (await teacher.hear())["data"]["votes"]
            assert sum(votes) >= counted
            counted = sum(votes)
        assert votes == [10, 10, 10]


def test_the_logger_is_the_one_that_the_chapter_names():
    assert dispatch.log.name == "nestling.gateway"
