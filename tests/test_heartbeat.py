"""nestling.heartbeat: who is asked when, what is waited for, and what becomes of the silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nestling.server
import pytest
import websockets.asyncio.client
from conftest import until
from gateways import HOST, serving, talk
from hypothesis import given
from hypothesis import strategies as st
from nestling import transport
from nestling.frames import Frame, Opcode, encode
from nestling.gateway import subscribe_message, websocket_gateway
from nestling.heartbeat import REASON, Heartbeat, kept_alive
from nestling.ping import AnswersPings
from nestling.protocol import Protocol
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from workbench.relay import Relay

PATIENCE = 10.0


# The rules, by a clock that does not wait


class Skipping(asyncio.SelectorEventLoop):
    """An event loop whose time goes on to the next timer at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def skip(timeout: float | None) -> Any:
            self.now += timeout or 0
            return select(0)

        self._selector.select = skip

    def time(self) -> float:
        return self.now


class Fake:
    """A connection whose pongs take so many seconds each; after them, none comes.

    said: when it was pinged, closed with which code, and aborted
    """

    def __init__(self, *pongs: float, deaf: float = 0, unsent: int = 0) -> None:
        self.said: list[Any] = []
        self.transport = self
        self._pongs = iter(pongs)
        self._deaf, self._unsent = deaf, unsent
        self._loop = asyncio.get_running_loop()

    def say(self, what: Any) -> None:
        self.said.append((round(self._loop.time(), 6), what))

    async def ping(self) -> Awaitable[float]:
        self.say("ping")
        pong = self._loop.create_future()
        if (seconds := next(self._pongs, None)) is not None:
            self._loop.call_later(seconds, pong.set_result, seconds)
        return pong

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.say((code, reason))
        await asyncio.sleep(1000)

    def abort(self) -> None:
        self.say("abort")

    def is_reading(self) -> bool:
        return self._loop.time() >= self._deaf

    def get_write_buffer_size(self) -> int:
        return self._unsent


def simulated(story: Callable[[], Awaitable[Any]]) -> Any:
    with asyncio.Runner(loop_factory=Skipping) as runner:
        return runner.run(story())


END = [(1011, REASON), "abort"]


def beating(*pongs: float, seconds: float = 1000, **options: Any) -> tuple[Fake, Heartbeat]:
    """What is done to a connection, pinged every 10 s, that has 4 s for a pong."""

    async def story() -> tuple[Fake, Heartbeat]:
        connection = Fake(*pongs, **options)
        async with Heartbeat(connection, 10, 4) as heartbeat:
            await asyncio.sleep(seconds)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return connection, heartbeat

    return simulated(story)


def test_a_connection_is_pinged_as_long_as_it_answers():
    connection, heartbeat = beating(1, 2, 3.5, seconds=37)
    assert connection.said == [(10, "ping"), (21, "ping"), (33, "ping")]
    assert heartbeat.latency == 3.5


def test_who_does_not_answer_is_closed_and_cut_at_once():
    connection, heartbeat = beating(1)
    assert connection.said == [(10, "ping"), (21, "ping"), *[(25, what) for what in END]]
    assert heartbeat.latency == 1


def test_there_is_no_latency_before_the_first_pong():
    assert beating(seconds=11)[1].latency is None


@given(st.lists(st.floats(0, 8).filter(lambda seconds: abs(seconds - 4) > 0.01), max_size=8))
def test_the_first_pong_that_is_late_is_the_end(pongs):
    connection, heartbeat = beating(*pongs)
    good = next((n for n, seconds in enumerate(pongs) if seconds > 4), len(pongs))
    pinged = [sum(pongs[:n]) + 10 * (n + 1) for n in range(good + 1)]
    at, what = zip(*connection.said, strict=True)
    assert at == pytest.approx((*pinged, pinged[-1] + 4, pinged[-1] + 4), abs=1e-3)
    assert list(what) == ["ping"] * (good + 1) + END
    assert heartbeat.latency == (pongs[good - 1] if good else None)


def test_who_does_not_read_himself_waits_longer():
    connection, _ = beating(deaf=19)  # still at 18, from where on the time counts no more
    assert connection.said == [(10, "ping"), *[(26, what) for what in END]]


def test_who_does_not_read_because_the_other_does_not_does_not_wait():
    connection, _ = beating(deaf=1000, unsent=1)
    assert connection.said == [(10, "ping"), *[(14, what) for what in END]]


def test_who_was_held_up_waits_longer():
    async def story() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        connection = Fake()

        def block() -> None:
            loop.now += 20

        loop.call_later(12, block)
        async with Heartbeat(connection, 10, 4):
            await asyncio.sleep(1000)
        return connection.said

    assert simulated(story) == [(10, "ping"), *[(36, what) for what in END]]


def test_a_ping_that_cannot_be_written_is_no_sign_of_life():
    async def story() -> list[Any]:
        connection = Fake()

        async def ping() -> Awaitable[float]:
            connection.say("ping")
            return await asyncio.get_running_loop().create_future()

        connection.ping = ping
        async with Heartbeat(connection, 10, 4):
            await asyncio.sleep(1000)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return connection.said

    assert simulated(story) == [(10, "ping"), *[(14, what) for what in END]]


def test_what_ping_raises_ends_it_and_comes_out_unless_the_connection_is_closed():
    async def story(error: Exception) -> None:
        connection = Fake()

        async def ping() -> Awaitable[float]:
            raise error

        connection.ping = ping
        async with Heartbeat(connection, 10, 4):
            await asyncio.sleep(1000)
        assert connection.said == []

    simulated(lambda: story(ConnectionClosedError(None, None)))
    with pytest.raises(ZeroDivisionError):
        simulated(lambda: story(ZeroDivisionError()))


@pytest.mark.parametrize("seconds", [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_seconds_that_are_none(seconds):
    with pytest.raises(ValueError, match="more than 0"):
        Heartbeat(None, *seconds)


def test_no_interval_is_no_heartbeat_and_costs_nothing():
    async def handler(connection: Any) -> None: ...

    assert kept_alive(handler, None, 20) is handler
    assert kept_alive(handler, 20, None) is not handler


# On every connection there is

CONNECTS = {"websockets": websockets.asyncio.client.connect, "nestling": nestling.server.connect}
SERVES = {"websockets": transport.serve, "nestling": nestling.server.serve}
connects = pytest.mark.parametrize("connect", CONNECTS.values(), ids=CONNECTS)
serves = pytest.mark.parametrize("serve", SERVES.values(), ids=SERVES)


class Ends(list):
    """What each side was told, as it was told."""

    async def receive(self, connection: Any) -> None:
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            told = closed.sent and (closed.sent.code, closed.sent.reason)
            self.append((connection.close_code, closed.rcvd, told))


@serves
@connects
@pytest.mark.usefixtures("nothing_left")
async def test_in_a_black_hole_whoever_pings_notices_and_nobody_else(serve, connect):
    ends, others = Ends(), Ends()
    async with (
        asyncio.timeout(PATIENCE),
        serve(ends.receive, HOST, 0, ping_interval=0.05, ping_timeout=0.05) as listener,
        Relay(listener.sockets[0].getsockname()[1]) as relay,
        connect(relay.url) as client,
    ):
        receiving = asyncio.create_task(others.receive(client))
        await asyncio.sleep(0.3)
        assert ends == others == []
        relay.black_hole()
        await until(lambda: ends == [(1006, None, (1011, REASON))], 1)
        await asyncio.sleep(0.2)
        assert others == []
        async with Heartbeat(client, 0.05, 0.05) as heartbeat:
            await until(lambda: others == [(1006, None, (1011, REASON))], 1)
            assert heartbeat.latency is None
        await receiving


@serves
@connects
@pytest.mark.usefixtures("nothing_left")
async def test_both_sides_know_how_long_the_way_is(serve, connect):
    connections = []

    async def handler(connection: Any) -> None:
        connections.append(connection)
        await Ends().receive(connection)

    async with (
        asyncio.timeout(PATIENCE),
        serve(handler, HOST, 0, ping_interval=0.05, ping_timeout=1) as listener,
        Relay(listener.sockets[0].getsockname()[1], 0.05) as relay,
        connect(relay.url) as client,
        Heartbeat(client, 0.05, 1) as heartbeat,
    ):
        receiving = asyncio.create_task(Ends().receive(client))
        await until(lambda: bool(heartbeat.latency and connections[0].latency))
        assert 0.099 < heartbeat.latency < 0.5
        assert 0.099 < connections[0].latency < 0.5
        await client.close()
        await receiving


@connects
@pytest.mark.usefixtures("nothing_left")
async def test_a_heartbeat_that_outlives_its_connection_is_quiet(connect, caplog):
    async def handler(connection: Any) -> None:
        await connection.recv()

    async with asyncio.timeout(PATIENCE), transport.serve(handler, HOST, 0) as listener:
        url = f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}"
        async with connect(url) as client, Heartbeat(client, 0.02, 0.02):
            await client.send("bye")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            await asyncio.sleep(0.1)
    assert caplog.text == ""


@serves
@pytest.mark.usefixtures("nothing_left")
async def test_a_handler_that_takes_its_time_is_no_reason_to_hang_up(serve):
    """Its messages wait, with the pong behind them, and nothing more is read."""
    received = []

    async def handler(connection: Any) -> None:
        await asyncio.sleep(0.9)
        async for message in connection:
            received.append(message)

    async with (
        asyncio.timeout(PATIENCE),
        serve(handler, HOST, 0, ping_interval=0.1, ping_timeout=0.3) as listener,
        websockets.asyncio.client.connect(
            f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}", compression=None
        ) as client,
    ):
        sent = ["x" * 100_000 for _ in range(40)]
        for message in sent:
            await client.send(message)
        await client.close()
        await until(lambda: len(received) == 40)


@pytest.mark.usefixtures("nothing_left")
async def test_a_program_that_blocks_does_not_hang_up_on_those_it_kept_waiting():
    ends = Ends()
    async with (
        asyncio.timeout(PATIENCE),
        nestling.server.serve(ends.receive, HOST, 0, ping_interval=0.05) as listener,
        nestling.server.connect(f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}") as client,
        Heartbeat(client, 0.05, 0.05),
    ):
        for _ in range(3):
            await asyncio.sleep(0.06)
            time.sleep(0.3)
        await asyncio.sleep(0.2)
        assert ends == [] and client.close_code is None


# ping() of our own connection


class Wired:
    """Our connection at a client's end, and the frames of a server by hand at the other."""

    async def __aenter__(self) -> Wired:
        self._listener = await asyncio.start_server(self._shake_hands, HOST, 0)
        self.is_open = asyncio.Event()
        port = self._listener.sockets[0].getsockname()[1]
        self.client = await nestling.server.connect(f"ws://{HOST}:{port}/")
        await self.is_open.wait()
        return self

    async def _shake_hands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.protocol, self.writer, self._reader = Protocol(), writer, reader
        self.protocol.receive(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.protocol.accept())
        self.is_open.set()

    def pong(self, payload: bytes) -> None:
        self.writer.write(encode(Frame(Opcode.PONG, payload)))

    async def payloads(self, count: int) -> list[bytes]:
        """Of so many pings."""
        found: list[Any] = []
        while len(found) < count:
            found += self.protocol.receive(await self._reader.read(1000))
        self.protocol.take_answers()
        return [event.payload for event in found]

    async def __aexit__(self, *error: object) -> None:
        self.client.abort()
        self.writer.transport.abort()
        self._listener.close()
        await self.client.wait_closed()


@pytest.mark.usefixtures("nothing_left")
async def test_a_pong_is_for_its_ping_and_for_those_before_it():
    async with asyncio.timeout(PATIENCE), Wired() as wired:
        pongs = [await wired.client.ping() for _ in range(3)]
        payloads = await wired.payloads(3)
        assert len(set(payloads)) == 3
        assert wired.client.latency is None
        wired.pong(b"unasked")
        wired.pong(payloads[1])
        assert await pongs[0] >= await pongs[1] > 0
        assert wired.client.latency == pongs[1].result()
        await asyncio.sleep(0.02)
        assert not pongs[2].done()
        wired.pong(payloads[0])  # once more
        wired.pong(payloads[2])
        assert await pongs[2] == wired.client.latency
        assert wired.client._pings == {}


@pytest.mark.usefixtures("nothing_left")
async def test_a_pong_that_nobody_waits_for_any_more():
    async with asyncio.timeout(PATIENCE), Wired() as wired:
        (await wired.client.ping()).cancel()
        (payload,) = await wired.payloads(1)
        wired.pong(payload)
        await until(lambda: wired.client.latency is not None)


@pytest.mark.usefixtures("nothing_left")
async def test_a_ping_ends_with_its_connection():
    async with asyncio.timeout(PATIENCE), Wired() as wired:
        pong, _, given_up = [await wired.client.ping() for _ in range(3)]
        given_up.cancel()
        wired.writer.transport.abort()
        with pytest.raises(ConnectionClosedError):
            await pong
        with pytest.raises(ConnectionClosedError):
            await wired.client.ping()
        del pong


# For pages, which cannot ping


@websocket_gateway()
class Quiet(AnswersPings):
    @subscribe_message("echo")
    def echo(self, client: Any, data: Any) -> Any:
        return data


@pytest.mark.usefixtures("nothing_left")
async def test_a_gateway_that_answers_pings():
    async with serving(Quiet()) as app, talk(app, "/") as client:
        await client.say("ping")
        await client.hears({"event": "pong", "data": None})
        await client.say("ping", 7, id=1)
        await client.hears({"id": 1, "event": "pong", "data": 7, "done": True})
        await client.say("echo", 5)
        await client.hears(5)
