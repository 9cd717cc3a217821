"""Sessions as a client sees them on the wire, in a simulated world and over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from sys import getsizeof
from typing import Any

import nestling.server
import nestling.transport
import pytest
from conftest import until
from gateways import TIMEOUT, serving, talk
from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from nestling.reconnect import MayHaveRun, Reconnect
from nestling.session import ANNOUNCEMENT
from nestling.sessions import PATIENCE, Sessions
from nestling.states import State
from simulation import End, Network, simulated
from websockets.exceptions import ConnectionClosed
from workbench.relay import Relay

PATH = f"/?{ANNOUNCEMENT}"


@websocket_gateway()
class Several:
    """Handlers of every kind, and what the hooks were called with."""

    def __init__(self) -> None:
        self.called: list[Any] = []
        self.ended: list[Any] = []
        self.gate = asyncio.Event()

    def handle_connection(self, client: Client, request: Any) -> None:
        self.called.append(request.path)
        if "uninvited" in request.path:
            raise WsException("You are not invited")

    def handle_disconnect(self, client: Client, code: int) -> None:
        self.called.append(code)

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any) -> Any:
        return data

    @subscribe_message("later")
    async def later(self, client: Client, data: Any) -> Any:
        await self.gate.wait()
        return data

    @subscribe_message("count")
    async def count(self, client: Client, data: Any) -> AsyncIterator[int]:
        try:
            for number in range(data):
                yield number
                await asyncio.sleep(1)
        finally:
            self.ended.append(data)

    @subscribe_message("out")
    async def out(self, client: Client, data: Any) -> None:
        await client.close(data, "out")

    async def tell(self, *numbers: Any) -> None:
        for number in numbers:
            for client in self.server.clients:
                await client.send(number)


@websocket_gateway(path="/other")
class Other:
    pass


class Raw:
    """A client that says and hears JSON."""

    def __init__(self, end: Any) -> None:
        self.end = end

    async def say(self, message: Any) -> None:
        await self.end.send(json.dumps(message))

    async def hear(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.end.recv())

    async def hears(self, *messages: Any) -> None:
        assert [await self.hear() for _ in messages] == list(messages)

    async def closed(self) -> int:
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(5):
                print("heard", await self.end.recv())
        return self.end.close_code

    async def begin(self) -> str:
        """Ask for a session, and give its secret."""
        await self.say({"session": None})
        return (await self.hear())["session"]

    async def resume(self, secret: str, last: int) -> Any:
        await self.say({"session": secret, "last": last})
        return await self.hear()


class Server:
    """An application with sessions, and clients of it."""

    def __init__(self, network: Network, gateway: Several, sessions: Sessions) -> None:
        self.network, self.gateway, self.sessions = network, gateway, sessions

    async def client(self, path: str = PATH) -> Raw:
        return Raw(await self.network.connect("ws://simulated" + path))

    async def resumed(self, secret: str, last: int, path: str = PATH) -> tuple[Raw, Any]:
        client = await self.client(path)
        return client, await client.resume(secret, last)


@asynccontextmanager
async def simulation(**limits: Any) -> AsyncIterator[Server]:
    """In the end, nothing is left of any session."""
    network, gateway = Network(random.Random(1)), Several()
    sessions = Sessions(serve=network.serve, **limits)
    app = create(gateway, Other())
    await app.listen(0, serve=sessions)
    yield Server(network, gateway, sessions)
    await app.close(grace=0)
    await asyncio.sleep(2)
    assert (sessions.live, sessions.waiting, sessions.held) == ({}, {}, 0)
    assert not sessions.tasks and not sessions.asking


async def cut(client: Raw) -> None:
    """The line breaks, and both ends learn of it at once."""
    client.end.abort()
    await asyncio.sleep(0.001)


# On the wire


@simulated
async def test_a_new_session():
    async with simulation(lifetime=7) as server:
        client = await server.client()
        await client.say({"session": None})
        answer = await client.hear()
        assert answer == {"session": answer["session"], "lifetime": 7}
        assert len(answer["session"]) == 43
        await client.say({"event": "echo", "data": [1]})
        await client.hears([1])
        other = await server.client()
        assert await other.begin() != answer["session"]


@simulated
async def test_the_answer_has_the_id_of_the_question():
    async with simulation() as server:
        client = await server.client()
        await client.say({"id": "s", "session": None})
        secret = (await client.hear())["session"]
        await cut(client)
        client = await server.client()
        await client.say({"id": 0, "session": secret, "last": 0})
        await client.hears({"id": 0, "session": secret, "heard": 0, "done": True})


@pytest.mark.parametrize("got", range(6))
@simulated
async def test_who_comes_back_gets_exactly_what_was_missed(got):
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell(1, 2, 3)
        await client.hears(1, 2, 3)
        await cut(client)
        await server.gateway.tell(4, 5)
        client, answer = await server.resumed(secret, got)
        assert answer == {"session": secret, "heard": 0}
        await client.hears(*range(got + 1, 6))
        await server.gateway.tell(6)
        await client.hears(6)


@simulated
async def test_coming_back_again_and_again():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        for number in range(20):
            await server.gateway.tell(number)
            await cut(client)
            client, answer = await server.resumed(secret, number)
            assert answer == {"session": secret, "heard": 0}
            await client.hears(number)
        assert server.gateway.called == [PATH]
        await client.end.close()
        await asyncio.sleep(1)
        assert server.gateway.called == [PATH, 1000]


@simulated
async def test_the_server_says_how_much_it_has_heard():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        for number in range(3):
            await client.say({"event": "echo", "data": number})
        await client.say("nonsense counts, too")
        await client.hears(0, 1, 2)
        await asyncio.sleep(1)
        await cut(client)
        client, answer = await server.resumed(secret, 3)
        assert answer == {"session": secret, "heard": 4}
        await client.say({"event": "echo", "data": 3})
        await client.hears(3)
        await cut(client)
        client, answer = await server.resumed(secret, 4)
        assert answer == {"session": secret, "heard": 5}


@simulated
async def test_handlers_go_on_without_a_connection():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await client.say({"id": 1, "event": "later", "data": "x"})
        await client.say({"id": 2, "event": "count", "data": 3})
        await client.hears({"id": 2, "event": "count", "data": 0})
        await cut(client)
        server.gateway.gate.set()
        await asyncio.sleep(5)
        assert server.gateway.ended == [3]
        client, _ = await server.resumed(secret, 1)
        await client.hears(
            {"id": 1, "event": "later", "data": "x", "done": True},
            {"id": 2, "event": "count", "data": 1},
            {"id": 2, "event": "count", "data": 2},
            {"id": 2, "done": True},
        )


@simulated
async def test_order_is_kept_when_much_is_missed_and_more_comes():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await cut(client)
        await server.gateway.tell(*range(500))
        client = await server.client()
        await client.say({"session": secret, "last": 0})
        more = [asyncio.create_task(server.gateway.tell(500 + n)) for n in range(100)]
        assert (await client.hear())["heard"] == 0
        await client.hears(*range(600))
        await asyncio.gather(*more)


# Who has no session


@pytest.mark.parametrize("path", ["/", "/?a=1", "/?nestling", f"/?x{ANNOUNCEMENT}"])
@simulated
async def test_who_announces_nothing_has_a_plain_connection(path):
    network = Network(random.Random(1))
    given: list[Any] = []

    async def handle(connection: Any) -> None:
        given.append(connection)
        await connection.send(await connection.recv())

    sessions = Sessions(serve=network.serve)
    await sessions(handle, "simulated", 0)
    client = Raw(await network.connect("ws://simulated" + path))
    await client.say({"session": None})
    await client.hears({"session": None})
    assert type(given[0]) is End and sessions.live == {}
    await client.end.close()
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    "raw", ["", "x", "[1]", "5", "{}", '{"event":"echo"}', "[" * 100_000, '{"last":0}']
)
@simulated
async def test_who_announces_a_session_has_to_ask_for_one(raw):
    async with simulation() as server:
        client = await server.client()
        await client.end.send(raw)
        assert await client.closed() == 1008
        assert server.gateway.called == []


@simulated
async def test_who_announces_a_session_and_is_silent():
    async with simulation() as server:
        client = await server.client()
        await asyncio.sleep(PATIENCE - 1)
        assert client.end.close_code is None
        await asyncio.sleep(2)
        assert client.end.close_code == 1008


# Too much is gone


@pytest.mark.parametrize(
    "asked",
    [
        {"session": "unknown", "last": 0},
        {"session": "", "last": 0},
        {"session": 5, "last": 0},
        {"session": ["SECRET"], "last": 0},
        {"session": "SECRET"},
        {"session": "SECRET", "last": -1},
        {"session": "SECRET", "last": 3},
        {"session": "SECRET", "last": True},
        {"session": "SECRET", "last": 1.0},
        {"session": "SECRET", "last": "1"},
    ],
)
@simulated
async def test_what_cannot_go_on_is_lost(asked):
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell(1, 2)
        await cut(client)
        client = await server.client()
        if asked["session"] == "SECRET":
            asked = asked | {"session": secret}
        await client.say(asked)
        answer = await client.hear()
        assert (answer["lost"], answer["lifetime"]) == (True, 60)
        assert answer["session"] != secret
        await server.gateway.tell(3)
        await client.hears(3)
        assert (secret in server.sessions.live) == (asked["session"] != secret)


@simulated
async def test_a_session_belongs_to_its_path():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell("a secret")
        await cut(client)
        client, answer = await server.resumed(secret, 0, f"/other?{ANNOUNCEMENT}")
        assert answer["lost"]


@pytest.mark.parametrize("missed, is_lost", [(5, False), (6, True)])
@simulated
async def test_the_window_by_messages(missed, is_lost):
    """Five of them were written, as the client was there."""
    async with simulation(frames=5) as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell(*range(10))
        await cut(client)
        client, answer = await server.resumed(secret, 10 - missed)
        assert answer.get("lost", False) == is_lost
        if not is_lost:
            await client.hears(*range(5, 10))


@pytest.mark.parametrize("missed, is_lost", [(3, False), (4, True)])
@simulated
async def test_the_window_by_bytes(missed, is_lost):
    text = "é☃" * 50
    async with simulation(size=3 * getsizeof(f'"{text}"')) as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell(*[text] * 9)
        assert server.sessions.held == server.sessions.size
        await cut(client)
        client, answer = await server.resumed(secret, 9 - missed)
        assert answer.get("lost", False) == is_lost


@simulated
async def test_a_session_that_overflows_without_its_client_is_over_at_once():
    async with simulation(frames=5) as server:
        client = await server.client()
        secret = await client.begin()
        await client.say({"id": 1, "event": "count", "data": 100})
        await client.hear()
        await cut(client)
        await asyncio.sleep(5.5)
        assert secret in server.sessions.live and server.gateway.ended == []
        await asyncio.sleep(1)
        assert server.sessions.live == {} and server.gateway.ended == [100]
        assert server.gateway.called == [PATH, 1013]
        client, answer = await server.resumed(secret, 1)
        assert answer["lost"]


@simulated
async def test_a_message_larger_than_the_window_comes_all_the_same():
    async with simulation(size=1000) as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell("small", "x" * 5000, "small")
        await client.hears("small", "x" * 5000, "small")
        await cut(client)
        client, answer = await server.resumed(secret, 2)
        assert answer == {"session": secret, "heard": 0}
        await client.hears("small")


@simulated
async def test_what_the_client_says_it_has_is_kept_no_longer():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await server.gateway.tell("x" * 1000, "y")
        await cut(client)
        client, _ = await server.resumed(secret, 1)
        assert server.sessions.held == getsizeof('"y"')


# All windows together


@simulated
async def test_above_the_total_the_longest_waiting_ends():
    text = "x" * 1000
    async with simulation(total=5 * getsizeof(f'"{text}"')) as server:
        clients = [await server.client() for _ in range(3)]
        secrets = [await client.begin() for client in clients]
        await cut(clients[1])
        await server.gateway.tell(text)
        await cut(clients[0])
        await server.gateway.tell(text)  # three sessions, two each
        assert list(server.sessions.live) == [secrets[0], secrets[2]]
        assert server.sessions.held == 4 * getsizeof(f'"{text}"')


@simulated
async def test_above_the_total_with_nobody_waiting_who_sends_forgets():
    text = "x" * 1000
    async with simulation(total=5 * getsizeof(f'"{text}"')) as server:
        clients = [await server.client() for _ in range(2)]
        secrets = [await client.begin() for client in clients]
        for _ in range(50):
            await server.gateway.tell(text)
            assert server.sessions.held <= 5 * getsizeof(f'"{text}"')
        assert list(server.sessions.live) == secrets
        for client in clients:
            await client.hears(*[text] * 50)


@simulated
async def test_only_so_many_wait():
    async with simulation(most=3) as server:
        secrets = []
        for _ in range(5):
            client = await server.client()
            secrets.append(await client.begin())
            await cut(client)
        assert list(server.sessions.live) == secrets[2:]


@simulated
async def test_a_thousand_that_never_come_back_are_gone_after_their_time():
    async with simulation(lifetime=60) as server:

        async def come_and_go() -> None:
            client = await server.client()
            await client.begin()
            await client.say({"event": "count", "data": 1_000})
            await client.hear()
            client.end.abort()

        await asyncio.gather(*(come_and_go() for _ in range(1000)))
        await asyncio.sleep(1)
        assert len(server.sessions.waiting) == len(server.gateway.server.clients) == 1000
        assert server.sessions.held > 0
        await asyncio.sleep(61)
        assert (server.sessions.live, server.sessions.waiting) == ({}, {})
        assert server.sessions.held == 0
        assert server.gateway.server.clients == frozenset()
        await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) == 1
        assert asyncio.get_running_loop().timers() == []
        assert len(server.gateway.ended) == 1000


# How it ends


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1011, 4000])
@simulated
async def test_a_goodbye_ends_it_at_once_and_nothing_else_does(code):
    async with simulation(lifetime=5) as server:
        client = await server.client()
        secret = await client.begin()
        await client.end.close(code)
        await asyncio.sleep(1)
        is_goodbye = code in (1000, 1001, 1005)
        assert (secret not in server.sessions.live) == is_goodbye
        await asyncio.sleep(5)
        assert server.gateway.called == [PATH, code if is_goodbye else 1006]


@simulated
async def test_what_was_said_before_a_goodbye_is_heard():
    async with simulation() as server:
        client = await server.client()
        await client.begin()
        for number in range(50):
            await client.say({"event": "count", "data": number})
        await client.end.close()
        await asyncio.sleep(3)
        assert sorted(server.gateway.ended) == list(range(50))
        assert server.gateway.called == [PATH, 1000]


@simulated
async def test_coming_back_in_time_stops_the_clock():
    async with simulation(lifetime=5) as server:
        client = await server.client()
        secret = await client.begin()
        for _ in range(3):
            await cut(client)
            await asyncio.sleep(4)
            client, answer = await server.resumed(secret, 0)
            assert "lost" not in answer
        await asyncio.sleep(30)
        await server.gateway.tell(1)
        await client.hears(1)


@simulated
async def test_the_later_of_two_connections_wins():
    async with simulation() as server:
        former = await server.client()
        secret = await former.begin()
        await former.say({"event": "echo", "data": 1})
        await former.hears(1)
        later, answer = await server.resumed(secret, 1)
        assert answer == {"session": secret, "heard": 1}
        assert await former.closed() == 4001
        await server.gateway.tell(2)
        await later.hears(2)
        await later.say({"event": "echo", "data": 3})
        await later.hears(3)
        assert server.gateway.called == [PATH]


@simulated
async def test_what_a_former_connection_still_brings_is_not_heard():
    """The client has been told how much was heard, and sends the rest again."""
    async with simulation() as server:
        former = await server.client()
        secret = await former.begin()
        later, said = await server.client(), 0
        with suppress(ConnectionClosed):
            while True:
                if said == 200:
                    await later.say({"session": secret, "last": 0})
                await former.say({"event": "count", "data": said})
                said += 1
                await asyncio.sleep(0.002)
        heard = (await later.hear())["heard"]
        assert 0 < heard < said
        await asyncio.sleep(2 * said)
        assert sorted(server.gateway.ended) == list(range(heard))


@simulated
async def test_a_former_connection_in_a_black_hole_holds_up_the_later_for_a_moment():
    async with simulation() as server:
        former = await server.client()
        secret = await former.begin()
        server.network.break_all(lambda: 1_000)
        later, _ = await server.resumed(secret, 0)
        await server.gateway.tell(1)
        await later.hears(1)
        await later.say({"event": "echo", "data": 2})
        await later.hears(2)
        former.end.abort()


@simulated
async def test_the_server_closes_a_client():
    async with simulation() as server:
        client = await server.client()
        secret = await client.begin()
        await client.say({"event": "out", "data": 4000})
        assert await client.closed() == 4000
        assert secret not in server.sessions.live
        await asyncio.sleep(1)
        assert server.gateway.called == [PATH, 4000]


@simulated
async def test_who_is_turned_away():
    async with simulation() as server:
        client = await server.client(PATH + "&uninvited")
        await client.begin()
        assert (await client.hear())["data"]["message"] == "You are not invited"
        assert await client.closed() == 1008
        assert server.sessions.live == {}


@asynccontextmanager
async def bare(handle: Any, **limits: Any) -> AsyncIterator[tuple[Sessions, Any, Network]]:
    """Sessions, and their listener, without an application."""
    network = Network(random.Random(1))
    sessions = Sessions(serve=network.serve, **limits)
    listener = await sessions(handle, "simulated", 0)
    yield sessions, listener, network
    listener.close(close_connections=False)
    async with asyncio.timeout(5):
        await listener.wait_closed()
    assert (sessions.live, sessions.waiting, sessions.tasks) == ({}, {}, set())
    await asyncio.sleep(1)


@simulated
async def test_a_handler_that_returns_ends_the_session():
    async def handle(connection: Any) -> None:
        await connection.recv()

    async with bare(handle) as (sessions, _, network):
        client = Raw(await network.connect("ws://simulated" + PATH))
        secret = await client.begin()
        assert secret in sessions.live
        await client.say("enough")
        assert await client.closed() == 1000


@simulated
async def test_nobody_waits_for_who_cannot_come_any_more():
    async def handle(connection: Any) -> None:
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        with pytest.raises(ConnectionClosed):
            await connection.send("late")

    async with bare(handle, lifetime=1_000) as (sessions, _, network):
        client = Raw(await network.connect("ws://simulated" + PATH))
        await client.begin()
        await cut(client)
        assert len(sessions.waiting) == 1


@pytest.mark.parametrize("stage", ["asking", "open", "waiting"])
@simulated
async def test_the_application_closes(stage):
    async with simulation() as server:
        client = await server.client()
        if stage != "asking":
            await client.begin()
            await client.say({"event": "count", "data": 1_000})
            await client.hear()
        if stage == "waiting":
            await cut(client)
    assert client.end.close_code == {"asking": 1006, "open": 1001, "waiting": 1006}[stage]
    assert server.gateway.ended == ([] if stage == "asking" else [1_000])


# Over real sockets

SERVES = pytest.mark.parametrize(
    "serve", [nestling.transport.serve, nestling.server.serve], ids=["websockets", "ours"]
)


@SERVES
async def test_resuming_over_real_sockets(serve, nothing_left):
    gateway, sessions = Several(), Sessions(serve=serve)
    async with (
        asyncio.timeout(TIMEOUT),
        serving(gateway, serve=sessions) as app,
        Relay(app.ports[0]) as relay,
        GatewayClient(relay.url + "/?a=1", reconnect=Reconnect(first=0.05, most=0.05)) as client,
    ):
        late = asyncio.create_task(client.request("later", "late"))
        for number in range(10):
            assert await client.request("echo", number) == number
            relay.cut()
        gateway.gate.set()
        assert await late == "late"
        assert client.gaps == 0
        assert gateway.called == [f"/?a=1&{ANNOUNCEMENT}"]
    assert (sessions.live, sessions.waiting, sessions.held) == ({}, {}, 0)


@SERVES
async def test_after_a_restart_the_session_is_unknown(serve, nothing_left):
    gateway, rules = Several(), Reconnect(first=0.05, most=0.05)
    async with asyncio.timeout(TIMEOUT), serving(gateway, serve=Sessions(serve=serve)) as app:
        port = app.ports[0]
        async with GatewayClient(f"ws://127.0.0.1:{port}/", reconnect=rules) as client:
            late = asyncio.create_task(client.request("later", "late"))
            assert await client.request("echo", 1) == 1
            await app.close(grace=0, code=1012)
            assert gateway.called == [PATH, 1012]
            await until(lambda: client.state is not State.OPEN)
            assert client.close_code == 1012
            await app.listen(port, serve=Sessions(serve=serve))
            with pytest.raises(MayHaveRun):
                await late
            assert await client.request("echo", 2) == 2
            assert client.gaps == 1
            assert gateway.called == [PATH, 1012, PATH]


@SERVES
async def test_closing_while_sessions_wait(serve, nothing_left):
    gateway, sessions = Several(), Sessions(serve=serve)
    async with asyncio.timeout(TIMEOUT), serving(gateway, serve=sessions) as app:
        async with Relay(app.ports[0]) as relay:
            client = GatewayClient(relay.url, reconnect=Reconnect(first=5, most=5))
            async with client:
                await client.request("echo", 1)
                relay.cut()
                await until(lambda: sessions.waiting)
                await app.close(grace=0)
    assert gateway.called == [PATH, 1001]


async def test_without_sessions_a_server_says_so_or_nothing(nothing_left):
    async with serving(Several()) as app, talk(app) as client:
        await client.send('{"session":null}')
        await client.send('{"id":0,"session":null}')
        refused = await client.hear()
        assert (refused["id"], refused["event"], refused["done"]) == (0, "exception", True)
        await client.hears_no_more()
