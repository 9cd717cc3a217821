"""What the tests of gateways share: an application that is served, clients, gateways, tables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import read_head, until
from nestling.application import Application, create
from nestling.conversation import IN_FLIGHT
from nestling.envelope import parse
from nestling.frames import Decoder, Frame, Opcode, encode, new_mask, parse_close
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.handshake import parse_response
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

TIMEOUT = 5


# A server, a client, and gateways to talk to


@asynccontextmanager
async def serving(
    *gateways: object, parse: Callable[[str | bytes], Any] = parse, **options: Any
) -> AsyncIterator[Application]:
    """An application of these gateways that listens, and is closed without grace."""
    app = create(*gateways, parse=parse)
    async with asyncio.timeout(TIMEOUT):
        await app.listen(0, **options)
    try:
        yield app
    finally:
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0)


class Talk:
    """A client that says and hears JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, raw: Any) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.connection.send(raw)

    async def say(self, event: str, *data: Any, **more: Any) -> None:
        """Send a message: with data if there are any, and with what else is named."""
        message = {"event": event, **dict(zip(["data"], data, strict=False)), **more}
        await self.send(json.dumps(message))

    async def cancel(self, id: Any) -> None:
        await self.send(json.dumps({"id": id, "cancel": True}))

    async def text(self) -> str:
        async with asyncio.timeout(TIMEOUT):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return text

    async def hear(self) -> Any:
        return json.loads(await self.text())

    async def hears(self, *frames: Any) -> None:
        """The next frames are these, and no other comes before the answer to a question."""
        heard = [await self.hear() for _ in frames]
        assert heard == list(frames)
        await self.hears_no_more()

    async def hears_refused(self, event: str, data: Any) -> None:
        assert await self.hear() == error_frame(FULL, event, data=data)

    async def hears_no_more(self) -> None:
        await self.say("echo", "no more")
        assert await self.hear() == "no more"

    async def pong(self) -> None:
        """Wait until the server has read all that was sent, as far as it reads at all."""
        async with asyncio.timeout(TIMEOUT):
            await (await self.connection.ping())

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close, before which no frame comes."""
        with pytest.raises(ConnectionClosed):
            print("heard", await self.text())
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def talk(app: Application, path: str = "/", port: int = 0) -> AsyncIterator[Talk]:
    """A client of the application; `port` is the index of one of its ports."""
    url = f"ws://127.0.0.1:{app.ports[port]}{path}"
    options = {"compression": None, "ping_interval": None, "close_timeout": 0.5}
    async with connect(url, open_timeout=TIMEOUT, **options) as client:
        yield Talk(client)


@websocket_gateway()
class Echo:
    """`echo` gets what was sent."""

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any) -> Any:
        return data


def asking(method: Callable[..., Any], **gateway: Any) -> Any:
    """An `Echo` with this method for the event `ask`."""
    members = {"ask": subscribe_message("ask")(method)}
    return websocket_gateway(**gateway)(type("Asking", (Echo,), members))()


@websocket_gateway()
class Gates(Echo):
    """`pass` is answered, with its data, once the gate of that name is open.

    `count` is a stream of 0, 1, 2, ...; each waits for the gate of that number.
    """

    def __init__(self) -> None:
        self.gates: defaultdict[Any, asyncio.Event] = defaultdict(asyncio.Event)
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    @subscribe_message("pass")
    async def passing(self, client: Client, data: Any) -> Any:
        self.begun.append(data)
        try:
            await self.gates[data].wait()
            return data
        finally:
            self.ended.append(data)

    @subscribe_message("count")
    async def count(self, client: Client, data: Any) -> AsyncIterator[int]:
        self.begun.append(data)
        try:
            for number in range(1_000_000):
                await self.gates[number].wait()
                yield number
        finally:
            self.ended.append(data)


def error_frame(message: str, pattern: str = "ask", **data: Any) -> dict[str, Any]:
    """The exception frame, as Nest words it."""
    cause = {"pattern": pattern, **data}
    return {"event": "exception", "data": {"status": "error", "message": message, "cause": cause}}


INTERNAL = "Internal server error"
FULL = "Too much is in flight"


class Hooked(Echo):
    """Remembers what its hooks are called with."""

    def __init__(self) -> None:
        self.called: list[Any] = []

    def after_init(self, server):
        self.called.append(("init", server, self.server))

    def handle_connection(self, client, request):
        self.called.append(("connect", client, request.path, request.headers["Host"]))

    def handle_disconnect(self, client, code):
        self.called.append(("disconnect", client, code))


def asking_only(method: Callable[..., Any]) -> Any:
    """A gateway with this method for the event `ask`, and no other."""
    members = {"ask": subscribe_message("ask")(method)}
    return websocket_gateway()(type("AskingOnly", (), members))()


# What is sent

SILENT = {
    "empty": "",
    "a word": "hello",
    "cut off": '{"event":"echo","data":1',
    "two objects": '{"event":"echo"}{"event":"echo"}',
    "NaN": '{"event":"echo","data":NaN}',
    "Infinity": '{"event":"echo","data":Infinity}',
    "-Infinity": '{"event":"echo","data":-Infinity}',
    "a comment": '{"event":"echo","data":1}// one',
    "a comment inside": '{"event":"echo",/* one */"data":1}',
    "a comma too many": '{"event":"echo","data":[1,]}',
    "single quotes": "{'event':'echo','data':1}",
    "a newline in a string": '{"event":"echo","data":"a\nb"}',
    "a leading zero": '{"event":"echo","data":01}',
    "a byte order mark": '\ufeff{"event":"echo","data":1}',
    "a byte order mark in bytes": b'\xef\xbb\xbf{"event":"echo","data":1}',
    "UTF-16": '{"event":"echo","data":1}'.encode("utf-16-le"),
    "a no-break space before": '\u00a0{"event":"echo","data":1}',
    "5,000 digits": '{"event":"echo","data":%s}' % ("1" * 5_000),
    "null": "null",
    "a number": "5",
    "a string": '"echo"',
    "true": "true",
    "an array": '[{"event":"echo","data":1}]',
    "a pair": '["echo",1]',
    "an empty object": "{}",
    "no event": '{"data":1}',
    "an unknown event": '{"event":"ecko","data":1}',
    "another case": '{"event":"Echo","data":1}',
    "a space": '{"event":"echo ","data":1}',
    "no wildcard": '{"event":"*","data":1}',
    "a name of the class": '{"event":"__init__","data":1}',
    "the key in another case": '{"Event":"echo","data":1}',
    "event null": '{"event":null,"data":1}',
    "event a number": '{"event":1,"data":1}',
    "event true": '{"event":true,"data":1}',
    "event an array": '{"event":["echo"],"data":1}',
    "event an object": '{"event":{"name":"echo"},"data":1}',
}

UNDERSTOOD = {
    "whitespace around": (' \t\r\n{ "event" : "echo" , "data" : 1 } \n', 1),
    "a key twice, the last wins": ('{"event":"no","event":"echo","data":1,"data":2}', 2),
    "escapes": ('{"\\u0065vent":"\\u0065cho","data":"\\ud83d\\ude00"}', "\U0001f600"),
    "keys of no meaning": ('{"event":"echo","data":1,"ack":true,"reply":"x","cancel":1}', 1),
    "cancel without an id": ('{"event":"echo","data":1,"cancel":true}', 1),
    "bytes": (b'{"event":"echo","data":"\xc3\xa9"}', "é"),
    "bytes that are no UTF-8": (b'{"event":"echo","data":"\xff"}', "\ufffd"),
}


# What handlers give


async def stream(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


class Iterator:
    """An async iterator that is no generator: it has no `aclose`."""

    def __init__(self, *items: Any) -> None:
        self._items = iter(items)

    def __aiter__(self) -> Iterator:
        return self

    async def __anext__(self) -> Any:
        for item in self._items:
            return item
        raise StopAsyncIteration


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def at_once(value: Any) -> Any:
    return value


def future(value: Any) -> asyncio.Future[Any]:
    result = asyncio.get_running_loop().create_future()
    result.set_result(value)
    return result


VALUES = {
    "number": 5,
    "zero": 0,
    "fraction": 2.5,
    "negative": -1,
    "beyond 2^53": 2**53 + 1,
    "beyond 2^64": 2**64 + 1,
    "string": "plain",
    "empty string": "",
    "true": True,
    "false": False,
    "array": [1, 2, 3],
    "empty array": [],
    "object": {"a": {"b": None}},
    "empty object": {},
    "event and data": {"event": "x", "data": 1},
    "event only": {"event": "x"},
}
WAYS = {
    "plain": lambda value: value,
    "coroutine at once": at_once,
    "coroutine later": later,
    "future": future,
    "task": lambda value: asyncio.ensure_future(later(value)),
    "stream": stream,
    "iterator": Iterator,
    "coroutine of a stream": lambda value: later(stream(value)),
}

TEXTS = [
    ({"a": [1, 2], "b": "c, d: e"}, '{"a":[1,2],"b":"c, d: e"}'),
    ("Grüße ☃ \U0001f600", '"Grüße ☃ \U0001f600"'),
    ('quote " backslash \\ newline \n', r'"quote \" backslash \\ newline \n"'),
    ("lone \ud83d surrogate", '"lone \\ud83d surrogate"'),
    ("\udc00é\ud800", '"\\udc00é\\ud800"'),
    ({"\ud800": 1}, '{"\\ud800":1}'),
    (2**53 + 1, "9007199254740993"),
    (float("nan"), "null"),
    ([float("inf"), {"a": (-float("inf"), 1.5)}], '[null,{"a":[null,1.5]}]'),
    ((1, 2), "[1,2]"),
    (True, "true"),
]


def circular() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


UNSENDABLE = {
    "object": object(),
    "bytes": b"bytes",
    "set": {1},
    "circular": circular(),
    "circular with NaN": [float("nan"), circular()],
    "a key that is a tuple": {(1, 2): 3},
    "a key that is NaN": {float("nan"): 3},
    "10,000 digits": 10**10_000,
}


def raising(when: str, error: BaseException) -> Callable[..., Any]:
    """A handler that raises this error, and says 1 and 2 before if it is a stream."""

    def plain(self, client, data):
        raise error

    async def coroutine(self, client, data):
        raise error

    async def coroutine_later(self, client, data):
        await asyncio.sleep(0)
        raise error

    async def stream_at_once(self, client, data):
        raise error
        yield

    async def stream_later(self, client, data):
        yield 1
        await asyncio.sleep(0)
        yield 2
        raise error

    async def coroutine_of_a_stream(self, client, data):
        await asyncio.sleep(0)
        return stream_later(self, client, data)

    return locals()[when]


MOMENTS = {
    "plain": [],
    "coroutine": [],
    "coroutine_later": [],
    "stream_at_once": [],
    "stream_later": [1, 2],
    "coroutine_of_a_stream": [1, 2],
}


def items_and_an_end() -> tuple[list[str], Callable[..., Any]]:
    """A handler that streams up to 1,000 items without a pause, and the list it keeps of that."""
    given: list[str] = []

    async def ask(self, client, data):
        try:
            while len(given) < 1_000:
                given.append("item")
                yield ITEM
        finally:
            given.append("end")

    return given, ask


def done(**frame: Any) -> dict[str, Any]:
    return {"id": 7, **frame, "done": True}


CORRELATED = {
    "value": (lambda: 5, [done(event="ask", data=5)]),
    "false": (lambda: False, [done(event="ask", data=False)]),
    "array": (lambda: [1, 2], [done(event="ask", data=[1, 2])]),
    "coroutine at once": (lambda: at_once("x"), [done(event="ask", data="x")]),
    "coroutine later": (lambda: later("x"), [done(event="ask", data="x")]),
    "event and data": (lambda: {"event": "x", "data": 1}, [done(event="x", data=1)]),
    "event and null": (lambda: {"event": "x", "data": None}, [done(event="x", data=None)]),
    "event only": (lambda: {"event": "x"}, [done(event="ask", data={"event": "x"})]),
    "event a number": (
        lambda: {"event": 1, "data": 2},
        [done(event="ask", data={"event": 1, "data": 2})],
    ),
    "event, data and more": (
        lambda: {"event": "x", "data": 1, "id": 2, "done": False},
        [done(event="ask", data={"event": "x", "data": 1, "id": 2, "done": False})],
    ),
    "nothing": (lambda: None, [done()]),
    "nothing, at once": (lambda: at_once(None), [done()]),
    "nothing, later": (lambda: later(None), [done()]),
    "stream": (
        lambda: stream(1, {"event": "x", "data": 2}, None, [3]),
        [
            {"id": 7, "event": "ask", "data": 1},
            {"id": 7, "event": "x", "data": 2},
            {"id": 7, "event": "ask", "data": [3]},
            done(),
        ],
    ),
    "empty stream": (lambda: stream(), [done()]),
    "coroutine of a stream": (
        lambda: later(stream(1)),
        [{"id": 7, "event": "ask", "data": 1}, done()],
    ),
    "unsendable": (lambda: {1}, [done(**error_frame(INTERNAL, data=0))]),
    "unsendable item": (
        lambda: stream(1, {1}, 2),
        [{"id": 7, "event": "ask", "data": 1}, done(**error_frame(INTERNAL, data=0))],
    ),
}


# Clients that leave, fill, do not read


async def leave_politely(client: Talk) -> None:
    await client.connection.close()


async def leave_abruptly(client: Talk) -> None:
    client.connection.transport.abort()


LEAVING = pytest.mark.parametrize("leave", [leave_politely, leave_abruptly])


async def fill(client: Talk, gates: Gates, event: str = "pass", **more: Any) -> None:
    """Have as many handlers under way as there may be."""
    for number in range(IN_FLIGHT):
        await client.say(event, number, **({"id": number} if more.get("ids") else {}))
    await until(lambda: len(gates.begun) == IN_FLIGHT)


async def at_rest(values: list[Any]) -> int:
    """The length of a list, once it has stopped growing."""
    sizes = [-1, 0]
    async with asyncio.timeout(TIMEOUT):
        while sizes[-1] != sizes[-2] or sizes[-1] == 0:
            await asyncio.sleep(0.15)
            sizes.append(len(values))
    return sizes[-1]


@asynccontextmanager
async def narrow(app: Application) -> AsyncIterator[Talk]:
    """A client with small buffers, which stops reading when it has a few frames unread."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", app.ports[0]))
    async with connect(
        "ws://127.0.0.1/", sock=raw, compression=None, ping_interval=None, max_queue=2
    ) as client:
        yield Talk(client)


ITEM = "x" * 2**18
ITEMS = 100


# A client made of bytes

HOST = "127.0.0.1"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="

FIELDS = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(target: str = "/", method: str = "GET", **fields: str | None) -> bytes:
    """A handshake, with other fields in place of the usual ones; None leaves one out."""
    changed = {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{n}: {v}" for n, v in (FIELDS | changed).items() if v is not None]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


class Raw:
    """A client made of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    async def ask(self, head: bytes) -> tuple[int, dict[str, str], str]:
        """The status, the fields by their names in lower case, and the body of the answer."""
        self.writer.write(head)
        async with asyncio.timeout(TIMEOUT):
            response, rest = await read_head(self._reader, parse_response)
            if response.status != 101:
                rest += await self._reader.read()
        if response.status == 101:
            self._frames += self._decoder.feed(rest)
            rest = b""
        return response.status, {n.lower(): v for n, v in response.headers}, rest.decode()

    async def opened(self) -> None:
        status, *_ = await self.ask(request())
        assert status == 101

    def send(self, opcode: Opcode, payload: bytes = b"") -> None:
        self.writer.write(encode(Frame(opcode, payload, mask=new_mask())))

    async def frame(self) -> Frame:
        async with asyncio.timeout(TIMEOUT):
            while not self._frames:
                data = await self._reader.read(65536)
                assert data, "the server has closed the TCP connection"
                self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close frame, which comes next."""
        frame = await self.frame()
        assert frame.opcode is Opcode.CLOSE, frame
        return parse_close(frame.payload)

    async def read_all(self, pause: float = 0) -> None:
        """Read until the end, and throw it away; with a pause after every 64 KiB."""
        while await self._reader.read(2**16):
            await asyncio.sleep(pause)

    async def end(self) -> None:
        """Wait until the server ends the TCP connection, with no frame before, and do so, too."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionResetError):
                assert await self._reader.read() == b""
        self.writer.close()


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
