"""Observables."""

import asyncio
from itertools import count

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
const one = of([1, 2, 3]);
const three = from([1, 2, 3]);
const ticks = interval(200);
const doubled = ticks.pipe(map(n => 2 * n));
const ending = ticks.pipe(takeUntil(stopped));"""


async def interval(seconds):
    for number in count():
        await asyncio.sleep(seconds)
        yield number


@websocket_gateway()
class Streams:
    def __init__(self):
        self.stopped = asyncio.Event()

    @subscribe_message("of")
    async def of(self, client, data):
        yield [1, 2, 3]

    @subscribe_message("from")
    async def from_(self, client, data):
        for item in [1, 2, 3]:
            yield item

    @subscribe_message("map")
    async def map(self, client, data):
        async for number in interval(0.01):
            yield 2 * number

    @subscribe_message("takeUntil")
    async def take_until(self, client, data):
        async for number in interval(0.2):
            if self.stopped.is_set():
                return
            yield number

    @subscribe_message("stop")
    async def stop(self, client, data):
        self.stopped.set()


async def proof(talk: Talk) -> None:
    async with serving(create(Streams())) as port:
        async with talk.client(port) as client:
            await client.says("of", None, [1, 2, 3])
            await client.says("from", None, 1, 2, 3)
            await client.says("map", None, 0, 2, 4)
        async with talk.client(port) as client:
            await client.says("takeUntil", None, 0)
            await client.says("stop", None, quiet=0.5)


ROW = Row(
    "Observable",
    "A stream that may be returned: a frame an item. Operators make a new stream of another.",
    TYPESCRIPT,
    "An async generator, and loops in the place of operators. It's closed when its client goes, "
    "which Nest does, too.",
    (interval, Streams),
    proof,
)
