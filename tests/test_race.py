"""workbench.race: what it measures against the law, what it counts, and what it leaves."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from time import perf_counter

import pytest
import trustme
from workbench import laws, trace
from workbench.race import (
    Arm,
    Event,
    Inbox,
    LongPolling,
    Plan,
    Race,
    RaceError,
    ServerSentEvents,
    ShortPolling,
    Source,
    WebSocket,
    careful,
    judging,
    race,
    running,
    schedule,
    side_by_side,
)
from workbench.race.certificate import contexts
from workbench.relay import HOST, Relay

pytestmark = pytest.mark.usefixtures("nothing_left")

T = 0.2
D = 0.025
SHORT, SHORT_CLOSE = f"short poll {T} s", f"short poll {T} s, no keep-alive"
POLLS = [SHORT, SHORT_CLOSE, "long poll"]
STREAMS = ["SSE", "WebSocket", "WebSocket, deflate"]


def six(interval: float = T) -> list[Arm]:
    return [
        ShortPolling(interval),
        ShortPolling(interval, keep_alive=False),
        LongPolling(),
        ServerSentEvents(),
        WebSocket(),
        WebSocket(deflate=True),
    ]


def slack(found: Race) -> float:
    """What a latency may have on top of the law on this machine, now: three late timers."""
    return 3 * found.lag_p99


@pytest.fixture(scope="module")
def runs() -> dict[str, Race]:
    """Poisson events, and periodic ones on both sides of the knee, side by side."""
    plans = {
        "random": schedule(5.5, 16, seed=1),
        "slow": schedule(8, 10, seed=1, periodic=True),
        "fast": schedule(25, 4, seed=2, periodic=True),
    }

    async def all_of_them() -> list[Race]:
        return await asyncio.gather(*(race(six(), plan, D, seed=1) for plan in plans.values()))

    return dict(zip(plans, asyncio.run(all_of_them()), strict=True))


# The events


def test_a_schedule_is_the_same_for_the_same_seed():
    assert schedule(20, 50, seed=1) == schedule(20, 50, seed=1) != schedule(20, 50, seed=2)


def test_random_events_are_poisson():
    events = schedule(20, 200, seed=1, size=7)
    assert abs(len(events) - 4000) < 3 * math.sqrt(4000)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert 0 < events[0].at and events[-1].at <= 200
    gaps = [b.at - a.at for a, b in pairwise(events)]
    assert min(gaps) >= 0
    longer = sum(gap > 0.05 for gap in gaps) / len(gaps)
    assert abs(longer - math.exp(-1)) < 3 * math.sqrt(0.37 * 0.63 / len(gaps))
    assert all(len(event.text) == 7 and event.text.isascii() for event in events)
    assert len({event.text for event in events}) > 3900


def test_periodic_events_are_evenly_spaced():
    assert [e.at for e in schedule(4, 1.25, 0, periodic=True)] == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert schedule(4, 0.2, 0, periodic=True) == []


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "1", None, True])
def test_what_has_to_be_positive(wrong):
    with pytest.raises(ValueError, match=r"^interval is a positive number, not "):
        ShortPolling(wrong)
    with pytest.raises(ValueError, match=r"^rate is a positive number, not "):
        schedule(wrong, 1, seed=0)
    with pytest.raises(ValueError, match=r"^seconds is a positive number, not "):
        schedule(1, wrong, seed=0)


@pytest.mark.measures
async def test_a_source_publishes_on_time_and_wakes_who_waits():
    source = Source(schedule(50, 0.2, seed=0, periodic=True))
    publishing = asyncio.create_task(source.publish())
    assert source.since(0) == []
    woken = [len(await source.after(n)) for n in range(4)]
    assert woken[0] == 1
    await source.changed()
    await publishing
    assert perf_counter() - source.begin.result() >= 0.2
    assert [event.id for event in source.since(7)] == [8, 9, 10]
    assert source.since(10) == []


# The law


@pytest.mark.measures
@pytest.mark.parametrize("arm", [SHORT, SHORT_CLOSE])
def test_short_polling_is_half_an_interval_late(runs, arm):
    found = runs["random"]
    latencies = found.results[arm].latencies
    error = 3 * T / math.sqrt(12 * len(latencies))
    assert len(latencies) >= 75
    assert T / 2 + D - error < mean(latencies) < T / 2 + D + error + slack(found)
    assert D < min(latencies) < max(latencies) < T + D + 3 * max(found.lag)


@pytest.mark.measures
@pytest.mark.parametrize("arm", [SHORT, SHORT_CLOSE])
def test_short_polling_asks_in_vain_as_often_as_the_law_says(runs, arm):
    result = runs["random"].results[arm]
    share = math.exp(-len(result.latencies) / 16 * T)
    error = 3 * math.sqrt(share * (1 - share) / result.requests)
    assert abs(result.empty / result.requests - share) < error
    assert abs(result.requests - (result.end - result.begin) / T) <= 1
    assert result.connections == (1 if arm == SHORT else result.requests)


@pytest.mark.measures
@pytest.mark.parametrize("plan", ["random", "slow", "fast"])
@pytest.mark.parametrize("arm", STREAMS)
def test_a_stream_is_one_delay_late_at_any_rate(runs, plan, arm):
    found = runs[plan]
    result = found.results[arm]
    assert D < mean(result.latencies) < D + slack(found)
    assert (result.requests, result.empty, result.connections) == (1, 0, 1)


@pytest.mark.measures
@pytest.mark.parametrize("plan", ["random", "slow", "fast"])
def test_long_polling_is_never_later_than_three_delays(runs, plan):
    found = runs[plan]
    latencies = found.results["long poll"].latencies
    assert D < min(latencies) < max(latencies) < 3 * D + 4 * max(found.lag)


@pytest.mark.measures
def test_long_polling_has_its_knee_where_a_round_trip_is_a_period(runs):
    slow, fast = runs["slow"], runs["fast"]
    below, above = slow.results["long poll"], fast.results["long poll"]
    assert D < mean(below.latencies) < D + slack(slow)
    assert below.requests == len(slow.events)
    assert 1.8 * D < mean(above.latencies) < 2.2 * D + slack(fast)
    assert above.requests < 0.9 * len(fast.events)


@pytest.mark.measures
def test_long_polling_asks_more_than_short_polling_once_events_are_frequent(runs):
    results = runs["fast"].results
    assert results["long poll"].requests > 2 * results[SHORT].requests
    assert results["long poll"].empty == 0
    assert mean(results["long poll"].latencies) < mean(results[SHORT].latencies)


@pytest.mark.measures
async def test_a_poll_that_is_due_while_one_is_under_way_is_left_out():
    events = schedule(20, 2, seed=1)
    found = await race([ShortPolling(0.05)], events, delay=0.04)
    (result,) = found.results.values()
    # An answer takes 0.08 s, so every other turn is left out; a late loop may cost more.
    turns = (result.end - result.begin) / 0.1
    assert 0.8 * turns - 1 < result.requests < turns + 1.5
    assert result.missing == result.doubled == []


@pytest.mark.measures
def test_the_lag_is_looked_at_all_the_time(runs):
    found = runs["random"]
    seconds = max(result.end - result.begin for result in found.results.values())
    assert 0.95 * 100 * seconds < len(found.lag) < 105 * seconds + 5
    assert 0 <= min(found.lag) <= found.lag_p99 <= max(found.lag)


@pytest.mark.measures
async def test_a_stall_counts_for_as_long_as_it_lasts():
    async def stall() -> None:
        await asyncio.sleep(0.4)
        end = perf_counter() + 0.2
        while perf_counter() < end:
            pass

    events = schedule(10, 0.8, seed=0, periodic=True)
    found, _ = await asyncio.gather(race([WebSocket()], events, 0.01), stall())
    assert sum(late > 0.1 for late in found.lag) in range(9, 30)
    assert found.lag_p99 > 0.15


# What arrives, and what is counted


@pytest.mark.measures
async def test_nothing_is_lost_or_doubled_at_any_rate():
    plans = [schedule(1, 5, seed=4), schedule(20, 4, seed=5), schedule(100, 3, seed=6)]
    races = await asyncio.gather(*(race(six(), plan, 0.01) for plan in plans))
    for plan, found in zip(plans, races, strict=True):
        assert found.events == plan
        assert list(found.results) == [SHORT, SHORT_CLOSE, "long poll", *STREAMS]
        for result in found.results.values():
            assert (result.missing, result.doubled) == ([], [])
            assert len(result.latencies) == len(plan)


@dataclass
class Counted:
    """An arm whose client goes through a second cable, without delay, that counts too."""

    arm: Arm
    taps: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.serve = self.arm.name, self.arm.serve

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with Relay(port) as relay:
            self.taps = relay.taps
            await self.arm.receive(relay.port, inbox)

    def size(self, sender: str, begin: float, end: float) -> int:
        taps = [tap for tap in self.taps if tap.sender == sender and begin <= tap.sent <= end]
        return sum(len(tap.data) for tap in taps)


async def test_the_bytes_are_those_that_the_sockets_carried():
    arms = [Counted(arm) for arm in six()]
    found = await race(arms, schedule(20, 2, seed=1), D)
    for arm in arms:
        result = found.results[arm.name]
        window = result.begin, result.end
        assert result.bytes_up == arm.size("client", *window), arm.name
        assert result.bytes_down == arm.size("server", *window), arm.name
        before = arm.size("client", 0, result.begin) + arm.size("server", 0, result.begin)
        assert result.setup_bytes == before > 0, arm.name
        total = result.bytes_up + result.bytes_down
        assert result.bytes_per_event == pytest.approx(total / len(found.events))


async def test_the_bytes_are_those_that_the_formats_ask_for():
    events = schedule(30, 1, seed=1)
    found = await race(six(), events, 0.01)
    texts = [json.dumps({"id": event.id, "text": event.text}) for event in events]
    assert found.results["WebSocket"].bytes_up == found.results["SSE"].bytes_up == 0
    assert found.results["WebSocket"].bytes_down == sum(2 + len(text) for text in texts)
    # Before each: "data: " and the chunk's size in two digits; four line ends.
    assert found.results["SSE"].bytes_down == sum(6 + 2 + 2 + 4 + len(text) for text in texts)
    assert found.results["WebSocket, deflate"].bytes_down < sum(map(len, texts))
    for result in found.results.values():
        decoded = trace.decode(tap for tap in result.taps if tap.sent <= result.end)
        assert not [i for i in decoded if isinstance(i.content, trace.Undecoded)], result.arm
        answers = [i for i in decoded if i.sent > result.begin and hasattr(i.content, "status")]
        assert len(answers) == (result.requests if result.arm in POLLS else 0)


async def test_races_side_by_side_do_not_disturb_each_others_counts():
    plans = [schedule(5, 2, seed=1, periodic=True), schedule(8, 2, seed=2, periodic=True, size=9)]
    races = await asyncio.gather(*(race(six(), plan, 0.01) for plan in plans))
    for plan, found in zip(plans, races, strict=True):
        sizes = [2 + len(json.dumps({"id": e.id, "text": e.text})) for e in plan]
        assert found.results["WebSocket"].bytes_down == sum(sizes)
        assert found.results["long poll"].requests == len(plan)
        assert all(result.missing == [] for result in found.results.values())
        assert {tap.connection for tap in found.results["WebSocket"].taps} == {1}


async def test_no_end_of_any_connection_waits_to_fill_a_segment():
    async def look() -> list[int]:
        await asyncio.sleep(0.5)
        return [
            transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for transport in gc.get_objects()
            if isinstance(transport, asyncio.Transport) and not transport.is_closing()
            and transport.get_extra_info("peername")
        ]  # fmt: skip

    plan = schedule(4, 1, seed=0, periodic=True)
    _, options = await asyncio.gather(race(six(), plan, 0.01), look())
    assert len(options) >= 5 * 4
    assert 0 not in options


async def test_progress_is_told_now_and_then():
    told = []
    await race(six(), schedule(10, 2.3, seed=0, periodic=True), 0.01, progress=told.append)
    assert told[0] == "6 arms connect"
    assert told[1:] == ["10 of 23 events published", "20 of 23 events published"] or (
        len(told) == 3 and all(text.endswith("of 23 events published") for text in told[1:])
    )


async def test_a_long_poll_is_answered_with_nothing_before_anybody_gives_up():
    events = [Event(1, 1.0, "")]
    found = await race([LongPolling(hold=0.2)], events, 0.01)
    (result,) = found.results.values()
    assert result.missing == []
    # Each takes 0.2 s and a round trip.
    assert result.empty in range(3, 6)
    assert result.requests == result.empty + 1
    with pytest.raises(ValueError, match="^hold is a positive number"):
        LongPolling(hold=0)


# Under TLS


async def test_tls_adds_22_bytes_to_whatever_is_written_at_once():
    events = schedule(10, 2, seed=1)
    arms = [ShortPolling(T), ShortPolling(T, tls=True), WebSocket(), WebSocket(tls=True)]
    found = await race(arms, events, 0.01)
    short, short_tls, plain, secure = found.results.values()
    assert secure.arm == "WebSocket, TLS" and short_tls.arm == f"{SHORT}, TLS"
    assert secure.bytes_down == plain.bytes_down + laws.RECORD * len(events)
    assert (short.missing, short_tls.missing, secure.missing) == ([], [], [])
    request = short.bytes_up / short.requests
    polls = sum(1 for tap in short_tls.taps if tap.sender == "client" and tap.data) - 3
    assert short_tls.bytes_up / polls == pytest.approx(request + laws.RECORD, rel=0.25)
    assert secure.setup_bytes > plain.setup_bytes + 1000
    assert short_tls.requests == 0, "nothing can be read"


async def test_without_keep_alive_each_poll_pays_for_a_handshake():
    arms = [ShortPolling(T, keep_alive=False), ShortPolling(T, keep_alive=False, tls=True)]
    found = await race(arms, schedule(10, 1, seed=1), 0.01)
    plain, secure = found.results.values()
    assert secure.bytes_down > 3 * plain.bytes_down


# OpenSSL's X509_V_FLAG_CHECK_SS_SIGNATURE: otherwise nobody looks at a trusted one's.
CHECK_SIGNATURE_OF_ROOT = 0x4000


def shake_hands(client: ssl.SSLContext, hostname: str) -> None:
    """A TLS handshake in memory with the race's server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=hostname),
        contexts()[0].wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[0].version() == "TLSv1.3"
    assert ends[0].getpeercert()["subjectAltName"] == (("IP Address", HOST),)


def test_a_client_of_the_race_trusts_its_server_and_no_other():
    _, trusting = contexts()
    trusting.verify_flags |= CHECK_SIGNATURE_OF_ROOT
    shake_hands(trusting, HOST)
    with pytest.raises(ssl.SSLCertVerificationError, match="127.0.0.2"):
        shake_hands(trusting, "127.0.0.2")
    suspicious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        shake_hands(suspicious, HOST)
    trustme.CA().configure_trust(suspicious)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(suspicious, HOST)


# An arm of one's own


class Lines:
    """Numbers of events, a line each over plain TCP; answers to nothing."""

    name = "lines"

    @asynccontextmanager
    async def serve(self, source: Source) -> AsyncIterator[int]:
        writers = []

        async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append((asyncio.current_task(), writer))
            seen = 0
            with suppress(asyncio.CancelledError):
                while True:
                    for event in await source.after(seen):
                        writer.write(f"{event.id}\n".encode())
                        seen = event.id

        async with await asyncio.start_server(handle, HOST, 0) as server:
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                for task, writer in writers:
                    task.cancel()
                    writer.close()

    async def receive(self, port: int, inbox: Inbox) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            inbox.ready()
            while line := await reader.readline():
                self.arrived(int(line), inbox)
        finally:
            writer.close()

    def arrived(self, number: int, inbox: Inbox) -> None:
        inbox.deliver([number])


@pytest.mark.measures
async def test_an_arm_of_ones_own():
    events = schedule(40, 2, seed=1)
    found = await race([Lines(), WebSocket()], events, D)
    result = found.results["lines"]
    assert D < mean(result.latencies) < D + slack(found)
    assert result.bytes_down == sum(len(f"{event.id}\n") for event in events)
    assert (result.bytes_up, result.requests, result.connections) == (0, 0, 1)
    assert (result.missing, result.doubled) == ([], [])


async def test_what_is_missing_or_doubled_is_said_and_not_waited_for_long():
    class Careless(Lines):
        def arrived(self, number: int, inbox: Inbox) -> None:
            inbox.deliver([] if number == 3 else [number, number] if number == 5 else [number])

    start = perf_counter()
    found = await race([Careless()], schedule(10, 1, seed=0, periodic=True), 0.01)
    assert perf_counter() - start < 6
    (result,) = found.results.values()
    assert (result.missing, result.doubled) == ([3], [5])
    assert len(result.latencies) == 9


async def test_an_empty_answer_counts_if_it_was_sent_while_the_clock_ran():
    class Asking(Lines):
        async def receive(self, port: int, inbox: Inbox) -> None:
            begin = await inbox.ready()
            inbox.note("empty")  # Sent a delay ago, and so before the clock started.
            await asyncio.sleep(begin + 1.5 * delay - perf_counter())
            inbox.note("empty")
            inbox.note("something else")
            await super().receive(port, inbox)

    delay = 0.3
    found = await race([Asking()], [Event(1, 2 * delay, "")], delay)
    assert found.results["lines"].missing == []
    assert found.results["lines"].empty == 1


async def test_no_event_arrived():
    class Deaf(Lines):
        def arrived(self, number: int, inbox: Inbox) -> None:
            pass

    found = await race([Deaf()], [Event(1, 0.1, "")], 0)
    assert found.results["lines"].missing == [1]
    assert math.isnan(found.results["lines"].bytes_per_event)


# What goes wrong


@pytest.mark.parametrize(
    ("arms", "events", "delay", "why"),
    [
        ([WebSocket()], [], 0.01, "needs events"),
        ([WebSocket()], [Event(1, 0.1, "")], -0.01, "a delay is a number of seconds"),
        ([WebSocket(), WebSocket()], [Event(1, 0.1, "")], 0, "two arms have the name 'WebSocket'"),
        ([WebSocket()], [Event(2, 0.1, "")], 0, "numbered 1, 2"),
        ([WebSocket()], [Event(1, 0.1, ""), Event(1, 0.2, "")], 0, "numbered 1, 2"),
        ([WebSocket()], [Event(1, 0.2, ""), Event(2, 0.1, "")], 0, "order of their times"),
    ],
)
async def test_what_is_no_race(arms, events, delay, why):
    with pytest.raises(ValueError, match=why):
        await race(arms, events, delay)


@dataclass
class Stopping:
    """An arm whose server stops after the third event."""

    arm: Arm

    def __post_init__(self) -> None:
        self.name, self.receive = self.arm.name, self.arm.receive

    @asynccontextmanager
    async def serve(self, source: Source) -> AsyncIterator[int]:
        async def stop() -> None:
            await source.after(2)
            await stack.aclose()

        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(self.arm.serve(source))
            stopping = asyncio.create_task(stop())
            yield port
            await stopping


@pytest.mark.parametrize("number", range(6))
async def test_a_server_that_stops_in_the_middle(number):
    arms = six(0.05)
    arms[number] = Stopping(arms[number])
    async with asyncio.timeout(5):
        with pytest.raises(RaceError, match=f"^{arms[number].name}: "):
            await race(arms, schedule(10, 10, seed=0), 0.01)


class Failing(Lines):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def arrived(self, number: int, inbox: Inbox) -> None:
        if number == 2:
            raise self.error


async def test_a_client_that_fails():
    with pytest.raises(RaceError, match="^lines: KeyError: 'x'$") as caught:
        await race([*six(), Failing(error := KeyError("x"))], schedule(20, 10, seed=0), 0.01)
    assert caught.value.__cause__ is error


async def test_clients_that_fail_at_the_same_time():
    first, second = Failing(OSError()), Failing(OSError())
    second.name = "other lines"
    with pytest.raises(RaceError):
        await race([first, second], schedule(20, 10, seed=0), 0.01)


async def test_a_client_that_fails_before_the_start():
    class Impatient(Lines):
        async def receive(self, port: int, inbox: Inbox) -> None:
            raise TimeoutError("not today")

    with pytest.raises(RaceError, match="^lines: TimeoutError: not today$"):
        await race([*six(), Impatient()], schedule(20, 10, seed=0), 0.01)


async def test_a_client_that_returns():
    class Leaving(Lines):
        async def receive(self, port: int, inbox: Inbox) -> None:
            await inbox.ready()

    with pytest.raises(RaceError, match="lines: its client returned in the middle") as caught:
        await race([*six(), Leaving()], schedule(20, 10, seed=0), 0.01)
    assert caught.value.__cause__ is None


async def test_a_client_that_makes_events_up():
    class Inventive(Lines):
        def arrived(self, number: int, inbox: Inbox) -> None:
            inbox.deliver([number + 1])

    with pytest.raises(RaceError, match="event 2 was not published"):
        await race([Inventive()], schedule(10, 10, seed=0, periodic=True), 0.01)


async def test_a_client_that_never_connects(monkeypatch):
    class Lazy(Lines):
        async def receive(self, port: int, inbox: Inbox) -> None:
            await asyncio.sleep(3600)

    monkeypatch.setattr(running, "READY_WITHIN", 0.3)
    with pytest.raises(RaceError, match="lines: its client did not connect in time"):
        await race([*six(), Lazy()], schedule(10, 10, seed=0), 0.01)


async def test_a_server_that_does_not_start():
    class Broken(Lines):
        @asynccontextmanager
        async def serve(self, source: Source) -> AsyncIterator[int]:
            raise OSError("no port")
            yield 1

    with pytest.raises(RaceError, match="^lines: OSError: no port$"):
        await race([*six(), Broken()], schedule(10, 10, seed=0), 0.01)


async def test_a_progress_that_fails():
    def broken(text: str) -> None:
        if "published" in text:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await race(six(), schedule(10, 10, seed=0), 0.01, progress=broken)


@pytest.mark.measures
@pytest.mark.parametrize("after", [0, 0.002, 0.01, 0.03, 0.1, 0.3, 0.5])
async def test_a_race_that_is_cancelled(after):
    running = asyncio.create_task(race(six(0.02), schedule(50, 10, seed=0), 0.03))
    await asyncio.sleep(after)
    running.cancel()
    start = perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert perf_counter() - start < 2


# A race that is run again


@pytest.mark.measures
async def test_a_race_on_a_late_loop_is_run_again():
    def runner(*lags: float, delay: float = 0.05):
        races = [Race(delay, [], {}, [lag]) for lag in lags]
        left = iter(races)

        async def run() -> Race:
            return next(left)

        return races, run

    for lags, best, thrown in [
        ((0.004,), 0, 0),
        ((0.006, 0.004), 1, 1),
        ((0.008, 0.006, 0.007), 1, 2),
    ]:
        races, run = runner(*lags)
        assert await careful(run) == (races[best], thrown)
    races, run = runner(0.0019, delay=0)
    assert await careful(run) == (races[0], 0)
    races, run = runner(0.1, 0.1)
    assert await careful(run, tries=1) == (races[0], 0)


def late_by(seconds: float, delay: float = 0.05) -> Race:
    return Race(delay, [], {}, [seconds])


@pytest.mark.parametrize(
    ("seconds", "delay", "is_late"),
    [(0.0049, 0.05, False), (0.0051, 0.05, True), (0.0019, 0.0, False), (0.0021, 0.01, True)],
)
def test_a_race_is_late_by_a_tenth_of_the_delay_or_two_milliseconds(seconds, delay, is_late):
    assert late_by(seconds, delay).is_late == is_late


def test_of_races_that_were_late_nothing_is_judged(capsys):
    with judging([late_by(0), late_by(1)]):
        raise AssertionError
    assert capsys.readouterr().out.startswith("Not judged. This machine is busy: 1 of 2 races")


def test_races_on_time_are_judged_in_words(capsys):
    with judging([late_by(0)]):
        pass
    with pytest.raises(AssertionError, match="^SSE: measured on time, and not what the law says$"):
        with judging([late_by(0)]):
            raise AssertionError("SSE")
    with pytest.raises(KeyError), judging([late_by(1)]):
        raise KeyError
    assert capsys.readouterr().out == ""


@pytest.mark.measures
async def test_races_come_in_the_order_of_their_plans(capsys):
    plans = [Plan([WebSocket()], schedule(5, n, seed=n), n / 100, n) for n in (1, 2)]
    found = await side_by_side(plans)
    assert [each.delay for each in found] == [0.01, 0.02]
    assert [each.events for each in found] == [plan.events for plan in plans]
    *told, said = capsys.readouterr().out.split("\n")[0].split("\r")
    assert any("1 arms connect" in text for text in told)
    assert said.startswith("2 races; ") and " tries were thrown away" in said


async def test_races_run_side_by_side_and_are_said_to_be_late_every_time(capsys, monkeypatch):
    both, asked = asyncio.Barrier(2), set()

    async def late(arms, events, delay, *, seed, progress) -> Race:
        asked.add((delay, seed, progress is None))
        await both.wait()
        return late_by(1)

    monkeypatch.setattr(running, "race", late)
    async with asyncio.timeout(5):
        found = await side_by_side([Plan([], [], 1, 7), Plan([], [], 2, 8)])
    assert all(each.is_late for each in found)
    assert asked == {(1, 7, False), (2, 8, True)}, "the first tells how far it is"
    printed = capsys.readouterr().out
    assert "2 races; 2 tries were thrown away" in printed
    assert "This machine is busy: 2 of 2 races were late in both tries" in printed
