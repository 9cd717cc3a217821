"""Our server and client with others': what they say to each other, and clients that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import nestling.client
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from conftest import node_program, until
from gateways import HOST, TIMEOUT, Echo, raw, request, serving, talk
from nestling import connection
from nestling.client import GatewayClient
from nestling.connection import COLLECTED, LEFT_BEHIND, WAITING, Connection
from nestling.frames import Frame, Opcode, close_payload, encode, new_mask
from nestling.handshake import HandshakeError
from nestling.protocol import Close, State
from nestling.server import Server, broadcast, connect, serve
from nestling.transport import UNREAD, Serve
from test_application import AS_NEST
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

pytestmark = pytest.mark.usefixtures("nothing_left")

CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
LARGE = 16 * 2**20
MESSAGES = ["", "h\u00e9llo \U0001f600", "x" * 70_000, b"", b"\xff\x00", bytes(70_000)]


async def echo(connection: Any) -> None:
    """Echo, or close at once with the code in the path."""
    if (code := connection.request.path.strip("/")).isdigit():
        await connection.close(int(code), "enough")
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def listening(handler: Any = echo, **options: Any) -> AsyncIterator[tuple[Server, str]]:
    async with asyncio.timeout(60), serve(handler, HOST, 0, **options) as listener:
        yield listener, f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}/"


# Our server, others' clients


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_the_websockets_client(compression):
    options = {"max_size": LARGE, "compression": compression}
    async with listening(**options, max_fragments=2**18 + 1) as (_, url):
        async with websockets.asyncio.client.connect(url, **options) as client:
            for message in MESSAGES:
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping(b"there?"))
            await client.send(["a", "b", "", "c"])
            assert await client.recv() == "abc"
        assert client.close_code == 1000


async def test_16_mib_in_fragments_of_64_bytes_with_pings_between():
    async def handler(connection):
        received.append(await connection.recv())

    received: list[bytes] = []
    payload = bytes(range(64))
    fragment = encode(Frame(Opcode.CONTINUATION, payload, fin=False, mask=bytes(4)))
    ping = encode(Frame(Opcode.PING, b"?", mask=bytes(4)))
    async with listening(handler, max_size=LARGE, max_fragments=2**18) as (listener, _):
        port = listener.sockets[0].getsockname()[1]
        async with raw(port) as client:
            await client.opened()
            client.writer.write(encode(Frame(Opcode.BINARY, payload, fin=False, mask=bytes(4))))
            for turn in range(256):
                client.writer.write(fragment * 1023 + ping + fragment * (turn < 254))
                await client.writer.drain()
            client.writer.write(encode(Frame(Opcode.CONTINUATION, b"", fin=True, mask=bytes(4))))
            pongs = [await client.frame() for _ in range(256)]
            assert {frame.payload for frame in pongs} == {b"?"}
            # One fragment too many would be refused: the last is empty, and number 2**18.
            assert (await client.closed())[0] == 1000
    assert received == [payload * (2**18 - 1)]


@pytest.mark.parametrize("code", CODES)
async def test_close_codes_to_and_from_the_websockets_client(code):
    ended = []

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            await echo(connection)
        await connection.wait_closed()
        ended.append((connection.close_code, connection.protocol.received))

    async with listening(handler) as (_, url):
        async with websockets.asyncio.client.connect(f"{url}{code}") as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (code, "enough")
        async with websockets.asyncio.client.connect(url) as client:
            await client.close(code, "bye")
            assert client.close_code == code
        await until(lambda: len(ended) == 2)
        assert ended == [(code, Close(code, "enough")), (code, Close(code, "bye"))]


@pytest.mark.parametrize("compress", [0, 15])
async def test_the_aiohttp_client(compress):
    compression = "deflate" if compress else None
    async with listening(compression=compression) as (_, url), aiohttp.ClientSession() as session:
        async with session.ws_connect(url, compress=compress, protocols=["a"]) as client:
            assert bool(client.compress) == bool(compress)
            for message in MESSAGES:
                is_text = isinstance(message, str)
                await (client.send_str if is_text else client.send_bytes)(message)
                assert (await client.receive()).data == message
            await client.ping()
            await client.close(code=4000)
            assert client.close_code == 4000
        for code in CODES:
            async with session.ws_connect(f"{url}{code}") as client:
                assert (await client.receive()).type is aiohttp.WSMsgType.CLOSE
                assert client.close_code == code


WS_CLIENT = """
const { WebSocket } = require("ws");
const [url, compress] = process.argv.slice(1);
const tell = (what) => console.log(JSON.stringify(what));
const options = { perMessageDeflate: compress === "true" && { threshold: 0 } };
const socket = new WebSocket(url, options);
socket.on("open", () => {
  socket.send("h\u00e9llo");
  socket.send(Buffer.from([255, 0]));
  socket.send("a", { fin: false });
  socket.ping("there?");
  socket.send("b", { fin: true });
  socket.send(Buffer.alloc(16 * 2 ** 20, 7));
});
let heard = 0;
socket.on("pong", (data) => tell(["pong", String(data)]));
socket.on("message", (data, isBinary) => {
  tell([isBinary, data.length, data.length < 10 ? [...data] : data.every((byte) => byte === 7)]);
  if (++heard === 4) socket.close(4001, "bye");
});
socket.on("close", (code, reason) => { tell([socket.extensions, code, String(reason)]); next(0); });
const codes = %s;
const next = (n) => {
  if (n === codes.length) return tell("end");
  const closing = new WebSocket(url + codes[n]);
  closing.on("close", (code, reason) => { tell([code, String(reason)]); next(n + 1); });
};
"""


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_the_ws_client_of_node(compression):
    lines = []
    async with listening(compression=compression, max_size=LARGE) as (_, url):
        script = WS_CLIENT % json.dumps(CODES)
        async with node_program(script, url, json.dumps(bool(compression))) as output:
            while (line := json.loads(await output.readline())) != "end":
                lines.append(line)
    assert ["pong", "there?"] in lines
    lines.remove(["pong", "there?"])
    assert lines[:4] == [
        [False, 6, list("h\u00e9llo".encode())],
        [True, 2, [255, 0]],
        [False, 2, [97, 98]],
        [True, LARGE, True],
    ]
    assert lines[4] == ["permessage-deflate" if compression else "", 4001, "bye"]
    assert lines[5:] == [[code, "enough"] for code in CODES]


# Our client, others' servers


async def check_client(url: str, echoed: int = 4000, **options: Any) -> None:
    """Our client says all there is to say to an echo, which answers a close with `echoed`."""
    async with connect(url, max_size=LARGE, **options) as client:
        for message in [*MESSAGES, bytes(LARGE)]:
            await client.send(message)
            assert await client.recv() == message
        await client.close(4000, "bye")
        assert client.close_code == echoed
        with pytest.raises(ConnectionClosedError) as caught:
            await client.recv()
        assert (caught.value.rcvd.code, caught.value.sent.code) == (echoed, 4000)
        assert caught.value.rcvd_then_sent is False
    for code in CODES:
        async with connect(f"{url}{code}", **options) as client:
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
            assert (caught.value.rcvd.code, caught.value.sent.code) == (code, code)
            assert caught.value.rcvd_then_sent is True
            assert isinstance(caught.value, ConnectionClosedOK) == (code in (1000, 1001))


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_websockets_server(compression):
    options = {"compression": compression, "max_size": LARGE}
    async with websockets.asyncio.server.serve(echo, HOST, 0, **options) as listener:
        url = f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}/"
        async with asyncio.timeout(TIMEOUT * 2):
            await check_client(url, compression=compression)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_an_aiohttp_server(compression):
    async def handler(request):
        socket = web.WebSocketResponse(max_msg_size=LARGE + 1, compress=bool(compression))
        await socket.prepare(request)
        if (code := request.path.strip("/")).isdigit():
            await socket.close(code=int(code))
        async for message in socket:
            is_text = message.type is aiohttp.WSMsgType.TEXT
            await (socket.send_str if is_text else socket.send_bytes)(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{code:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    try:
        async with asyncio.timeout(TIMEOUT * 2):
            url = f"ws://{HOST}:{runner.addresses[0][1]}/"
            await check_client(url, echoed=1000, compression=compression)
    finally:
        await runner.cleanup()


WS_SERVER = """
const { WebSocketServer } = require("ws");
const perMessageDeflate = process.argv[1] === "true" && { threshold: 0 };
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket, request) => {
  const code = Number(request.url.slice(1));
  if (code) socket.close(code, "enough");
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});
"""


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_ws_server_of_node(compression):
    async with node_program(WS_SERVER, json.dumps(bool(compression))) as output:
        async with asyncio.timeout(TIMEOUT * 2):
            url = f"ws://{HOST}:{int(await output.readline())}/"
            await check_client(url, compression=compression)


async def test_our_client_and_our_server():
    async with listening(max_size=LARGE) as (_, url), asyncio.timeout(TIMEOUT):
        await check_client(url)


async def test_what_a_client_asks_for_and_gets():
    async def handler(connection):
        headers = connection.request.headers
        assert "cookie" in headers and "x" not in headers and headers.get("x") is None
        with pytest.raises(KeyError):
            headers["x"]
        await connection.send(f"{connection.request.path} {headers['Cookie']}")

    options = {"select_subprotocol": lambda _, offered: offered[-1], "server_header": "Nestling"}
    async with listening(handler, **options) as (_, url), asyncio.timeout(TIMEOUT):
        headers = {"Cookie": "e=f"}
        client = await connect(f"{url}a?b=c", subprotocols=["x", "y"], additional_headers=headers)
        assert client.protocol.subprotocol == "y"
        assert [message async for message in client] == ["/a?b=c e=f"]
        assert client.close_code == 1000
        await client.close()


async def test_a_client_that_is_not_let_in():
    refuse = {"process_request": lambda connection, request: connection.respond(403, "no")}
    async with listening(**refuse) as (_, url):
        with pytest.raises(HandshakeError, match="403"):
            await connect(url)
    with pytest.raises(ValueError, match="URL"):
        await connect("http://127.0.0.1/")
    with pytest.raises(OSError):
        await connect(url)
    with pytest.raises(KeyError, match="gzip"):
        await connect(url, compression="gzip")


async def test_a_server_that_does_not_answer():
    done = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        writer.close()
        done.set()

    listener = await asyncio.start_server(silent, HOST, 0)
    url = f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}/"
    with pytest.raises(TimeoutError):
        await connect(url, open_timeout=0.1)
    listener.close()
    await done.wait()


async def test_a_client_that_asks_and_goes(caplog):
    async with listening() as (listener, url):
        for end in ("write_eof", "close"):
            async with raw(listener.sockets[0].getsockname()[1]) as client:
                client.writer.write(request())
                getattr(client.writer, end)()
                await client.writer.drain() if end == "write_eof" else None
                with contextlib.suppress(ConnectionResetError):
                    await client._reader.read()
        async with connect(url) as good:
            await good.send("x")
            assert await good.recv() == "x"
        await until(lambda: len(listener._running) == 0)
    assert caplog.text == ""


async def test_serve_takes_what_the_contract_names():
    contract: Serve = serve
    async with await contract(echo, HOST, 0, **AS_NEST) as listener:
        assert listener.sockets
    assert not listener.sockets


async def test_pings_find_who_has_vanished():
    seen = []

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()
        seen.append(connection.close_code)

    async with listening(handler, ping_interval=0.1) as (listener, url):
        async with connect(url), raw(listener.sockets[0].getsockname()[1]) as silent:
            await silent.opened()
            assert (await silent.frame()).opcode is Opcode.PING
            await until(lambda: bool(seen), 1)
            await asyncio.sleep(0.3)
            assert seen == [1006]
        await until(lambda: seen == [1006, 1000])


async def test_what_comes_after_our_close_is_dropped_up_to_the_answer():
    ended = []

    async def handler(connection):
        await connection.recv()
        await connection.close(4000)
        ended.append((connection.close_code, len(connection._messages)))

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.send(Opcode.TEXT, b"go")
            assert (await client.closed())[0] == 4000
            for _ in range(4):
                client.send(Opcode.BINARY, bytes(2**20))
            client.send(Opcode.CLOSE, close_payload(4000))
            await client.end()
            await until(lambda: bool(ended))
    assert ended == [(4000, 0)]


async def test_what_has_come_before_our_close_can_still_be_received():
    """However much that is, the answer to our close is read."""
    ended = []

    async def handler(connection):
        await until(lambda: not connection.transport.is_reading())
        await connection.close(4000)
        ended.append((connection.close_code, len(await connection.recv())))

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            for _ in range(4):
                client.send(Opcode.BINARY, bytes(2**19))
            assert (await client.closed())[0] == 4000
            client.send(Opcode.CLOSE, close_payload(4000))
            await client.end()
            await until(lambda: bool(ended))
    assert ended == [(4000, 2**19)]


async def test_noise_as_long_as_allowed_may_be_compressed():
    noise = os.urandom(2**16)
    async with listening(compression="deflate", max_size=2**16) as (_, url):
        async with connect(url, compression="deflate", max_size=2**16) as client:
            await client.send(noise)
            assert await client.recv() == noise


async def test_a_mistake_in_the_program_is_a_500(caplog):
    def process_request(connection, request):
        raise ZeroDivisionError

    async with listening(process_request=process_request) as (_, url):
        with pytest.raises(HandshakeError, match="500"):
            await connect(url)
    assert "opening handshake failed" in caplog.text
    caplog.clear()
    async with listening(select_subprotocol=lambda *_: "unasked") as (_, url):
        with pytest.raises(HandshakeError, match="500"):
            await connect(url)


async def test_a_handler_that_fails_closes_with_1011(caplog):
    async def handler(connection):
        raise ZeroDivisionError

    async with listening(handler) as (_, url), connect(url) as client:
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1011
    assert "connection handler failed" in caplog.text
    caplog.clear()


async def test_a_server_that_closes_says_goodbye():
    async with listening() as (listener, url):
        client = await connect(url)
        reader, writer = await asyncio.open_connection(HOST, listener.sockets[0].getsockname()[1])
        await asyncio.sleep(0.05)
        listener.close()
        async with asyncio.timeout(1):
            with pytest.raises(ConnectionClosedOK):
                await client.recv()
            assert client.close_code == 1001
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            await client.close()
            await listener.wait_closed()
        writer.close()


async def test_only_one_task_receives():
    async with listening() as (_, url), connect(url) as client:
        first = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await client.recv()
        await client.send("hello")
        assert await first == "hello"


async def test_the_gateway_client_runs_on_our_client(monkeypatch):
    monkeypatch.setattr(nestling.client, "connect", connect)
    async with serving(Echo(), serve=serve) as app:
        async with GatewayClient(f"ws://{HOST}:{app.ports[0]}/") as client:
            assert await client.request("echo", [1, "\u00e9"]) == [1, "\u00e9"]
            assert client.close_code is None
        assert client._matching.connection.close_code == 1000


async def test_messages_that_came_together_are_answered_together(monkeypatch):
    writes = []
    message = encode(Frame(Opcode.TEXT, b"x" * 100, mask=new_mask()))

    async def handler(connection):
        write = connection.transport.write
        monkeypatch.setattr(connection.transport, "write", lambda d: (writes.append(d), write(d)))
        await echo(connection)

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.writer.write(message)
            await client.frame()
            client.writer.write(message * 16)
            for _ in range(16):
                await client.frame()
    assert len(writes) == 3  # an answer, sixteen, and the close
    assert len(writes[1]) == 16 * 102 < COLLECTED


async def test_what_is_collected_has_a_limit():
    async def handler(connection):
        await connection.recv()
        for number in range(200):
            await connection.send(f"{number:<10000}")
            assert len(connection._collected) <= COLLECTED

    message = encode(Frame(Opcode.TEXT, b"x", mask=new_mask()))
    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.writer.write(message * 2)
            heard = [int((await client.frame()).payload) for _ in range(200)]
            assert heard == list(range(200))


async def test_a_broadcast_is_encoded_once_and_waits_for_nobody(monkeypatch):
    connections: list[Any] = []

    async def handler(connection):
        connections.append(connection)
        await connection.wait_closed()

    encoded = []
    encode = Connection.encode
    monkeypatch.setattr(Connection, "encode", lambda self, m: encoded.append(m) or encode(self, m))
    async with listening(handler) as (listener, url):
        clients = [await connect(url) for _ in range(20)]
        async with raw(listener.sockets[0].getsockname()[1]) as deaf, connect(url) as gone:
            await deaf.opened()
            await gone.close()
            await until(lambda: len(connections) == 22)
            rounds = 0
            while not (behind := broadcast(connections, "x" * 2**16)):
                rounds += 1
                for client in clients:
                    assert await client.recv() == "x" * 2**16
            [slow] = behind
            assert UNREAD < slow.transport.get_write_buffer_size() < UNREAD + 2**17
            assert len(encoded) == rounds + 1
            assert broadcast(connections, b"after") == [slow]
            for client in clients:
                assert len(await client.recv()) == 2**16
                assert await client.recv() == b"after"
        for client in clients:
            await client.close()


async def test_a_broadcast_to_those_that_compress():
    connections: list[Any] = []

    async def handler(connection):
        connections.append(connection)
        await connection.wait_closed()

    async with listening(handler, compression="deflate") as (_, url):
        async with connect(url, compression="deflate") as packed, connect(url) as plain:
            for message in ("x" * 1000, "x" * 1000):
                await until(lambda: len(connections) == 2)
                assert broadcast(connections, message) == []
                assert await packed.recv() == await plain.recv() == message


# Clients that mean harm


async def test_pings_and_a_close_are_noticed_while_a_handler_is_busy():
    go, seen = asyncio.Event(), []

    async def handler(connection):
        await go.wait()
        seen.append((connection.close_code, [message async for message in connection]))

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            for _ in range(1000):
                client.send(Opcode.TEXT, b"x" * 500)
            client.send(Opcode.PING, b"?")
            assert await client.frame() == Frame(Opcode.PONG, b"?")
            client.send(Opcode.CLOSE, close_payload(1000))
            assert (await client.closed())[0] == 1000
            go.set()
            await until(lambda: bool(seen))
    assert seen == [(1000, ["x" * 500] * 1000)]


@pytest.mark.parametrize("size", [0, 100, 2**16])
async def test_what_waits_for_a_handler_has_a_limit(size):
    connections = []

    async def handler(connection):
        connections.append(connection)
        await connection.wait_closed()

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            message = encode(Frame(Opcode.BINARY, bytes(size), mask=new_mask()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    for _ in range(200_000):
                        client.writer.write(message)
                        await client.writer.drain()
            [connection] = connections
            await until(lambda: not connection.transport.is_reading())
            held = sum(map(len, connection._messages))
            assert held + 100 * len(connection._messages) < WAITING + 2 * 2**16
            client.writer.transport.abort()
            connection.abort()


@asynccontextmanager
async def behind(monkeypatch: Any) -> AsyncIterator[Any]:
    """A client, and a handler that leaves its messages until it may `go`: 16 of 64 KiB came in."""
    monkeypatch.setattr(connection, "LOOK", 0.05)
    found = SimpleNamespace(go=asyncio.Event(), got=[])

    async def handler(connection):
        found.connection = connection
        await found.go.wait()
        with contextlib.suppress(ConnectionClosed):
            while True:
                found.got.append(await connection.recv())

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            for _ in range(16):
                client.send(Opcode.BINARY, bytes(2**16))
            await until(lambda: not found.connection.transport.is_reading())
            try:
                yield client, found
            finally:
                found.go.set()
            async with asyncio.timeout(5):
                await found.connection.wait_closed()


async def test_who_is_cut_behind_what_is_unread_is_noticed(monkeypatch):
    async with behind(monkeypatch) as (client, found):
        for _ in range(32):
            client.send(Opcode.BINARY, bytes(2**16))
        await asyncio.sleep(0.3)
        assert found.connection.close_code is None and len(found.connection._messages) == 16
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await found.connection.wait_closed()
        assert found.connection.close_code == 1006 and found.got == []
        assert found.connection._waiting < LEFT_BEHIND + 2**16
        found.go.set()
        await until(lambda: len(found.got) >= 16)
    assert set(found.got) == {bytes(2**16)}


async def test_a_close_behind_what_is_unread_is_noticed_when_the_client_ends(monkeypatch):
    async with behind(monkeypatch) as (client, found):
        for _ in range(40):
            client.send(Opcode.BINARY, bytes(1000))
        client.send(Opcode.CLOSE, close_payload(4001))
        await asyncio.sleep(0.3)
        assert found.connection.close_code is None and len(found.connection._messages) == 16
        client.writer.write_eof()
        async with asyncio.timeout(5):
            await found.connection.wait_closed()
        assert found.connection.close_code == 4001 and found.got == []
        found.go.set()
        await until(lambda: len(found.got) == 56)


async def test_who_is_cut_by_the_handler_is_not_looked_at(monkeypatch):
    async with behind(monkeypatch) as (_, found):
        found.connection.abort()
        await found.connection.wait_closed()
        found.go.set()
        await asyncio.sleep(0.2)
        assert len(found.got) == 16


@pytest.mark.parametrize("why", ["it stays", "too much is left", "nobody tells"])
async def test_what_is_not_noticed_before_the_handler_reads_on(monkeypatch, why):
    if why == "nobody tells":
        monkeypatch.delattr(select, "POLLRDHUP")
    elif why == "too much is left":
        monkeypatch.setattr(connection, "LEFT_BEHIND", WAITING + 20_000)
    async with behind(monkeypatch) as (client, found):
        for _ in range(40):
            client.send(Opcode.BINARY, bytes(1000))
        if why != "it stays":
            client.send(Opcode.CLOSE, close_payload(4001))
            client.writer.write_eof()
        await asyncio.sleep(0.3)
        assert found.connection.close_code is None
        assert found.connection._waiting < WAITING + 20_000 + 5_000
        assert (len(found.connection._messages) > 16) == (why == "too much is left")
        found.go.set()
        await until(lambda: len(found.got) == 56)
        if why == "it stays":
            client.send(Opcode.CLOSE, close_payload(4001))
            client.writer.write_eof()
    assert found.connection.close_code == 4001


async def test_who_vanishes_is_noticed():
    seen = []

    async def handler(connection):
        with pytest.raises(ConnectionClosedError):
            await connection.recv()
        seen.append(connection.close_code)

    async with listening(handler) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.writer.write(b"\x81\x85half")
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.writer.write_eof()
            assert await client._reader.read() == b""
        await until(lambda: len(seen) == 2)
    assert seen == [1006, 1006]


async def test_a_slow_handshake_is_cut():
    async with listening(open_timeout=0.2) as (listener, _):
        port = listener.sockets[0].getsockname()[1]
        async with raw(port) as silent, raw(port) as slow, raw(port) as good:
            await good.opened()
            for byte in request()[:20]:
                slow.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
            await silent.end()
            with contextlib.suppress(BrokenPipeError):
                await slow.end()
            good.send(Opcode.TEXT, b"x")
            assert (await good.frame()).payload == b"x"


async def test_who_does_not_read_the_close_is_cut():
    ended = asyncio.Event()

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(0.2):
                while True:
                    await connection.send(bytes(2**20))
        await connection.close()
        ended.set()

    async with listening(handler, close_timeout=0.2) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            async with asyncio.timeout(2):
                await ended.wait()


async def test_who_floods_after_the_close_is_cut():
    async with listening(close_timeout=0.3) as (listener, _):
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            client.send(Opcode.CLOSE, close_payload(1000))
            message = encode(Frame(Opcode.BINARY, bytes(2**14), mask=new_mask()))
            with pytest.raises(ConnectionError):
                while True:
                    client.writer.write(message)
                    await client.writer.drain()
                    await asyncio.sleep(0)


async def test_memory_is_flat_while_others_flood():
    async with listening() as (listener, url), connect(url) as good:
        async with raw(listener.sockets[0].getsockname()[1]) as client:
            await client.opened()
            flood = encode(Frame(Opcode.PING, bytes(125), mask=new_mask())) * 500
            flood += encode(Frame(Opcode.TEXT, b"", mask=new_mask())) * 500
            reading = asyncio.create_task(client.read_all())
            tracemalloc.start()
            try:
                for _ in range(40):
                    client.writer.write(flood)
                    await client.writer.drain()
                    async with asyncio.timeout(0.5):
                        await good.send("x")
                        assert await good.recv() == "x"
                gc.collect()
                assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
            finally:
                tracemalloc.stop()
                reading.cancel()
                await asyncio.wait([reading])


async def test_2000_at_once():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        pytest.skip("too few descriptors may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
    try:
        async with listening() as (_, url):
            clients = await asyncio.gather(*(connect(url, open_timeout=20) for _ in range(2000)))
            await asyncio.gather(*(client.send("x") for client in clients))
            assert {await client.recv() for client in clients} == {"x"}
            await asyncio.gather(*(client.close() for client in clients))
            assert all(client.protocol.state is State.CLOSED for client in clients)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_application_is_served_by_it():
    async with serving(Echo(), serve=serve) as app, talk(app) as client:
        await client.say("echo", "x")
        await client.hears("x")
