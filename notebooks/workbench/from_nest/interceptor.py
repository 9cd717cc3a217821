"""Interceptors."""

from contextlib import aclosing
from functools import wraps

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
class Named implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler) {
    const named = map(data => ({ event: 'named', data }));
    return next.handle().pipe(named);
  }
} // and above a method: @UseInterceptors(Named)"""


def named(method):
    @wraps(method)
    async def around(self, client, data):
        value = await method(self, client, data)
        return {"event": "named", "data": value}

    return around


def each_named(method):
    @wraps(method)
    async def around(self, client, data):
        async with aclosing(method(self, client, data)) as items:
            async for item in items:
                yield {"event": "named", "data": item}

    return around


@websocket_gateway()
class Numbers:
    @subscribe_message("one")
    @named
    async def one(self, client, data):
        return 1

    @subscribe_message("two")
    @each_named
    async def two(self, client, data):
        yield 1
        yield 2


async def proof(talk: Talk) -> None:
    one, two = ({"event": "named", "data": number} for number in (1, 2))
    async with serving(create(Numbers())) as port, talk.client(port) as client:
        await client.says("one", None, one)
        await client.says("two", None, one, two)


ROW = Row(
    "interceptor",
    "Runs around a method: before it, and on all that it gives, as an Observable.",
    TYPESCRIPT,
    "A decorator around a coroutine, or around an async generator, which it closes with its own.",
    (named, each_named, Numbers),
    proof,
)
