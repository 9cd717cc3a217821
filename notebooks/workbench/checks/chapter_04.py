"""The checks of chapter 04."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

from nestling.answers import Client
from nestling.application import create
from nestling.dispatch import log
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench import kernel
from workbench.checks import Blocked, Words, Wrong


async def adder(gateway: type) -> None:
    """04.1: three sums, one of nothing, and nine messages that are no list of numbers."""
    async with serving(gateway) as served, peer(served.url) as client:
        silent = "no reply came: is a method subscribed to 'add', and does it return its reply?"
        for data, total, hint in (
            ([1, 2, 3], 6, "an event of its own: return {'event': 'sum', 'data': ...}"),
            ([], 0, "the sum of nothing is 0, and 0 is a reply"),
            ([0.5, -2], -1.5, "numbers may be negative, or not whole"),
        ):
            await client.say("add", data)
            await client.hears({"event": "sum", "data": total}, hint, silent=data and silent)
        for data in ("12", None, [1, "2"], [[1]], {"1": 2}, 7, "", {}):
            await client.say("add", data)
            await client.hears_exception("anything but a list of numbers is an error: WsException")
        await client.say("add", [True, 2])
        hint = "JSON's true is no number; to Python it is an int: look at type(item)"
        await client.hears_exception(hint)


async def countdowns(gateway: type) -> None:
    """04.2: countdowns side by side, other clients that leave, and their own that leaves."""
    async with serving(gateway) as served, peer(served.url) as other:
        hint = "reply with {'event': 'running', 'data': ...}, and 0 before the first countdown"
        await other.says("running", None, {"event": "running", "data": 0}, hint)
        async with peer(served.url) as client:
            hint = "from the number down to 0, each as {'event': 'countdown', 'data': ...}"
            await client.says("countdown", 2, {"event": "countdown", "data": 2}, hint)
            await client.hears({"event": "countdown", "data": 1}, hint)
            await client.hears({"event": "countdown", "data": 0}, hint)
            await asyncio.sleep(0.05)
            hint = "a countdown that is over is not running, and it ends 10 ms after its 0"
            await other.says("running", None, {"event": "running", "data": 0}, hint)
            await twenty_of(client)
            await client.say("countdown", 500)
            await asyncio.sleep(0.05)
            hint = "two are under way, of another client: count them in the gateway"
            await other.says("running", None, {"event": "running", "data": 2}, hint)
            async with peer(served.url):
                pass
            await asyncio.sleep(0.1)
            hint = "somebody else has left, and both go on: let the stream itself count, in finally"
            await other.says("running", None, {"event": "running", "data": 2}, hint)
        await asyncio.sleep(0.2)
        hint = "their client has gone: a stream (with yield) is closed then, and finally runs"
        await other.says("running", None, {"event": "running", "data": 0}, hint)


async def twenty_of(client: Peer) -> None:
    """A countdown's first twenty numbers: none too early, and the loop turns between them."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count_turns())
    begin = perf_counter()
    await client.say("countdown", 500)
    for left in range(500, 480, -1):
        expected = {"event": "countdown", "data": left}
        await client.hears(expected, "each number is one less than the last")
    counting.cancel()
    if perf_counter() - begin < 0.1:
        hint = "the numbers come too fast: await asyncio.sleep(0.01) after each"
        raise Wrong.comparing(hint, client.sent, Words("20 in 200 ms"), Words("20 in half of it"))
    if turns < 20 * 15:  # a few for each number, where nobody else can run between two
        hint = "the loop stands still meanwhile, for everybody: await asyncio.sleep(0.01)"
        between = Words("others run between two numbers")
        raise Wrong.comparing(hint, client.sent, between, Words("nothing else runs"))


async def room(gateway: type) -> None:
    """04.3: people who come, speak, leave and never join, two of one name, all at the same time."""
    async with (
        serving(gateway) as served,
        peer(served.url) as ann,
        peer(served.url, "a client that never joined") as eve,
        peer(served.url) as bob,
    ):
        await ann.say("join", "Ann")
        await ann.hears_nothing("who joins or says something does not hear it himself")
        await bob.hears_nothing("who has not joined does not hear the others", ann)
        async with peer(served.url, "Carol") as carol:
            await bob.say("join", "Bob")
            hint = "Ann was there when Bob joined, so she hears of it"
            await ann.hears({"event": "joined", "data": "Bob"}, hint, bob)
            await carol.say("join", "Carol")
            for other in (ann, bob):
                hint = "all who are there hear of who comes"
                await other.hears({"event": "joined", "data": "Carol"}, hint, carol)
            await everybody_hears("Bob", bob, (ann, carol))
            await everybody_hears("Ann", ann, (bob, carol))
            await ann.hears_nothing("who joins or says something does not hear it himself")
            await eve.hears_nothing("who has not joined does not hear the others", bob)
            await eve.say("say", "let me in")
            await eve.hears_exception("who has not joined may not say anything: WsException")
            await ann.hears_nothing("who has not joined is not heard", eve)
            clients = [weakref.ref(client) for client in served.gateway.server.clients]
        for other in (ann, bob):
            hint = "Carol has gone, and the others hear it: handle_disconnect"
            await other.hears({"event": "left", "data": "Carol"}, hint, carol)
        await forgotten(clients, len(clients) - 1)
        await eve.leave()
        await ann.hears_nothing("who never joined does not leave", eve)
        _raise_first(served.errors)
        await at_the_same_time(served, ann, bob)


async def everybody_hears(name: str, speaker: Peer, others: Sequence[Peer]) -> None:
    await speaker.say("say", "hello")
    said = {"event": "said", "data": {"name": name, "text": "hello"}}
    for other in others:
        await other.hears(said, "what one says, all others hear, with the name", speaker)


async def at_the_same_time(served: Served, ann: Peer, bob: Peer) -> None:
    """Two of one name come while something is said, each send taking its time."""
    send = Client.send

    async def send_later(self: Client, value: Any) -> None:
        await asyncio.sleep(0.02)
        await send(self, value)

    with patch.object(Client, "send", send_later):
        async with peer(served.url) as one, peer(served.url) as other:
            await bob.say("say", "all here?")
            for dan in (one, other):
                await dan.say("join", "Dan")
            hint = "all who are there hear everything, also while others come"
            heard = [await ann.hears_any(hint) for _ in range(3)]
            if {frame["event"] for frame in heard} != {"said", "joined"}:
                expected = Words("what Bob said, and that two joined")
                raise Wrong.comparing(hint, bob.sent, expected, heard)
            await ann.say("say", "hello, both")
            said = {"event": "said", "data": {"name": "Ann", "text": "hello, both"}}
            for dan in (one, other):
                hint = (
                    "two may have the same name, and come while a send waits: both are in the "
                    "room, and from the first await on"
                )
                await dan.finds(said, hint, ann)


async def forgotten(clients: Sequence[weakref.ref[Any]], most: int) -> None:
    """Wait until nothing holds more than so many of these clients."""
    for _ in range(20):
        gc.collect()
        if (held := sum(client() is not None for client in clients)) <= most:
            return
        await asyncio.sleep(0.05)
    hint = "Carol has gone, and your room still keeps her: take her out in handle_disconnect"
    kept = Words(f"{most} clients"), Words(f"{held} clients")
    raise Wrong.comparing(hint, Words("(Carol leaves)"), *kept)


class NotTold(Wrong):
    """The client was to be told what is wrong, and the code raised something else."""


class Served(NamedTuple):
    url: str
    gateway: Any
    errors: Sequence[BaseException]


@asynccontextmanager
async def serving(gateway: Any) -> AsyncIterator[Served]:
    """The gateway behind a real socket; an error in its code is what the block raises."""
    if not isinstance(gateway, type):
        raise Wrong("the answer is the class itself, without parentheses")
    try:
        app = create(answer := gateway())
    except TypeError as error:
        raise Wrong(str(error)) from None
    Peer.last = NOTHING
    before = log.handlers, log.propagate
    log.handlers, log.propagate = [logging.NullHandler()], False
    try:
        yield Served((await kernel.start("the check", app)).url, answer, app.errors)
    except NotTold as told:
        for error in app.errors:
            if isinstance(error, NotImplementedError | Blocked):
                raise error from None
            raise Wrong(f"{told}\n    {'raised':10}{error!r}") from None
    except Exception:
        _raise_first(app.errors)
        raise
    finally:
        await kernel.stop("the check", grace=0.1)
        log.handlers, log.propagate = before
    _raise_first(app.errors)


def _raise_first(errors: Sequence[BaseException]) -> None:
    """Raise what is wrong with the gateway's code, with what it was sent."""
    for error in errors:
        if isinstance(error, NotImplementedError | Blocked):
            raise error
        raised = Words(f"{type(error).__name__}: {error}")
        hint = f"your code raised {raised}"
        if "changed size during iteration" in raised:
            hint = "while one send waits, others come and go: make a list first, and go over that"
        raise Wrong.comparing(hint, Peer.last, Words("no error"), raised)


class Peer:
    """A client of the gateway, played by the check.

    name: who it is, where a verdict says that it leaves
    sent: what it did last
    last: what any of them did last, on the way to an error
    """

    last: object

    def __init__(self, connection: ClientConnection, name: str) -> None:
        self.name = name
        self.sent: object = Words("(nothing)")
        self._connection = connection

    async def say(self, event: str, data: Any) -> None:
        Peer.last = self.sent = {"event": event, "data": data}
        await self._connection.send(json.dumps(self.sent))

    async def leave(self) -> None:
        Peer.last = self.sent = Words(f"({self.name} leaves)")
        await self._connection.close()

    async def says(self, event: str, data: Any, expected: Any, hint: str) -> None:
        await self.say(event, data)
        await self.hears(expected, hint)

    async def hears(
        self, expected: Any, hint: str, speaker: Peer | None = None, silent: str = ""
    ) -> None:
        """Wait for a frame, which something that `speaker` has sent is to cause.

        silent: the hint if there is none
        """
        received = await self._next(1)
        if received is NOTHING:
            hint = silent or hint
        elif isinstance(received, str) and _decoded(received) == expected:
            hint = "it is JSON twice over: client.send makes JSON of a value, give it the value"
        elif _is_text_of(received, expected):
            hint = f"the data is a number, {expected['data']}, and not a text"
        if received != expected:
            raise Wrong.comparing(hint, (speaker or self).sent, expected, received)

    async def finds(self, expected: Any, hint: str, speaker: Peer) -> None:
        """Wait for a frame, whatever comes before it."""
        while not isinstance(received := await self._next(1), Words):
            if received == expected:
                return
        raise Wrong.comparing(hint, speaker.sent, expected, received)

    async def hears_any(self, hint: str) -> Any:
        """The next frame, whatever it says."""
        if (received := await self._next(1)) is NOTHING:
            raise Wrong.comparing(hint, Peer.last, Words("a frame"), received)
        return received

    async def hears_exception(self, hint: str) -> None:
        received = await self._next(1)
        match received:
            case {"event": "exception", "data": {"message": "Internal server error"}}:
                expected = Words("an exception frame with a message of yours")
                raise NotTold.comparing(hint, self.sent, expected, received)
            case {"event": "exception", "data": {"message": ""}}:
                expected = Words("an exception frame that says what is wrong")
                raise Wrong.comparing("give the WsException a text", self.sent, expected, received)
            case {"event": "exception", "data": {"message": str()}}:
                return
        raise Wrong.comparing(hint, self.sent, Words("an exception frame"), received)

    async def hears_nothing(self, hint: str, speaker: Peer | None = None) -> None:
        if (received := await self._next(0.1)) is not NOTHING:
            raise Wrong.comparing(hint, (speaker or self).sent, NOTHING, received)

    async def _next(self, seconds: float) -> Any:
        try:
            return json.loads(await asyncio.wait_for(self._connection.recv(), seconds))
        except TimeoutError:
            return NOTHING
        except ConnectionClosed as error:
            return Words(f"the connection was closed: {error}")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_text_of(received: Any, expected: Any) -> bool:
    """Whether all that is wrong is that a number is a text."""
    match received, expected:
        case {"event": event, "data": str(text)}, {"event": same, "data": int() | float() as data}:
            return event == same and text == str(data)
    return False


NOTHING = Words("(no frame)")


@asynccontextmanager
async def peer(url: str, name: str = "") -> AsyncIterator[Peer]:
    async with connect(url, compression=None, max_queue=None) as connection:
        yield (played := Peer(connection, name))
        if name:
            await played.leave()


PROBES = {"1": adder, "2": countdowns, "3": room}
