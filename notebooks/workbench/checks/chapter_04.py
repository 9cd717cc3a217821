"""The checks of chapter 04."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nestling.application import create
from nestling.gateway import log
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench import kernel
from workbench.checks import Wrong


async def adder(gateway: type) -> None:
    """04.1: a plain handler, and an exception."""
    async with serving(gateway) as url, peer(url) as client:
        for data, total, hint in (
            ([1, 2, 3], 6, "an event of its own: return {'event': 'sum', 'data': ...}"),
            ([], 0, "the sum of nothing is 0, and 0 is a reply"),
            ([0.5, -2], -1.5, "numbers may be negative, or not whole"),
        ):
            await client.say("add", data)
            await client.hears({"event": "sum", "data": total}, hint)
        for data in ("12", None, [1, "2"], [[1]], {"1": 2}, 7):
            await client.say("add", data)
            await client.hears_exception("anything but a list of numbers is an error: WsException")


async def countdowns(gateway: type) -> None:
    """04.2: streams side by side, and what is left when their client goes."""
    async with serving(gateway) as url, peer(url) as other:
        async with peer(url) as client:
            await client.say("countdown", 2)
            for left in (2, 1, 0):
                hint = "from the number down to 0, each as {'event': 'countdown', 'data': ...}"
                await client.hears({"event": "countdown", "data": left}, hint)
            await asyncio.sleep(0.05)
            await other.say("running", None)
            hint = "a countdown that is over is not running"
            await other.hears({"event": "running", "data": 0}, hint)
            for _ in range(2):
                await client.say("countdown", 500)
                await client.hears({"event": "countdown", "data": 500}, "begin at the number")
            await other.say("running", None)
            hint = "two are under way, of another client: count them in the gateway"
            await other.hears({"event": "running", "data": 2}, hint)
        await asyncio.sleep(0.2)
        await other.say("running", None)
        hint = "their client has gone, so they have ended: count down in a finally"
        await other.hears({"event": "running", "data": 0}, hint)


async def room(gateway: type) -> None:
    """04.3: a room in which everybody hears the others."""
    async with serving(gateway) as url, peer(url) as ann, peer(url) as eve:
        await ann.say("join", "Ann")
        await ann.hears_nothing("who joins or says something does not hear it himself")
        async with peer(url) as bob:
            await bob.say("join", "Bob")
            joined = {"event": "joined", "data": "Bob"}
            await ann.hears(joined, "Ann was there when Bob joined, so she hears of it")
            await bob.say("say", "hello")
            said = {"event": "said", "data": {"name": "Bob", "text": "hello"}}
            await ann.hears(said, "what one says, the others hear")
            await bob.hears_nothing("who joins or says something does not hear it himself")
            await eve.say("say", "let me in")
            await eve.hears_exception("who has not joined may not say anything: WsException")
            await ann.hears_nothing("who has not joined is not heard")
        await ann.hears({"event": "left", "data": "Bob"}, "Bob has gone: handle_disconnect")
        await eve.hears_nothing("who has not joined does not hear the others")
        await eve.close()
        await ann.say("say", "is anybody there?")
        await ann.hears_nothing("who never joined does not leave, and nobody is left to answer")


class NotTold(Wrong):
    """The client was to be told what is wrong, and the code raised something else."""


@asynccontextmanager
async def serving(gateway: Any) -> AsyncIterator[str]:
    """The gateway behind a real socket; an error in its code is what the block raises."""
    if not isinstance(gateway, type):
        raise Wrong("the answer is the class itself, without parentheses")
    try:
        app = create(gateway())
    except TypeError as error:
        raise Wrong(str(error)) from None
    errors, before = _Errors(), (log.handlers, log.propagate)
    log.handlers, log.propagate = [errors], False
    try:
        yield (await kernel.start("the check", app)).url
    except Exception as error:
        unfinished = any(isinstance(each, NotImplementedError) for each in errors.found)
        told = isinstance(error, NotTold) and not unfinished
        raise (error if told or not errors.found else errors.found[0]) from None
    finally:
        await kernel.stop("the check", grace=0.1)
        log.handlers, log.propagate = before
    if errors.found:
        raise errors.found[0]


class _Errors(logging.Handler):
    """Keeps the exceptions that a gateway logs: the client is not told what they are."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.found.append(record.exc_info[1])


class Peer:
    """A client of the gateway, played by the check."""

    def __init__(self, connection: ClientConnection) -> None:
        self.close = connection.close
        self._connection = connection
        self._sent: object = "(nothing)"

    async def say(self, event: str, data: Any) -> None:
        self._sent = {"event": event, "data": data}
        await self._connection.send(json.dumps(self._sent))

    async def hears(self, expected: Any, hint: str) -> None:
        received = await self._next(1)
        if received != expected:
            raise Wrong.comparing(hint, self._sent, expected, received)

    async def hears_exception(self, hint: str) -> None:
        received = await self._next(1)
        match received:
            case {"event": "exception", "data": {"message": "Internal server error"}}:
                expected = "an exception frame with a message of yours"
                raise NotTold.comparing(hint, self._sent, expected, received)
            case {"event": "exception"}:
                return
        raise Wrong.comparing(hint, self._sent, "an exception frame", received)

    async def hears_nothing(self, hint: str) -> None:
        if (received := await self._next(0.1)) != NOTHING:
            raise Wrong.comparing(hint, self._sent, NOTHING, received)

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
