"""The checks of chapter 05."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from workbench import kernel
from workbench.checks import Words, Wrong, require_coroutine_function
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

    @subscribe_message("slow")
    async def slow(self, client: Client, data: Any) -> Any:
        await asyncio.sleep(1)
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
    """05.1: replies, no reply, an exception, and a connection that is lost."""
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
            received = await outcome(function, client, event, data)
            compare(hint, (event, data), expected, received)
        lost = asyncio.ensure_future(outcome(function, client, "never", None))
        await asyncio.sleep(0.05)
        await kernel.stop("the check", grace=0)
        if not isinstance(received := await lost, ConnectionClosed):
            hint = "a lost connection is no answer of the gateway: catch WsException alone"
            expected = "ConnectionClosed is raised"
            raise Wrong.comparing(hint, "never, and the server stops", expected, received)


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
    """05.2: three thresholds, a silent server, and one that goes with and without goodbye."""
    require_coroutine_function(function)
    await _takes_and_leaves(function)
    async with serving(Tallies()) as url:
        received = await outcome(function, f"{url}/nowhere", 1)
    if not isinstance(received, InvalidStatus):
        hint = "there is no gateway at this path, which is not a lost server: catch less"
        expected = Words("InvalidStatus is raised")
        raise Wrong.comparing(hint, Words("a url without a poll"), expected, received)
    for goodbye in (True, False):
        await _outlives_the_server(function, goodbye)


async def _takes_and_leaves(function: Callable[..., Awaitable[Any]]) -> None:
    async with serving(gateway := Tallies()) as url:
        for votes, expected in ((1, [1, 0]), (3, [3, 2]), (0, [0, 0])):
            received = await outcome(function, url, votes)
            hint = "the first tally whose votes are at least that many in all, whole"
            if isinstance(received, TimeoutError):
                hint = "a tally with that many votes or more had come: follow one stream"
            elif isinstance(received, TypeError | KeyError | IndexError):
                hint = 'a tally is {"question": ..., "votes": [...]}: sum its votes'
            sent = f"votes={votes}"
            compare(hint, sent, {"question": "?", "votes": expected}, received)
            await asyncio.sleep(0.1)
            if gateway.streaming:
                hint = "leave the block of the client, which ends the stream"
                found = f"the right tally, and {gateway.streaming} stream still runs at the server"
                raise Wrong.comparing(hint, sent, "no stream that still runs", found)


async def _outlives_the_server(function: Callable[..., Awaitable[Any]], goodbye: bool) -> None:
    async with serving(Tallies()) as url, Relay(int(url.rpartition(":")[2])) as relay:
        asking = asyncio.ensure_future(outcome(function, relay.url, 100, seconds=2.5))
        await asyncio.sleep(0.5)
        sent = "100 votes, which never come"
        if asking.done() and not isinstance(asking.result(), ConnectionClosed):
            hint = "it did not wait: a tally may be silent for long, and go on"
            raise Wrong.comparing(hint, sent, "nothing yet", asking.result())
        if goodbye:
            await kernel.stop("the check", grace=0)
        else:
            relay.cut()
        hint = "the server has gone, with or without goodbye: ConnectionClosed is both"
        if isinstance(received := await asking, dict):
            hint = "the votes never came: None, and not the last tally"
        how = "said goodbye" if goodbye else "was cut off"
        compare(hint, f"{sent}; then the server {how}", None, received)


async def matching(function: Callable[..., Awaitable[Any]]) -> None:
    """05.3: questions side by side, answered in any order, with an exception, or with nothing."""
    require_coroutine_function(function)
    conversations = [
        (
            [("identity", 1)],
            [1],
            "one question, one reply, and it carries the id: the news, the bare number and the "
            "message with somebody else's id are no replies to you",
        ),
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
        ([("slow", 1)], [1], "a reply may take a second: what ends a question is done, no silence"),
        ([], [], "no questions, no replies"),
    ]
    for questions, expected, hint in conversations:
        async with serving(Replies(len(questions))) as url:
            async with connect(url, compression=None) as connection:
                received = await outcome(function, connection, list(questions))
        compare(hint_for(received) or hint, questions, expected, received)


def hint_for(received: object) -> str | None:
    """What to say to something that is no list of replies at all."""
    match received:
        case TimeoutError():
            return (
                "the gateway has replied to everything it was asked; it replies only when it has "
                "all questions (each with an id of its own), so send them all before you read"
            )
        case TypeError() | AttributeError() | KeyError():
            return (
                f"between the replies come {UNASKED[0]}, the bare number {UNASKED[1]} and somebody "
                "else's id: look whether a message is a dict with an id of yours"
            )
        case Exception() | list():
            return None
    return "return a list"


def compare(hint: str, sent: object, expected: object, received: object) -> None:
    """Raise Wrong unless it is what was expected."""
    if isinstance(received, TimeoutError):
        received = str(received)
    if received != expected:
        raise Wrong.comparing(hint, sent, expected, received)


async def outcome(
    function: Callable[..., Awaitable[Any]], *arguments: Any, seconds: float = 2
) -> Any:
    """What an answer returns, or the exception that it raises."""
    try:
        return await asyncio.wait_for(function(*arguments), seconds)
    except NotImplementedError:
        raise
    except TimeoutError as error:
        return TimeoutError(str(error) or f"nothing: it did not return within {seconds:g} s")
    except Exception as error:
        return error


@asynccontextmanager
async def serving(gateway: object) -> AsyncIterator[str]:
    try:
        yield (await kernel.start("the check", create(gateway))).url
    finally:
        await kernel.stop("the check", grace=0.1)


PROBES = {"1": politely, "2": tally, "3": matching}
