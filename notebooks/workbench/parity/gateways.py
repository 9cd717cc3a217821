"""What the parity table is played against; node/nest/src/parity.ts says the same for Nest."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from nestling.application import Application, create
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway

from workbench.relay import HOST


def free_port() -> int:
    """A port that is free, of those that no system gives away when it is asked for any."""
    while True:
        port = random.randrange(25_000, 30_000)
        with socket.socket() as held, suppress(OSError):
            held.bind((HOST, port))
            return port


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def stream(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


class Settling:
    """Answers `settled` once all that need not wait have answered."""

    @subscribe_message("settled")
    async def settled(self, client: Client, data: Any) -> Any:
        await turns(50)
        return data


def guard(allows: Callable[[Client, Any], bool]) -> Callable[..., Any]:
    """What a guard is in Nest."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def guarded(self: Any, client: Client, data: Any) -> Any:
            if not allows(client, data):
                raise WsException("Forbidden resource")
            return method(self, client, data)

        return guarded

    return decorate


def nobody(client: Client, data: Any) -> bool:
    return False


@websocket_gateway()
class Values(Settling):
    def __init__(self) -> None:
        self.numbers: list[int] = []  # of the ports, but for the first

    @subscribe_message("identity")
    def identity(self, client: Client, data: Any) -> Any:
        return data

    @subscribe_message("got")
    def got(self, client: Client, data: Any) -> Any:
        return [data]

    @subscribe_message("length")
    def length(self, client: Client, data: Any) -> int:
        return len(data)

    @subscribe_message("nothing")
    def nothing(self, client: Client, data: Any) -> None:
        pass

    @subscribe_message("later")
    async def later(self, client: Client, data: Any) -> Any:
        await turns(5)
        return data

    @subscribe_message("of")
    def of(self, client: Client, data: Any) -> Any:
        return stream([1, 2, 3])

    @subscribe_message("from")
    def from_(self, client: Client, data: Any) -> Any:
        return stream(1, 2, 3)

    @subscribe_message("items")
    def items(self, client: Client, data: Any) -> Any:
        return stream(*data)

    @subscribe_message("later from")
    async def later_from(self, client: Client, data: Any) -> Any:
        await turns(5)
        return stream(1, 2, 3)

    @subscribe_message("not finite")
    def not_finite(self, client: Client, data: Any) -> Any:
        return [float("nan"), float("inf"), {"least": -float("inf")}]

    @subscribe_message("date")
    def date(self, client: Client, data: Any) -> Any:
        return datetime.fromtimestamp(0, UTC)

    @subscribe_message("set")
    def set(self, client: Client, data: Any) -> Any:
        return {1}

    @subscribe_message("undefined")
    def undefined(self, client: Client, data: Any) -> Any:
        return {"here": 1, "away": None}

    @subscribe_message("send")
    async def send(self, client: Client, data: Any) -> Any:
        await client.send("sent")
        return data

    @subscribe_message("twice")
    def once(self, client: Client, data: Any) -> Any:
        return ["first", data]

    @subscribe_message("twice")
    def again(self, client: Client, data: Any) -> Any:
        return ["last", data]

    @subscribe_message("which")
    def which(self, client: Client, data: Any, event: str) -> str:
        return event

    @subscribe_message("")
    def empty(self, client: Client, data: Any) -> str:
        return "the empty event"

    @subscribe_message("*")
    def star(self, client: Client, data: Any) -> str:
        return "the event *"

    @subscribe_message("ports")
    def ports(self, client: Client, data: Any) -> list[int]:
        return self.numbers


@websocket_gateway()
class Order:
    def __init__(self) -> None:
        self.gates: defaultdict[Any, asyncio.Event] = defaultdict(asyncio.Event)

    @subscribe_message("wait")
    async def wait(self, client: Client, data: Any) -> Any:
        await self.gates[client, data].wait()
        return data

    @subscribe_message("open")
    def open(self, client: Client, data: Any) -> None:
        self.gates[client, data].set()

    @subscribe_message("gated")
    async def gated(self, client: Client, data: Any) -> AsyncIterator[str]:
        yield f"{data} 1"
        await self.gates[client, data].wait()
        yield f"{data} 2"


@websocket_gateway()
class Errors:
    @subscribe_message("refuse")
    def refuse(self, client: Client, data: Any) -> None:
        raise WsException(data)

    @subscribe_message("refuse later")
    async def refuse_later(self, client: Client, data: Any) -> None:
        await turns(5)
        raise WsException(data)

    @subscribe_message("refuse in a stream")
    async def refuse_in_a_stream(self, client: Client, data: Any) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise WsException(data)

    @subscribe_message("fail")
    def fail(self, client: Client, data: Any) -> None:
        raise ValueError("a secret")

    @subscribe_message("fail later")
    async def fail_later(self, client: Client, data: Any) -> None:
        await turns(5)
        raise ValueError("a secret")

    @subscribe_message("fail in a stream")
    async def fail_in_a_stream(self, client: Client, data: Any) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ValueError("a secret")

    @subscribe_message("guarded")
    @guard(nobody)
    def guarded(self, client: Client, data: Any) -> Any:
        return data

    @subscribe_message("number")
    def number(self, client: Client, data: Any) -> int:
        return int(data)

    @subscribe_message("close")
    async def close(self, client: Client, data: Any) -> None:
        await client.close(*data)


@websocket_gateway(path="/hooks")
class Hooks(Settling):
    """What has happened to the clients of /hooks, by the target of their request."""

    def __init__(self) -> None:
        self.inits = 0
        self.happened: dict[str, list[str]] = {}

    def after_init(self, server: Any) -> None:
        self.inits += 1

    def handle_connection(self, client: Client, request: Any) -> None:
        self.happened[request.path] = ["connected"]

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.record(client, f"disconnected {code}")

    def record(self, client: Client, what: str) -> None:
        self.happened[client.request.path].append(what)

    @subscribe_message("inits")
    def count_inits(self, client: Client, data: Any) -> int:
        return self.inits

    @subscribe_message("happened")
    async def tell(self, client: Client, data: Any) -> list[str]:
        target, count = data
        while len(self.happened[target]) < count:
            await turns(1)
        return sorted(self.happened[target])

    @subscribe_message("outlive")
    async def outlive(self, client: Client, data: Any) -> str:
        while len(self.happened[client.request.path]) < 2:
            await turns(1)
        self.record(client, "the handler went on")
        return "a reply to nobody"

    @subscribe_message("endless")
    async def endless(self, client: Client, data: Any) -> AsyncIterator[str]:
        try:
            yield "an item"
            await asyncio.Event().wait()
        finally:
            self.record(client, "the stream was closed")


@websocket_gateway(path="/greeting")
class Greeting(Settling):
    async def handle_connection(self, client: Client, request: Any) -> None:
        await turns(20)
        await client.send("welcome")

    @subscribe_message("identity")
    def identity(self, client: Client, data: Any) -> Any:
        return data


@websocket_gateway(path="/crowd")
class Crowd(Settling):
    server: Any

    @subscribe_message("tell all")
    async def tell_all(self, client: Client, data: Any) -> int:
        for each in self.server.clients:
            await each.send(data)
        return len(self.server.clients)


@websocket_gateway(path="/pair")
class First(Settling):
    @subscribe_message("ask")
    def ask(self, client: Client, data: Any) -> Any:
        return ["first", data]

    @subscribe_message("only first")
    def only(self, client: Client, data: Any) -> Any:
        return ["first", data]


@websocket_gateway(path="/pair")
class Second:
    @subscribe_message("ask")
    def ask(self, client: Client, data: Any) -> Any:
        return ["second", data]


@websocket_gateway(path="/inner")
class Inner(Settling):
    @subscribe_message("where")
    def where(self, client: Client, data: Any) -> str:
        return "at a path"


@websocket_gateway(port=0)
class OwnPort(Settling):
    @subscribe_message("where")
    def where(self, client: Client, data: Any) -> str:
        return "on a port of its own"


def sharing(number: int) -> list[Any]:
    """Two gateways on two paths of one port that is not the application's."""

    @websocket_gateway(path="/one", port=number)
    class SharedOne(Settling):
        @subscribe_message("where")
        def where(self, client: Client, data: Any) -> str:
            return "one of two on their own port"

    @websocket_gateway(path="/two", port=number)
    class SharedTwo(Settling):
        @subscribe_message("where")
        def where(self, client: Client, data: Any) -> str:
            return "two of two on their own port"

    return [SharedOne(), SharedTwo()]


@websocket_gateway()
class Leaving:
    app: Application
    ending: asyncio.Task[None]

    @subscribe_message("end")
    def end(self, client: Client, data: Any) -> None:
        self.ending = asyncio.create_task(self.app.close())


@asynccontextmanager
async def started(serve: Callable[..., Any], **options: Any) -> AsyncIterator[int]:
    """The application on a free port of 127.0.0.1, carried by `serve`; its port."""
    values, leaving = Values(), Leaving()
    gateways = [values, Order(), Errors(), Hooks(), Greeting(), Crowd(), First(), Second(), Inner()]
    app = create(*gateways, OwnPort(), *sharing(free_port()))
    leaving.app = create(leaving)
    options["serve"] = serve
    try:
        await leaving.app.listen(0, **options)
        values.numbers = leaving.app.ports[:]
        await app.listen(0, **options)
        values.numbers = app.ports[1:] + values.numbers
        yield app.ports[0]
    finally:
        await asyncio.gather(app.close(grace=0), leaving.app.close(grace=0))
