"""The client of gateways: whose reply it is, giving up, falling behind, and the end.

Most tests play the server themselves, on a bare `websockets` connection (`Peer`); the others
ask our gateway, and the last ones are asked by Node.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from conftest import missing, until
from gateways import (
    TIMEOUT,
    Echo,
    Gates,
    asking,
    serving,
)
from nestling import client as client_module
from nestling.application import Application
from nestling.client import GatewayClient
from nestling.conversation import IN_FLIGHT
from nestling.envelope import serialise
from nestling.events import EventsGateway
from nestling.frames import Frame
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from workbench import node
from workbench.relay import Relay
from workbench.trace import decode

pytestmark = pytest.mark.usefixtures("nothing_left")

HOST = "127.0.0.1"

# Too much for the buffers of a connection whose other end does not read.
LARGE = "x" * 2**25


class Peer:
    """The server's side of a connection, which a test plays itself."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def hear(self) -> Any:
        return json.loads(await self.connection.recv())

    async def hears(self, *messages: Any) -> None:
        assert [await self.hear() for _ in messages] == list(messages)

    async def say(self, *messages: Any) -> None:
        for message in messages:
            await self.connection.send(json.dumps(message))

    async def reply(self, question: Any, data: Any) -> None:
        """The last reply to a question."""
        await self.say({"id": question["id"], "event": "e", "data": data, "done": True})

    async def item(self, question: Any, data: Any) -> None:
        """A reply to a question that more will follow."""
        await self.say({"id": question["id"], "event": "e", "data": data})

    def read_no_more(self) -> None:
        self.connection.transport.pause_reading()

    def read_on(self) -> None:
        self.connection.transport.resume_reading()


@asynccontextmanager
async def facing(relayed: bool = False, **options: Any) -> AsyncIterator[Any]:
    """A client, its server's side of the connection, and a relay between them if it is wanted.

    In the end, no question is left in the client.
    """
    accepted: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def accept(connection: ServerConnection) -> None:
        accepted.set_result(connection)
        await connection.wait_closed()

    as_gateway = {"compression": None, "ping_interval": None, "close_timeout": 0.5}
    async with (
        asyncio.timeout(TIMEOUT),
        serve(accept, HOST, 0, max_size=None, **as_gateway) as server,
        Relay(server.sockets[0].getsockname()[1]) as relay,
    ):
        url = relay.url if relayed else f"ws://{HOST}:{server.sockets[0].getsockname()[1]}"
        async with GatewayClient(url, **{"timeout": TIMEOUT} | options) as client:
            peer = Peer(await accepted)
            yield (client, peer, relay) if relayed else (client, peer)
            await at_rest(client)


@asynccontextmanager
async def asked(*gateways: object, **options: Any) -> AsyncIterator[GatewayClient]:
    """A client of these gateways, which in the end has no question left."""
    async with asyncio.timeout(TIMEOUT), serving(*gateways) as app, client_of(app) as client:
        yield client
        await at_rest(client)


def url_of(app: Application, path: str = "/") -> str:
    return f"ws://{HOST}:{app.ports[0]}{path}"


def client_of(app: Application, **options: Any) -> GatewayClient:
    return GatewayClient(url_of(app), timeout=TIMEOUT, **options)


def unanswered(client: GatewayClient) -> dict[int, Any]:
    """Those that wait for a reply."""
    return client._matching.questions


async def at_rest(client: GatewayClient) -> None:
    await until(lambda: unanswered(client) == {})


def ask(awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(awaitable)


async def unasked(client: GatewayClient, count: int) -> list[Any]:
    """The next messages that nobody has asked for."""
    messages = []
    async for message in client:
        messages.append(message)
        if len(messages) == count:
            break
    return messages


async def nothing_unasked(client: GatewayClient, peer: Peer) -> None:
    """Of what the server has sent, nothing waits for the loop over the client."""
    await peer.say("a marker")
    assert await unasked(client, 1) == ["a marker"]


async def listed(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


# What is sent, and whose reply it is


async def test_what_is_on_the_wire():
    async with facing() as (client, peer):
        await client.emit("e")
        await client.emit("e", None)
        await client.emit("é", [1, float("nan")])
        assert await peer.connection.recv() == '{"event":"e"}'
        assert await peer.connection.recv() == '{"event":"e","data":null}'
        assert await peer.connection.recv() == '{"event":"é","data":[1,null]}'
        question = ask(client.request("e"))
        assert await peer.connection.recv() == '{"id":1,"event":"e"}'
        await peer.reply({"id": 1}, 1)
        assert await question == 1
        question = ask(listed(client.stream("e", None)))
        assert await peer.connection.recv() == '{"id":2,"event":"e","data":null}'
        await peer.say({"id": 2, "done": True})
        assert await question == []


UNASKED = {
    "an event": ('{"event":"news","data":1}', {"event": "news", "data": 1}),
    "an array": ("[1]", [1]),
    "a number": ("1", 1),
    "null": ("null", None),
    "false": ("false", False),
    "a string": ('"a"', "a"),
    "a text": ("hello", "hello"),
    "nothing": ("", ""),
    "NaN": ("NaN", "NaN"),
    "too deep": ("[" * 100_000, "[" * 100_000),
    "too many digits": ("1" * 5_000, "1" * 5_000),
    "JSON in bytes": (b'{"event":"news"}', {"event": "news"}),
    "bytes": (b"\xff\x00", b"\xff\x00"),
    "no bytes": (b"", b""),
    "an exception": (
        '{"event":"exception","data":"no"}',
        {"event": "exception", "data": "no"},
    ),
    "a reply inside an array": ('[{"id":1,"event":"e","data":1,"done":true}]',) * 2,
    "a data frame that is none": ('{"id":1,"name":"Ada"}', {"id": 1, "name": "Ada"}),
    "an id and an event": ('{"id":1,"event":"new user"}', {"id": 1, "event": "new user"}),
} | {
    f"the id {number}": (f'{{"id":{number},"event":"e","data":1,"done":true}}',) * 2
    for number in ("2", "0", "-1", '"1"', "1.0", "1e0", "true", "null", "[1]", "{}", "9" * 30)
}


@pytest.mark.parametrize("raw, message", UNASKED.values(), ids=UNASKED)
async def test_what_is_no_reply_is_unasked(raw, message):
    if message == raw and isinstance(raw, str) and raw.startswith(('{"id"', '[{"id"')):
        message = json.loads(raw)
    async with facing() as (client, peer):
        question = ask(client.request("e"))
        await peer.hear()
        await peer.connection.send(raw)
        received = await asyncio.wait_for(unasked(client, 1), 1)
        assert (received, type(received[0])) == ([message], type(message))
        await peer.reply({"id": 1}, "a reply")
        assert await question == "a reply"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_replies_in_any_order(order):
    async with facing() as (client, peer):
        questions = [ask(client.request("e", number)) for number in range(3)]
        heard = [await peer.hear() for _ in questions]
        assert [message["data"] for message in heard] == [0, 1, 2]
        for number in order:
            await peer.reply(heard[number], {"reply to": number})
            assert await questions[number] == {"reply to": number}
            pending = [question.done() for question in questions].count(False)
            assert pending == len(unanswered(client)) == 2 - order.index(number)


REPLIES = {
    "done alone": ([{"done": True}], None),
    "a last reply": ([{"event": "e", "data": 0, "done": True}], 0),
    "null": ([{"event": "e", "data": None, "done": True}], None),
    "of another event": ([{"event": "other", "data": [], "done": True}], []),
    "an event inside": ([{"event": "e", "data": {"event": "x", "data": 1}, "done": True}], {}),
    "an item first": ([{"event": "e", "data": 1}, {"done": True}], 1),
    "several items": ([{"event": "e", "data": n} for n in (1, 2, 3)], 1),
    "more keys": ([{"event": "e", "data": 1, "more": 2, "done": True}], 1),
}


@pytest.mark.parametrize("frames, reply", REPLIES.values(), ids=REPLIES)
async def test_the_reply_of_a_request(frames, reply):
    if reply == {}:
        reply = frames[0]["data"]
    async with facing() as (client, peer):
        question = ask(client.request("e"))
        await peer.hears({"id": 1, "event": "e"})
        await peer.say(*({"id": 1, **frame} for frame in frames))
        assert await question == reply
        if not frames[0].get("done"):
            await peer.hears({"id": 1, "cancel": True})
        await client.emit("the next")
        await peer.hears({"event": "the next"})
        await nothing_unasked(client, peer)


async def test_the_items_of_a_stream():
    async with facing() as (client, peer):
        question = ask(listed(client.stream("e")))
        number = (await peer.hear())["id"]
        for data in (0, None, [], {"event": "x", "data": 1}):
            await peer.item({"id": number}, data)
        await peer.reply({"id": number}, "last")
        assert await question == [0, None, [], {"event": "x", "data": 1}, "last"]
        await client.emit("no cancel before this")
        await peer.hears({"event": "no cancel before this"})


EXCEPTIONS = {
    "a text": ({"status": "error", "message": "no", "cause": {"pattern": "e"}}, "no"),
    "a text without a cause": ({"status": "error", "message": "no"}, "no"),
    "a message that is no text": ({"status": "error", "message": [1]}, [1]),
    "an object": ({"code": 7}, {"code": 7}),
    "another status": ({"status": "bad", "message": "no"}, {"status": "bad", "message": "no"}),
    "an array": (["no"], ["no"]),
    "a bare text": ("no", "no"),
    "null": (None, None),
}


@pytest.mark.parametrize("data, error", EXCEPTIONS.values(), ids=EXCEPTIONS)
async def test_an_exception_frame_is_raised_in_the_caller_who_asked(data, error):
    async with facing() as (client, peer):
        refused = ask(client.request("e"))
        other = ask(client.request("e"))
        first, second = await peer.hear(), await peer.hear()
        await peer.say({"id": first["id"], "event": "exception", "data": data, "done": True})
        with pytest.raises(WsException) as raised:
            await refused
        assert raised.value.error == error
        await peer.reply(second, "well")
        assert await other == "well"
        await client.emit("no cancel before this")
        await peer.hears({"event": "no cancel before this"})


async def test_an_exception_in_a_stream_that_goes_on_cancels_it():
    """Of several handlers, one has failed."""
    async with facing() as (client, peer):
        items = client.stream("e")
        first = ask(anext(items))
        question = await peer.hear()
        await peer.item(question, 1)
        await peer.say({"id": question["id"], "event": "exception", "data": "no"})
        assert await first == 1
        with pytest.raises(WsException, match="no"):
            await anext(items)
        await peer.hears({"id": question["id"], "cancel": True})
        with pytest.raises(StopAsyncIteration):
            await anext(items)


# With our gateway


@websocket_gateway()
class Several(Echo):
    """Handlers of every kind; `news` is told to everybody."""

    @subscribe_message("later")
    async def later(self, client: Client, data: Any) -> Any:
        await asyncio.sleep(0)
        return data

    @subscribe_message("named")
    async def named(self, client: Client, data: Any) -> Any:
        return {"event": "other", "data": data}

    @subscribe_message("range")
    async def range(self, client: Client, data: Any) -> AsyncIterator[Any]:
        for number in range(data):
            yield number

    @subscribe_message("refuse")
    def refuse(self, client: Client, data: Any) -> None:
        raise WsException(data)

    @subscribe_message("halfway")
    async def halfway(self, client: Client, data: Any) -> AsyncIterator[Any]:
        yield 1
        raise WsException(data)

    @subscribe_message("fail")
    def fail(self, client: Client, data: Any) -> Any:
        return 1 / 0

    @subscribe_message("news")
    async def news(self, client: Client, data: Any) -> None:
        for other in self.server.clients:
            await other.send({"event": "news", "data": data})


@pytest.mark.parametrize(
    "event, data, reply",
    [
        ("echo", {"a": [1, "é", None]}, {"a": [1, "é", None]}),
        ("echo", None, None),
        ("echo", 0, 0),
        ("later", "x", "x"),
        ("named", "x", "x"),
        ("range", 3, 0),
        ("range", 0, None),
        ("news", 1, None),
    ],
)
async def test_a_request_to_our_gateway(event, data, reply):
    async with asked(Several()) as client:
        assert await client.request(event, data) == reply
        assert await client.request("echo", "next") == "next"


@pytest.mark.parametrize(
    "event, data, items",
    [
        ("range", 3, [0, 1, 2]),
        ("range", 0, []),
        ("range", 500, list(range(500))),
        ("echo", 5, [5]),
        ("echo", None, []),
    ],
)
async def test_a_stream_of_our_gateway(event, data, items):
    async with asked(Several()) as client:
        assert await listed(client.stream(event, data)) == items


@pytest.mark.parametrize("event", ["refuse", "halfway"])
@pytest.mark.parametrize("error", ["no", "", {"code": 7}, ["no"]])
async def test_what_a_handler_raises_is_raised_here(event, error):
    async with asked(Several()) as client:
        with pytest.raises(WsException) as raised:
            await listed(client.stream(event, error))
        assert raised.value.error == error
        assert await client.request("echo", "next") == "next"


async def test_errors_that_the_gateway_words_itself():
    async with asked(Several()) as client:
        with pytest.raises(WsException, match="^Internal server error$"):
            await client.request("fail")
        with pytest.raises(WsException, match="^There is no such event$"):
            await client.request("unknown")
        assert await client.request("echo", "next") == "next"


async def test_what_is_emitted_is_answered_to_nobody():
    async with asked(Several()) as client:
        await client.emit("news", 1)
        await client.emit("refuse", "no")
        await client.emit("echo", "bare")
        news, refused, bare = await unasked(client, 3)
        assert news == {"event": "news", "data": 1}
        assert (refused["event"], refused["data"]["message"]) == ("exception", "no")
        assert bare == "bare"


async def test_several_loops_over_one_client_share_its_messages():
    async with asked(Several()) as client:
        loops = [ask(unasked(client, 1)) for _ in range(3)]
        for number in range(3):
            await client.request("news", number)
        heard = [message["data"] for [message] in await asyncio.gather(*loops)]
        assert sorted(heard) == [0, 1, 2]


async def test_a_large_reply():
    """As large as a message may be, on either side, unless both are told otherwise."""
    async with asked(Echo()) as client:
        large = "x" * (2**20 - 100)
        assert await client.request("echo", large) == large


# Many at once


@pytest.mark.parametrize("seed", range(3))
async def test_200_requests_streams_and_news_in_random_order(seed):
    dice = random.Random(seed)
    async with facing() as (client, peer):
        requests = [ask(client.request("request", n)) for n in range(200)]
        streams = [ask(listed(client.stream("stream", n))) for n in range(30)]
        replies: list[list[Any]] = []
        for _ in range(230):
            match await peer.hear():
                case {"id": number, "event": "request", "data": data}:
                    replies.append([{"id": number, "event": "e", "data": [data], "done": True}])
                case {"id": number, "event": "stream", "data": data}:
                    items = [{"id": number, "event": "e", "data": [data, n]} for n in range(5)]
                    replies.append([*items, {"id": number, "done": True}])
        replies += [[{"event": "news", "data": n} for n in range(50)], [{"id": 500}, {"id": "1"}]]
        while replies:
            several = dice.choice(replies)
            await peer.say(several.pop(0))
            if not several:
                replies.remove(several)
        assert await asyncio.gather(*requests) == [[n] for n in range(200)]
        assert await asyncio.gather(*streams) == [[[n, i] for i in range(5)] for n in range(30)]
        heard = await unasked(client, 52)
        assert [m["data"] for m in heard if "data" in m] == list(range(50))
        assert [m["id"] for m in heard if "id" in m] == [500, "1"]
        await nothing_unasked(client, peer)


async def test_200_requests_to_our_gateway():
    """As many as it has in flight for one connection, nearly."""
    dice = random.Random(5)

    async def ask_later(self, client, data):
        for _ in range(dice.randrange(10)):
            await asyncio.sleep(0)
        return data

    assert IN_FLIGHT > 200
    async with asked(asking(ask_later)) as client:
        received = await asyncio.gather(*(client.request("ask", n) for n in range(200)))
        assert received == list(range(200))


# Giving up


async def test_a_server_that_does_not_answer_the_handshake():
    gone = asyncio.Event()

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(say_nothing, HOST, 0)
    async with server, asyncio.timeout(TIMEOUT):
        client = GatewayClient(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}", timeout=0.05)
        with pytest.raises(TimeoutError, match="."):
            await client.__aenter__()
        with pytest.raises(RuntimeError, match="not connected"):
            await client.emit("e")
        await gone.wait()


@pytest.mark.parametrize("own", [True, False], ids=["of the call", "of the client"])
async def test_a_request_without_a_reply(own):
    async with facing(timeout=TIMEOUT if own else 0.05) as (client, peer):
        with pytest.raises(TimeoutError, match=r"^no reply to 'e' within 0\.05 s$"):
            await client.request("e", timeout=0.05 if own else None)
        await peer.hears({"id": 1, "event": "e"}, {"id": 1, "cancel": True})


async def test_a_stream_whose_next_item_does_not_come():
    async with facing() as (client, peer):
        items = client.stream("e", timeout=0.1)
        for number in range(3):
            item = ask(anext(items))
            if number == 0:
                await peer.hear()
            await peer.item({"id": 1}, number)
            assert await item == number
            await asyncio.sleep(0.06)  # the loop's own time does not count
        with pytest.raises(TimeoutError, match=r"^nothing more came for 0\.1 s$"):
            await anext(items)
        await peer.hears({"id": 1, "cancel": True})


async def test_a_stream_waits_longer_than_the_client():
    async with facing(timeout=0.05) as (client, peer):
        items = ask(listed(client.stream("e")))
        await peer.hear()
        await asyncio.wait([items], timeout=0.15)
        assert not items.done()
        await peer.reply({"id": 1}, "late")
        assert await items == ["late"]


async def test_a_message_that_the_server_does_not_read():
    async with facing(timeout=0.2) as (client, peer):
        peer.read_no_more()
        with pytest.raises(TimeoutError, match=r"^the server has not read for 0\.2 s$"):
            await client.emit("e", LARGE)
        with pytest.raises(TimeoutError, match=r"^the server has not read for 0\.2 s$"):
            await listed(client.stream("e"))
        peer.read_on()
        assert (await peer.hear())["data"] == LARGE
        await peer.hears({"id": 1, "event": "e"}, {"id": 1, "cancel": True})
        question = ask(client.request("e"))
        await peer.reply(await peer.hear(), "well")
        assert await question == "well"


async def test_a_request_that_the_server_does_not_read_ends_when_it_says():
    async with facing(timeout=1000) as (client, peer):
        peer.read_no_more()
        try:
            async with asyncio.timeout(TIMEOUT / 2):
                with pytest.raises(TimeoutError, match=r"^no reply to 'e' within 0\.05 s$"):
                    await client.request("e", LARGE, timeout=0.05)
        finally:
            peer.read_on()


async def test_a_request_that_the_server_does_not_read_says_so():
    """The client's own time is over first, and not the one of the request."""
    async with facing(timeout=0.05) as (client, peer):
        peer.read_no_more()
        try:
            with pytest.raises(TimeoutError) as raised:
                await client.request("e", LARGE, timeout=1000)
        finally:
            peer.read_on()
        assert "1000 s" not in str(raised.value)
        assert "has not read for 0.05 s" in str(raised.value)


async def test_leaving_a_server_that_does_not_read():
    """The end of the block is bounded, too: by the client's timeout, or close_timeout."""
    async with facing(timeout=0.1, close_timeout=0.1) as (client, peer):
        peer.read_no_more()
        with pytest.raises(TimeoutError):
            await client.emit("e", LARGE)
        try:
            async with asyncio.timeout(TIMEOUT / 2):
                await client.close()
        finally:
            peer.connection.transport.abort()


async def test_leaving_a_server_that_does_not_answer_the_close():
    async with facing(timeout=0.1, close_timeout=0.1) as (client, peer):
        peer.read_no_more()
        pending = ask(client.request("e", timeout=TIMEOUT))
        await until(lambda: unanswered(client))
        await client.close()
        with pytest.raises(ConnectionClosed):
            await pending
        peer.connection.transport.abort()


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("event", ["pass", "count"])
@pytest.mark.parametrize("kind", ["request", "timeout", "stream", "stream timeout"])
async def test_what_is_given_up_leaves_nothing_behind(event, kind):
    gates = Gates()
    async with asked(gates) as client:
        if kind == "request":
            question = ask(client.request(event, "x"))
            await until(lambda: gates.begun)
            await cancelled(question)
        elif kind == "stream":
            question = ask(anext(client.stream(event, "x")))
            await until(lambda: gates.begun)
            await cancelled(question)
        elif kind == "timeout":
            with pytest.raises(TimeoutError):
                await client.request(event, "x", timeout=0.1)
        else:
            with pytest.raises(TimeoutError):
                await listed(client.stream(event, "x", timeout=0.1))
        assert gates.begun == ["x"]
        assert unanswered(client) == {}
        if event == "pass":  # a coroutine is not cancelled: its reply comes, for nobody
            await client.request("echo")
            assert gates.ended == []
            gates.gates["x"].set()
        await until(lambda: gates.ended == ["x"])
        await client.emit("echo", "a marker")
        assert await unasked(client, 1) == ["a marker"]
        await until(lambda: not gates.server.tasks)


async def test_a_late_reply_is_nobodys():
    async with facing() as (client, peer):
        for late in (
            {"event": "e", "data": "late", "done": True},
            {"event": "e", "data": "late"},
            {"done": True},
            {"event": "exception", "data": "late", "done": True},
        ):
            question = ask(client.request("e"))
            number = (await peer.hear())["id"]
            await cancelled(question)
            await peer.hears({"id": number, "cancel": True})
            question = ask(client.request("e"))
            following = await peer.hear()
            await peer.say({"id": number, **late})
            await peer.reply(following, "in time")
            assert await question == "in time"
        await nothing_unasked(client, peer)


async def test_a_request_cancelled_at_any_step_leaves_nothing_behind():
    async with facing() as (client, peer):
        for steps in range(12):
            question = ask(client.request("e", steps))
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancelled(question)
            assert unanswered(client) == {}
        await client.emit("the end")
        heard = []
        while (message := await peer.hear()) != {"event": "the end"}:
            heard.append(message)
        sent = [message["id"] for message in heard if "event" in message]
        assert sent
        assert sorted(m["id"] for m in heard if "cancel" in m) == sent


async def test_closing_cancelled_at_any_step_still_ends_what_waits():
    for steps in range(60):
        async with facing() as (client, peer):
            question = ask(client.request("e"))
            await peer.hear()
            closing = ask(client.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            with suppress(asyncio.CancelledError):
                await closing
            await peer.connection.close()
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(1):
                    await question


async def test_a_request_to_a_stream_takes_its_first_item_and_cancels_the_rest():
    gates = Gates()
    async with asked(gates) as client:
        question = ask(client.request("count", "x"))
        await until(lambda: gates.begun)
        gates.gates[0].set()
        assert await question == 0
        await until(lambda: gates.ended == ["x"])


# Leaving a stream


async def leave_by_break(items: Any) -> None:
    async for _ in items:
        break


async def leave_by_aclose(items: Any) -> None:
    async with aclosing(items):
        await anext(items)


async def leave_by_an_exception(items: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with aclosing(items):
            async for _ in items:
                raise ZeroDivisionError


async def leave_by_cancelling(items: Any) -> None:
    """The task is in the body of the loop, not in the stream."""
    first = asyncio.Event()

    async def follow() -> None:
        async with aclosing(items):
            async for _ in items:
                first.set()
                await asyncio.Event().wait()

    task = ask(follow())
    await first.wait()
    await cancelled(task)


async def leave_by_cancelling_the_wait(items: Any) -> None:
    """The task waits for the second item."""
    first = asyncio.Event()

    async def follow() -> None:
        async for _ in items:
            first.set()

    task = ask(follow())
    await first.wait()
    await asyncio.sleep(0)
    await cancelled(task)


WAYS_OUT = [
    leave_by_break,
    leave_by_aclose,
    leave_by_an_exception,
    leave_by_cancelling,
    leave_by_cancelling_the_wait,
]


@pytest.mark.parametrize("leave", WAYS_OUT)
async def test_leaving_a_stream_sends_a_cancel(leave):
    async with facing() as (client, peer):
        leaving = ask(leave(client.stream("e")))
        await peer.hears({"id": 1, "event": "e"})
        await peer.item({"id": 1}, "first")
        await leaving
        del leaving
        gc.collect()
        await peer.hears({"id": 1, "cancel": True})
        await at_rest(client)
        await peer.item({"id": 1}, "late")
        await nothing_unasked(client, peer)


@pytest.mark.parametrize("leave", WAYS_OUT)
async def test_leaving_a_stream_closes_the_generator_of_the_server(leave):
    gates = Gates()
    async with asked(gates) as client:
        gates.gates[0].set()
        await leave(client.stream("count", "x"))
        gc.collect()
        await until(lambda: gates.ended == ["x"])
        assert await client.request("echo", "next") == "next"


async def test_a_stream_that_was_never_begun_sends_nothing():
    async with facing() as (client, peer):
        await client.stream("e").aclose()
        client.stream("e")
        gc.collect()
        await client.emit("the first")
        await peer.hears({"event": "the first"})


@pytest.mark.parametrize("correlate", [True, False])
async def test_a_stream_that_is_left_after_the_block(correlate):
    gates = Gates()
    gates.gates[0].set()
    async with asyncio.timeout(TIMEOUT), serving(gates) as app:
        async with client_of(app, correlate=correlate) as client:
            items = client.stream("count", "x")
            assert await anext(items) == 0
        await items.aclose()
        assert unanswered(client) == {}
        await until(lambda: gates.ended == ["x"])


# The end of the connection


async def cut(peer: Peer, relay: Relay) -> None:
    relay.cut()


async def abort(peer: Peer, relay: Relay) -> None:
    peer.connection.transport.abort()


async def nonsense(peer: Peer, relay: Relay) -> None:
    peer.connection.transport.write(b"\xff\xff")


async def no_text(peer: Peer, relay: Relay) -> None:
    peer.connection.transport.write(b"\x81\x01\xff")


def closing(*arguments: Any) -> Callable[[Peer, Relay], Awaitable[None]]:
    async def close(peer: Peer, relay: Relay) -> None:
        await peer.connection.close(*arguments)

    return close


ENDS = {
    "the cable is cut": (cut, 1006),
    "the server aborts": (abort, 1006),
    "the server sends no frame": (nonsense, 1006),
    "the server sends a text that is none": (no_text, 1006),
    "1000": (closing(), 1000),
    "1001": (closing(1001), 1001),
    "1011": (closing(1011), 1011),
    "4001": (closing(4001, "out"), 4001),
}


@pytest.mark.parametrize("correlate", [True, False])
@pytest.mark.parametrize("end, code", ENDS.values(), ids=ENDS)
async def test_whatever_waits_ends_with_the_connection(end, code, correlate):
    async with facing(relayed=True, correlate=correlate) as (client, peer, relay):
        items = client.stream("e")
        first = ask(anext(items))
        number = await peer.hear()
        await peer.say({"event": "e", "data": 1, **number})
        assert await first == 1
        waiting = [ask(client.request("e", timeout=1000)) for _ in range(3)]
        waiting += [ask(listed(client.stream("e"))), ask(anext(items))]
        loops = [ask(listed(aiter(client))) for _ in range(3)]
        if correlate:
            for _ in range(4):
                await peer.hear()
        await asyncio.sleep(0)
        assert client.close_code is None
        await end(peer, relay)
        for task in waiting:
            with pytest.raises(ConnectionClosed):
                await task
        assert client.close_code == code
        for loop in [*loops, ask(listed(aiter(client)))]:
            if code in (1000, 1001):
                assert await loop == []
            else:
                with pytest.raises(ConnectionClosedError):
                    await loop
        for late in (client.emit("e"), client.request("e"), listed(client.stream("e"))):
            with pytest.raises(ConnectionClosed):
                await late
        await client.close()


async def test_what_came_before_the_end_is_given_first():
    async with facing() as (client, peer):
        items = client.stream("e")
        first = ask(anext(items))
        question = await peer.hear()
        await peer.say("unasked 1", "unasked 2")
        for number in range(3):
            await peer.item(question, number)
        await peer.connection.close(4001)
        assert await first == 0
        assert [await anext(items), await anext(items)] == [1, 2]
        with pytest.raises(ConnectionClosed):
            await anext(items)
        messages = aiter(client)
        assert [await anext(messages), await anext(messages)] == ["unasked 1", "unasked 2"]
        with pytest.raises(ConnectionClosedError):
            await anext(messages)


@pytest.mark.parametrize("code", [1000, 1001, 4000])
async def test_closing_the_client_itself_ends_what_waits(code):
    async with facing() as (client, peer):
        waiting = [ask(client.request("e")), ask(listed(client.stream("e")))]
        await peer.hear()
        await peer.hear()
        loop = ask(listed(aiter(client)))
        await client.close(code, "enough")
        for task in waiting:
            with pytest.raises(ConnectionClosed):
                await task
        if code == 4000:
            with pytest.raises(ConnectionClosedError):
                await loop
        else:
            assert await loop == []
        assert client.close_code == peer.connection.close_code == code
        assert peer.connection.close_reason == "enough"


async def test_the_application_closes():
    gates = Gates()
    async with asyncio.timeout(TIMEOUT), serving(gates) as app, client_of(app) as client:
        loop = ask(listed(aiter(client)))
        stream = ask(listed(client.stream("count", "s")))
        waiting = [ask(client.request("pass", n)) for n in range(20)]
        await until(lambda: len(gates.begun) == 21)
        await app.close(grace=0)
        for task in [stream, *waiting]:
            with pytest.raises(ConnectionClosed):
                await task
        assert await loop == []
        assert client.close_code == 1001
        assert unanswered(client) == {}
        assert sorted(map(str, gates.ended)) == sorted(map(str, ["s", *range(20)]))


async def test_the_block_leaves_nothing_to_the_server():
    gates = Gates()
    async with asyncio.timeout(TIMEOUT), serving(gates) as app:
        async with client_of(app) as client:
            stream = ask(listed(client.stream("count", "s")))
            await until(lambda: gates.begun == ["s"])
        with pytest.raises(ConnectionClosed):
            await stream
        await until(lambda: gates.ended == ["s"])


USES = {
    "emit": lambda client: client.emit("e"),
    "request": lambda client: client.request("e"),
    "stream": lambda client: listed(client.stream("e")),
    "iteration": lambda client: listed(aiter(client)),
    "close": lambda client: client.close(),
}


@pytest.mark.parametrize("correlate", [True, False])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_outside_of_the_block(use, correlate):
    async with asyncio.timeout(TIMEOUT), serving(Echo()) as app:
        client = client_of(app, correlate=correlate)
        with pytest.raises(RuntimeError, match=r"not connected: async with GatewayClient"):
            await use(client)
        async with client:
            assert await client.request("echo", 1) == 1
        with pytest.raises(RuntimeError, match=r"not connected: async with GatewayClient"):
            await use(client)
        with pytest.raises(RuntimeError, match="not connected"):
            print(client.close_code)
        assert unanswered(client) == {}


async def test_how_many_were_dropped_can_be_asked_before_and_after_the_block(backlog):
    async with asyncio.timeout(TIMEOUT), serving(Several()) as app:
        client = client_of(app)
        assert client.dropped == 0
        async with client:
            for number in range(5):
                await client.emit("echo", number)
            await client.request("echo")
        assert client.dropped == 2


async def test_a_client_is_entered_once():
    async with asyncio.timeout(TIMEOUT), serving(Echo()) as app:
        async with client_of(app) as client:
            with pytest.raises(RuntimeError, match="connected already: make another one"):
                await client.__aenter__()
            assert await client.request("echo", 1) == 1


async def test_a_client_that_is_entered_again_has_no_end_of_before():
    """It may refuse, but what it lets in must work."""
    async with asyncio.timeout(TIMEOUT), serving(Several()) as app:
        client = client_of(app)
        async with client:
            await client.request("echo", 1)
        try:
            await client.__aenter__()
        except RuntimeError as error:
            assert "make another one" in str(error)
            return
        try:
            await client.emit("echo", "news")
            assert await unasked(client, 1) == ["news"]
        finally:
            await client.__aexit__()


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("correlate", [True, False])
@pytest.mark.parametrize("data", [{1}, b"bytes", object(), CIRCLE], ids=lambda d: type(d).__name__)
async def test_what_json_cannot_say_raises_in_the_caller(data, correlate):
    async with asyncio.timeout(TIMEOUT), serving(Several()) as app:
        async with client_of(app, correlate=correlate) as client:
            for use in (client.emit, client.request, lambda e, d: listed(client.stream(e, d))):
                with pytest.raises((TypeError, ValueError)):
                    await use("echo", data)
            assert unanswered(client) == {}
            assert await client.request("echo", "next") == "next"


# Falling behind


@pytest.fixture
def backlog(monkeypatch) -> int:
    monkeypatch.setattr(client_module, "BACKLOG", 3)
    return 3


async def test_the_backlog_is_a_thousand():
    assert client_module.BACKLOG == 1000


async def behind(client: GatewayClient, peer: Peer, frames: list[Any]) -> Any:
    """A stream that has taken one item, when these frames have come for its loop."""
    items = client.stream("slow")
    first = ask(anext(items))
    question = await peer.hear()
    await peer.item(question, "first")
    assert await first == "first"
    await peer.say(*({"id": question["id"], **frame} for frame in frames))
    other = ask(client.request("fast"))
    await peer.reply(await peer.hear(), "all have come")
    assert await other == "all have come"
    return items


@pytest.mark.parametrize("count", [4, 5, 100])
async def test_a_stream_too_far_behind_gets_what_was_kept_and_then_an_error(count, backlog):
    async with facing() as (client, peer):
        items = await behind(client, peer, [{"event": "e", "data": n} for n in range(count)])
        assert [await anext(items) for _ in range(backlog)] == [0, 1, 2]
        with pytest.raises(BufferError, match="more than 3 items behind"):
            await anext(items)
        await peer.hears({"id": 1, "cancel": True})
        question = ask(client.request("e"))
        await peer.reply(await peer.hear(), "well")
        assert await question == "well"


async def test_a_stream_as_far_behind_as_it_may_be(backlog):
    async with facing() as (client, peer):
        items = await behind(client, peer, [{"event": "e", "data": n} for n in range(backlog)])
        assert [await anext(items) for _ in range(backlog)] == [0, 1, 2]
        await peer.item({"id": 1}, "more")
        assert await anext(items) == "more"
        await items.aclose()


async def test_the_end_of_a_stream_is_no_item_that_waits(backlog):
    """Three items wait, which is no more than it may be."""
    async with facing() as (client, peer):
        frames = [{"event": "e", "data": n} for n in range(backlog)]
        items = await behind(client, peer, [*frames, {"done": True}])
        assert await listed(items) == [0, 1, 2]


async def test_a_stream_too_far_behind_when_the_connection_ends(backlog):
    async with facing() as (client, peer):
        items = await behind(client, peer, [{"event": "e", "data": n} for n in range(50)])
        await peer.connection.close()
        assert [await anext(items) for _ in range(backlog)] == [0, 1, 2]
        with pytest.raises(BufferError):
            await anext(items)


async def test_unasked_messages_are_dropped_oldest_first(backlog):
    async with facing() as (client, peer):
        question = ask(client.request("e"))
        number = await peer.hear()
        await peer.say(*range(backlog))
        await peer.reply(number, "well")
        assert await question == "well"
        assert client.dropped == 0
        question = ask(client.request("e"))
        number = await peer.hear()
        await peer.say(*range(backlog, 10))
        await peer.reply(number, "well")
        assert await question == "well"
        assert client.dropped == 7
        assert await unasked(client, backlog) == [7, 8, 9]
        await peer.say("more")
        await peer.connection.close()
        assert await listed(aiter(client)) == ["more"]
        assert client.dropped == 7


# Without ids


async def test_without_ids_one_question_is_asked_at_a_time():
    async with facing(correlate=False) as (client, peer):
        questions = [ask(client.request("e", number)) for number in range(50)]
        for number in range(50):
            await peer.hears({"event": "e", "data": number})
            if number == 0:
                await client.emit("which waits for nobody")
                await peer.hears({"event": "which waits for nobody"})
            await peer.say(["reply", number])
            assert await questions[number] == ["reply", number]
            assert sum(question.done() for question in questions) == number + 1


BARE = {
    "null": (None, None),
    "a number": (0, 0),
    "an array": ([1], [1]),
    "an event with data": ({"event": "e", "data": 1}, 1),
    "an event with null": ({"event": "e", "data": None}, None),
    "an event without data": ({"event": "e"}, {"event": "e"}),
    "data without an event": ({"data": 1}, {"data": 1}),
    "an id of its own": ({"id": 1, "name": "Ada"}, {"id": 1, "name": "Ada"}),
    "done of its own": ({"done": True}, {"done": True}),
}


@pytest.mark.parametrize("message, reply", BARE.values(), ids=BARE)
async def test_the_next_message_is_the_reply(message, reply):
    async with facing(correlate=False) as (client, peer):
        await peer.say("news")
        assert await unasked(client, 1) == ["news"]
        question = ask(client.request("e"))
        await peer.hears({"event": "e"})
        await peer.say(message)
        assert await question == reply
        await nothing_unasked(client, peer)


async def test_without_ids_only_the_next_message_is_the_reply():
    """What arrives together with it is not: nobody has asked for that."""
    async with facing(correlate=False) as (client, peer):
        question = ask(client.request("e"))
        await peer.hears({"event": "e"})
        await peer.say("reply", "news")
        assert await question == "reply"
        async with asyncio.timeout(1):
            assert await unasked(client, 1) == ["news"]


async def test_without_ids_what_comes_with_an_exception_is_unasked():
    async with facing(correlate=False) as (client, peer):
        question = ask(client.request("e"))
        await peer.hears({"event": "e"})
        await peer.say({"event": "exception", "data": "no"}, "news")
        with pytest.raises(WsException):
            await question
        async with asyncio.timeout(1):
            assert await unasked(client, 1) == ["news"]


@pytest.mark.parametrize("raw, reply", [("hello", "hello"), (b"\xff", b"\xff"), (b"[1]", [1])])
async def test_a_reply_that_is_no_json_comes_as_it_is(raw, reply):
    async with facing(correlate=False) as (client, peer):
        question = ask(client.request("e"))
        await peer.hear()
        await peer.connection.send(raw)
        assert await question == reply


@pytest.mark.parametrize("data, error", EXCEPTIONS.values(), ids=EXCEPTIONS)
async def test_without_ids_an_exception_is_raised_and_the_connection_goes_on(data, error):
    async with facing(correlate=False) as (client, peer):
        for use in (client.request("e"), listed(client.stream("e"))):
            question = ask(use)
            await peer.hears({"event": "e"})
            await peer.say({"event": "exception", "data": data})
            with pytest.raises(WsException) as raised:
                await question
            assert raised.value.error == error
        question = ask(client.request("e"))
        await peer.hears({"event": "e"})
        await peer.say("well")
        assert await question == "well"


async def test_without_ids_a_stream_has_the_connection_to_itself():
    async with facing(correlate=False) as (client, peer):
        items = client.stream("e")
        first = ask(anext(items))
        await peer.hears({"event": "e"})
        question = ask(client.request("next"))
        for number in range(3):
            await peer.say(number)
        assert [await first, await anext(items), await anext(items)] == [0, 1, 2]
        await items.aclose()
        with pytest.raises(ConnectionClosed):
            await question


@pytest.mark.parametrize("how", ["timeout", "cancelled", "stream", "stream timeout"])
async def test_without_ids_giving_up_closes_the_connection(how):
    async with facing(correlate=False) as (client, peer):
        match how:
            case "timeout":
                question = ask(client.request("e", timeout=0.05))
            case "cancelled":
                question = ask(client.request("e"))
            case "stream timeout":
                question = ask(anext(client.stream("e", timeout=0.05)))
            case "stream":
                items = client.stream("e")
                question = ask(anext(items))
        queued = ask(client.request("e", "queued"))
        loop = ask(listed(aiter(client)))
        await peer.hears({"event": "e"})
        match how:
            case "timeout" | "stream timeout":
                with pytest.raises(TimeoutError):
                    await question
            case "cancelled":
                await cancelled(question)
            case "stream":
                await peer.say(1)
                assert await question == 1
                await items.aclose()
        with pytest.raises(ConnectionClosed):
            await peer.hear()
        assert peer.connection.close_code == 1000
        assert peer.connection.close_reason == "a reply is not waited for"
        assert await loop == []
        for late in (queued, client.request("e"), client.emit("e"), listed(client.stream("e"))):
            with pytest.raises(ConnectionClosed):
                await late


async def test_without_ids_a_question_that_waits_for_its_turn_may_be_given_up():
    async with facing(correlate=False) as (client, peer):
        question = ask(client.request("e", 1))
        await peer.hears({"event": "e", "data": 1})
        with pytest.raises(TimeoutError, match=r"^no reply to 'e' within 0\.05 s$"):
            await client.request("e", 2, timeout=0.05)
        queued = ask(client.request("e", 3))
        await asyncio.sleep(0)
        await cancelled(queued)
        await peer.say("well")
        assert await question == "well"
        assert client.close_code is None
        question = ask(client.request("e", 4))
        await peer.hears({"event": "e", "data": 4})
        await peer.say("well")
        assert await question == "well"


async def test_without_ids_our_gateway_answers_as_nest_does():
    async with asyncio.timeout(TIMEOUT), serving(Several()) as app:
        async with client_of(app, correlate=False) as client:
            replies = await asyncio.gather(*(client.request("later", n) for n in range(1, 40)))
            assert replies == list(range(1, 40))
            assert await client.request("named", {"a": 1}) == {"a": 1}
            with pytest.raises(WsException, match="no"):
                await client.request("refuse", "no")
            with pytest.raises(WsException) as raised:
                await client.request("refuse", {"code": 7})
            assert raised.value.error == {"code": 7}


# Node


async def in_node(script: str, url: str) -> list[Any]:
    """What a script says, a JSON value a line; it has `WebSocket`, `url` and `say`."""
    if why := node.why_not():
        missing(why)
    begin = """
        import WebSocket from 'ws';
        const url = process.argv[1];
        const say = value => console.log(JSON.stringify(value));
        const sends = (socket, data) => socket.send(JSON.stringify({ event: 'echo', data }));
    """
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "-e", begin + script, url),
        cwd=node.FOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(10):
            printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors.decode()) == (0, "")
    return [json.loads(line) for line in printed.decode().splitlines()]


@websocket_gateway()
class Ends(Several):
    """`out` closes with a code and a reason; it turns away who asks for /?uninvited."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def handle_connection(self, client: Client, request: Any) -> None:
        if request.path == "/?uninvited":
            raise WsException("You are not invited")

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.codes.append(code)

    @subscribe_message("out")
    async def out(self, client: Client, data: Any) -> None:
        await client.close(*data)


async def test_node_text_binary_and_fragments():
    script = r"""
        const socket = new WebSocket(url);
        const text = JSON.stringify({ event: 'echo', data: 'Grüße ☃' });
        const bytes = Buffer.from(text);
        socket.on('open', () => {
          socket.send(text);
          socket.send(bytes);
          for (const piece of [1, 7, 26]) {
            for (const binary of [false, true]) {
              for (let at = 0; at < bytes.length; at += piece) {
                const fin = at + piece >= bytes.length;
                socket.send(bytes.subarray(at, at + piece), { binary, fin });
                if (!fin) socket.ping();
              }
            }
          }
          sends(socket, 'x'.repeat(200000));
          sends(socket, 'end');
        });
        socket.on('message', (data, binary) => {
          const heard = JSON.parse(data);
          say([binary, heard.length > 1000 ? heard.length : heard]);
          if (heard === 'end') socket.close(1000);
        });
    """
    async with asyncio.timeout(15), serving(Echo()) as app:
        heard = await in_node(script, url_of(app))
    assert heard == [[False, "Grüße ☃"]] * 8 + [[False, 200_000], [False, "end"]]


async def test_node_pings_and_is_pinged():
    script = """
        const socket = new WebSocket(url);
        let pings = 0;
        socket.on('open', () => { socket.ping('hello'); socket.ping(); });
        socket.on('pong', data => say(['pong', String(data)]));
        socket.on('ping', () => { if (++pings == 3) { say('pinged'); socket.close(1000); } });
        socket.on('close', code => say(['close', code]));
    """
    ends = Ends()
    async with (
        asyncio.timeout(15),
        serving(ends, ping_interval=0.1, ping_timeout=5) as app,
    ):
        heard = await in_node(script, url_of(app))
    assert heard == [["pong", "hello"], ["pong", ""], "pinged", ["close", 1000]]
    assert ends.codes == [1000]


NODE_CLOSES = {
    "4000, with a reason": ("socket.close(4000, 'enough ☃')", 4000, [4000, "enough ☃"]),
    "1000": ("socket.close(1000)", 1000, [1000, ""]),
    "no code": ("socket.close()", 1005, [1005, ""]),
    "no goodbye": ("socket.terminate()", 1006, [1006, ""]),
    "the server, 4001": (
        'socket.send(\'{"event":"out","data":[4001,"out ☃"]}\')',
        4001,
        [4001, "out ☃"],
    ),
    "the server, 1000": ('socket.send(\'{"event":"out","data":[]}\')', 1000, [1000, ""]),
    "a frame that is none": ("socket._socket.write(Buffer.from([255, 255]))", 1006, [1002, None]),
}


@pytest.mark.parametrize("act, gateway_sees, node_sees", NODE_CLOSES.values(), ids=NODE_CLOSES)
async def test_close_codes_of_node_and_the_gateway(act, gateway_sees, node_sees):
    script = f"""
        const socket = new WebSocket(url);
        socket.on('open', () => {{ {act}; }});
        socket.on('close', (code, reason) => say([code, String(reason)]));
        socket.on('error', () => {{}});
    """
    ends = Ends()
    async with asyncio.timeout(15), serving(ends) as app, Relay(app.ports[0]) as relay:
        [[code, reason]] = await in_node(script, relay.url)
        await until(lambda: ends.codes)
        labels = [item.label for item in decode(relay.taps) if isinstance(item.content, Frame)]
    assert (ends.codes, code) == ([gateway_sees], node_sees[0])
    if node_sees[1] is not None:
        assert reason == node_sees[1]
    if code >= 4000:
        assert labels[-2:] == [f"CLOSE {code} {reason}"] * 2


async def test_node_is_turned_away_by_the_connect_hook():
    script = """
        const socket = new WebSocket(url);
        socket.on('message', data => say(JSON.parse(data).data.message));
        socket.on('close', code => say(code));
    """
    ends = Ends()
    async with asyncio.timeout(15), serving(ends) as app:
        assert await in_node(script, url_of(app, "/?uninvited")) == ["You are not invited", 1008]
    assert ends.codes == []


async def test_node_asks_for_a_path_where_no_gateway_is():
    script = """
        const socket = new WebSocket(url);
        socket.on('unexpected-response', (request, response) => {
          say(response.statusCode);
          request.destroy();
        });
        socket.on('error', () => {});
    """
    async with asyncio.timeout(15), serving(Ends()) as app:
        assert await in_node(script, url_of(app, "/nowhere")) == [404]


@pytest.mark.parametrize(
    "offered, chosen",
    [("[]", ""), ("['first', 'second']", "first"), ("'only'", "only")],
)
async def test_the_subprotocol_that_node_gets(offered, chosen):
    script = f"""
        const socket = new WebSocket(url, {offered});
        socket.on('open', () => {{ say([socket.protocol, socket.extensions]); socket.close(); }});
    """
    async with asyncio.timeout(15), serving(Ends()) as app:
        assert await in_node(script, url_of(app)) == [[chosen, ""]]


async def test_node_matches_replies_by_their_id():
    script = """
        const socket = new WebSocket(url);
        const ask = (id, event, data) => socket.send(JSON.stringify({ id, event, data }));
        const frames = {};
        socket.on('open', () => {
          ask('one', 'later', [1]); ask(2, 'range', 2); ask('x', 'refuse', { code: 7 });
        });
        socket.on('message', data => {
          const { id, ...frame } = JSON.parse(data);
          (frames[id] ??= []).push(frame);
          if (Object.values(frames).filter(all => all.at(-1).done).length == 3) {
            say(frames);
            socket.close(1000);
          }
        });
    """
    async with asyncio.timeout(15), serving(Several()) as app:
        [frames] = await in_node(script, url_of(app))
    assert frames == {
        "one": [{"event": "later", "data": [1], "done": True}],
        "2": [*({"event": "range", "data": n} for n in range(2)), {"done": True}],
        "x": [{"event": "exception", "data": {"code": 7}, "done": True}],
    }


def said(ran: node.Run) -> tuple[int, str, list[str]]:
    frames = [item.label for item in decode(ran.taps) if isinstance(item.content, Frame)]
    return ran.code, ran.printed, frames


async def run_client(port: bool) -> node.Run:
    """The article's client, with the article's gateway or with nobody."""
    async with asyncio.timeout(15), serving(EventsGateway()) as app:
        return await node.run("client.mjs", app.ports[0] if port else None)


@pytest.mark.parametrize("port", [True, False], ids=["a gateway", "nobody there"])
async def test_the_recording_says_what_a_fresh_run_does(port, monkeypatch):
    if why := node.why_not():
        missing(why)
    fresh = await run_client(port)
    assert not fresh.recorded
    with monkeypatch.context() as changed:
        changed.setenv("PATH", "")
        recorded = await run_client(port)
    assert recorded.recorded
    assert repr(recorded) == f"(recorded, since Node is missing here)\n{fresh!r}"
    assert said(recorded) == said(fresh)


@pytest.mark.parametrize("hidden", [False, True], ids=["run", "recorded"])
async def test_what_the_articles_client_does(hidden, monkeypatch):
    if hidden:
        monkeypatch.setenv("PATH", "")
    elif why := node.why_not():
        missing(why)
    ran = await run_client(True)
    code, printed, frames = said(ran)
    assert (ran.recorded, code) == (hidden, 0)
    reply = serialise({"event": "events", "data": [1, 2, 3]})
    assert printed.splitlines() == [
        f"as the article prints it: <Buffer {reply.encode().hex(' ')}>",
        "binary: false",
        f"as text: {reply}",
    ]
    assert len(frames) == 4 and frames[2:] == ["CLOSE 1000"] * 2
    assert [item.sender for item in decode(ran.taps)][2:6] == ["client", "server"] * 2


@pytest.mark.parametrize("hidden", [False, True], ids=["run", "recorded"])
async def test_the_articles_client_with_nobody_there(hidden, monkeypatch):
    if hidden:
        monkeypatch.setenv("PATH", "")
    elif why := node.why_not():
        missing(why)
    ran = await run_client(False)
    assert (ran.recorded, ran.code, ran.taps) == (hidden, 1, [])
    assert "ECONNREFUSED 127.0.0.1:·····" in ran.printed
    assert not any(word in ran.printed for word in ("node:", "file:", "    at "))


async def test_a_node_program_that_does_not_end(monkeypatch):
    """Nobody answers its message, so it waits; it is ended, and the time-out comes out."""
    if why := node.why_not():
        missing(why)
    async with asyncio.timeout(15), serving(Gates()) as app:
        with pytest.raises(TimeoutError):
            await node.run("client.mjs", app.ports[0], timeout=0.5)
