"""Gateways under load: ten thousand hostile messages, any JSON at all, a thousand clients."""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import logging
import math
import os
import random
import shutil
import subprocess
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import missing, until
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from nestling import dispatch
from nestling.application import Application, create
from nestling.envelope import parse, serialise
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from websockets.asyncio.client import ClientConnection, connect

HOST = "127.0.0.1"
TIMEOUT = 30
SURROGATES = [chr(point) for point in range(0xD800, 0xE000)]


@pytest.fixture
def logged() -> Iterator[Counter[str]]:
    """How often the gateway logs at which level, and what. Nothing else gets it: pytest keeps
    every record, and with it every traceback."""
    levels: Counter[str] = Counter()

    def count(record: logging.LogRecord) -> bool:
        record.getMessage()  # as every handler does
        levels[record.levelname] += 1
        levels[record.msg] += 1
        return False

    before = dispatch.log.level
    dispatch.log.setLevel(logging.INFO)
    dispatch.log.addFilter(count)
    yield levels
    dispatch.log.removeFilter(count)
    dispatch.log.setLevel(before)


@asynccontextmanager
async def listening(*gateways: object) -> AsyncIterator[Application]:
    """An application that listens. Nothing is reported to the loop, and close() leaves no task."""
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    before = asyncio.all_tasks()
    app = create(*gateways)
    await app.listen(0)
    try:
        yield app
    finally:
        async with asyncio.timeout(TIMEOUT):
            await app.close()
    await no_task_but(before)
    gc.collect()
    assert noise == []


async def no_task_but(before: set[asyncio.Task[Any]]) -> None:
    """Wait until the tasks that have come since then are gone."""
    try:
        await until(lambda: asyncio.all_tasks() <= before)
    except TimeoutError:
        pytest.fail(f"left running: {asyncio.all_tasks() - before}")


async def open_client(app: Application, **options: Any) -> ClientConnection:
    url = f"ws://{HOST}:{app.ports[0]}/"
    options = {"proxy": None, "ping_interval": None, "open_timeout": TIMEOUT, **options}
    return await connect(url, compression=None, **options)


def strict(text: str) -> Any:
    """What a text says, if it is JSON as the standard has it."""
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in {text}"))


# Hostile messages


@websocket_gateway()
class Target:
    """Echoes, streams, raises, sleeps, and gives what cannot be sent."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.endless = 0
        self.gone: list[int] = []

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.gone.append(code)

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any, event: str) -> Any:
        self.calls[event] += 1
        return data

    @subscribe_message("later")
    async def later(self, client: Client, data: Any, event: str) -> Any:
        self.calls[event] += 1
        await asyncio.sleep(0.001)
        return data

    @subscribe_message("stream")
    async def stream(self, client: Client, data: Any, event: str) -> AsyncIterator[Any]:
        self.calls[event] += 1
        for number in range(3):
            await asyncio.sleep(0)
            yield [number, data]

    @subscribe_message("break")
    async def break_off(self, client: Client, data: Any, event: str) -> AsyncIterator[Any]:
        self.calls[event] += 1
        yield data
        await asyncio.sleep(0)
        raise WsException(data)

    @subscribe_message("raise")
    def throw(self, client: Client, data: Any, event: str) -> None:
        self.calls[event] += 1
        raise LookupError(data)

    @subscribe_message("tell")
    async def tell(self, client: Client, data: Any, event: str) -> None:
        self.calls[event] += 1
        raise WsException(data)

    @subscribe_message("bad")
    def unserialisable(self, client: Client, data: Any, event: str) -> Any:
        self.calls[event] += 1
        circle: list[Any] = [data]
        circle.append(circle)
        values = [math.nan, [-math.inf, {"a": math.inf}], circle, object(), {(1, 2): 3}, {1j}]
        return values[self.calls[event] % len(values)]

    @subscribe_message("endless")
    async def count(self, client: Client, data: Any, event: str) -> AsyncIterator[int]:
        self.calls[event] += 1
        self.endless += 1
        try:
            while True:
                yield self.endless
                await asyncio.sleep(0.001)
        finally:
            self.endless -= 1


@websocket_gateway()
class Twin:
    """Answers one event of the target's too; a message's last frame comes after both answers."""

    @subscribe_message("later")
    async def later(self, client: Client, data: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0.001)
        yield data


EVENTS = ["echo", "later", "stream", "break", "raise", "tell", "bad"]
DEEP = 10_000
EVENT = '{"event":"echo","data":'


def random_json(source: random.Random, depth: int = 3) -> Any:
    """Any JSON value, with text of every kind."""
    kind = source.randrange(10 if depth else 7)
    if kind < 3:
        return source.choice([None, True, False, 0, -1, 2**53 + 1, 10**400, 0.1, -1e308, "", "id"])
    if kind < 5:
        return source.choice([source.getrandbits(64), source.random(), source.gauss(0, 1e9)])
    if kind < 7:
        alphabet = [
            "a",
            '"',
            "\\",
            "\0",
            "\x7f",
            "\xe9",
            "\u2028",
            "\U0001f600",
            "\ud800",
            "\udfff",
        ]
        return "".join(source.choices(alphabet, k=source.randrange(8)))
    if kind < 9:
        return [random_json(source, depth - 1) for _ in range(source.randrange(4))]
    return {random_text(source, 5): random_json(source, depth - 1) for _ in range(3)}


def random_text(source: random.Random, most: int) -> str:
    points = (source.randrange(source.choice([0x80, 0x800, 0xD800])) for _ in range(most))
    return "".join(map(chr, points))


def hostile(source: random.Random, name: str, number: int) -> Iterator[str | bytes]:
    """A message of each kind; their ids begin with name and number."""
    mine = f"{name}-{number}"

    def message(**keys: Any) -> str:
        return json.dumps(keys, ensure_ascii=source.random() < 0.9 or "\\ud" in json.dumps(keys))

    data = random_json(source)
    yield source.randbytes(source.randrange(40))
    yield random_text(source, source.randrange(40))
    yield message(whatever=data)
    yield json.dumps(data)
    yield message(event=random_json(source), data=data, id=mine)
    yield message(event=source.choice(EVENTS), data=data, id=random_json(source))
    yield message(event=source.choice(EVENTS), data=data, id=mine + "-a")
    yield message(event=source.choice(EVENTS), data=data).encode()
    yield message(event=source.choice(EVENTS), id=mine + "-b", cancel=random_json(source))
    yield message(event="bad", data=data, id=mine + "-c")
    yield message(event="raise", data="\ud800", id=mine + "-\udfff")
    yield message(event="\udc00 no such event", id=mine + "-d")
    yield message(id=f"no such id {number}", cancel=True)
    yield message(id=random_json(source), cancel=random_json(source))
    yield message(event="endless", id=mine + "-e")
    yield message(id=f"{name}-{number - 1}-e", cancel=True)
    yield message(id=f"{name}-{number - 1}-e", cancel=True)
    yield message(event="stream", id=mine + "-f") if number % 2 else message(event="tell")
    yield EVENT + source.choice(["NaN", "-Infinity", "01", "'a'", "[1,]", "/**/1", "", "\ufeff"])
    yield EVENT + source.choice(["1e999", "-1e999", "1e-999", "-0", "1" * 4000]) + "}"
    if number % 20 == 0:
        yield "[" * DEEP
        yield EVENT + "[" * DEEP
        yield EVENT + "[" * DEEP + "]" * DEEP + "}"
        yield EVENT + '{"a":' * DEEP + "1" + "}" * DEEP + "}"
        yield EVENT + "1" * 5000 + "}"
        yield f'{{"event":"echo","id":{"7" * 5000}}}'
        yield message(event="echo", **{"k" * 100_000: 1})
        yield message(event="e" * 100_000, id=mine + "-g")
        yield message(event="echo", data=1, id=mine + "-h" + "i" * 100_000)


class Attacker:
    """A client that sends hostile messages and reads whatever comes."""

    def __init__(self, connection: ClientConnection, seed: int) -> None:
        self.name = f"attacker {seed}"
        self.done: Counter[str] = Counter()
        self.expected: set[str] = set()
        self.sent = 0
        self.received = 0
        self._connection = connection
        self._source = random.Random(seed)
        self._numbers = itertools.count()
        self._reading = asyncio.create_task(self._read())
        self._echoes: set[str] = set()
        self._rounds = 0

    async def attack(self, batches: int) -> None:
        """Send so many batches of messages and a good one; its answer has to come."""
        async with asyncio.timeout(TIMEOUT):
            for number in itertools.islice(self._numbers, batches):
                for message in hostile(self._source, self.name, number):
                    await self._connection.send(message)
                    self._expect(message)
                    self.sent += 1
                last = {"id": f"{self.name}-{number}-e", "cancel": True}
            if batches:
                await self._connection.send(json.dumps(last))
            self._rounds += 1
            good = f"{self.name} is well after {self._rounds}"
            await self._connection.send(json.dumps({"event": "echo", "data": good}))
            while good not in self._echoes:
                assert not self._reading.done(), f"closed: {self._connection.close_code}"
                await asyncio.sleep(0.001)

    def check(self) -> None:
        """Every message that had an id of this client's ended once, and only once."""
        missing_ids = self.expected - self.done.keys()
        assert not missing_ids, sorted(missing_ids)[:5]
        twice = {key for key, times in self.done.items() if times != 1}
        assert not twice, sorted(twice)[:5]
        # Only the last round's are kept, since what the test itself keeps is no leak.
        self.done.clear()
        self.expected.clear()
        self._echoes.clear()

    async def leave(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self._connection.close()
            await self._reading
        assert self._connection.close_code == 1000

    def _expect(self, message: str | bytes) -> None:
        try:
            said = json.loads(message)
        except (ValueError, RecursionError):
            return
        if isinstance(said, dict) and "event" in said and self._is_mine(said.get("id")):
            self.expected.add(said["id"])

    def _is_mine(self, found: Any) -> bool:
        return isinstance(found, str) and found.startswith(self.name)

    async def _read(self) -> None:
        async for text in self._connection:
            self.received += 1
            reply = strict(text)
            if self._is_mine(reply):
                self._echoes.add(reply)
            elif isinstance(reply, dict) and reply.get("done") and self._is_mine(reply.get("id")):
                self.done[reply["id"]] += 1


async def test_ten_thousand_hostile_messages_leave_no_task_no_memory_and_a_gateway_that_answers(
    logged,
):
    clients, batches, rounds = 5, 20, 5
    target = Target()
    async with listening(target, Twin()) as app:
        before = asyncio.all_tasks()
        attackers = [Attacker(await open_client(app), seed) for seed in range(clients)]

        async def attack() -> None:
            await asyncio.gather(*(attacker.attack(batches) for attacker in attackers))
            await until(lambda: not target.server.tasks)
            await asyncio.gather(*(attacker.attack(0) for attacker in attackers))
            for attacker in attackers:
                attacker.check()

        def alive() -> tuple[int, int]:
            gc.collect()
            return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

        await attack()
        tracemalloc.start()
        try:
            await attack()
            objects, size = alive()
            sent = -sum(attacker.sent for attacker in attackers)
            for _ in range(rounds):
                await attack()
            objects_then, size_then = objects, size
            objects, size = alive()
        finally:
            tracemalloc.stop()
        sent += sum(attacker.sent for attacker in attackers)
        assert sent >= 10_000
        # One object, or a reference to one, kept of one message in ten would be seen.
        assert objects - objects_then < sent / 10, objects - objects_then
        assert size - size_then < 8 * sent, size - size_then

        assert min(target.calls[event] for event in [*EVENTS, "endless"]) > 100, target.calls
        assert min(attacker.received for attacker in attackers) > sent / clients / 2
        assert target.server.ignored == logged["INFO"] > sent / 4
        assert logged["ERROR"] > sent / 50
        assert logged["the parser failed with %s"] == logged["a client could not be served"] == 0

        await asyncio.gather(*(attacker.leave() for attacker in attackers))
        await no_task_but(before)
        assert target.endless == 0 and target.gone == [1000] * clients
        assert target.server.clients == frozenset()


@pytest.mark.parametrize("keys", ['"event":"echo","data":', '"event":"tell","data":', '"event":'])
@pytest.mark.parametrize("named", ["", '"id":1,'])
async def test_what_is_nested_just_about_too_deep_does_not_end_the_connection(keys, named, logged):
    """There is a depth that can still be read, but not sent, let alone within an exception."""
    async with listening(Target()) as app, await open_client(app) as client:
        async with asyncio.timeout(TIMEOUT):
            for depth in range(850, 1010):
                await client.send(f"{{{named}{keys}{'[' * depth}{']' * depth}}}")
                await client.send('{"event":"echo","data":"well"}')
                while "well" not in await client.recv():
                    pass


# What is JSON, and how it is said

TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from(SURROGATES), max_size=20)
NUMBERS = st.integers() | st.floats() | st.integers(-(10**4000), 10**4000)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def joined(text: str) -> str:
    """A text in which two surrogates that make a character are one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def as_read(value: Any, number: Callable[[Any], Any] = lambda number: number) -> Any:
    """A value as it arrives: no pairs of surrogates, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {joined(key): as_read(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [as_read(item, number) for item in value]
    if isinstance(value, str):
        return joined(value)
    if isinstance(value, bool) or value is None:
        return value
    return number(value) if math.isfinite(value if isinstance(value, float) else 0) else None


def as_double(number: float) -> float | None:
    """A number as JavaScript has it."""
    try:
        return float(number)
    except OverflowError:
        return None


@given(VALUES)
@example(["\ud83d\ude00", {"\ude00\ud83d": "\ud83d"}])
@example({"a": [math.nan, {"b": (math.inf)}], "c": -math.inf})
def test_what_is_serialised_says_what_was_given(value):
    text = serialise(value)
    assert text.encode().decode() == text, "always UTF-8"
    assert repr(strict(text)) == repr(as_read(value))
    assert repr(parse(text)) == repr(parse(text.encode())) == repr(as_read(value))


@given(VALUES)
def test_it_is_as_short_as_json_gets_and_not_escaped_without_need(value):
    text = serialise(value)
    compact = json.dumps(as_read(value), separators=(",", ":"), ensure_ascii=False)
    assert len(text) == len(compact.encode("utf-16-le", "backslashreplace").decode("utf-16-le"))


@given(VALUES, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_not_finite_is_null_wherever_it_is(value, number):
    for whole in (number, [number], {"a": number}, [value, {"a": [number, value]}], (number,)):
        said = serialise(whole)
        assert said == serialise(json.loads(json.dumps(whole), parse_constant=lambda _: None))
        assert "null" in said and not {"NaN", "Infinity"} & {said, said.strip("[]-")}


@given(st.text(st.sampled_from(SURROGATES) | st.sampled_from("a\xe9\U0001f600\\u"), max_size=20))
def test_surrogates_are_escaped_and_nothing_else_that_is_not_ascii(text):
    said = serialise({text: text})
    expected = json.dumps(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    assert said.encode()
    for character in text:
        lone = "\ud800" <= character <= "\udfff"
        assert (f"\\u{ord(character):04x}" if lone else character) in said
    assert bool(text) == (expected != '""')


def node(script: str, argument: object) -> Any:
    """What a JavaScript function gives for an argument, both as JSON, in one process."""
    if (path := shutil.which("node")) is None:
        missing("no node: install Node.js 20 or newer")
    source = f"""
        const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
        process.stdout.write(JSON.stringify(({script})(input)));
    """
    asked = json.dumps(argument).encode()
    ran = subprocess.run([path, "-e", source], input=asked, capture_output=True, timeout=TIMEOUT)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Values that hypothesis would try, the same ones every time."""
    found = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def test_node_reads_what_we_say_and_says_it_as_we_do():
    values = [*examples(VALUES, 800), 2**53, 0.1, 1e21, 5e-324, -1e-7, {"": None, "\0": "\x7f"}]
    texts = [serialise(value) for value in values]
    said = node("texts => texts.map(text => JSON.stringify(JSON.parse(text)))", texts)
    for value, text, theirs in zip(values, texts, said, strict=True):
        assert as_read(strict(theirs), as_double) == as_read(value, as_double), text
    strings = examples(TEXTS, 500)
    theirs = node("texts => texts.map(text => JSON.stringify(text))", strings)
    # Of characters that need no escape, JavaScript and Python escape the same ones.
    for string, said_by_node in zip(strings, theirs, strict=True):
        assert serialise(joined(string)) == said_by_node


WHITESPACE = " \t\n\r\v\f\0\x1f\x7f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u200b"
EDGES = [
    *("", " ", "null", "NULL", "None", "true", "True", "tru", "nulll", "undefined", "NaN", "nan"),
    *("Infinity", "-Infinity", "+Infinity", "-NaN", "inf", "1e999", "-1e999", "1e-999", "[1e999]"),
    *(
        "0",
        "-0",
        "+0",
        "00",
        "01",
        "-01",
        "-",
        "+1",
        "1.",
        ".1",
        "-.1",
        "1.e1",
        "1e",
        "1e+",
        "1E+5",
    ),
    *("1e05", "1e-0", "0e0", "0x1", "0b1", "0o1", "1_0", "1n", "1 2", "1,", "- 1", "1e1.5", "1L"),
    *("0.1e1", "-0.0", "-0e-0", "9007199254740993", "1" * 400, "1" * 4300, "0." + "1" * 5000),
    *("\u0661", "1\u0661", "\uff11", "1.\u0661", "1e\u0661", '"\\u\uff11\uff11\uff11\uff11"'),
    *('"', '""', "''", "'a'", "`a`", '"a', 'a"', '"\\"', '"\\\\"', '"\\/"', '"\\a"', '"\\\'"'),
    *('"\\v"', '"\\0"', '"\\x41"', '"\\b\\f\\n\\r\\t"', '"\\N{DIGIT ONE}"', '"\\U0001f600"'),
    *(
        '"\\u"',
        '"\\u1"',
        '"\\u12"',
        '"\\u123"',
        '"\\u1234"',
        '"\\u12345"',
        '"\\u00e9"',
        '"\\u00E9"',
    ),
    *('"\\u+123"', '"\\u-123"', '"\\u 123"', '"\\u0x12"', '"\\u1_23"', '"\\u123 "', '"\\u{61}"'),
    *('"\\ud800"', '"\\udfff"', '"\\ud83d\\ude00"', '"\\ud83d\ude00"', '"\ud83d\\ude00"'),
    *(
        '"\\ud83d\\u0061"',
        '"\\ud83d\\ud83d\\ude00"',
        '"\\ud83d\\u"',
        '"\\ud83d\\uXXXX"',
        '"\ud800"',
    ),
    *(
        '"\\u0000"',
        '"\0"',
        '"\n"',
        '"\t"',
        '"\x1f"',
        '"\x7f"',
        '"\x80"',
        '"\u2028\u2029"',
        '"\ufeff"',
    ),
    *("[]", "[", "]", "[,]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1]]", "[[]", "[1}", "(1)", "[ ]"),
    *("{}", "{", "}", "{,}", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", "{'a':1}", '{"a" 1}', "{1:1}"),
    *('{"a":1 "b":2}', '{"a":1,"a":2}', '{"a":1}{}', '{"a":1},', '{"a"::1}', '{"a"=1}', "{null:1}"),
    *('{"":1}', '{"__proto__":1}', '{"constructor":1}', '{"\\u0061":1,"a":2}', '{"1":1,"0":0}'),
    *("//\n1", "/**/1", "1//", "1/**/", "#\n1", "<!--\n1", "1;", "(1)", "=1", "[1]\0", "\0[1]"),
    *(f"{space}1" for space in WHITESPACE),
    *(f"1{space}" for space in WHITESPACE),
    *(f"[1,{space}2]" for space in WHITESPACE),
    *(f'{{"a"{space}:1}}' for space in WHITESPACE),
    *("[" * depth + "]" * depth for depth in (2, 10, 100, 200)),
    "[" * 200,
    '{"a":' * 200 + "1" + "}" * 200,
]
EDGES_IN_BYTES = [
    *(b"\xef\xbb\xbf1", b"\xff\xfe1\x00", b"\xfe\xff\x001", b"1\x00", b"\x001", b"\x00\x00\x001"),
    *(b'"\xff"', b'"\xc3"', b'"\xc3\xa9"', b'"\xe2\x82"', b'"\xe2\x82\xac"', b'"\xf0\x9f\x98"'),
    *(
        b'"\xf0\x9f\x98\x80"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xed\xbf\xbf"',
        b'"\xf4\x90\x80"',
    ),
    *(b'"\xf5\x80\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\x80\x80"', b'"\xe0\x80\xaf"', b"\xff"),
    *(b'"\xe2\x82', b'"\xe2\x82"\xe2', b'"\xef\xbf\xbe"', b'"a\xf0\x9f"', b"[1]\xff", b"\xc2\xa01"),
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """JSON with a character or two taken out, put in or changed."""
    text = json.dumps(draw(VALUES.filter(lambda value: len(repr(value)) < 500)), allow_nan=True)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        put_in = draw(st.sampled_from(["", *'0123456789+-.eE,:[]{}"\\ub \n\t/', "\xe9", "\ud800"]))
        text = text[:place] + put_in + text[place + draw(st.integers(0, 1)) :]
    return text


def outcome(message: str | bytes) -> list[Any]:
    """[what it says, with numbers as JavaScript has them], or [] if it is refused."""
    try:
        return [as_read(parse(message), as_double)]
    except ValueError:
        return []


READ = """inputs => inputs.map(input => {
    const text = Array.isArray(input) ? Buffer.from(input[0], "base64").toString() : input;
    try { return [JSON.stringify(JSON.parse(text))]; } catch { return []; }
})"""


def test_parse_takes_exactly_what_node_takes():
    alphabet = st.sampled_from('0123456789+-.eE,:[]{}"\\u nulltruefals\n\x0b\xa0')
    generated = [*examples(damaged(), 1500), *examples(st.text(alphabet, max_size=8), 1500)]
    in_bytes = [*EDGES_IN_BYTES, *(b'"' + text + b'"' for text in examples(st.binary(), 500))]
    messages: list[str | bytes] = [*EDGES, *generated, *in_bytes]
    packed = [[base64.b64encode(m).decode()] if isinstance(m, bytes) else m for m in messages]
    seen: Counter[bool] = Counter()
    for message, theirs in zip(messages, node(READ, packed), strict=True):
        assert outcome(message) == [as_read(strict(said), as_double) for said in theirs], message[
            :200
        ]
        seen[bool(theirs)] += 1
    assert min(seen.values()) > 500, seen


# Many clients


@pytest.fixture
def two_thousand_files() -> Iterator[None]:
    """As many open files as a thousand connections need, which have two ends each."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + 2 * CLIENTS + 100
    endless = resource.RLIM_INFINITY
    if hard not in (endless,) and hard < needed:
        pytest.skip(f"{needed} open files are needed, the limits are {soft} (soft), {hard} (hard)")
    if soft not in (endless,) and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CLIENTS = 1000


async def converse(client: ClientConnection, number: int) -> None:
    """A message and its reply; of every fourth client, a stream; of some, one by id."""
    if number % 4:
        await client.send(json.dumps({"event": "later" if number % 2 else "echo", "data": number}))
        assert strict(await client.recv()) == number
    else:
        await client.send(json.dumps({"event": "stream", "data": number, "id": number}))
        named = {"id": number, "event": "stream"}
        expected = [{**named, "data": [item, number]} for item in range(3)]
        replies = [strict(await client.recv()) for _ in range(4)]
        assert replies == [*expected, {"id": number, "done": True}]


async def test_a_thousand_clients_at_once_are_each_served(two_thousand_files):
    target = Target()
    async with listening(target) as app:
        before = asyncio.all_tasks()
        async with asyncio.timeout(TIMEOUT):
            clients: list[ClientConnection] = []
            while len(clients) < CLIENTS:  # as many at a time as the system lets wait
                some = (open_client(app) for _ in range(50))
                clients += await asyncio.gather(*some)
            await until(lambda: len(target.server.clients) == CLIENTS)
            await asyncio.gather(*map(converse, clients, range(CLIENTS)))
            assert len(target.server.clients) == CLIENTS
            left = clients[: CLIENTS // 2]
            await asyncio.gather(*(client.close() for client in left))
            await until(lambda: len(target.gone) == len(left))
            await app.close()
            await asyncio.gather(*(client.wait_closed() for client in clients))
        closed = Counter(client.close_code for client in clients)
        assert closed == Counter(target.gone) == {1000: len(left), 1001: CLIENTS - len(left)}
        assert target.server.clients == frozenset()
        await no_task_but(before)


LARGE = "a" * 100_000


@websocket_gateway()
class Fountain:
    """Streams without end, in small items and in large ones, and replies that come late."""

    def __init__(self) -> None:
        self.running = 0
        self.finished = 0
        self.kept: list[AsyncIterator[str]] = []
        self.gone: list[tuple[Client, int]] = []

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.gone.append((client, code))

    @subscribe_message("drops")
    async def drops(self, client: Client, data: Any) -> AsyncIterator[int]:
        self.running += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield 1
        finally:
            await asyncio.sleep(0)
            self.running -= 1

    @subscribe_message("flood")
    def flood(self, client: Client, data: Any) -> AsyncIterator[str]:
        self.kept.append(self.large())  # so that it is not closed for being garbage
        return self.kept[-1]

    async def large(self) -> AsyncIterator[str]:
        self.running += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield LARGE
        finally:
            self.running -= 1

    @subscribe_message("finish")
    async def finish(self, client: Client, data: Any) -> str:
        await asyncio.sleep(0.2)
        self.finished += 1
        return "dropped"


async def test_clients_that_vanish_in_the_middle_of_streams_leave_nothing_behind():
    vanishing, fountain = 20, Fountain()
    async with listening(fountain) as app, await open_client(app) as staying:
        before = asyncio.all_tasks()
        async with asyncio.timeout(TIMEOUT):
            # These do not read beyond a few frames, so that sends to them wait.
            clients = [await open_client(app, max_queue=1) for _ in range(vanishing)]
            for client in clients:
                for event in ("drops", "finish", "flood", "drops"):
                    await client.send(json.dumps({"event": event, "id": event}))
            for client in clients:
                for _ in range(4):
                    assert strict(await client.recv())["id"] in ("drops", "flood")
            await until(lambda: fountain.running == 2 * vanishing)
            assert len(fountain.server.clients) == vanishing + 1
            for client in clients:
                client.transport.abort()
            await until(lambda: len(fountain.gone) == vanishing)
            await until(lambda: fountain.finished == vanishing)
        await no_task_but(before)
        assert fountain.running == 0
        assert {code for _, code in fountain.gone} == {1006}
        assert len({client for client, _ in fountain.gone}) == vanishing
        assert len(fountain.server.clients) == 1 and not fountain.server.tasks
        async with asyncio.timeout(TIMEOUT):
            await staying.send('{"event":"finish"}')
            assert strict(await staying.recv()) == "dropped"


@websocket_gateway()
class Spout:
    """Waits for nothing but its sends, which do not wait once the client has gone."""

    def __init__(self) -> None:
        self.sent = 0
        self.enough = asyncio.Event()

    @subscribe_message("stream")
    async def stream(self, client: Client, data: Any) -> AsyncIterator[str]:
        while self.sent < TOO_MANY and not self.enough.is_set():
            self.sent += 1
            yield LARGE

    @subscribe_message("send")
    async def send(self, client: Client, data: Any) -> None:
        async for item in self.stream(client, data):
            await client.send(item)

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any) -> Any:
        return data


# Of 100 kB each: more than the buffers of a socket take.
TOO_MANY = 3000


@pytest.mark.parametrize("event", ["stream", "send"])
async def test_who_sends_without_end_to_a_client_that_vanished_does_not_stop_the_others(event):
    spout = Spout()
    async with listening(spout) as app, await open_client(app) as staying:
        before = asyncio.all_tasks()
        async with asyncio.timeout(TIMEOUT):
            vanishing = await open_client(app, max_queue=1)
            await vanishing.send(json.dumps({"event": event}))
            await vanishing.recv()
            vanishing.transport.abort()
            await until(lambda: len(spout.server.clients) == 1)
            await staying.send('{"event":"echo","data":"served"}')
            assert strict(await staying.recv()) == "served"
            sent = spout.sent
            spout.enough.set()
        await no_task_but(before)
        assert sent < TOO_MANY, "sent on and on, and nothing else could run"
