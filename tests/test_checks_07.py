"""The checks of chapter 07: right and wrong answers, and a real Nest that says what is right."""

from __future__ import annotations

import asyncio
import json
import re
import time

import pytest
import series
from conftest import assert_hint, missing
from nestling import dispatch
from nestling.gateway import WsException, subscribe_message, websocket_gateway
from websockets.asyncio.client import connect
from workbench import kernel, nest
from workbench.checks import chapter_07, check

NO_NUMBER = "Validation failed (numeric string is expected)"


def doors(
    knows=lambda data: isinstance(data, dict) and data.get("word") == "sesame",
    is_integer=lambda value: (
        type(value) in (int, str) and re.fullmatch(r"-?\d+", str(value)) is not None
    ),
    reply=lambda floor: {"event": "entered", "data": int(floor)},
    no="Forbidden resource",
    guard_first=True,
):
    """Doors as they should be, with one thing wrong."""

    @websocket_gateway()
    class Doors:
        @subscribe_message("enter")
        def enter(self, client, data):
            if guard_first and not knows(data):
                raise WsException(no)
            if not is_integer(data.get("floor")):
                raise WsException(NO_NUMBER)
            if not knows(data):
                raise WsException(no)
            return reply(data["floor"])

    return Doors


def converts(value):
    """Whether int() takes the value."""
    try:
        int(value)
    except (TypeError, ValueError):
        return False
    return True


def is_digits(value):
    return type(value) is int or (isinstance(value, str) and value.lstrip("-").isdigit())


def right_word(data):
    return data["word"] == "sesame"


def predicted(**changes):
    """What Nest answers, but for some letters."""
    right = {letter: question.frames for letter, question in chapter_07.QUESTIONS.items()}
    return lambda: right | changes


class TooLow(Exception):
    pass


def auction(
    greets=True,
    first=True,
    filtered=TooLow,
    latest_only=False,
    counts_clients=False,
    cleanly=True,
    as_text=False,
    ends_equal=False,
    tells_everybody=False,
    named=True,
    farewell=False,
    patient=True,
    total=True,
    leaves_after=0.0,
):
    """An auction as it should be, with one thing wrong."""

    @websocket_gateway()
    class Auction:
        def __init__(self):
            self.highest, self.queues, self.watchers = 0, [], []

        async def handle_connection(self, client, request):
            welcome = {"event": "welcome", "data": self.highest}
            if greets:
                await client.send(json.dumps(welcome) if as_text else welcome)

        async def handle_disconnect(self, client, code):
            if farewell:
                for other in self.server.clients:
                    await other.send({"event": "left", "data": code})

        @subscribe_message("bid")
        async def bid(self, client, amount):
            try:
                if amount < self.highest or (amount == self.highest and not ends_equal):
                    raise TooLow(f"bid more than {self.highest}")
            except filtered as error:
                raise WsException(str(error)) from error
            self.highest = amount
            for queue in self.queues:
                if latest_only and queue.qsize():
                    queue.get_nowait()
                queue.put_nowait(amount)
            if not patient:
                time.sleep(4)
            if tells_everybody:
                for other in self.server.clients:
                    await other.send({"event": "accepted", "data": amount})
                return None
            return {"event": "accepted", "data": amount}

        @subscribe_message("watch")
        async def watch(self, client, data):
            self.queues.append(queue := asyncio.Queue())
            self.watchers.append(client)
            if first:
                queue.put_nowait(self.highest)
            try:
                while True:
                    highest = await queue.get()
                    yield {"event": "highest", "data": highest} if named else highest
            finally:
                await asyncio.sleep(leaves_after)
                if cleanly:
                    self.queues.remove(queue)
                    self.watchers.remove(client)

        @subscribe_message("watching")
        def count(self, client, data):
            watchers = set(self.watchers) if counts_clients else self.watchers
            return {"event": "watching", "data": len(watchers) if total else 1}

    return Auction


RIGHT = [("07.1", doors()), ("07.2", predicted()), ("07.3", auction())]


@pytest.mark.parametrize(("exercise", "answer"), RIGHT, ids=[number for number, _ in RIGHT])
async def test_a_right_answer_is_right(exercise, answer):
    verdict = await check(exercise, answer)
    assert verdict.passed, verdict.text
    assert kernel.status() == "nothing is running"


@websocket_gateway()
class DoorsStub:
    @subscribe_message("enter")
    def enter(self, client, data):
        raise NotImplementedError


@websocket_gateway()
class AuctionStub:
    @subscribe_message("bid")
    def bid(self, client, amount):
        raise NotImplementedError

    async def handle_connection(self, client, request):
        await client.send({"event": "welcome", "data": 0})


def unpredicted():
    raise NotImplementedError


@pytest.mark.parametrize(
    ("exercise", "stub", "where"),
    [
        ("07.1", DoorsStub, ", in enter"),
        ("07.2", unpredicted, ""),
        ("07.3", AuctionStub, ", in bid"),
    ],
)
async def test_a_stub_is_not_attempted_yet(exercise, stub, where):
    verdict = await check(exercise, stub)
    assert verdict.passed is None
    assert verdict.text.endswith(f"raise NotImplementedError is still there{where}")


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("07.1", doors(reply=lambda floor: None), "no frame came; the reply is the event"),
        ("07.1", doors(reply=int), "the reply is the event 'entered'"),
        ("07.1", doors(reply=lambda f: {"event": "entered", "data": f}), "the floor as a number"),
        ("07.1", doors(is_integer=str.isdecimal), "(?s)raised +TypeError"),
        ("07.1", doors(knows=lambda data: True), "raise WsException"),
        ("07.1", doors(no="no entry"), r"Forbidden resource(?s:.*)received +.*no entry"),
        ("07.1", doors(guard_first=False), r"(?s)guards come before pipes.*'floor': 'x'"),
        ("07.1", doors(knows=right_word), "(?s)guards come before pipes.*KeyError"),
        (
            "07.1",
            doors(knows=lambda data: data.get("word") == "sesame"),
            "(?s)data may be anything.*AttributeError",
        ),
        (
            "07.1",
            doors(knows=lambda data: "sesame" in data.get("word", "")),
            "(?s)the whole word.*sesame!",
        ),
        ("07.1", doors(is_integer=lambda value: True), "(?s)Nest's pipe has.*raised +ValueError"),
        ("07.1", doors(is_integer=converts), r"(?s)int\(\) takes more.*2\.5"),
        (
            "07.1",
            doors(is_integer=lambda value: isinstance(value, int) or is_digits(value)),
            r"(?s)takes more.*True",
        ),
        ("07.1", doors(is_integer=lambda value: is_digits(value or 0)), r"takes more(?s:.*)''"),
        ("07.1", doors()(), "without parentheses"),
        ("07.1", dict, "put @websocket_gateway"),
        ("07.2", predicted(B=[None]), r"(?s)B: undefined.*sent +.*same.*expected +\[\]"),
        ("07.2", predicted(A=5), "A: a list of frames, also for one"),
        ("07.2", predicted(D=None), r"silence is the empty list, \[\]"),
        ("07.2", predicted(A=[{"event": "same", "data": 5}]), "comes bare"),
        ("07.2", predicted(C=[]), "0 is a value"),
        ("07.2", predicted(C=[False]), "0 is a value"),
        ("07.2", predicted(E=["exception"]), "no JSON is answered with silence"),
        ("07.2", predicted(G=[{"id": 7, "data": 5}]), "Nest knows no ids"),
        ("07.2", predicted(J=[1, 2, 3]), "one item, a list"),
        ("07.2", predicted(K=[[1, 2, 3]]), "a frame for each item"),
        ("07.2", predicted(L=["exception"]), r"and then the exception(?s:.*)'exception'\]"),
        ("07.2", predicted(L=[1, 2, {1, 2}]), "and then the exception"),
        ("07.2", predicted(H=...), "H is still open"),
        ("07.2", lambda: [[5], []], "return a dictionary"),
        ("07.2", predicted()(), "the function itself"),
        ("07.3", auction(greets=False), "no frame came; who comes is sent the highest bid"),
        ("07.3", auction(as_text=True), "JSON twice over"),
        ("07.3", auction(first=False), "the first item comes at once"),
        ("07.3", auction(named=False), "the first item comes at once"),
        ("07.3", auction(filtered=()), r"(?s)the filter makes.*raised +TooLow\('bid more than 20'"),
        ("07.3", auction(filtered=Exception), "that no filter catches"),
        ("07.3", auction(ends_equal=True), r"(?s)the filter makes.*'data': 20"),
        ("07.3", auction(latest_only=True), "three items, none left out"),
        ("07.3", auction(tells_everybody=True), "a bid that is accepted is an item"),
        ("07.3", auction(total=False), "of all clients"),
        (
            "07.3",
            auction(cleanly=False),
            r"finally is where(?s:.*)received +.*: 2\}",
        ),
        ("07.3", auction(counts_clients=True), "count streams, not clients"),
        ("07.3", auction(farewell=True), "one frame too many for Ann; nobody is told"),
        ("07.3", auction(patient=False), "stopped the whole kernel"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)


async def test_a_stream_may_take_a_moment_to_end():
    assert (await check("07.3", auction(leaves_after=0.1))).passed


async def test_what_the_log_is_told_during_a_check_is_not_shown(caplog):
    await check("07.1", doors(knows=right_word))
    assert caplog.text == ""
    dispatch.log.error("and it is afterwards")
    assert "afterwards" in caplog.text


async def test_an_exception_frame_may_be_predicted_in_a_word_or_whole():
    *items, frame = chapter_07.QUESTIONS["L"].frames
    assert frame["event"] == "exception"
    for said in ("exception", frame):
        assert (await check("07.2", predicted(L=[*items, said]))).passed


# A real Nest


@pytest.fixture
def a_nest():
    if why := nest.why_not():
        missing(why)


def test_the_stub_shows_the_messages_of_the_check():
    chapter = series.read(series.NOTEBOOKS / "07_the_original.ipynb")
    [stub] = [c.source for c in series.code_cells(chapter) if "def predicted" in c.source]
    shown = dict(re.findall(r'"([A-Z])": \.\.\.,  # (.+)', stub))
    assert shown == {letter: asked.text for letter, asked in chapter_07.QUESTIONS.items()}


@pytest.mark.parametrize("program", ["doors", "auction"])
async def test_a_real_nest_says_all_that_the_conversations_expect(a_nest, program):
    steps = {"doors": chapter_07.DOORS, "auction": chapter_07.AUCTION}[program]
    async with nest.started(program) as port, asyncio.timeout(20):
        await chapter_07.play(f"ws://127.0.0.1:{port}", steps)


async def test_a_real_nest_answers_as_is_to_be_predicted(a_nest):
    async with (
        nest.started("replies") as port,
        asyncio.timeout(20),
        connect(f"ws://127.0.0.1:{port}", compression=None) as connection,
    ):
        for question in chapter_07.QUESTIONS.values():
            await connection.send(question.text)
            frames = await chapter_07.hear(connection, len(question.frames))
            assert json.dumps(frames) == json.dumps(question.frames), question.text
