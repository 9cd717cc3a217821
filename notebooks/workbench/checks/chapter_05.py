"""The checks of chapter 05."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench import kernel
from workbench.checks import Wrong, require_coroutine_function
from workbench.relay import Relay

UNASKED = [
    {"event": "news", "data": "nobody has asked for this"},
    5,
    {"id": "somebody else's", "event": "identity", "data": 0, "done": True},
]


@websocket_gateway()
class Replies:
    """Says something unasked, then replies, refuses, or waits for the last of several."""

    def __init__(self, together: int = 1) -> None:
        self._together = together
        self._all_here = asyncio.Event()

    async def handle_connection(self, client: Client, request: object) -> None:
        for message in UNASKED:
            await client.send(message)

    @subscribe_message("identity")
    async def identity(self, client: Client, data: Any) -> Any:
        await self._everybody()
        return data

    @subscribe_message("last")
    async def last(self, client: Client, data: Any) -> Any:
        await self._everybody()
        await client.send(UNASKED[0])
        await asyncio.sleep(0.05)
        return data

    @subscribe_message("stream")
    async def stream(self, client: Client, data: Any) -> AsyncIterator[Any]:
        await self._everybody()
        yield data

    @subscribe_message("refuse")
    async def refuse(self, client: Client, data: Any) -> None:
        await self._everybody()
        raise WsException(data)

    @subscribe_message("never")
    async def never(self, client: Client, data: Any) -> None:
        await asyncio.Event().wait()

    async def _everybody(self) -> None:
        self._together -= 1
        if self._together <= 0:
            self._all_here.set()
        await self._all_here.wait()


async def politely(function: Callable[..., Awaitable[Any]]) -> None:
    """05.1: a reply, or the text of an exception."""
    require_coroutine_function(function)
    cases = [
        ("identity", 5, 5, "return what client.request gives"),
        ("identity", {"a": [1]}, {"a": [1]}, "return what client.request gives"),
        ("identity", None, None, "no reply is None"),
        ("refuse", "too late", "sorry: too late", "catch WsException; str(error) is its text"),
        ("identity", 6, 6, "the connection goes on after an exception"),
    ]
    async with serving(Replies()) as url, GatewayClient(url, timeout=2) as client:
        for event, data, expected, hint in cases:
            try:
                received = await function(client, event, data)
            except WsException as error:
                received = error
            if received != expected:
                raise Wrong.comparing(hint, (event, data), expected, received)
        lost = asyncio.ensure_future(function(client, "never", None))
        await asyncio.sleep(0.05)
        await kernel.stop("the check", grace=0)
        try:
            received = await lost
        except ConnectionClosed:
            return
        hint = "a lost connection is no answer of the gateway: catch WsException alone"
        raise Wrong.comparing(hint, ("never", None), "ConnectionClosed is raised", received)


@websocket_gateway()
class Tallies:
    """Streams some tallies, and then nothing more."""

    def __init__(self) -> None:
        self.streaming = 0

    @subscribe_message("tally")
    async def tally(self, client: Client, data: Any) -> AsyncIterator[Any]:
        self.streaming += 1
        try:
            for votes in ([0, 0], [1, 0], [1, 1], [3, 2]):
                yield {"event": "tally", "data": {"question": "?", "votes": votes}}
            await asyncio.Event().wait()
        finally:
            self.streaming -= 1


async def tally(function: Callable[..., Awaitable[Any]]) -> None:
    """05.2: a stream that is left, or that the server leaves."""
    require_coroutine_function(function)
    async with serving(gateway := Tallies()) as url:
        for votes, expected in ((1, [1, 0]), (3, [3, 2]), (0, [0, 0])):
            received = await bounded(
                function(url, votes),
                "a tally with at least that many votes had come; follow one stream",
            )
            found = {"question": "?", "votes": expected}
            if received != found:
                hint = "the first tally whose votes are at least that many in all, whole"
                raise Wrong.comparing(hint, votes, found, received)
            await asyncio.sleep(0.1)
            if gateway.streaming:
                raise Wrong("the stream still runs at the server: leave the block of the client")
    for goodbye in (True, False):
        async with serving(Tallies()) as url, Relay(int(url.rpartition(":")[2])) as relay:
            asking = asyncio.ensure_future(function(relay.url, 100))
            await asyncio.sleep(0.5)
            if asking.done() and not asking.exception():
                raise Wrong("it did not wait: a tally may be silent for long, and go on")
            if goodbye:
                await kernel.stop("the check", grace=0)
            else:
                relay.cut()
            try:
                received = await bounded(asking, "the server had gone")
            except ConnectionClosed as error:
                received = error
            if received is not None:
                hint = "the server has gone, with or without goodbye: ConnectionClosed is both"
                raise Wrong.comparing(hint, 100, None, received)


async def matching(function: Callable[..., Awaitable[Any]]) -> None:
    """05.3: replies matched by hand."""
    require_coroutine_function(function)
    conversations = [
        ([("identity", 1)], [1], "one question, one reply"),
        (
            [("last", "A"), ("identity", "B"), ("identity", "C")],
            ["A", "B", "C"],
            "in the order of the questions: the id says which reply belongs to which",
        ),
        (
            [("identity", 1), ("refuse", "no"), ("identity", 3)],
            [1, None, 3],
            "None in the place of a question that is answered with an exception",
        ),
        (
            [("last", None), ("stream", "S"), ("identity", 0)],
            [None, "S", 0],
            "a reply may have no data, or come before the frame that says done",
        ),
        ([], [], "no questions, no replies"),
    ]
    for questions, expected, hint in conversations:
        async with serving(Replies(len(questions))) as url:
            async with connect(url, compression=None) as connection:
                received = await ask(function, connection, questions)
        if not isinstance(received, list):
            hint = "return a list"
        if received != expected:
            raise Wrong.comparing(hint, questions, expected, received)


async def ask(function: Callable[..., Any], connection: ClientConnection, questions: Any) -> Any:
    hint = (
        "the gateway has replied to everything it was asked; it replies only when it has all "
        "questions (each with an id of its own), so send them all before you read"
    )
    return await bounded(function(connection, list(questions)), hint)


async def bounded(answer: Awaitable[Any], hint: str) -> Any:
    try:
        return await asyncio.wait_for(answer, 2)
    except TimeoutError:
        raise Wrong(f"it did not return: {hint}") from None


@asynccontextmanager
async def serving(gateway: object) -> AsyncIterator[str]:
    try:
        yield (await kernel.start("the check", create(gateway))).url
    finally:
        await kernel.stop("the check", grace=0.1)


PROBES = {"1": politely, "2": tally, "3": matching}
