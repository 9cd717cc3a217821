"""What listens is attacked: for each input what happens, what is left, and who else is served.

Each attack runs while a good client asks and is answered. Afterwards every task that came with
it is gone, and the memory that it took is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import until
from gateways import HOST, TIMEOUT, Raw, request
from nestling import dispatch
from nestling.application import Application, create
from nestling.conversation import IN_FLIGHT
from nestling.frames import Frame, Opcode, close_payload, encode, new_mask
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from websockets.asyncio.client import connect

pytestmark = pytest.mark.measures

# A good client is answered within this, in seconds, whatever others do.
SERVED = 0.2

# Bytes that may be left when an attack is over, and that it may take at most meanwhile.
LEFT = 200_000
TAKEN = 16 * 2**20

# One message of 1 MiB that is all brackets is 22 MB of Python's lists.
BRACKETS = 32 * 2**20

LARGE = "x" * 2**18
DEEP = "[" * 2_000 + "]" * 2_000


class Private(BaseException):
    """An error that `except Exception` does not catch."""


@websocket_gateway()
class Victim:
    """What is asked is in the names; the connect hook reads the query."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gone: list[int] = []
        self.streams = 0

    async def handle_connection(self, client: Client, request: Any) -> None:
        if "wait" in request.path:
            try:
                await asyncio.Event().wait()
            finally:
                self.seen.append("hook ended")
        if "refuse" in request.path:
            await asyncio.sleep(0.05)
            raise WsException("no")
        if "fail" in request.path:
            raise Private

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.gone.append(code)

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any) -> Any:
        return data

    @subscribe_message("large")
    async def large(self, client: Client, data: Any) -> Any:
        self.seen.append("large")
        return LARGE + str(data)

    @subscribe_message("sleep")
    async def sleep(self, client: Client, data: Any) -> None:
        self.seen.append("sleep")
        await asyncio.sleep(0.3)

    @subscribe_message("count")
    async def count(self, client: Client, data: Any) -> AsyncIterator[int]:
        self.streams += 1
        try:
            for number in range(10**9):
                yield number
                await asyncio.sleep(0.01)
        finally:
            self.streams -= 1

    @subscribe_message("rows")
    async def rows(self, client: Client, data: Any) -> AsyncIterator[int]:
        self.streams += 1
        try:
            for number in range(10**9):
                yield number
        finally:
            self.streams -= 1

    @subscribe_message("deaf")
    async def deaf(self, client: Client, data: Any) -> AsyncIterator[int]:
        self.streams += 1
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    yield 1
                    await asyncio.sleep(0.01)
        finally:
            self.streams -= 1

    @subscribe_message("pour")
    async def pour(self, client: Client, data: Any) -> None:
        for number in range(5_000):
            await client.send(number)

    @subscribe_message("close")
    async def close(self, client: Client, data: Any) -> None:
        self.seen.append("closing")
        await client.close(4000)
        self.seen.append("closed")

    @subscribe_message("plain private")
    def plain_private(self, client: Client, data: Any) -> None:
        raise Private

    @subscribe_message("private")
    async def private(self, client: Client, data: Any) -> None:
        await asyncio.sleep(0)
        raise Private

    @subscribe_message("private stream")
    async def private_stream(self, client: Client, data: Any) -> AsyncIterator[int]:
        yield 1
        raise Private


class Attacker(Raw):
    """A client made of bytes, which knows whom it attacks."""

    victim: Victim

    def say(self, event: str, *data: Any, **more: Any) -> None:
        message = {"event": event, **dict(zip(["data"], data, strict=False)), **more}
        self.send(Opcode.TEXT, json.dumps(message).encode())

    async def hear(self) -> Any:
        frame = await self.frame()
        assert frame.opcode is Opcode.TEXT, frame
        return json.loads(frame.payload)

    async def alive(self) -> None:
        """It is still served itself, and nothing else comes before."""
        self.say("echo", "alive")
        assert await self.hear() == "alive"

    def vanish(self) -> None:
        self.writer.transport.abort()

    async def flood(self, data: bytes, most: int = 40 * 2**20, seconds: float = 0.4) -> int:
        """Send this over and over for that time or until nobody reads; how many bytes went."""
        chunk = data * (2**16 // len(data) + 1)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while sent < most:
                    self.writer.write(chunk)
                    sent += len(chunk)
                    await self.writer.drain()
        return sent

    async def flood_and_read(self, data: bytes) -> None:
        """The same, while everything that comes is read and thrown away."""
        reading = asyncio.create_task(self.read_all())
        await self.flood(data, most=2**19)
        reading.cancel()
        await asyncio.wait([reading])

    async def is_cut(self) -> None:
        """The server ends the connection, whatever it says before."""
        with contextlib.suppress(ConnectionError):
            await self.read_all()


def text(message: str) -> bytes:
    return encode(Frame(Opcode.TEXT, message.encode(errors="surrogatepass"), mask=new_mask()))


PING = encode(Frame(Opcode.PING, mask=new_mask()))
ECHO = text('{"event":"echo","data":"hello"}')
IGNORED = text("{}")


# Handshakes: what is sent, the status that comes

SUBPROTOCOL = "Sec_WebSocket_Protocol"
HANDSHAKES = {
    "no key": (request(Sec_WebSocket_Key=None), 400),
    "a key of three bytes": (request(Sec_WebSocket_Key="abc="), 400),
    "a doubled version": (request(Sec_WebSocket_Version="13\r\nSec-WebSocket-Version: 13"), 400),
    "a missing version": (request(Sec_WebSocket_Version=None), 400),
    "version 12": (request(Sec_WebSocket_Version="12"), 400),
    "an empty subprotocol": (request(**{SUBPROTOCOL: ""}), 400),
    "an empty item": (request(**{SUBPROTOCOL: "a,,b"}), 400),
    "a doubled subprotocol": (request(**{SUBPROTOCOL: "a, b, a"}), 400),
    "a subprotocol doubled over two fields": (
        request(**{SUBPROTOCOL: "a\r\nSec-WebSocket-Protocol: a"}),
        400,
    ),
    "a subprotocol that is no token": (request(**{SUBPROTOCOL: "\x85"}), 400),
    "a subprotocol with a space": (request(**{SUBPROTOCOL: "a b"}), 400),
    "a path of the file system": (request("/../../etc/passwd"), 404),
    "an absolute target": (request("http://elsewhere/"), 101),
    "an absolute target with a query": (request("http://elsewhere?a"), 101),
    "POST": (request(method="POST", Content_Length="0"), 405),
    "no upgrade": (request(Upgrade=None, Connection=None), 426),
    "a large cookie": (request(Origin="null", Cookie="x" * 4000), 101),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Everything is logged, formatted and thrown away: pytest would keep it all."""
    loggers = [dispatch.log, logging.getLogger("asyncio"), logging.getLogger("websockets.server")]
    formatter, level = logging.Formatter(), dispatch.log.level

    def throw_away(record: logging.LogRecord) -> bool:
        assert len(record.getMessage()) < 300
        formatter.format(record)
        return False

    for logger in loggers:
        logger.addFilter(throw_away)
    dispatch.log.setLevel(logging.INFO)
    yield
    dispatch.log.setLevel(level)
    for logger in loggers:
        logger.removeFilter(throw_away)


@asynccontextmanager
async def attacked(limit: float, **options: Any) -> AsyncIterator[tuple[Application, Victim]]:
    """An application, and a good client that never waits for longer than the limit."""
    victim = Victim()
    app = create(victim)
    await app.listen(0, **options)
    waits: list[float] = []
    url = f"ws://{HOST}:{app.ports[0]}"
    async with connect(url, compression=None, ping_interval=None) as good:
        asking = asyncio.create_task(ask_on_and_on(good, waits))
        await until(lambda: len(waits) > 3)
        yield app, victim
        await asyncio.sleep(0.01)
        assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])
    async with asyncio.timeout(TIMEOUT):
        await app.close(grace=0)
    assert max(waits) < limit, f"a good client waited {max(waits):.2f} s"


async def ask_on_and_on(good: Any, waits: list[float]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        begun = clock()
        await good.send('{"event":"echo","data":"good"}')
        assert await good.recv() == '"good"'
        waits.append(clock() - begun)
        await asyncio.sleep(0.001)


Attack = Callable[[Attacker], Awaitable[None]]


async def run(attack: Attack, path: str | None, limit: float, **options: Any) -> None:
    async with attacked(limit, **options) as (app, victim):
        tasks = asyncio.all_tasks()
        attacker = Attacker(*await asyncio.open_connection(HOST, app.ports[0]))
        attacker.victim = victim
        try:
            if path is not None:
                status, *_ = await attacker.ask(request(path))
                assert status == 101
            async with asyncio.timeout(20):
                await attack(attacker)
        finally:
            attacker.vanish()
        await until(lambda: len(victim.server.clients) == 1 and asyncio.all_tasks() <= tasks, 15)
        assert victim.streams == 0 and not victim.server.tasks


async def survives(
    attack: Attack, path: str | None = "/", taken: int = TAKEN, **options: Any
) -> None:
    """Run an attack twice: to watch the clock, then the memory, which slows everything down."""
    gc.freeze()  # the tests' own objects, through which a kernel's garbage collector need not go
    await run(attack, path, SERVED, **options)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await run(attack, path, TIMEOUT, **options)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert after - before < LEFT, f"{after - before} bytes are left"
    assert peak - before < taken, f"{peak - before} bytes were taken"


@pytest.mark.parametrize("head, status", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_handshake(head, status):
    async def attack(attacker):
        answered, fields, body = await attacker.ask(head)
        assert answered == status, body
        if b"subprotocol" not in head and "ersion" in body:
            assert fields["sec-websocket-version"] == "13"

    await survives(attack, None)


# Frames: what is sent, the close code that comes

FRAMES = {
    "unmasked": (b"\x81\x01a", 1002),
    "a reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "a reserved bit": (b"\xc1\x80\0\0\0\0", 1002),
    "a continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "a ping of 126 bytes": (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), 1002),
    "a close code of one byte": (b"\x88\x81\0\0\0\0\x03", 1002),
    "the close code 1006": (b"\x88\x82\0\0\0\0\x03\xee", 1002),
    "text that is no UTF-8": (b"\x81\x82\0\0\0\0\xc3\x28", 1007),
    "a frame of 2^40 bytes": (b"\x81\xff\0\0\x01\0\0\0\0\0\0\0\0\0", 1009),
    "a frame of 2^63 bytes": (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1009),
    "a message over 1 MiB": (text("x" * (2**20 + 1)), 1009),
    "over 1 MiB in fragments": (
        encode(Frame(Opcode.TEXT, bytes(2**19), fin=False, mask=bytes(4)))
        + encode(Frame(Opcode.CONTINUATION, bytes(2**19), fin=False, mask=bytes(4)))
        + encode(Frame(Opcode.CONTINUATION, b"x", mask=bytes(4))),
        1009,
    ),
    "5,000 empty fragments": (
        encode(Frame(Opcode.TEXT, fin=False, mask=bytes(4)))
        + encode(Frame(Opcode.CONTINUATION, fin=False, mask=bytes(4))) * 5_000,
        1009,
    ),
}


@pytest.mark.parametrize("data, code", FRAMES.values(), ids=FRAMES)
async def test_frames(data, code):
    async def attack(attacker):
        attacker.writer.write(data)
        assert (await attacker.closed())[0] == code

    await survives(attack, close_timeout=0.3)


# Messages: what is sent, the answer that comes before that to the next; None is silence


def refusal(**more: Any) -> Any:
    return {"event": "exception", **more}


def echo(data: str, before: str = "", after: str = "") -> str:
    return f'{{{before}"event":"echo","data":{data}{after}}}'


LISTS = ",".join(["[]"] * 340_000)
MESSAGES = {
    "2,000 levels": (echo(DEEP), None),
    "2,000 levels with an id": (echo(DEEP, before='"id":7,'), "too deep"),
    "2,000 levels before the id": (echo(DEEP, after=',"id":7'), None),
    "500,000 levels": ("[" * 500_000, None),
    "500,000 levels with an id": (echo("[" * 500_000, before='"id":"7",'), "too deep"),
    "340,000 empty lists": (echo("1", after=f',"x":[{LISTS}]'), 1),
    "340,000 empty lists that nobody gets": (f"[{LISTS}]", None),
    "a number of 5,000 digits": (echo("7" * 5_000), None),
    "an id of 5,000 digits": (echo("1", after=f',"id":{"7" * 5_000}'), None),
    "an unknown event of 900 kB": (json.dumps({"event": "e" * 900_000}), None),
    "a name of Python's": ('{"event":"__class__","data":1}', None),
    "a lone surrogate": (r'{"event":"\ud800","id":7}', "no such event"),
    "900 kB of spaces": (" " * 900_000, None),
    "900 kB of quotes": ('{"id":7,' + '"' * 900_000, None),
    "900 kB of commas": ('{"id":7,"data":[' + "," * 900_000, None),
    "900 kB of members, then too deep": (echo(DEEP, before='"id":7,' * 120_000), "too deep"),
    "a cancel of nothing": ('{"id":7,"cancel":true}', None),
}


@pytest.mark.parametrize("message, answer", MESSAGES.values(), ids=MESSAGES)
async def test_messages(message, answer):
    async def attack(attacker):
        attacker.writer.write(text(message))
        if isinstance(answer, str):
            heard = await attacker.hear()
            assert heard["event"] == "exception" and heard["done"] and str(heard["id"]) == "7"
            assert answer in heard["data"]["message"]
        elif answer is not None:
            assert await attacker.hear() == answer
        await attacker.alive()

    await survives(attack, taken=BRACKETS)


# What a client does


ATTACKS: dict[str, tuple[Attack, dict[str, Any]]] = {}


def attack(name: str, **options: Any) -> Callable[[Attack], Attack]:
    def keep(function: Attack) -> Attack:
        ATTACKS[name] = function, options
        return function

    return keep


@attack("it connects and says nothing", path=None)
async def silent(attacker):
    await asyncio.sleep(0.05)


@attack("it begins a handshake and never ends it", path=None, open_timeout=0.2)
async def endless_head(attacker):
    attacker.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
    await attacker.is_cut()


@attack("it sends a head without end", path=None)
async def large_head(attacker):
    await attacker.flood(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000)
    await attacker.is_cut()


@attack("it asks for a path that is no ASCII", path=None)
async def no_ascii(attacker):
    attacker.writer.write(request("/\xff"))
    await attacker.is_cut()


@attack("it speaks TLS", path=None, open_timeout=0.2)
async def tls(attacker):
    attacker.writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    await attacker.is_cut()


@attack("it sends a byte at a time")
async def drip(attacker):
    for byte in ECHO * 5:
        attacker.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    for _ in range(5):
        assert await attacker.hear() == "hello"
    await attacker.alive()


@attack("it floods with messages and does not read")
async def echoes_unread(attacker):
    sent = await attacker.flood(ECHO)
    assert sent < 40 * 2**20


@attack("it floods with messages and reads")
async def echoes(attacker):
    await attacker.flood_and_read(ECHO)


@attack("it floods with pings and does not read")
async def pings_unread(attacker):
    await attacker.flood(encode(Frame(Opcode.PING, bytes(125), mask=new_mask())), seconds=1)


@attack("it floods with pings and reads")
async def pings(attacker):
    await attacker.flood_and_read(PING)


@attack("it floods with what is ignored")
async def ignored(attacker):
    sent = await attacker.flood(IGNORED, most=2**18)
    await until(lambda: attacker.victim.server.ignored == sent // len(IGNORED), 15)


@attack("it floods with pings and what is ignored, and does not read")
async def pings_and_ignored_unread(attacker):
    ping = encode(Frame(Opcode.PING, bytes(125), mask=new_mask()))
    await attacker.flood(ping * 20 + IGNORED * 20, most=6 * 2**20, seconds=1)


@attack("it floods with an id that is in use, and does not read")
async def live_ids_unread(attacker):
    attacker.say("sleep", id=7)
    await attacker.flood(text('{"id":7,"event":"echo"}'))


@attack("it floods with an id that is in use, and reads")
async def live_ids(attacker):
    attacker.say("count", id=7)
    await attacker.flood_and_read(text('{"id":7,"event":"echo"}'))


@attack("it floods with cancels")
async def cancels(attacker):
    await attacker.flood(text('{"id":7,"cancel":true}'), most=2**18)
    await attacker.alive()


@attack("it begins streams and cancels them at once")
async def begun_and_cancelled(attacker):
    await attacker.flood_and_read(text('{"id":7,"event":"count"}') + text('{"id":7,"cancel":true}'))


@attack("it asks for more than may be in flight")
async def too_many(attacker):
    for number in range(2 * IN_FLIGHT):
        attacker.say("sleep", number)
    for _ in range(IN_FLIGHT):
        assert (await attacker.hear())["data"]["message"] == "Too much is in flight"
    await asyncio.sleep(0.4)
    await attacker.alive()


@attack("it asks for as much as may be in flight, and vanishes")
async def vanishes_with_all_in_flight(attacker):
    for number in range(2 * IN_FLIGHT):
        attacker.say("sleep" if number % 2 else "count", number)
    await until(lambda: attacker.victim.streams > 0)


@attack("it cancels 256 streams behind messages that are refused")
async def cancels_behind(attacker):
    for number in range(IN_FLIGHT):
        attacker.say("count", id=number)
    for _ in range(100):
        attacker.say("sleep")
    for number in range(IN_FLIGHT):
        attacker.send(Opcode.TEXT, json.dumps({"id": number, "cancel": True}).encode())
    ended = 0
    while ended < IN_FLIGHT:
        ended += (await attacker.hear()).get("done", False)
    assert attacker.victim.streams == 0


@attack("it asks for 1,000 large replies and does not read")
async def large_unread(attacker):
    for number in range(1_000):
        attacker.say("large", number)
    await asyncio.sleep(0.5)
    assert len(attacker.victim.seen) < 100


@attack("it asks for rows without end and reads")
async def rows(attacker):
    attacker.say("rows", id=7)
    for _ in range(2_000):
        await attacker.hear()
    attacker.send(Opcode.TEXT, b'{"id":7,"cancel":true}')
    while not (await attacker.hear()).get("done"):
        pass
    await attacker.alive()


@attack("it asks for rows without end and does not read")
async def rows_unread(attacker):
    for _ in range(20):
        attacker.say("rows")
    await asyncio.sleep(0.7)
    assert attacker.victim.streams == 20


@attack("it has a handler send on and on, and vanishes")
async def pours(attacker):
    attacker.say("pour")
    for _ in range(10):
        await attacker.hear()


@attack("it leaves a stream that swallows its cancellation")
async def deaf(attacker):
    attacker.say("deaf")
    assert await attacker.hear() == 1


@attack("it cancels a stream that swallows its cancellation")
async def deaf_cancelled(attacker):
    attacker.say("deaf", id=7)
    await attacker.hear()
    attacker.send(Opcode.TEXT, b'{"id":7,"cancel":true}')
    while not (await attacker.hear()).get("done"):
        pass
    await attacker.alive()


@attack("it vanishes in the middle of a frame")
async def half_a_frame(attacker):
    attacker.writer.write(ECHO[:20])
    await asyncio.sleep(0.02)


@attack("it vanishes in the middle of a message")
async def half_a_message(attacker):
    attacker.writer.write(encode(Frame(Opcode.TEXT, b'{"event":', fin=False, mask=new_mask())))
    await asyncio.sleep(0.02)


@attack("it ends its side of TCP without a close")
async def half_closes(attacker):
    attacker.writer.write_eof()
    await attacker.is_cut()


@attack("it closes and keeps TCP open", close_timeout=0.3)
async def closes_and_stays(attacker):
    attacker.send(Opcode.CLOSE, close_payload(1000))
    assert await attacker.closed() == (1000, "")
    await until(lambda: attacker.victim.gone == [1000])


@attack("it closes with all in flight", close_timeout=0.3)
async def closes_with_all_in_flight(attacker):
    for number in range(IN_FLIGHT + 20):
        attacker.say("sleep", number)
    attacker.send(Opcode.CLOSE, close_payload(4001))
    await attacker.is_cut()
    await until(lambda: attacker.victim.gone == [4001])


@attack("it does not answer a close", close_timeout=0.3)
async def unanswered_close(attacker):
    attacker.say("close")
    assert (await attacker.closed())[0] == 4000
    await until(lambda: "closed" in attacker.victim.seen)


@attack("it does not read, and does not answer a close")
async def unread_close(attacker):
    for _ in range(40):
        attacker.say("large")
    await asyncio.sleep(0.3)
    attacker.say("close")
    await asyncio.sleep(0.3)


@attack("it vanishes while the connect hook waits", path="/?wait")
async def vanishes_at_the_door(attacker):
    attacker.say("echo", 1)
    await asyncio.sleep(0.02)
    attacker.vanish()
    await until(lambda: attacker.victim.seen == ["hook ended"])
    assert attacker.victim.gone == []


@attack(
    "it closes while the connect hook waits, with messages before", path="/?wait", close_timeout=0.3
)
async def closes_at_the_door(attacker):
    for number in range(100):
        attacker.say("echo", number)
    attacker.send(Opcode.CLOSE, close_payload(1000))
    assert await attacker.closed() == (1000, "")
    await until(lambda: attacker.victim.seen == ["hook ended"])


@attack("it floods while the connect hook waits", path="/?wait")
async def floods_at_the_door(attacker):
    await attacker.flood_and_read(ECHO)


@attack("it floods before the connect hook refuses", path="/?refuse")
async def refused(attacker):
    for number in range(200):
        attacker.say("echo", number)
    assert (await attacker.hear())["data"]["message"] == "no"
    assert (await attacker.closed())[0] == 1008


@attack("the connect hook raises what is no Exception", path="/?fail")
async def failed(attacker):
    assert (await attacker.hear())["data"]["message"] == "Internal server error"
    assert (await attacker.closed())[0] == 1011


@attack("handlers raise what is no Exception")
async def private(attacker):
    for event in "plain private", "private":
        attacker.say(event)
        assert (await attacker.hear())["data"]["message"] == "Internal server error"
    attacker.say("private stream", id=7)
    assert (await attacker.hear())["data"] == 1
    assert (await attacker.hear())["done"]
    await attacker.alive()


@pytest.mark.parametrize("attack, options", ATTACKS.values(), ids=ATTACKS)
async def test_attacks(attack, options):
    await survives(attack, **options)


def test_the_table_is_long():
    assert len(HANDSHAKES) + len(FRAMES) + len(MESSAGES) + len(ATTACKS) >= 45
