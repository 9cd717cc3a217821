"""The laws of chapter 03 against simulations, and the published table to its digits."""

from __future__ import annotations

import math
from random import Random
from statistics import mean

import pytest
from workbench import laws

EVENTS = 40_000


def arrivals(rate: float, seed: int = 1) -> list[float]:
    dice, at, times = Random(seed), 0.0, []
    while len(times) < EVENTS:
        at += dice.expovariate(rate)
        times.append(at)
    return times


def short_polls(times: list[float], interval: float, delay: float) -> float:
    """Mean latency."""
    return mean(math.ceil(at / interval) * interval + delay - at for at in times)


def long_polls(times: list[float], delay: float) -> tuple[list[float], int]:
    """Latencies, and the number of requests; each answer has all that is new."""
    latencies, requests, asked, index = [], 0, 0.0, 0
    while index < len(times):
        answered = max(asked, times[index])
        requests += 1
        while index < len(times) and times[index] <= answered:
            latencies.append(answered + delay - times[index])
            index += 1
        asked = answered + 2 * delay
    return latencies, requests


@pytest.mark.parametrize("rate", [0.5, 4, 40])
@pytest.mark.parametrize("interval", [0.2, 1.0])
def test_short_polling(rate, interval):
    latency = short_polls(arrivals(rate), interval, 0.05)
    assert latency == pytest.approx(laws.short_poll_latency(interval, 0.05), rel=0.02)


@pytest.mark.parametrize("rate", [0.5, 4, 40])
@pytest.mark.parametrize("delay", [0.01, 0.05, 0.2])
def test_long_polling(rate, delay):
    latencies, requests = long_polls(arrivals(rate), delay)
    assert mean(latencies) == pytest.approx(laws.long_poll_latency(rate, delay), rel=0.02)
    assert requests / EVENTS == pytest.approx(laws.long_poll_requests(rate, delay), rel=0.02)
    assert max(latencies) < 3 * delay + 1e-9


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.12, 0.131, 0.1777, 0.237])
def test_long_polling_of_regular_events(delay):
    latencies, _ = long_polls([0.25 * n for n in range(1, EVENTS)], delay)
    assert mean(latencies) == pytest.approx(laws.periodic_long_poll_latency(0.25, delay), rel=0.02)


@pytest.mark.parametrize("periods", [1, 2, 3])
def test_if_two_delays_are_some_periods_there_are_as_many_different_waits(periods):
    """Sixteenths of a second, which a float has exactly."""
    latencies, _ = long_polls([n / 16 for n in range(1, 500)], periods / 32)
    assert len(set(latencies)) == periods


def test_a_stream_takes_one_delay():
    assert laws.stream_latency(0.05) == 0.05


@pytest.mark.parametrize(
    ("overhead", "digits", "printed"),
    [(871, 1, ["6.6", "66", "665"]), (2, 3, ["0.015", "0.153", "1.526"])],
)
def test_the_table_of_lubbers_and_greco(overhead, digits, printed):
    """They print polling with one digit, then with none, cut or rounded: 66.45 is 66."""
    rates = [laws.published_rate(overhead, clients) for clients in (1_000, 10_000, 100_000)]
    shown = [f"{rate:.{digits if rate < 10 else 0}f}" for rate in rates]
    assert shown == printed


def test_what_remains_of_five_hundred_to_one():
    assert 871 / 2 > 400
    wire = laws.on_the_wire(909, 3) / laws.on_the_wire(2, 2)
    assert 9 < wire < 11


@pytest.mark.parametrize(
    ("payload", "header"), [(0, 2), (125, 2), (126, 4), (0xFFFF, 4), (0x10000, 10)]
)
def test_a_frames_header(payload, header):
    from nestling.frames import Frame, Opcode, encode

    assert (
        laws.frame_header(payload)
        == header
        == len(encode(Frame(Opcode.TEXT, bytes(payload)))) - payload
    )


def test_what_server_sent_events_put_around_an_event():
    event = b"data: " + bytes(50) + b"\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    assert len(chunk) - 50 == laws.SSE_FRAMING


def test_expectations_scale_with_the_clients():
    one, many = laws.expectations(4, 0.05), laws.expectations(4, 0.05, clients=10)
    for a, b in zip(one, many, strict=True):
        assert (b.latency, b.requests) == (a.latency, pytest.approx(10 * a.requests))
        assert (b.traffic, b.wire) == pytest.approx((10 * a.traffic, 10 * a.wire))
    assert [row.requests for row in one][2:] == [0, 0]


def by_name(**arguments: float) -> dict[str, laws.Expectation]:
    rows = laws.expectations(**{"rate": 4, "delay": 0.05, "payload": 50} | arguments)
    return dict(zip(("short", "long", "sse", "websocket"), rows, strict=True))


def test_a_heartbeat_is_a_ping_a_pong_and_three_segments_every_20_seconds():
    from nestling.frames import Frame, Opcode, encode

    ping, pong = encode(Frame(Opcode.PING)), encode(Frame(Opcode.PONG, mask=b"abcd"))
    in_an_hour = 3600 / 20 * laws.on_the_wire(len(ping + pong), 3)
    assert pytest.approx(in_an_hour) == 3600 * laws.HEARTBEAT


def test_what_tcp_ip_adds_to_each_transport():
    """A poll takes three segments, an event of a stream two; open connections a heartbeat."""
    for rate, interval in [(4, 1.0), (4, 0.5), (0.1, 1.0)]:
        rows = by_name(rate=rate, interval=interval)
        added = {name: row.wire - row.traffic for name, row in rows.items()}
        segments = {name: 3 * row.requests for name, row in rows.items()}
        segments |= {"sse": 2 * rate, "websocket": 2 * rate}
        for name, extra in added.items():
            heartbeat = 0 if name == "short" else laws.HEARTBEAT
            assert extra == pytest.approx(laws.on_the_wire(0, segments[name]) + heartbeat), name


def test_long_polling_keeps_its_connection_also_if_it_asks_as_often_as_short_polling():
    rows = by_name(rate=1, delay=0, interval=1)
    assert rows["long"].requests == rows["short"].requests
    assert rows["long"].wire == pytest.approx(rows["short"].wire + laws.HEARTBEAT)


def test_what_the_bytes_of_each_transport_are_made_of():
    rows = by_name(rate=4, interval=0.5, exchange=300)
    assert rows["short"].requests == 2
    assert rows["short"].traffic == 2 * 300 + 4 * (50 + 2)
    assert rows["long"].traffic == pytest.approx(rows["long"].requests * 300 + 4 * (50 + 2))
    assert rows["sse"].traffic == 4 * (50 + laws.SSE_FRAMING)
    assert rows["websocket"].traffic == 4 * (50 + laws.frame_header(50))


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"delay": -1}, {"interval": 0}, {"clients": 0}])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="above 0"):
        laws.expectations(**{"rate": 1, "delay": 0.05} | wrong)


@pytest.mark.parametrize(
    ("interval", "delay", "keep_alive", "every"),
    [
        (0.5, 0.05, True, 0.5),
        (0.2, 0.08, True, 0.2),
        (0.2, 0.08, False, 0.4),
        (0.2, 0.2, True, 0.6),  # an answer comes a little after the poll that is due
        (0.1, 0.17, True, 0.4),
    ],
)
def test_a_poll_that_is_due_while_one_is_under_way_is_left_out(interval, delay, keep_alive, every):
    found = laws.polls_every(interval, delay, keep_alive)
    assert found == pytest.approx(every)
    assert laws.short_poll_latency(interval, delay, keep_alive) == found / 2 + delay
    row, *_ = laws.expectations(4, delay, interval=interval)
    assert keep_alive is False or row.requests == pytest.approx(1 / every)


def test_tls_adds_its_records():
    assert laws.on_the_wire(100, 2, 3) == laws.on_the_wire(100, 2) + 3 * laws.RECORD
    assert 8.6 < laws.on_the_wire(909, 3, 2) / laws.on_the_wire(2, 2, 1) < 8.7


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ({"rate": 1 / 600, "stale": 300}, "just poll, every 600 s"),
        ({"rate": 40, "stale": 1}, "just poll, every 1.9 s"),
        ({"rate": 0.05, "stale": 1}, "server-sent events"),
        ({"rate": 1, "stale": 0.05}, "server-sent events"),
        ({"rate": 1.9, "stale": 1.05}, "just poll, every 2 s"),  # though a fifth above WebSocket
        ({"rate": 200, "stale": 0.09}, "server-sent events"),  # polls would overlap
        ({"rate": 1, "stale": 0.05, "says": 0.050}, "server-sent events, and POST"),
        ({"rate": 1, "stale": 0.05, "says": 0.051}, "WebSocket: the clients have much to say"),
        ({"rate": 1, "stale": 0.5, "says": 1 / 60}, "server-sent events, and POST"),
        ({"rate": 1 / 600, "stale": 300, "says": 1 / 6000}, "just poll, every 600 s, and POST"),
        ({"rate": 1, "stale": 0.5, "says": 1}, "WebSocket: the clients have much to say"),
        ({"rate": 20, "stale": 0.5, "says": 0.1}, "just poll, every 0.9 s, and POST"),
        ({"rate": 1, "stale": 0.01}, "nothing that runs over TCP: the way alone takes longer"),
    ],
)
def test_what_is_recommended(case, advice):
    assert laws.recommend(**{"delay": 0.05} | case) == advice


def test_a_longer_exchange_speaks_against_polling():
    case = {"rate": 4, "delay": 0.05, "stale": 1}
    assert laws.recommend(**case, exchange=100).startswith("just poll")
    assert laws.recommend(**case, exchange=2000) == "server-sent events"
