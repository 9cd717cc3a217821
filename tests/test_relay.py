"""workbench.relay: the delay, the order, the cut and the tap of the cable."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from statistics import median
from time import perf_counter
from typing import NamedTuple

import pytest
from conftest import open_files
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, InvalidMessage
from workbench.relay import HOST, IN_FLIGHT, Relay, Tap

pytestmark = pytest.mark.usefixtures("nothing_left")

DELAY = 0.1


class Peer(NamedTuple):
    """One end of a connection, as the application sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)

    async def read_to_the_end(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()

    def reset(self) -> None:
        opened = self.writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Line:
    """A listening socket, a relay before it, and both ends of every connection made."""

    def __init__(self, delay: float, **cable: float) -> None:
        self.delay = delay
        self._cable = cable
        self.peers: list[Peer] = []
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.relay = Relay(self._server.sockets[0].getsockname()[1], self.delay, **self._cable)
        await self.relay.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.relay.stop()
        self._server.close()
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0.02)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(Peer(reader, writer))
        self._accepted.put_nowait(self.peers[-1])

    async def client(self) -> Peer:
        self.peers.append(Peer(*await asyncio.open_connection(HOST, self.relay.port)))
        return self.peers[-1]

    async def server(self) -> Peer:
        async with asyncio.timeout(10):
            return await self._accepted.get()

    async def pair(self) -> tuple[Peer, Peer]:
        """Both ends of a connection whose handshake is over."""
        client = await self.client()
        server = await self.server()
        await asyncio.sleep(3 * self.delay)
        return client, server


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def refusing_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def tapped(relay: Relay, sender: str) -> bytes:
    return b"".join(tap.data for tap in relay.taps if tap.sender == sender)


async def tapped_at_rest(relay: Relay) -> int:
    """The number of bytes tapped, once it has stopped growing."""
    sizes = [-1, 0]
    async with asyncio.timeout(10):
        while sizes[-1] != sizes[-2] or sizes[-1] == 0:
            await asyncio.sleep(0.2)
            sizes.append(sum(len(tap.data) for tap in relay.taps))
    return sizes[-1]


# Arguments, starting and stopping


@pytest.mark.parametrize("port", [0, -1, 65536, "3000", 3000.0, True, None])
def test_a_port_that_is_no_port(port):
    with pytest.raises(ValueError, match="an integer from 1 to 65535, not "):
        Relay(port)


@pytest.mark.parametrize("delay", [-0.1, float("nan"), float("inf"), "0.1", None, True])
def test_a_delay_that_is_no_delay(delay):
    with pytest.raises(ValueError, match="a number of seconds, 0 or more, not "):
        Relay(3000, delay)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "jitter": [-0.1, float("nan"), float("inf"), "0.1", None, True],
        "bandwidth": [0, -1, float("nan"), "1", None, True],
        "idle_timeout": [0, -1, float("nan"), "1", True],
    }.items(),
)
def test_a_cable_that_is_none(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name.replace('_', ' ')} is .*, not "):
            Relay(3000, **{name: value})


@pytest.mark.parametrize("delay", [0, 0.0, 0.02])
async def test_a_websocket_through_the_relay(delay):
    async with serve(echo, HOST, 0) as server:
        async with Relay(server.sockets[0].getsockname()[1], delay) as relay:
            assert relay.url == f"ws://127.0.0.1:{relay.port}"
            async with asyncio.timeout(5), connect(relay.url, compression=None) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
    assert tapped(relay, "client").startswith(b"GET / HTTP/1.1\r\n")
    assert tapped(relay, "server").endswith(b"\x81\x05hello\x88\x02\x03\xe8")


async def test_it_listens_on_loopback_only():
    async with Line(0) as line:
        listening = [s.getsockname() for s in line.relay._listener.sockets]
        assert listening == [("127.0.0.1", line.relay.port)]


async def test_start_and_stop_may_be_repeated():
    async with Line(0) as line:
        port = line.relay.port
        assert await line.relay.start() is line.relay
        assert line.relay.port == port
        await line.relay.stop()
        await line.relay.stop()
        with pytest.raises(ConnectionRefusedError):
            await line.client()
        await line.relay.start()
        client, server = await line.pair()
        client.writer.write(b"again")
        assert await server.read(5) == b"again"


async def test_a_relay_that_was_never_started_can_be_stopped():
    await Relay(3000).stop()


async def test_neither_side_waits_to_fill_a_segment():
    async with Line(0) as line:
        await line.pair()
        (connection,) = line.relay._connections
        for end in connection.client, connection.server:
            opened = end.transport.get_extra_info("socket")
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# Bytes


async def test_no_byte_is_lost_doubled_or_out_of_order_both_ways_at_once():
    async def pour(data: bytes, writer: asyncio.StreamWriter, sizes: random.Random) -> None:
        position = 0
        while position < len(data):
            size = sizes.choice([1, 100, 10_000, 300_000])
            writer.write(data[position : position + size])
            position += size
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()

    there, back = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(3_000_000)
    async with Line(0.005) as line:
        client, server = await line.pair()
        _, _, arrived, returned = await asyncio.gather(
            pour(there, client.writer, random.Random(3)),
            pour(back, server.writer, random.Random(4)),
            server.read_to_the_end(),
            client.read_to_the_end(),
        )
        # Not compared in the assert itself: pytest would spend minutes on the difference.
        same = arrived == there, returned == back
        assert same == (True, True)
        same = tapped(line.relay, "client") == there, tapped(line.relay, "server") == back
        assert same == (True, True)


async def test_half_an_end_follows_all_bytes_and_leaves_the_other_direction_open():
    async with Line(DELAY) as line:
        client, server = await line.pair()
        client.writer.write(b"x" * 500_000)
        client.writer.write_eof()
        start = perf_counter()
        assert len(await server.read_to_the_end()) == 500_000
        assert perf_counter() - start > 0.9 * DELAY
        server.writer.write(b"still here")
        assert await client.read(10) == b"still here"
        server.writer.write_eof()
        start = perf_counter()
        assert await client.read_to_the_end() == b""
        assert perf_counter() - start > 0.9 * DELAY
        await asyncio.sleep(0.02)
        assert line.relay._connections == set()


async def test_the_end_alone_takes_its_delay():
    async with Line(DELAY) as line:
        client, server = await line.pair()
        client.writer.write_eof()
        start = perf_counter()
        assert await server.read_to_the_end() == b""
        assert 0.9 * DELAY < perf_counter() - start < 2.5 * DELAY


async def test_a_reset_follows_the_bytes_that_were_sent_before_it():
    async with Line(DELAY) as line:
        client, server = await line.pair()
        server.writer.write(b"last words")
        await asyncio.sleep(0.02)
        server.reset()
        start = perf_counter()
        assert await client.read(10) == b"last words"
        with pytest.raises(ConnectionResetError):
            await client.read(1)
        assert 0.9 * DELAY < perf_counter() - start < 2.5 * DELAY
        assert [tap.data for tap in line.relay.taps] == [b"last words"]


async def test_a_client_that_vanished_behind_its_end_of_stream():
    async with Line(0.02) as line:
        client, server = await line.pair()
        client.writer.write_eof()
        assert await server.read_to_the_end() == b""
        client.reset()
        server.writer.write_eof()
        await asyncio.sleep(0.1)
        assert line.relay._connections == set()


async def test_answers_to_a_client_that_vanished_are_dropped_in_silence(caplog):
    async with Line(0.05) as line:
        client = await line.client()
        client.writer.write_eof()
        server = await line.server()
        for _ in range(10):
            server.writer.write(b"held until the handshake is over")
            await asyncio.sleep(0.005)
        client.reset()
        await asyncio.sleep(0.25)
        assert line.relay._connections == set()
    assert [record.getMessage() for record in caplog.records] == []


# Times


async def test_each_chunk_takes_the_delay_of_its_own():
    async with Line(DELAY) as line:
        for sender, receiver in itertools.permutations(await line.pair()):
            reading = asyncio.create_task(arrivals(receiver, 20))
            for _ in range(20):
                sender.writer.write(struct.pack("d", perf_counter()))
                await asyncio.sleep(DELAY / 10)
            taken = await reading
            assert min(taken) > 0.99 * DELAY
            assert median(taken) < 1.5 * DELAY
            assert median(taken[-5:]) < 1.5 * DELAY


async def arrivals(receiver: Peer, count: int) -> list[float]:
    """How long each of the times sent was under way, in seconds."""
    taken = []
    for _ in range(count):
        (sent,) = struct.unpack("d", await receiver.read(8))
        taken.append(perf_counter() - sent)
    return taken


async def test_the_delay_of_200_connections_at_once():
    async with Line(DELAY) as line:
        start = perf_counter()
        clients = await asyncio.gather(*(line.client() for _ in range(200)))
        servers = [await line.server() for _ in range(200)]
        # A system that finds a queue of new connections full tries again after a second.
        assert perf_counter() - start < 1
        await asyncio.sleep(3 * DELAY)
        for senders, receivers in itertools.permutations((clients, servers)):
            reading = [asyncio.create_task(arrivals(receiver, 3)) for receiver in receivers]
            for _ in range(3):
                for sender in senders:
                    sender.writer.write(struct.pack("d", perf_counter()))
                await asyncio.sleep(DELAY / 4)
            taken = [seconds for each in await asyncio.gather(*reading) for seconds in each]
            assert len(taken) == 600
            assert min(taken) > 0.99 * DELAY
            assert median(taken) < 1.5 * DELAY


async def test_a_fresh_connection_costs_a_round_trip_once():
    async def exchange() -> tuple[float, float, float]:
        """Seconds to the first arrival, to the first answer, and for a second request."""
        async with Line(DELAY) as line:
            return await times(line)

    async def times(line: Line) -> tuple[float, float, float]:
        start = perf_counter()
        client = await line.client()
        connected = perf_counter() - start
        client.writer.write(b"1")
        server = await line.server()
        await server.read(1)
        there = perf_counter() - start
        server.writer.write(b"2")
        await client.read(1)
        back = perf_counter() - start
        client.writer.write(b"3")
        await server.read(1)
        server.writer.write(b"4")
        await client.read(1)
        assert connected < DELAY
        return there, back, perf_counter() - start - back

    runs = await asyncio.gather(*(exchange() for _ in range(5)))
    there, back, again = (
        [seconds / DELAY for seconds in column] for column in zip(*runs, strict=True)
    )
    assert min(there) > 2.95 and median(there) < 3.6
    assert min(back) > 3.95 and median(back) < 4.7
    assert min(again) > 1.95 and median(again) < 2.5


async def test_only_a_connection_that_is_still_fresh_is_held():
    async with Line(DELAY) as line:
        client = await line.client()
        server = await line.server()
        await asyncio.sleep(4 * DELAY)
        client.writer.write(struct.pack("d", perf_counter()))
        (taken,) = await arrivals(server, 1)
        assert 0.99 * DELAY < taken < 1.9 * DELAY


async def test_a_held_first_piece_keeps_its_place_before_later_ones():
    async with Line(DELAY) as line:
        client = await line.client()
        for piece in (b"1", b"2", b"3", b"4", b"5"):
            client.writer.write(piece)
            await asyncio.sleep(0.7 * DELAY)
        client.writer.write_eof()
        assert await (await line.server()).read_to_the_end() == b"12345"


async def test_a_server_that_speaks_first_waits_for_the_handshake_too():
    async with Line(DELAY) as line:
        start = perf_counter()
        client = await line.client()
        (await line.server()).writer.write(b"220 ready")
        assert await client.read(9) == b"220 ready"
        assert 3.95 * DELAY < perf_counter() - start < 5.5 * DELAY


# The tap


async def test_the_tap_has_every_piece_in_order_with_its_time():
    async with Line(0.05) as line:
        first = await line.pair()
        second = await line.pair()
        before = perf_counter()
        second[0].writer.write(b"question")
        assert await second[1].read(8) == b"question"
        second[1].writer.write(b"answer")
        assert await second[0].read(6) == b"answer"
        first[0].writer.write_eof()
        assert await first[1].read_to_the_end() == b""
        taps = line.relay.taps
    assert taps == [
        Tap(2, "client", taps[0].sent, b"question"),
        Tap(2, "server", taps[1].sent, b"answer"),
        Tap(1, "client", taps[2].sent, b""),
    ]
    # The answer entered the cable once the question had left it.
    assert before <= taps[0].sent < taps[1].sent - 0.04 < taps[2].sent - 0.08


# Backpressure


async def test_a_long_cable_holds_a_bounded_number_of_bytes():
    async with Line(5) as line:
        client = await line.client()
        client.writer.write(b"x" * 32_000_000)
        held = await tapped_at_rest(line.relay)
        assert IN_FLIGHT <= held <= 1.5 * IN_FLIGHT


@pytest.mark.parametrize("direction", ["to the server", "to the client"])
async def test_a_receiver_that_does_not_read_stops_its_sender_and_loses_nothing(direction):
    sent = random.Random(5).randbytes(8_000_000) * 4
    async with Line(0.001) as line:
        client, server = await line.pair()
        ends = (client, server) if direction == "to the server" else (server, client)
        sender, receiver = ends
        receiver.writer.transport.pause_reading()
        receiver.writer.write_eof()
        sender.writer.write(sent)
        sender.writer.write_eof()
        # What the relay holds, and two full socket buffers of the system.
        assert await tapped_at_rest(line.relay) < 20_000_000
        (connection,) = line.relay._connections
        held = [
            end.in_flight + end.transport.get_write_buffer_size()
            for end in (connection.client, connection.server)
        ]
        assert IN_FLIGHT / 2 < max(held) < 2 * IN_FLIGHT
        receiver.writer.transport.resume_reading()
        same = await receiver.read_to_the_end() == sent
        assert same


@pytest.mark.parametrize("direction", ["to the server", "to the client"])
async def test_a_connection_that_ended_is_closed_only_when_its_last_bytes_are_written(direction):
    async with Line(0) as line:
        client, server = await line.pair()
        (connection,) = line.relay._connections
        sender, receiver, end = (
            (client, server, connection.server)
            if direction == "to the server"
            else (server, client, connection.client)
        )
        receiver.writer.transport.pause_reading()
        receiver.writer.write_eof()
        sent = 0
        async with asyncio.timeout(10):
            while end.transport.get_write_buffer_size() == 0:
                sender.writer.write(b"x" * 32_000)
                sent += 32_000
                await asyncio.sleep(0.002)
            sender.writer.write_eof()
            while not connection.over:
                await asyncio.sleep(0.002)
        assert end.transport.get_write_buffer_size() > 0
        receiver.writer.transport.resume_reading()
        assert len(await receiver.read_to_the_end()) == sent


# A target that refuses


@pytest.mark.parametrize("delay", [0, DELAY])
async def test_a_target_that_refuses_is_a_reset_after_a_round_trip(delay):
    async with Relay(refusing_port(), delay) as relay:
        start = perf_counter()
        reader, writer = await asyncio.open_connection(HOST, relay.port)
        writer.write(b"anybody there?")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await reader.read()
        assert 1.95 * delay < perf_counter() - start < 2 * delay + 0.2
        await asyncio.sleep(0.02)
        assert relay._connections == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        writer.close()
    await asyncio.sleep(0)


async def test_a_websocket_client_is_told_that_the_target_refuses():
    async with Relay(refusing_port()) as relay:
        with pytest.raises(InvalidMessage):
            await connect(relay.url, open_timeout=5)


# The cut


async def test_a_cut_resets_both_sides_at_once_and_loses_what_is_on_its_way():
    async with Line(DELAY) as line:
        pairs = await asyncio.gather(line.pair(), line.pair())
        for client, server in pairs:
            client.writer.write(b"lost")
            server.writer.write(b"lost")
        await asyncio.sleep(DELAY / 2)
        start = perf_counter()
        line.relay.cut()
        for peer in itertools.chain(*pairs):
            with pytest.raises(ConnectionResetError):
                await peer.read(1)
        assert perf_counter() - start < DELAY / 2
        assert [tap.data for tap in line.relay.taps] == [b"lost"] * 4

        client, server = await line.pair()
        client.writer.write(b"new")
        assert await server.read(3) == b"new"
        assert line.relay.taps[-1].connection == 3


async def test_a_websocket_that_was_cut_is_closed_with_1006_on_both_sides():
    codes = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.put_nowait(connection.close_code)

    async with serve(handler, HOST, 0) as server:
        async with Relay(server.sockets[0].getsockname()[1], 0.01) as relay:
            async with asyncio.timeout(5), connect(relay.url) as client:
                relay.cut()
                with pytest.raises(ConnectionClosedError):
                    await client.recv()
                assert client.close_code == 1006
                assert await codes.get() == 1006


@pytest.mark.parametrize("delays", [0, 0.5, 1, 1.5])
async def test_a_cut_reaches_a_connection_whose_handshake_is_under_way(delays):
    async with Line(0.05) as line:
        client = await line.client()
        client.writer.write(b"lost")
        await asyncio.sleep(0.005 + delays * 0.05)
        line.relay.cut()
        with pytest.raises(ConnectionResetError):
            await client.read(1)
        await asyncio.sleep(0.005)
        assert line.relay._connections == set()


async def test_a_cut_reaches_a_client_that_is_just_being_accepted():
    async with Line(0) as line:
        with socket.create_connection((HOST, line.relay.port)) as client:
            while not line.relay._connections:
                await asyncio.sleep(0)
            line.relay.cut()
            await asyncio.sleep(0.01)
            assert line.relay._connections == set()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


async def test_a_cut_while_a_reset_is_on_its_way():
    async with Line(DELAY) as line:
        client, server = await line.pair()
        server.reset()
        await asyncio.sleep(DELAY / 3)
        line.relay.cut()
        with pytest.raises(ConnectionResetError):
            await client.read(1)
        assert line.relay._connections == set()


# Jitter and bandwidth


async def test_jitter_makes_each_piece_later_by_another_time_and_keeps_the_order():
    random.seed(1)
    async with Line(0.02, jitter=0.1) as line:
        for sender, receiver in itertools.permutations(await line.pair()):
            reading = asyncio.create_task(arrivals(receiver, 40))
            for _ in range(40):
                sender.writer.write(struct.pack("d", perf_counter()))
                await asyncio.sleep(0.01)
            taken = await reading  # in disorder, the times would be nonsense
            assert min(taken) > 0.019 and max(taken) < 0.2
            assert max(taken) - min(taken) > 0.05


async def test_a_cable_that_is_changed_while_it_is_used():
    async with Line(0) as line:
        client, server = await line.pair()
        line.relay.delay, line.relay.jitter = DELAY, 0.001
        client.writer.write(struct.pack("d", perf_counter()))
        (slow,) = await arrivals(server, 1)
        line.relay.delay = line.relay.jitter = 0
        client.writer.write(struct.pack("d", perf_counter()))
        (fast,) = await arrivals(server, 1)
        assert fast < 0.8 * DELAY < DELAY < slow


async def test_bytes_take_their_time_in_each_direction_by_itself():
    async with Line(0, bandwidth=100_000) as line:
        client, server = await line.pair()
        start = perf_counter()
        client.writer.write(b"x" * 30_000)
        server.writer.write(b"x" * 30_000)
        await client.read(5_000), await server.read(5_000)
        first = perf_counter() - start
        await client.read(25_000), await server.read(25_000)
        last = perf_counter() - start
        assert 0.049 < first < 0.2 and 0.299 < last < 0.5


async def test_a_slow_cable_takes_from_one_second_to_the_next_what_it_can():
    """What is written later waits for what was written before, and for nothing else."""
    async with Line(0, bandwidth=10_000) as line:
        client, server = await line.pair()
        await asyncio.sleep(0.2)  # an idle cable saves up nothing
        start = perf_counter()
        for _ in range(3):
            client.writer.write(b"x" * 1_000)
            await asyncio.sleep(0.01)
        await server.read(3_000)
        assert 0.299 < perf_counter() - start < 0.5


# Black holes


async def silence(peer: Peer) -> bool:
    """Whether nothing comes, be it an end, for a moment."""
    try:
        async with asyncio.timeout(0.1):
            await peer.reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_a_black_hole_swallows_both_directions_and_tells_nobody():
    async with Line(0) as line:
        client, server = await line.pair()
        line.relay.black_hole()
        for peer in (client, server):
            peer.writer.write(b"lost")
            await peer.writer.drain()
        assert await silence(client) and await silence(server)
        assert [tap.data for tap in line.relay.taps] == [b"lost"] * 2
        client.writer.write_eof()
        assert await silence(server)


async def test_what_is_on_its_way_falls_into_the_hole_too():
    async with Line(DELAY) as line:
        client, server = await line.pair()
        client.writer.write(b"lost")
        await asyncio.sleep(DELAY / 2)
        line.relay.black_hole()
        await asyncio.sleep(DELAY)
        assert await silence(server)


async def test_a_reset_falls_into_the_hole_too():
    async with Line(0) as line:
        client, server = await line.pair()
        line.relay.black_hole()
        client.reset()
        assert await silence(server)
        line.relay.lift()
        with pytest.raises(ConnectionResetError):
            await server.read(1)


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_a_cut_in_one_direction(sender):
    async with Line(0) as line:
        ends = dict(zip(("client", "server"), await line.pair(), strict=True))
        swallowed = ends.pop(sender)
        (other,) = ends.values()
        line.relay.black_hole(sender)
        swallowed.writer.write(b"lost")
        other.writer.write(b"heard")
        assert await swallowed.read(5) == b"heard"
        assert await silence(other)


def test_nobody_else_sends():
    with pytest.raises(ValueError, match="not 'proxy'"):
        Relay(3000).black_hole("proxy")


async def test_what_was_swallowed_is_sent_again_in_order_when_the_hole_is_gone():
    async with Line(DELAY / 2) as line:
        client, server = await line.pair()
        line.relay.black_hole()
        for piece in (b"1", b"2", b"3"):
            client.writer.write(piece)
            await asyncio.sleep(DELAY)
        server.writer.write(b"4")
        client.writer.write_eof()
        await asyncio.sleep(DELAY)
        line.relay.lift()
        start = perf_counter()
        assert await server.read_to_the_end() == b"123"
        assert 0.99 * DELAY / 2 < perf_counter() - start < 2 * DELAY
        assert await client.read(1) == b"4"


async def test_a_hole_takes_no_more_than_a_buffer():
    async with Line(0) as line:
        client, server = await line.pair()
        line.relay.black_hole()
        sent = random.Random(6).randbytes(8_000_000) * 4
        client.writer.write(sent)
        assert await tapped_at_rest(line.relay) <= 1.5 * IN_FLIGHT
        line.relay.lift()
        client.writer.write_eof()
        same = await server.read_to_the_end() == sent
        assert same


async def test_a_cut_ends_what_a_hole_holds_and_the_hole_goes_on():
    async with Line(0) as line:
        client, server = await line.pair()
        line.relay.black_hole()
        client.writer.write(b"lost")
        await asyncio.sleep(0.02)
        line.relay.cut()
        for peer in (client, server):
            with pytest.raises(ConnectionResetError):
                await peer.read(1)
        await line.client()
        await asyncio.sleep(0.1)
        assert line._accepted.empty()


async def test_who_connects_into_a_hole_reaches_the_server_when_it_is_gone_unless_he_left():
    async with Line(0) as line:
        line.relay.black_hole("server")
        left, reset, patient = [await line.client() for _ in range(3)]
        for client, name in ((left, b"a"), (reset, b"b"), (patient, b"c")):
            client.writer.write(name)
        left.writer.write_eof()
        await asyncio.sleep(0.02)
        reset.reset()
        await asyncio.sleep(0.1)
        assert line._accepted.empty()
        line.relay.lift()
        assert await (await line.server()).read(1) == b"c"
        await asyncio.sleep(0.05)
        assert line._accepted.empty()
        assert len(line.relay._connections) == 1


async def test_a_hole_that_is_stopped_leaves_nothing():
    async with Line(0) as line:
        await line.pair()
        line.relay.black_hole()
        await line.client()
        await asyncio.sleep(0.02)
        await line.relay.stop()
        assert line.relay._connections == set()


# A proxy that hangs up

IDLE = 0.2


async def test_a_connection_on_which_nobody_speaks_is_closed_on_both_sides():
    async with Line(0, idle_timeout=IDLE) as line:
        client, server = await line.pair()
        start = perf_counter()
        assert await client.read_to_the_end() == await server.read_to_the_end() == b""
        assert 0.95 * IDLE < perf_counter() - start < 2 * IDLE
        await asyncio.sleep(0.02)
        assert line.relay._connections == set()
        assert line.relay.taps == []


@pytest.mark.parametrize("speaker", ["client", "server"])
async def test_the_time_begins_anew_whoever_speaks(speaker):
    async with Line(0, idle_timeout=IDLE) as line:
        client, server = await line.pair()
        sender, receiver = (client, server) if speaker == "client" else (server, client)
        for _ in range(6):
            await asyncio.sleep(IDLE / 2)
            sender.writer.write(b"x")
        start = perf_counter()
        assert await receiver.read_to_the_end() == b"xxxxxx"
        assert 0.95 * IDLE < perf_counter() - start < 2 * IDLE


async def test_each_connection_has_a_time_of_its_own_from_when_it_is_set():
    async with Line(0) as line:
        busy, idle = await line.pair(), await line.pair()
        line.relay.idle_timeout = IDLE
        idle[0].writer.write(b"x")
        for _ in range(4):
            busy[0].writer.write(b"x")
            await asyncio.sleep(IDLE / 2)
        assert await idle[1].read_to_the_end() == b"x"
        assert await busy[1].read(4) == b"xxxx"


async def test_what_is_sent_after_the_proxy_has_hung_up_goes_nowhere():
    async with Line(0, idle_timeout=IDLE) as line:
        client, server = await line.pair()
        line.relay.black_hole("server")  # so that the client does not know yet
        assert await server.read_to_the_end() == b""
        line.relay.idle_timeout = None
        client.writer.write(b"late")
        await asyncio.sleep(0.02)
        line.relay.lift()
        assert await client.read_to_the_end() == b""


async def test_no_timer_outlives_its_connection():
    async with Line(0, idle_timeout=60) as line:
        client, server = await line.pair()
        (connection,) = line.relay._connections
        client.writer.write_eof()
        await server.read_to_the_end()
        assert not connection._idle.cancelled()
        server.writer.write_eof()
        async with asyncio.timeout(5):
            await connection.closed.wait()
        assert connection._idle.cancelled()


# Leaving the block


@pytest.mark.parametrize("delay", [0, 0.05])
@pytest.mark.parametrize("wait", [0, 0.005, 0.06, 0.2])
async def test_leaving_the_block_leaves_nothing(delay, wait):
    listener = socket.create_server((HOST, 0))
    before = open_files()
    async with Relay(listener.getsockname()[1], delay) as relay:
        clients = [socket.create_connection((HOST, relay.port)) for _ in range(5)]
        for client in clients:
            client.sendall(b"x" * 1000)
        await asyncio.sleep(wait)
        relay_port = relay.port
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files() == before + len(clients)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, relay_port))
    for client in clients:
        client.settimeout(1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
    listener.close()


async def test_a_stop_amid_clients_that_keep_coming():
    loop = asyncio.get_running_loop()
    listener = socket.create_server((HOST, 0), backlog=1024)
    loop.set_debug(True)  # asyncio reports a failed accept in debug mode only
    for turns in range(40):
        relay = await Relay(listener.getsockname()[1]).start()
        clients = []
        for _ in range(turns % 8):
            clients.append(socket.create_connection((HOST, relay.port)))
            await asyncio.sleep(0)
        clients.append(socket.create_connection((HOST, relay.port)))
        for _ in range(turns // 8):
            await asyncio.sleep(0)
        await relay.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for client in clients:
            client.close()
    listener.close()
