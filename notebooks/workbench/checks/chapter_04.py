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

from nestling.application import create
from nestling.dispatch import log
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench import kernel
from workbench.checks import Wrong


async def adder(gateway: type) -> None:
    """04.1: a plain handler, and an exception."""
    async with serving(gateway) as served, peer(served.url) as client:
        for data, total, hint in (
            ([1, 2, 3], 6, "an event of its own: return {'event': 'sum', 'data': ...}"),
            ([], 0, "the sum of nothing is 0, and 0 is a reply"),
            ([0.5, -2], -1.5, "numbers may be negative, or not whole"),
        ):
            await client.say("add", data)
            await client.hears({"event": "sum", "data": total}, hint)
        for data in ("12", None, [1, "2"], [[1]], {"1": 2}, 7, "", {}):
            await client.say("add", data)
            await client.hears_exception("anything but a list of numbers is an error: WsException")


async def countdowns(gateway: type) -> None:
    """04.2: streams side by side, and what is left when their client goes."""
    async with serving(gateway) as served, peer(served.url) as other:
        hint = "reply with {'event': 'running', 'data': ...}, and 0 before the first countdown"
        await other.says("running", None, {"event": "running", "data": 0}, hint)
        async with peer(served.url) as client:
            hint = "from the number down to 0, each as {'event': 'countdown', 'data': ...}"
            await client.says("countdown", 2, {"event": "countdown", "data": 2}, hint)
            await client.hears({"event": "countdown", "data": 1}, hint)
            await client.hears({"event": "countdown", "data": 0}, hint)
            await asyncio.sleep(0.05)
            hint = "a countdown that is over is not running"
            await other.says("running", None, {"event": "running", "data": 0}, hint)
            begin = perf_counter()
            for left in range(500, 480, -1):
                hint = "each number is one less than the last"
                expected = {"event": "countdown", "data": left}
                await (client.says("countdown", 500, expected, hint) if left == 500
                       else client.hears(expected, hint))  # fmt: skip
            if perf_counter() - begin < 0.1:
                raise Wrong("the numbers come too fast: await asyncio.sleep(0.01) after each")
            await client.say("countdown", 500)
            await asyncio.sleep(0.05)
            hint = "two are under way, of another client: count them in the gateway"
            await other.says("running", None, {"event": "running", "data": 2}, hint)
        await asyncio.sleep(0.2)
        hint = "their client has gone: a stream (with yield) is closed then, and finally runs"
        await other.says("running", None, {"event": "running", "data": 0}, hint)


async def room(gateway: type) -> None:
    """04.3: a room in which everybody hears the others."""
    async with (
        serving(gateway) as served,
        peer(served.url) as ann,
        peer(served.url) as eve,
        peer(served.url) as bob,
    ):
        await ann.say("join", "Ann")
        await ann.hears_nothing("who joins or says something does not hear it himself")
        await bob.hears_nothing("who has not joined does not hear the others", ann)
        async with peer(served.url) as carol:
            await bob.say("join", "Bob")
            hint = "Ann was there when Bob joined, so she hears of it"
            await ann.hears({"event": "joined", "data": "Bob"}, hint, bob)
            await carol.say("join", "Carol")
            for other in (ann, bob):
                hint = "all who are there hear of who comes"
                await other.hears({"event": "joined", "data": "Carol"}, hint, carol)
            for name, client, others in (("Bob", bob, (ann, carol)), ("Ann", ann, (bob, carol))):
                await client.say("say", "hello")
                said = {"event": "said", "data": {"name": name, "text": "hello"}}
                for other in others:
                    await other.hears(said, "what one says, all others hear, with the name", client)
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
        await eve.close()
        await ann.hears_nothing("who never joined does not leave", eve)


async def forgotten(clients: Sequence[weakref.ref[Any]], most: int) -> None:
    """Wait until nothing holds more than so many of these clients."""
    for _ in range(20):
        gc.collect()
        if (held := sum(client() is not None for client in clients)) <= most:
            return
        await asyncio.sleep(0.05)
    hint = "Carol has gone, and your room still keeps her: take her out in handle_disconnect"
    raise Wrong.comparing(hint, "(Carol leaves)", f"{most} clients", f"{held} clients")


class NotTold(Wrong):
    """The client was to be told what is wrong, and the code raised something else."""


class Served(NamedTuple):
    url: str
    gateway: Any


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
        yield Served((await kernel.start("the check", app)).url, answer)
    except NotTold as told:
        for error in app.errors:
            if isinstance(error, NotImplementedError):
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
        if isinstance(error, NotImplementedError):
            raise error
        hint = f"your code raised {type(error).__name__}: {error}"
        raise Wrong.comparing(hint, Peer.last, "no error", f"{type(error).__name__}: {error}")


class Peer:
    """A client of the gateway, played by the check.

    last: what a peer did last, on the way to an error
    """

    last: object

    def __init__(self, connection: ClientConnection) -> None:
        self.close = connection.close
        self._connection = connection
        self._sent: object = "(nothing)"

    async def say(self, event: str, data: Any) -> None:
        Peer.last = self._sent = {"event": event, "data": data}
        await self._connection.send(json.dumps(self._sent))

    async def says(self, event: str, data: Any, expected: Any, hint: str) -> None:
        await self.say(event, data)
        await self.hears(expected, hint)

    async def hears(self, expected: Any, hint: str, speaker: Peer | None = None) -> None:
        """Wait for a frame, which something that `speaker` has sent is to cause."""
        received = await self._next(1)
        if received != expected:
            raise Wrong.comparing(hint, (speaker or self)._sent, expected, received)

    async def hears_exception(self, hint: str) -> None:
        received = await self._next(1)
        match received:
            case {"event": "exception", "data": {"message": "Internal server error"}}:
                expected = "an exception frame with a message of yours"
                raise NotTold.comparing(hint, self._sent, expected, received)
            case {"event": "exception", "data": {"message": str()}}:
                return
        raise Wrong.comparing(hint, self._sent, "an exception frame", received)

    async def hears_nothing(self, hint: str, speaker: Peer | None = None) -> None:
        if (received := await self._next(0.1)) != NOTHING:
            raise Wrong.comparing(hint, (speaker or self)._sent, NOTHING, received)

    async def _next(self, seconds: float) -> Any:
        try:
            return json.loads(await asyncio.wait_for(self._connection.recv(), seconds))
        except TimeoutError:
            return NOTHING
        except ConnectionClosed as error:
            return f"the connection was closed: {error}"


NOTHING = "(no frame)"


@asynccontextmanager
async def peer(url: str) -> AsyncIterator[Peer]:
    async with connect(url, compression=None, max_queue=None) as connection:
        yield Peer(connection)


PROBES = {"1": adder, "2": countdowns, "3": room}
