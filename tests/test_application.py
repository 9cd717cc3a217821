"""Applications: the handshake, ports, limits and the end, and what `serve=` has to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import inspect
import itertools
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets.asyncio.server
from conftest import until
from gateways import (
    HOST,
    ITEM,
    KEY,
    TIMEOUT,
    Echo,
    Gates,
    Hooked,
    asking,
    at_rest,
    error_frame,
    narrow,
    raw,
    request,
    serving,
    talk,
)
from nestling import server, transport
from nestling.application import ERRORS, MAX_SIZE, PortError, create
from nestling.frames import CloseCode, Frame, Opcode, close_payload, encode, new_mask
from nestling.gateway import WsException, subscribe_message, websocket_gateway
from nestling.handshake import accept_key
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from workbench import kernel

pytestmark = pytest.mark.usefixtures("nothing_left")


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        return False
    writer.transport.abort()
    return True


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def taken() -> Any:
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


def named(name: str, **gateway: Any) -> Any:
    """A gateway that answers `ask` with its name."""
    return asking(lambda self, client, data: name, **gateway)


async def names(app: Any, path: str = "/", port: int = 0) -> list[str]:
    """The names of the gateways that answer there."""
    async with talk(app, path, port) as client:
        await client.say("ask")
        await client.say("echo", "end")
        heard = [await client.hear()]
        while heard[-1] != "end":
            heard.append(await client.hear())
        return heard[:-1]


# Handshake


async def test_the_answer_to_a_handshake():
    """As Nest's, and a Date, which is a listed difference."""
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        status, fields, _ = await client.ask(request())
        assert status == 101
        fields.pop("date", None)
        assert {name: value.lower() for name, value in fields.items()} == {
            "upgrade": "websocket",
            "connection": "upgrade",
            "sec-websocket-accept": accept_key(KEY).lower(),
        }
        client.send(Opcode.TEXT, b'{"event":"echo","data":5}')
        assert (await client.frame()).payload == b"5"


@pytest.mark.parametrize("target", ["/", "/?", "/?a=1", "/?a=/poll", "/??"])
async def test_the_query_is_no_part_of_the_path(target):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        assert (await client.ask(request(target)))[0] == 101


@pytest.mark.parametrize(
    "target",
    ["/", "/pol", "/poll/", "/polls", "/Poll", "/poll/x", "//poll", "//", "/%70oll", "/?/poll"],
)
async def test_an_unknown_path_gets_404_and_the_known_ones(target):
    """Nest drops the TCP connection without an answer, and its 9.3.8 dies of `//`."""
    gateways = named("a", path="/poll"), named("b", path="/chat"), named("c", path="/x", port=0)
    async with serving(*gateways) as app:
        async with raw(app.ports[0]) as client:
            status, fields, body = await client.ask(request(target))
        assert status == 404
        assert fields["content-length"] == str(len(body))
        path = target.partition("?")[0]
        assert body == f"There is no gateway at {path}. Gateways on this port: /poll, /chat\n"
        assert await names(app, "/poll") == ["a"]


async def test_an_unknown_path_on_a_port_without_gateways():
    async with serving(named("a", port=0)) as app, raw(app.ports[0]) as client:
        status, _, body = await client.ask(request())
        assert status == 404
        assert "Gateways on this port: none" in body


REFUSED = {
    "no key": (request(Sec_WebSocket_Key=None), 400),
    "an empty key": (request(Sec_WebSocket_Key=""), 400),
    "a short key": (request(Sec_WebSocket_Key="abc="), 400),
    "a key that is no base64": (request(Sec_WebSocket_Key="!" * 24), 400),
    "version 12": (request(Sec_WebSocket_Version="12"), 400),
    "version 14": (request(Sec_WebSocket_Version="14"), 400),
    "no version": (request(Sec_WebSocket_Version=None), 400),
    "POST": (request(method="POST", Content_Length="0"), 405),
    "plain GET": (request(Upgrade=None, Connection=None), 426),
}


@pytest.mark.parametrize("head, status", REFUSED.values(), ids=REFUSED)
async def test_a_handshake_that_is_refused(head, status):
    async with serving(Echo()) as app:
        async with raw(app.ports[0]) as client:
            answered, fields, _ = await client.ask(head)
            assert answered == status
            if status == 426:
                assert fields["upgrade"].lower() == "websocket"
        async with talk(app) as client:
            await client.hears_no_more()


@pytest.mark.parametrize("version", ["12", "14"])
async def test_the_refusal_of_a_version_names_ours(version):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        _, fields, _ = await client.ask(request(Sec_WebSocket_Version=version))
        assert "13" in fields["sec-websocket-version"]


@pytest.mark.parametrize(
    "offered, chosen", [("chat", "chat"), ("b, a", "b"), ("x,y,z", "x"), (None, None)]
)
async def test_of_the_subprotocols_the_first_is_chosen(offered, chosen):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        status, fields, _ = await client.ask(request(Sec_WebSocket_Protocol=offered))
        assert (status, fields.get("sec-websocket-protocol")) == (101, chosen)


@pytest.mark.parametrize("options, extension", [({}, None), ({"compression": "deflate"}, "perm")])
async def test_no_deflate_unless_it_is_turned_on(options, extension):
    async with serving(Echo(), **options) as app, raw(app.ports[0]) as client:
        head = request(Sec_WebSocket_Extensions="permessage-deflate")
        status, fields, _ = await client.ask(head)
        assert status == 101
        assert fields.get("sec-websocket-extensions", "")[:4] == (extension or "")


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://evil.example", "null", "?"])
async def test_the_origin_is_not_checked(origin):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        assert (await client.ask(request(Origin=origin)))[0] == 101


async def test_a_hook_sees_the_path_of_an_absolute_target():
    async def handle_connection(self, client, request):
        await client.send(request.path)

    gateway = named("a", path="/x")
    type(gateway).handle_connection = handle_connection
    async with serving(gateway) as app, raw(app.ports[0]) as client:
        assert (await client.ask(request("http://host/x?y=z")))[0] == 101
        assert (await client.frame()).payload == b'"/x?y=z"'


async def test_a_gateway_reads_cookies_and_origin_from_the_request():
    async def handle_connection(self, client, request):
        await client.send([request.path, request.headers["cookie"], request.headers["Origin"]])

    gateway = named("a")
    type(gateway).handle_connection = handle_connection
    async with serving(gateway) as app, raw(app.ports[0]) as client:
        await client.ask(request("/?a=1", Cookie="id=5", Origin="http://a.example"))
        assert (await client.frame()).payload == b'["/?a=1","id=5","http://a.example"]'


# Control frames, limits, closing


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125))])
async def test_a_pong_echoes_the_ping(payload):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        await client.opened()
        client.send(Opcode.PING, payload)
        assert await client.frame() == Frame(Opcode.PONG, payload)


async def test_a_ping_is_answered_while_a_handler_runs():
    gates = Gates()
    async with serving(gates) as app, raw(app.ports[0]) as client:
        await client.opened()
        client.send(Opcode.TEXT, b'{"event":"pass"}')
        await until(lambda: gates.begun == [None])
        client.send(Opcode.PING, b"are you there?")
        assert await client.frame() == Frame(Opcode.PONG, b"are you there?")


BROKEN = {
    "unmasked": (b"\x81\x01a", CloseCode.PROTOCOL_ERROR),
    "reserved opcode": (b"\x83\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
    "reserved bit": (b"\xc1\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
    "continuation of nothing": (b"\x80\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
    "long ping": (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), CloseCode.PROTOCOL_ERROR),
    "close code 1005": (b"\x88\x82\0\0\0\0\x03\xed", CloseCode.PROTOCOL_ERROR),
    "text that is no UTF-8": (b"\x81\x82\0\0\0\0\xc3\x28", 1007),
    "reason that is no UTF-8": (b"\x88\x84\0\0\0\0\x03\xe8\xc3\x28", 1007),
}


@pytest.mark.parametrize("data, code", BROKEN.values(), ids=BROKEN)
async def test_bytes_that_break_the_protocol(data, code):
    async with serving(Echo()) as app:
        async with raw(app.ports[0]) as client:
            await client.opened()
            client.writer.write(data)
            assert (await client.closed())[0] == code
        async with talk(app) as other:
            await other.hears_no_more()


@pytest.mark.parametrize("size, fits", [(1000, True), (1001, False)])
async def test_a_message_that_is_too_big(size, fits):
    async with serving(Echo(), max_size=1000) as app, raw(app.ports[0]) as client:
        await client.opened()
        message = '{"event":"echo","data":"%s"}'
        text = message % ("x" * (size - len(message % "")))
        assert len(text) == size
        client.send(Opcode.TEXT, text.encode())
        if fits:
            assert (await client.frame()).opcode is Opcode.TEXT
        else:
            assert (await client.closed())[0] == 1009


@pytest.mark.parametrize(
    "code, reason", [(1000, ""), (1001, "gone"), (3000, "ü"), (4999, "x" * 123), (1011, "no")]
)
async def test_a_close_is_answered_with_its_code_and_reason(code, reason):
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        await client.opened()
        client.send(Opcode.CLOSE, close_payload(code, reason))
        assert await client.closed() == (code, reason)
        await client.end()


async def test_a_close_without_a_code_is_answered_without_one():
    async with serving(Echo()) as app, raw(app.ports[0]) as client:
        await client.opened()
        client.send(Opcode.CLOSE)
        assert await client.frame() == Frame(Opcode.CLOSE, b"")
        await client.end()


async def test_what_serve_is_told():
    """So that a client sees what it sees of Nest; but Nest takes messages of 100 MiB."""
    told = []

    async def serve(handler, host, port, **options):
        told.append((host, port, options))
        return await websockets.asyncio.server.serve(handler, host, port, **options)

    async with serving(Echo(), serve=serve):
        pass
    async with serving(Echo(), serve=serve, max_size=5, open_timeout=1, ping_interval=20):
        pass
    (host, port, first), (_, _, second) = told
    assert (host, port) == (HOST, 0)
    assert callable(first.pop("process_request")) and callable(first.pop("select_subprotocol"))
    as_nest = {"compression": None, "ping_interval": None, "server_header": None}
    assert first.items() >= (as_nest | {"max_size": 2**20}).items()
    assert MAX_SIZE == 2**20
    assert (second["max_size"], second["open_timeout"], second["ping_interval"]) == (5, 1, 20)


# Ports and paths


async def test_nest_01_a_second_port():
    async with serving(named("own", port=0), named("shared")) as app:
        assert await names(app, port=0) == ["shared"]
        assert await names(app, port=1) == ["own"]


async def test_nest_02_the_applications_port():
    async with serving(named("a")) as app:
        assert len(app.ports) == 1
        assert await names(app) == ["a"]


async def test_nest_03_a_path():
    async with serving(named("a", path="/a/b-c/d")) as app:
        assert await names(app, "/a/b-c/d") == ["a"]


async def test_nest_04_two_gateways_on_two_paths_of_one_port():
    a, b = named("a", path="/a"), named("b", path="/b")
    async with serving(a, b) as app:
        assert len(app.ports) == 1
        assert await names(app, "/a") == ["a"]
        assert await names(app, "/b") == ["b"]
        assert a.server is not b.server
        assert (a.server.path, b.server.path) == ("/a", "/b")
        async with talk(app, "/a") as client:
            await client.hears_no_more()
            assert (len(a.server.clients), len(b.server.clients)) == (1, 0)


async def test_nest_05_two_gateways_on_two_ports():
    ports = free_port(), free_port()
    async with serving(named("a", port=ports[0]), named("b", port=ports[1])) as app:
        assert app.ports[1:] == list(ports)
        assert await names(app, port=1) == ["a"]
        assert await names(app, port=2) == ["b"]


async def test_nest_06_a_path_and_a_port_of_its_own():
    async with serving(named("a", path="/a", port=0), named("b", path="/b")) as app:
        assert await names(app, "/a", port=1) == ["a"]
        async with raw(app.ports[0]) as client:
            status, _, body = await client.ask(request("/a"))
            assert (status, "this port: /b\n" in body) == (404, True)


async def test_a_gateway_with_a_port_of_its_own_listens_at_its_path_only():
    """In Nest, one that names no path listens at all of them."""
    async with serving(named("a", port=0)) as app:
        assert await names(app, "/", port=1) == ["a"]
        async with raw(app.ports[1]) as client:
            assert (await client.ask(request("/other")))[0] == 404


@pytest.mark.parametrize("port", [None, "fixed"])
async def test_nest_17_one_server_for_equal_port_and_path(port):
    port = free_port() if port else None
    a, b = (named(name, path="/x", port=port) for name in "ab")
    c = named("c", path="/y", port=port)
    async with serving(a, b, c) as app:
        assert a.server is b.server
        assert a.server is not c.server
        assert await names(app, "/x", port=len(app.ports) - 1) == ["a", "b"]
        assert await names(app, "/y", port=len(app.ports) - 1) == ["c"]


async def test_a_gateways_port_may_be_the_applications():
    port = free_port()
    app = create(named("a", path="/a"), named("b", path="/b", port=port))
    await app.listen(port)
    assert app.ports == [port]
    assert await names(app, "/a") == ["a"]
    assert await names(app, "/b") == ["b"]
    await app.close()


async def test_every_gateway_that_asks_for_any_free_port_gets_another():
    async with serving(named("a", port=0), named("b", port=0), named("c")) as app:
        assert len(set(app.ports)) == 3
        assert [await names(app, port=n) for n in range(3)] == [["c"], ["a"], ["b"]]


async def test_ports_are_the_applications_first_and_then_in_the_order_of_the_gateways():
    high, low = sorted([free_port(), free_port()], reverse=True)
    app = create(named("a", port=high), named("b"), named("c", port=low), named("d", port=high))
    assert app.ports == []
    await app.listen(0)
    own = app.ports[0]
    assert app.ports == [own, high, low] and own > 0
    await app.close()
    assert app.ports == []
    for port in own, high, low:
        assert not await is_open(port)


async def test_an_application_without_gateways():
    async with serving() as app, raw(app.ports[0]) as client:
        assert (await client.ask(request()))[0] == 404


async def test_it_listens_on_loopback_only():
    hosts = []

    async def serve(handler, host, port, **options):
        listener = await websockets.asyncio.server.serve(handler, host, port, **options)
        hosts.extend(s.getsockname()[0] for s in listener.sockets)
        return listener

    async with serving(Echo(), named("a", port=0), serve=serve):
        assert hosts == [HOST, HOST]


@pytest.mark.parametrize("port", [-1, 65536, "3000", 3000.0, True, False, None, [3000]])
async def test_nest_15_the_port_is_an_integer(port):
    app = create(named("a", port=0))
    with pytest.raises(ValueError, match=r"integer from 0 .* to 65535, not ") as caught:
        await app.listen(port)
    assert repr(port) in str(caught.value)
    assert app.ports == []
    await app.listen(0)
    assert await names(app, port=1) == ["a"]
    await app.close()


async def test_a_port_that_is_taken(taken):
    app = create(named("a"))
    with pytest.raises(PortError, match=f"port {taken} is taken: choose another, or 0") as caught:
        await app.listen(taken)
    assert (caught.value.port, caught.value.errno) == (taken, errno.EADDRINUSE)
    assert app.ports == []
    await app.listen(0)
    assert await names(app) == ["a"]
    await app.close()


@pytest.mark.parametrize("order", ["first", "last"])
async def test_a_gateways_port_that_is_taken_leaves_nothing_open(taken, order):
    own, other = free_port(), free_port()
    gateways = [named("a", port=other), named("b", port=taken)]
    app = create(*(gateways if order == "last" else reversed(gateways)))
    before = asyncio.all_tasks()
    with pytest.raises(PortError, match=f"port {taken} is taken") as caught:
        await app.listen(own)
    assert caught.value.port == taken
    assert app.ports == []
    assert not await is_open(own)
    assert not await is_open(other)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.EACCES, "port 80 is not allowed for this user"),
        (errno.EADDRNOTAVAIL, "port 80 cannot be had (Cannot assign requested address)"),
    ],
)
async def test_a_port_that_cannot_be_had(number, said):
    async def serve(handler, host, port, **options):
        raise OSError(number, "Cannot assign requested address")

    app = create(Echo())
    with pytest.raises(PortError) as caught:
        await app.listen(80, serve=serve)
    assert said in str(caught.value)
    assert (caught.value.port, caught.value.errno) == (80, number)


# Listening and closing, in any order


async def test_listen_twice():
    app = create(named("a"))
    await app.listen(0)
    ports = app.ports
    with pytest.raises(RuntimeError, match=r"listens already: await app.close\(\) first"):
        await app.listen(0)
    assert app.ports == ports
    assert await names(app) == ["a"]
    await app.close()


async def test_listen_twice_at_once():
    app = create(named("a"))
    done = await asyncio.gather(app.listen(0), app.listen(0), return_exceptions=True)
    assert [type(each) for each in done] == [type(None), RuntimeError]
    assert await names(app) == ["a"]
    await app.close()


async def test_listen_again_after_the_close():
    gateway = Hooked()
    app = create(gateway)
    for _ in range(2):
        await app.listen(0)
        async with talk(app) as client:
            await client.hears_no_more()
        await app.close()
    assert [name for name, *_ in gateway.called] == ["init", "connect", "disconnect"] * 2


async def test_close_twice_and_close_what_never_listened():
    app = create(Echo())
    await app.close()
    await app.listen(0)
    await app.close()
    await app.close()
    await app.listen(0)
    await asyncio.gather(app.close(), app.close())
    assert app.ports == []


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["plain", "coroutine"])
async def test_after_init_that_raises_leaves_nothing_open(is_coroutine):
    own, other = free_port(), free_port()
    error = LookupError("no database")

    class Bad(Echo):
        def after_init(self, server):
            if is_coroutine:
                return self.later()
            raise error

        async def later(self):
            await asyncio.sleep(0)
            raise error

    first = Hooked()
    app = create(first, websocket_gateway(port=other)(Bad)())
    before = asyncio.all_tasks()
    with pytest.raises(LookupError) as caught:
        await app.listen(own)
    assert caught.value is error
    assert [name for name, *_ in first.called] == ["init"]
    assert app.ports == []
    assert not await is_open(own)
    assert not await is_open(other)
    assert asyncio.all_tasks() == before
    Bad.after_init = lambda self, server: None
    await app.listen(0)
    assert len(app.ports) == 2
    await app.close()


async def test_no_client_is_let_in_before_after_init_has_ended():
    port, entered, ready = free_port(), asyncio.Event(), asyncio.Event()

    class Slow(Echo):
        async def after_init(self, server):
            assert self.server is server
            entered.set()
            await ready.wait()

    app = create(Slow())
    listening = asyncio.create_task(app.listen(port))
    await entered.wait()
    assert not await is_open(port)
    ready.set()
    await listening
    assert await is_open(port)
    await app.close()


async def test_a_listen_that_is_cancelled_leaves_nothing_open():
    class Slow(Echo):
        async def after_init(self, server):
            await asyncio.Event().wait()

    port = free_port()
    app = create(Slow())
    listening = asyncio.create_task(app.listen(port))
    await asyncio.sleep(0)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert not await is_open(port)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await app.listen(port)


# The grace of a close


@pytest.mark.parametrize("why", [{}, {"code": 1012}])
async def test_clients_see_1001_or_what_else_they_are_told(why):
    """Those of Nest see 1006: it sends no close frame."""
    code = why.get("code", 1001)
    gateway = Hooked()
    async with serving(gateway, named("b", port=0)) as app, talk(app) as a, talk(app, port=1) as b:
        await a.hears_no_more()
        await b.hears_no_more()
        async with asyncio.timeout(TIMEOUT):
            await app.close(**why)
        assert (await a.closed())[0] == (await b.closed())[0] == code
    assert gateway.called[-1][0::2] == ("disconnect", code)


@pytest.mark.parametrize("code", [1005, 1006, 1015, 99999])
async def test_a_code_that_may_not_be_sent_closes_nothing(code):
    async with serving(Echo()) as app, talk(app) as client:
        with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
            await app.close(code=code)
        await client.hears_no_more()
        assert await is_open(app.ports[0])


async def test_running_handlers_finish_and_their_replies_come_before_the_1001():
    gates = Gates()
    app = create(gates)
    await app.listen(0)
    port = app.ports[0]
    async with talk(app) as client:
        await client.say("pass", "A")
        await client.say("pass", "B", id=7)
        await until(lambda: gates.begun == ["A", "B"])
        closing = asyncio.create_task(app.close(grace=TIMEOUT))
        await until(lambda: gates.server.closing)
        assert not await is_open(port)
        await client.say("pass", "too late")
        await client.say("echo", "too late")
        await client.pong()
        assert not closing.done()
        gates.gates["A"].set()
        assert await client.hear() == "A"
        assert not closing.done()
        gates.gates["B"].set()
        assert await client.hear() == {"id": 7, "event": "pass", "data": "B", "done": True}
        assert (await client.closed())[0] == 1001
        async with asyncio.timeout(TIMEOUT):
            await closing
    assert gates.begun == gates.ended == ["A", "B"]


async def test_handlers_that_do_not_finish_within_the_grace_are_cancelled():
    gates = Gates()
    app = create(gates)
    await app.listen(0)
    before = asyncio.all_tasks()
    async with talk(app) as client:
        await client.say("pass", "A")
        await client.say("pass", "B", id=7)
        await client.say("count", "C")
        await until(lambda: gates.begun == ["A", "B", "C"])
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0.05)
        assert sorted(gates.ended) == ["A", "B", "C"]
        assert (await client.closed())[0] == 1001
    await until(lambda: asyncio.all_tasks() <= before)


async def test_streams_are_closed_first_and_take_no_part_of_the_grace():
    gates = Gates()
    app = create(gates)
    await app.listen(0)
    async with talk(app) as client:
        await client.say("count", "C", id=7)
        await until(lambda: gates.begun == ["C"])
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=60)
        assert gates.ended == ["C"]
        assert (await client.closed())[0] == 1001


async def test_a_handler_that_is_cancelled_may_clean_up():
    ended = []

    async def ask(self, client, data):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append(client)

    app = create(asking(ask))
    await app.listen(0)
    async with talk(app) as client:
        await client.say("ask")
        await client.hears_no_more()
        await app.close(grace=0)
        assert len(ended) == 1


async def test_a_stream_may_close_its_own_application():
    done = []

    async def ask(self, client, data):
        yield 1
        await app.close(grace=0.1)
        done.append("closed")

    app = create(asking(ask))
    await app.listen(0)
    async with talk(app) as client:
        await client.say("ask")
        assert await client.hear() == 1
        assert (await client.closed())[0] == 1001
    await until(lambda: done == ["closed"])


async def test_a_handler_of_a_client_that_has_left_has_its_grace_too():
    gates = Gates()
    app = create(gates)
    await app.listen(0)
    async with talk(app) as client:
        await client.say("pass", "A")
        await until(lambda: gates.begun == ["A"])
    await until(lambda: not gates.server.clients)
    closing = asyncio.create_task(app.close(grace=TIMEOUT))
    await until(lambda: gates.server.closing)
    assert not closing.done()
    gates.gates["A"].set()
    async with asyncio.timeout(TIMEOUT / 2):
        await closing
    assert gates.ended == ["A"]


async def test_a_message_that_comes_while_the_application_closes_is_not_begun():
    gates = Gates()
    app = create(gates)
    await app.listen(0)
    async with talk(app) as client:
        await client.say("pass", "before")
        await until(lambda: gates.begun == ["before"])
        closing = asyncio.create_task(app.close(grace=TIMEOUT))
        await until(lambda: gates.server.closing)
        await client.say("pass", "after", id=1)
        await client.pong()
        gates.gates["before"].set()
        assert await client.hear() == "before"
        assert (await client.closed())[0] == 1001
        await closing
    assert gates.begun == ["before"]


async def test_the_graces_of_all_paths_and_ports_run_side_by_side():
    gateways = [
        websocket_gateway(path=f"/{n}", port=None if n < 3 else 0)(type("G", (Gates,), {}))()
        for n in range(6)
    ]
    app = create(*gateways)
    await app.listen(0)
    async with contextlib.AsyncExitStack() as stack:
        for n in range(6):
            client = await stack.enter_async_context(talk(app, f"/{n}", max(0, n - 2)))
            await client.say("pass", n)
        await until(lambda: all(gateway.begun for gateway in gateways))
        closing = asyncio.create_task(app.close(grace=TIMEOUT))
        await until(lambda: all(gateway.server.closing for gateway in gateways))
        assert not closing.done()
        for n, gateway in enumerate(gateways):
            gateway.gates[n].set()
        async with asyncio.timeout(TIMEOUT):
            await closing
    assert [gateway.ended for gateway in gateways] == [[n] for n in range(6)]


async def test_a_handler_that_catches_its_cancellation_holds_up_the_close_no_longer_than_the_rest():
    release, caught = asyncio.Event(), []

    async def ask(self, client, data):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                caught.append("once")

    app = create(asking(ask))
    await app.listen(0)
    async with talk(app) as client:
        await client.say("ask")
        await client.hears_no_more()
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0)
        assert (await client.closed())[0] == 1001
    assert caught
    release.set()
    await asyncio.sleep(0.01)


async def test_a_client_that_never_answers_the_close_is_cut():
    gateway = Hooked()
    app = create(gateway)
    await app.listen(0)
    async with raw(app.ports[0]) as client:
        await client.opened()
        async with asyncio.timeout(4):
            await app.close(grace=0)
        assert (await client.closed())[0] == 1001
        await client.end()
    assert gateway.called[-1][0::2] == ("disconnect", 1006)


async def test_a_client_that_does_not_read_is_cut():
    given = []

    async def ask(self, client, data):
        while len(given) < 1_000:
            given.append("item")
            yield ITEM

    app = create(asking(ask))
    await app.listen(0)
    async with narrow(app) as client:
        await client.say("ask")
        await at_rest(given)
        async with asyncio.timeout(6):
            await app.close(grace=0)
        client.connection.transport.abort()


async def test_a_client_that_never_sent_its_handshake_holds_nothing_up():
    app = create(Echo())
    await app.listen(0, open_timeout=3)
    port = app.ports[0]
    async with raw(port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(0.01)
        async with asyncio.timeout(2.5):
            await app.close(grace=0)
        assert not await is_open(port)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_a_connect_hook_that_does_not_end_is_cancelled():
    ended = []

    class Door(Hooked):
        async def handle_connection(self, client, request):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(client)

    gateway = websocket_gateway()(Door)()
    app = create(gateway)
    await app.listen(0)
    async with talk(app) as client:
        await until(lambda: len(gateway.server.clients) == 1)
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0)
        assert (await client.closed())[0] == 1001
    assert len(ended) == 1
    assert [name for name, *_ in gateway.called] == ["init"]
    assert gateway.server.clients == frozenset()


async def test_a_disconnect_hook_that_does_not_end_is_cancelled():
    ended = []

    class Door(Echo):
        async def handle_disconnect(self, client, code):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(code)

    app = create(Door())
    await app.listen(0)
    async with talk(app) as client:
        await client.hears_no_more()
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0)
        assert (await client.closed())[0] == 1001
    assert ended == [1001]


async def test_a_handler_may_close_its_own_application():
    """As it may stop its own server in the kernel."""

    done = []

    async def ask(self, client, data):
        await app.close(grace=0.1)
        done.append("closed")

    app = create(asking(ask))
    await app.listen(0)
    port = app.ports[0]
    async with talk(app) as client:
        await client.say("ask")
        assert (await client.closed())[0] == 1001
    assert not await is_open(port)
    await until(lambda: done == ["closed"])


# In the kernel


@pytest.fixture
async def empty_kernel() -> AsyncIterator[None]:
    yield
    await kernel.stop_all(grace=0)


@pytest.fixture(autouse=True)
async def kernel_is_left_empty() -> AsyncIterator[None]:
    yield
    assert kernel.status() == "nothing is running"


async def ask_kernel(server: kernel.Server) -> Any:
    async with asyncio.timeout(TIMEOUT), connect(server.url, compression=None) as client:
        await client.send('{"event":"ask"}')
        return await client.recv()


async def test_an_application_in_the_kernel(empty_kernel):
    app = create(named("a"), named("b", port=0))
    server = await kernel.start("app", app)
    assert server.url == f"ws://127.0.0.1:{server.port}"
    assert [server.port] == app.ports[:1]
    assert await ask_kernel(server) == '"a"'
    assert kernel.status() == "app: an application"
    await kernel.stop("app")
    assert kernel.status() == "nothing is running"
    assert app.ports == []
    assert not await is_open(server.port)


async def test_the_kernel_shows_what_handlers_and_hooks_have_raised_by_mistake(empty_kernel):
    class Bad(Echo):
        def handle_disconnect(self, client, code):
            raise LookupError("in a hook")

        @subscribe_message("ask")
        def ask(self, client, data):
            raise WsException("meant") if data else ValueError("in a handler")

    app = create(Bad())
    server = await kernel.start("app", app)
    async with asyncio.timeout(TIMEOUT), connect(server.url) as client:
        for data in 1, 0:
            await client.send(f'{{"event":"ask","data":{data}}}')
            await client.recv()
    await until(lambda: len(app.errors) == 2)
    assert kernel.status().splitlines()[1:] == [
        "    ValueError: in a handler",
        "    LookupError: in a hook",
    ]


async def test_only_the_last_errors_are_kept():
    def ask(self, client, data):
        raise ValueError(data)

    async with serving(asking(ask)) as app, talk(app) as client:
        for number in range(ERRORS + 5):
            await client.say("ask", number)
            await client.hear()
        assert [error.args[0] for error in app.errors] == list(range(5, ERRORS + 5))


async def test_the_same_name_replaces_an_application(empty_kernel):
    app = create(named("a"))
    first = await kernel.start("app", app)
    second = await kernel.start("app", app)
    assert await ask_kernel(second) == '"a"'
    third = await kernel.start("app", create(named("b")), port=second.port)
    assert await ask_kernel(third) == '"b"'
    assert app.ports == []
    assert first.port == third.port or not await is_open(first.port)
    assert kernel.status() == "app: an application"


async def test_a_server_replaces_an_application_and_the_other_way_round(empty_kernel):
    async def reply(connection):
        await connection.recv()
        await connection.send("a server")

    await kernel.start("it", create(named("an application")))
    assert await ask_kernel(await kernel.start("it", reply)) == "a server"
    server = await kernel.start("it", create(named("an application")))
    assert await ask_kernel(server) == '"an application"'


async def test_one_application_under_two_names(empty_kernel):
    app = create(named("a"))
    server = await kernel.start("one", app)
    with pytest.raises(RuntimeError, match="listens already"):
        await kernel.start("two", app)
    assert kernel.status() == "one: an application"
    assert await ask_kernel(server) == '"a"'


async def test_stop_all_closes_applications_with_1001(empty_kernel):
    servers = [await kernel.start(f"app {n}", create(named(str(n)))) for n in range(3)]
    clients = [await connect(server.url) for server in servers]
    async with asyncio.timeout(TIMEOUT):
        await kernel.stop_all()
        for client in clients:
            with pytest.raises(ConnectionClosed, match="1001"):
                await client.recv()
    assert kernel.status() == "nothing is running"


async def test_stop_gives_handlers_their_grace(empty_kernel):
    gates = Gates()
    server = await kernel.start("gates", create(gates))
    async with asyncio.timeout(TIMEOUT), connect(server.url) as client:
        await client.send('{"event":"pass","data":"A"}')
        await until(lambda: gates.begun == ["A"])
        stopping = asyncio.create_task(kernel.stop("gates", grace=TIMEOUT))
        await until(lambda: gates.server.closing)
        gates.gates["A"].set()
        assert await client.recv() == '"A"'
        with pytest.raises(ConnectionClosed, match="1001"):
            await client.recv()
        await stopping


async def test_the_kernel_names_the_port_of_a_gateway_that_is_taken(empty_kernel, taken):
    app = create(named("a"), named("b", port=taken))
    with pytest.raises(kernel.PortError, match=f"port {taken} is taken by another program"):
        await kernel.start("app", app)
    assert kernel.status() == "nothing is running"
    assert app.ports == []


async def test_the_kernel_knows_which_of_its_own_has_the_port(empty_kernel):
    first = await kernel.start("first", create(named("a")))
    with pytest.raises(kernel.PortError, match=r"await kernel\.stop\('first'\)"):
        await kernel.start("second", create(named("b")), port=first.port)
    assert await ask_kernel(first) == '"a"'


async def test_options_reach_serve_through_the_kernel(empty_kernel):
    server = await kernel.start("small", create(Echo()), max_size=10)
    async with asyncio.timeout(TIMEOUT), connect(server.url) as client:
        await client.send("more than ten bytes")
        with pytest.raises(ConnectionClosed, match="1009"):
            await client.recv()


async def test_a_class_is_no_handler_of_the_kernel():
    with pytest.raises(TypeError):
        await kernel.start("poll", create(Echo))


# What `serve=` has to do: the Protocol `Serve`, held against every function that serves

SERVES = {"websockets": transport.serve, "nestling": server.serve}


@pytest.fixture(params=SERVES.values(), ids=SERVES)
def serve(request) -> Any:
    return request.param


AS_NEST = {
    "process_request": lambda connection, request: None,
    "select_subprotocol": lambda connection, offered: next(iter(offered), None),
    "compression": None,
    "max_size": 1000,
    "ping_interval": None,
    "server_header": None,
}


@asynccontextmanager
async def listening(serve: Any, handler: Any, **options: Any) -> AsyncIterator[tuple[Any, int]]:
    async with asyncio.timeout(TIMEOUT):
        listener = await serve(handler, HOST, 0, **AS_NEST | options)
    try:
        yield listener, listener.sockets[0].getsockname()[1]
    finally:
        async with asyncio.timeout(TIMEOUT):
            listener.close()
            await listener.wait_closed()


async def test_contract_text_and_bytes_come_in_and_text_goes_out(serve):
    async def handler(connection):
        for _ in range(2):
            await connection.send(repr(await connection.recv()))

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.TEXT, "é".encode())
        client.send(Opcode.BINARY, b"\xff")
        assert await client.frame() == Frame(Opcode.TEXT, "'é'".encode())
        assert await client.frame() == Frame(Opcode.TEXT, b"b'\\xff'")


async def test_contract_the_connection_is_closed_when_the_handler_returns(serve):
    async def handler(connection):
        assert connection.close_code is None

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        assert (await client.closed())[0] == 1000


async def test_contract_the_request_of_a_connection(serve):
    async def handler(connection):
        headers = connection.request.headers
        await connection.send(f"{connection.request.path} {headers['cookie']} {headers['COOKIE']}")

    async with listening(serve, handler) as (_, port), raw(port) as client:
        assert (await client.ask(request("/a/b?c=d", Cookie="e=f")))[0] == 101
        assert (await client.frame()).payload == b"/a/b?c=d e=f e=f"


async def test_contract_process_request_refuses_or_lets_in(serve):
    handled, seen = [], []

    async def handler(connection):
        handled.append(connection.request.path)

    def process_request(connection, request):
        seen.append((request.path, request.headers["Host"]))
        return connection.respond(404, "nothing here\n") if request.path == "/no" else None

    options = {"process_request": process_request}
    async with listening(serve, handler, **options) as (_, port):
        async with raw(port) as client:
            status, fields, body = await client.ask(request("/no"))
            assert (status, body) == (404, "nothing here\n")
            assert fields["content-length"] == str(len(body))
            assert fields["content-type"].startswith("text/plain")
        async with raw(port) as client:
            assert (await client.ask(request("/yes")))[0] == 101
            assert (await client.closed())[0] == 1000
    assert handled == ["/yes"]
    assert seen == [("/no", HOST), ("/yes", HOST)]


async def test_contract_select_subprotocol(serve):
    offers = []

    async def handler(connection): ...

    def select_subprotocol(connection, offered):
        offers.append(list(offered))
        return offered[1] if offered else None

    options = {"select_subprotocol": select_subprotocol}
    async with listening(serve, handler, **options) as (_, port):
        async with raw(port) as client:
            _, fields, _ = await client.ask(request(Sec_WebSocket_Protocol="a, b, c"))
            assert fields["sec-websocket-protocol"] == "b"
        async with raw(port) as client:
            _, fields, _ = await client.ask(request())
            assert "sec-websocket-protocol" not in fields
    assert offers[0] == ["a", "b", "c"]


async def test_contract_no_compression_and_no_server_header(serve):
    async def handler(connection): ...

    async with listening(serve, handler) as (_, port), raw(port) as client:
        head = request(Sec_WebSocket_Extensions="permessage-deflate")
        _, fields, _ = await client.ask(head)
        assert not {"server", "sec-websocket-extensions"} & fields.keys()


async def test_contract_max_size(serve):
    async def handler(connection):
        while True:
            await connection.send(str(len(await connection.recv())))

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.TEXT, b"x" * 1000)
        assert (await client.frame()).payload == b"1000"
        client.send(Opcode.TEXT, b"x" * 1001)
        assert (await client.closed())[0] == 1009


@pytest.mark.parametrize("side", ["client", "cut", "server", "abort"])
async def test_contract_after_the_close_recv_and_send_raise(serve, side):
    seen = []

    async def handler(connection):
        assert await connection.recv() == "ready"
        seen.append(connection.close_code)
        if side == "server":
            await connection.close(4000, "enough")
        elif side == "abort":
            connection.transport.abort()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        with pytest.raises(ConnectionClosed):
            await connection.send("late")
        await connection.wait_closed()
        await connection.close()
        seen.append(connection.close_code)

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.TEXT, b"ready")
        await until(lambda: len(seen) >= 1)
        if side == "client":
            client.send(Opcode.CLOSE, close_payload(4000, "enough"))
            assert await client.closed() == (4000, "enough")
            await client.end()
        elif side == "cut":
            client.writer.transport.abort()
        elif side == "server":
            assert await client.closed() == (4000, "enough")
            client.send(Opcode.CLOSE, close_payload(4000, "enough"))
            await client.end()
        await until(lambda: len(seen) == 2)
    assert seen == [None, 1006 if side in ("cut", "abort") else 4000]


async def test_contract_messages_before_the_close_can_still_be_received(serve):
    received, go = [], asyncio.Event()

    async def handler(connection):
        await go.wait()
        with contextlib.suppress(ConnectionClosed):
            while True:
                received.append(await connection.recv())

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.TEXT, b"one")
        client.send(Opcode.TEXT, b"two")
        client.send(Opcode.CLOSE, close_payload(1000))
        await client.closed()
        go.set()
        await until(lambda: received == ["one", "two"])


async def test_contract_a_receive_that_is_cancelled_loses_no_message(serve):
    async def handler(connection):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.recv()
        await connection.send("ready")
        await connection.send(await connection.recv())

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        assert (await client.frame()).payload == b"ready"
        client.send(Opcode.TEXT, b"hello")
        assert (await client.frame()).payload == b"hello"


async def test_contract_several_tasks_may_send(serve):
    async def handler(connection):
        await asyncio.gather(*(connection.send(str(n) * 1000) for n in range(10)))

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        sent = {(await client.frame()).payload.decode() for _ in range(10)}
        assert sent == {str(n) * 1000 for n in range(10)}


async def test_contract_a_listener_that_closes_keeps_those_that_are_there(serve):
    release, returned = asyncio.Event(), []

    async def handler(connection):
        await connection.send(await connection.recv())
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()
        await release.wait()
        returned.append("handler")

    async with listening(serve, handler) as (listener, port), raw(port) as client:
        await client.opened()
        await until(lambda: bool(listener.sockets))
        listener.close(close_connections=False)
        waiting = asyncio.ensure_future(listener.wait_closed())
        await until(lambda: not listener.sockets)
        assert not await is_open(port)
        client.send(Opcode.TEXT, b"still here")
        assert (await client.frame()).payload == b"still here"
        assert not waiting.done()
        client.send(Opcode.CLOSE, close_payload(1000))
        await client.closed()
        await client.end()
        assert not waiting.done()
        release.set()
        async with asyncio.timeout(TIMEOUT):
            await waiting
        assert returned == ["handler"]


async def test_contract_a_port_that_is_taken_is_an_oserror(serve, taken):
    async def handler(connection): ...

    with pytest.raises(OSError) as caught:
        await serve(handler, HOST, taken, **AS_NEST)
    assert caught.value.errno == errno.EADDRINUSE


async def test_contract_who_does_not_read_is_not_read_from_until_it_does(serve):
    received = []

    async def handler(connection):
        assert await connection.recv() == "go"
        sending = asyncio.create_task(connection.send("x" * (16 * 2**20)))
        with contextlib.suppress(ConnectionClosed):
            while True:
                received.append(await connection.recv())
        await asyncio.gather(sending, return_exceptions=True)

    message = encode(Frame(Opcode.TEXT, b"{}", mask=new_mask()))
    async with listening(serve, handler, close_timeout=0.3) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.TEXT, b"go")
        client.writer.write(message * 10_000)
        await asyncio.sleep(0.5)
        assert len(received) < 2_000
        reading = asyncio.create_task(client.read_all())
        await until(lambda: len(received) == 10_000)
        reading.cancel()
        await asyncio.wait([reading])


async def test_contract_who_does_not_read_is_not_read_from(serve):
    """Not even its pings, whose answers would pile up."""

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
                unread.append(connection.transport.get_write_buffer_size())

    unread: list[int] = []
    ping = encode(Frame(Opcode.PING, bytes(125), mask=new_mask()))
    ignored = encode(Frame(Opcode.TEXT, b"{}", mask=new_mask()))
    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        with pytest.raises(TimeoutError):
            while True:
                client.writer.write(ping * 500 + ignored)
                async with asyncio.timeout(2):
                    await client.writer.drain()
        assert transport.UNREAD / 2 < max(unread) < transport.UNREAD + 2**16
        for _ in range(10_000):
            assert (await client.frame()).opcode is Opcode.PONG


async def test_contract_what_a_handler_does_not_take_is_not_read(serve):
    """Not even when what it sends is read, again and again."""
    taken = asyncio.Event()

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while not taken.is_set():
                await connection.send(ITEM)
                await asyncio.sleep(0.001)

    message, sent = encode(Frame(Opcode.TEXT, bytes(1000), mask=new_mask())), 0
    async with listening(serve, handler, close_timeout=0.3) as (_, port), raw(port) as client:
        await client.opened()
        reading = asyncio.create_task(client.read_all(pause=0.005))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while sent < 40_000:
                    client.writer.write(message)
                    await client.writer.drain()
                    sent += 1
        assert sent < 20_000
        taken.set()
        reading.cancel()
        await asyncio.wait([reading])


async def test_contract_a_connection_that_has_ended_is_forgotten_at_once(serve):
    seen = []

    async def handler(connection):
        seen.extend([weakref.ref(connection), weakref.ref(connection.transport)])
        with contextlib.suppress(ConnectionClosed):
            await connection.recv()

    async with listening(serve, handler) as (_, port):
        async with raw(port) as client:
            await client.opened()
            client.send(Opcode.CLOSE, close_payload(1000))
            await client.closed()
            await client.end()
        await until(lambda: gc.collect() >= 0 and not any(each() for each in seen), 3)


async def test_contract_what_is_sent_at_once_is_taken_in_with_pauses(serve):
    turns, received = [], []

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                received.append(await connection.recv())

    async def count_turns():
        while True:
            turns.append(len(received))
            await asyncio.sleep(0)

    async with listening(serve, handler) as (_, port), raw(port) as client:
        await client.opened()
        counting = asyncio.create_task(count_turns())
        client.writer.write(encode(Frame(Opcode.TEXT, b"{}", mask=new_mask())) * 10_000)
        await until(lambda: len(received) == 10_000)
        counting.cancel()
    assert max(after - before for before, after in itertools.pairwise(turns)) < 2_000


async def test_contract_a_client_that_closes_and_stays_is_cut(serve):
    gone = asyncio.Event()

    async def handler(connection):
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        gone.set()

    async with listening(serve, handler, close_timeout=0.2) as (_, port), raw(port) as client:
        await client.opened()
        client.send(Opcode.CLOSE, close_payload(4000))
        assert await client.closed() == (4000, "")
        async with asyncio.timeout(TIMEOUT):
            await gone.wait()


async def test_contract_an_application_on_it(serve):
    def ask(self, client, data):
        raise WsException("no")

    async with serving(asking(ask), serve=serve) as app, talk(app) as client:
        await client.say("ask")
        await client.hears(error_frame("no"))


def test_contract_the_default_is_one_of_them():
    default = inspect.signature(create().listen).parameters["serve"].default
    assert default in SERVES.values()


async def test_an_application_that_is_closed_while_it_starts_does_not_listen():
    closing = []

    @websocket_gateway()
    class Slow:
        async def after_init(self, server):
            closing.append(asyncio.ensure_future(app.close()))
            await asyncio.sleep(0.05)

    app = create(Slow())
    with pytest.raises(RuntimeError, match="closed before it listened"):
        await app.listen(0)
    assert app.ports == [] and closing[0].done()
