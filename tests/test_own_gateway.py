"""The gateway that a reader builds in chapter 04 says what the module says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import series
from gateways import (
    CORRELATED,
    MOMENTS,
    SILENT,
    TIMEOUT,
    UNDERSTOOD,
    VALUES,
    WAYS,
    Echo,
    Gates,
    Talk,
    asking,
    done,
    error_frame,
    raising,
    serving,
    talk,
)
from nestling.conversation import IN_FLIGHT
from nestling.events import EventsGateway
from nestling.gateway import WsException
from nestling.poll import PollGateway
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

# What only the module does, of the tables that both are held to.
EDGES = {
    "NaN",
    "Infinity",
    "-Infinity",
    "UTF-16",
    "a byte order mark in bytes",
    "bytes that are no UTF-8",
    "iterator",
    "event a number",
}


def own_gateway() -> Callable[[object], Any]:
    """`handler_of`, from the cells of chapter 04 in which the reader writes it for good."""
    names: dict[str, Any] = {"asyncio": asyncio, "json": json}
    [path] = [path for path in series.chapters() if path.name.startswith("04")]
    cells = [c for c in series.code_cells(series.read(path)) if "own" in series.tags(c)]
    for cell in cells:
        exec(cell.source, names)
    lines = "\n".join(cell.source for cell in cells).splitlines()
    assert len([line for line in lines if line.strip()]) <= 100
    return names["handler_of"]


@asynccontextmanager
async def own(gateway: object) -> AsyncIterator[Talk]:
    options = {"compression": None, "ping_interval": None, "close_timeout": 0.5}
    async with serve(own_gateway()(gateway), "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/", open_timeout=TIMEOUT, **options) as client:
            yield Talk(client)


@asynccontextmanager
async def module(gateway: Any) -> AsyncIterator[Talk]:
    async with serving(gateway) as app, talk(app, type(gateway).__gateway__[0]) as client:
        yield client


both = pytest.mark.parametrize("served", [own, module])


def of(table: dict[str, Any]) -> Any:
    """The rows of a table that both have to keep."""
    names = [name for name in table if name not in EDGES]
    return pytest.mark.parametrize("row", [table[name] for name in names], ids=names)


@both
@of(SILENT)
async def test_silence(served, row):
    async with served(Echo()) as client:
        await client.send(row)
        await client.hears_no_more()


@both
@of(UNDERSTOOD)
async def test_what_is_understood(served, row):
    message, answer = row
    async with served(Echo()) as client:
        await client.send(message)
        await client.hears(answer)


@both
@of(WAYS)
async def test_values(served, row):
    values = iter(VALUES.values())
    async with served(asking(lambda self, client, data: row(next(values)))) as client:
        for value in VALUES.values():
            await client.say("ask")
            heard = await client.hear()
            assert heard == value and type(heard) is type(value)
        await client.hears_no_more()


@both
@of(CORRELATED)
async def test_frames_with_an_id(served, row):
    give, frames = row
    async with served(asking(lambda self, client, data: give())) as client:
        await client.say("ask", 0, id=7)
        await client.hears(*frames)


@both
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error, told", [(WsException("no"), "no"), (ValueError("x"), None)])
async def test_errors(served, moment, error, told):
    told = told or "Internal server error"
    async with served(asking(raising(moment, error))) as client:
        await client.say("ask", 1)
        await client.hears(*MOMENTS[moment], error_frame(told, data=1))
        await client.say("ask", 1, id=7)
        items = [{"id": 7, "event": "ask", "data": item} for item in MOMENTS[moment]]
        await client.hears(*items, done(**error_frame(told, data=1)))


@both
async def test_the_typing_error_is_answered_at_last(served):
    async with served(Echo()) as client:
        await client.say("ecko", 1, id=7)
        await client.hears(done(**error_frame("There is no such event", "ecko", data=1)))


@both
async def test_c_b_a(served):
    gates = Gates()
    async with served(gates) as client:
        for name in "AB":
            await client.say("pass", name)
        await client.say("echo", "C")
        assert await client.hear() == "C"
        for name in "BA":
            gates.gates[name].set()
            assert await client.hear() == name


@both
async def test_the_257th_is_refused(served):
    gates = Gates()
    async with served(gates) as client:
        for number in range(IN_FLIGHT + 1):
            await client.say("pass", number)
        await client.hears_refused("pass", IN_FLIGHT)
        gates.gates[0].set()
        assert await client.hear() == 0
        await client.hears_no_more()


@both
async def test_a_stream_ends_with_its_client(served):
    gates = Gates()
    async with served(gates) as client:
        gates.gates[0].set()
        await client.say("count")
        assert await client.hear() == 0
        await client.connection.close()
        async with asyncio.timeout(TIMEOUT):
            while not gates.ended:
                await asyncio.sleep(0.01)


@both
async def test_the_article(served):
    async with served(EventsGateway()) as client:
        await client.say("events", "hello world")
        assert await client.hear() == {"event": "events", "data": [1, 2, 3]}
        await client.say("identity", 5)
        assert await client.hear() == 5


@both
async def test_the_poll(served):
    question = {"question": "Tabs?", "choices": ["yes", "no"]}
    async with served(PollGateway()) as client:
        await client.say("open", question)
        await client.say("tally")
        assert await client.hear() == {"event": "tally", "data": {**question, "votes": [0, 0]}}
        await client.say("vote", 1, id=7)
        heard = [await client.hear(), await client.hear()]
        assert done() in heard
        assert {"event": "tally", "data": {**question, "votes": [0, 1]}} in heard
        await client.say("vote", 0, id=8)
        assert (await client.hear())["data"]["message"] == "You have voted"
