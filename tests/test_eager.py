"""Gateways in a loop whose tasks start eagerly, as they can from Python 3.12 on."""

from __future__ import annotations

import asyncio
import sys

import pytest
from gateways import FULL, IN_FLIGHT, Echo, Gates, done, error_frame, serving, stream, talk
from nestling.gateway import subscribe_message, websocket_gateway

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on"),
]


@pytest.fixture(autouse=True)
async def eager():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    yield
    asyncio.get_running_loop().set_task_factory(None)


@websocket_gateway()
class Mixed(Echo):
    @subscribe_message("coroutine")
    async def coroutine(self, client, data):
        return data

    @subscribe_message("stream")
    def stream(self, client, data):
        return stream(data)


async def test_every_answer_comes_and_in_order():
    async with serving(Mixed()) as app, talk(app) as client:
        for number in range(400):
            await client.say(["echo", "coroutine", "stream", "echo"][number % 4], number)
        assert [await client.hear() for _ in range(400)] == list(range(400))


async def test_no_task_is_kept():
    mixed = Mixed()
    async with serving(mixed) as app, talk(app) as client:
        for event in "echo", "coroutine", "stream":
            await client.say(event, 1, id=event)
            while not (await client.hear()).get("done"):
                pass
        assert not mixed.server.tasks


async def test_the_limit():
    gates = Gates()
    async with serving(gates) as app, talk(app) as client:
        for number in range(IN_FLIGHT):
            await client.say("pass", number)
        await client.say("echo", "too much")
        assert await client.hear() == error_frame(FULL, "echo", data="too much")
        gates.gates[0].set()
        assert await client.hear() == 0
        await client.hears_no_more()


async def test_a_stream_that_is_cancelled():
    gates = Gates()
    gates.gates[0].set()
    async with serving(gates) as app, talk(app) as client:
        await client.say("count", id=7)
        assert (await client.hear())["data"] == 0
        await client.cancel(7)
        await client.hears(done())
