"""The servers side by side: what is counted and compared, and how it ends. Never how fast."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from conftest import missing
from workbench import speed
from workbench.load import CONNECTIONS
from workbench.speed import measuring, processes
from workbench.speed.figures import Figures, Turn
from workbench.speed.picture import draw

PYTHON = [name for name in speed.SERVERS if name not in speed.ON_NODE]
WS, NEST, BARE, GATEWAY, OWN = speed.SERVERS

# A server that is none: it says its port, lets clients in, and then does what it is told.
PROGRAM = """
import asyncio, sys

async def talk(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
    await reader.read(1)
    {then}

async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(0.5, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def begun(monkeypatch):
    """The processes that a test begins: none may be left after it."""
    begun, begin = [], asyncio.create_subprocess_exec

    async def keep(*arguments, **options):
        begun.append(await begin(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", keep)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield begun
    assert begun and all(process.returncode is not None for process in begun)
    assert cores is None or os.sched_getaffinity(0) == cores


def only(monkeypatch, name, command):
    """Let this be the one server that is measured."""
    monkeypatch.setattr(measuring, "SERVERS", {name: 0})
    monkeypatch.setitem(processes.SERVERS, name, ([sys.executable, "-c", command], "."))


@pytest.fixture(params=speed.SERVERS)
async def server(request, begun):
    if request.param in speed.ON_NODE and (why := speed.why_not()):
        missing(why)
    async with processes.started(request.param) as server:
        yield server


# Servers


@pytest.mark.parametrize("in_flight", [1, 3, 16])
async def test_every_server_answers_every_question(server, in_flight):
    turn = await server.load(in_flight, questions=20)
    assert turn.answers == 20 * CONNECTIONS
    assert 0 < turn.client <= turn.seconds * 1.1


async def test_more_messages_cost_more_in_all(server):
    await server.load(16, questions=400)
    few, many = [await server.load(16, questions=questions) for questions in (32, 1600)]
    assert 0 < few.cpu < many.cpu and few.client < many.client
    assert few.cpu < await server.cpu() / 2  # which has begun and warmed up as well


async def test_a_server_is_loaded_until_the_time_is_up(server):
    turn = await server.load(2, seconds=0.1)
    assert 0.1 <= turn.seconds < 1 and turn.answers >= 2 * CONNECTIONS
    assert turn.answers % 2 == 0


async def test_a_server_ends_with_whoever_started_it(server, begun):
    begun[0].stdin.close()
    async with asyncio.timeout(5):
        assert await begun[0].wait() == 0


# Measuring


async def test_all_servers_in_turns(begun, nothing_left):
    if why := speed.why_not():
        missing(why)
    figures = await speed.measure(seconds=3, moment=0.02)
    assert figures.servers == list(speed.SERVERS) and len(begun) == len(speed.SERVERS)
    for turn in figures.turns:
        assert list(turn) == [(name, n) for name in speed.SERVERS for n in speed.IN_FLIGHT]
        assert all(
            each.answers >= n * CONNECTIONS and each.cpu > 0 for (_, n), each in turn.items()
        )


async def test_as_many_turns_as_fit(begun, monkeypatch):
    monkeypatch.setattr(measuring, "SERVERS", [OWN])
    few, many = [len((await speed.measure(n, moment=0.01)).turns) for n in (0, 2.5)]
    assert few == 1 and many > 3


async def test_without_node_those_of_python_are_measured(begun, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "npm ci" in speed.why_not()
    figures = await speed.measure(seconds=0, moment=0.01)
    assert figures.servers == PYTHON
    assert WS not in repr(figures) and OWN in repr(figures)


def test_node_without_what_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setattr(processes.nest, "why_not", lambda: None)
    monkeypatch.setattr(processes.nest, "FOLDER", tmp_path)
    assert "npm run build" in speed.why_not()


@pytest.mark.parametrize(
    ("then", "error", "says"),
    [
        ("await reader.read()", TimeoutError, "the odd one has stopped answering"),
        ("writer.write(bytes(100))", ValueError, "another answer"),
        ("writer.close()", ConnectionError, "has gone"),
        ("import os; os._exit(0)", ConnectionError, "has gone"),
    ],
)
async def test_a_server_that_fails(begun, nothing_left, monkeypatch, then, error, says):
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    only(monkeypatch, "the odd one", PROGRAM.format(then=then))
    async with asyncio.timeout(5):
        with pytest.raises(error, match=says):
            await speed.measure(seconds=0, moment=0.1)


async def test_a_server_that_does_not_start(begun, nothing_left, monkeypatch):
    only(monkeypatch, "the odd one", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="the odd one has not started"):
        await speed.measure(seconds=0)


async def test_a_server_that_never_says_its_port(begun, nothing_left, monkeypatch):
    monkeypatch.setattr(processes, "START", 0.3)
    only(monkeypatch, "the odd one", "import sys; sys.stdin.read()")
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await speed.measure(seconds=0)


@pytest.mark.parametrize("moment", [0.01, 5.0], ids=["starting", "loading"])
async def test_a_measurement_that_is_cancelled(begun, nothing_left, monkeypatch, moment):
    monkeypatch.setattr(measuring, "why_not", lambda: "no Node here")
    measuring_now = asyncio.create_task(speed.measure(seconds=60, moment=moment))
    async with asyncio.timeout(10):
        while len(begun) < (1 if moment < 1 else len(PYTHON)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0 if moment < 1 else 0.7)
    measuring_now.cancel()
    with pytest.raises(asyncio.CancelledError):
        await measuring_now


# Steps


async def test_what_a_message_is_made_of(begun, nothing_left):
    found = await speed.steps()
    assert list(found.counts) == [(name, n) for name in PYTHON for n in speed.IN_FLIGHT]
    for (name, in_flight), steps in found.counts.items():
        assert steps["tasks begun"] == pytest.approx(0 if name == BARE else 1, abs=0.1)
        assert (steps["calls in nestling"] == 0) == (name == BARE)
        assert (steps["calls in websockets"] == 0) == (name == OWN)
        assert steps["reads"] == pytest.approx(1 / in_flight, rel=0.3)
        written = 1 / in_flight if name == OWN else 1
        assert steps["writes"] == pytest.approx(written, rel=0.5)
    one, sixteen = (found.counts[GATEWAY, in_flight] for in_flight in speed.IN_FLIGHT)
    assert sixteen["turns in the loop"] < one["turns in the loop"] - 1
    assert "tasks begun" in repr(found) and repr(found).count(OWN) == 2


def test_json_costs_something():
    assert 0 < speed.json_alone(100) < 1000


# Figures


def made(recorded=False):
    """Two turns and three, by hand: the second server costs twice and four times as much."""
    turns = []
    for cpu, factor in ((1.0, 2), (3.0, 4), (2.0, 3)):
        turns.append({})
        for n in speed.IN_FLIGHT:
            turns[-1][BARE, n] = Turn(1_000_000 * n, 10, cpu * n, 5)
            turns[-1][OWN, n] = Turn(1_000_000, 20, cpu * factor, 19 if n == 1 else 5)
    return Figures(turns, recorded)


def test_the_median_the_least_and_the_most():
    assert made().cpu(BARE, 1) == made().cpu(BARE, 16) == (2, 1, 3)
    assert made().rate(BARE, 16) == (1_600_000, 1_600_000, 1_600_000)
    assert made().client(OWN, 1).median == 0.95


def test_ratios_are_within_a_turn():
    # Of the medians, it would be 6 to 2: the least would be hidden.
    assert made().ratio(OWN, BARE, 1) == (3, 2, 4)
    assert made().ratio(BARE, BARE, 1) == (1, 1, 1)


def test_figures_as_a_table():
    lines = repr(made()).splitlines()
    assert lines[0] == "the median of 3 turns, and their range"
    assert max(map(len, lines)) <= 90
    assert sum("CPU: websockets, bare = 1 " in line for line in lines) == len(speed.IN_FLIGHT)
    [row, _] = [line for line in lines if OWN in line]
    assert row.split()[4:] == "3.00 (2.00 to 4.00) 6.0 (2.0 to 12.0) 50,000 95%".split()


def test_of_a_recording_only_ratios_are_shown():
    text = repr(made(recorded=True))
    assert text.startswith("recorded on another machine")
    assert "3.00 (2.00 to 4.00)" in text and "µs" not in text and "50,000" not in text


def test_a_recording_comes_back(monkeypatch, tmp_path):
    monkeypatch.setattr(speed.figures, "RECORDED", tmp_path / "recorded.json")
    speed.record(made())
    assert speed.recorded() == made(recorded=True)


def test_the_recording_has_all_servers():
    recorded = speed.recorded()
    assert recorded.recorded and recorded.servers == list(speed.SERVERS)
    assert len(recorded.turns) >= 5


def test_a_picture_says_what_it_shows():
    picture = draw(made(), "Ours costs three times as much")
    assert picture.alt.startswith("Ours costs three times as much. ")
    assert f"{OWN}, 1 in flight: 6.0 µs, ≥ 50 thousand answers a second" in picture.alt
    assert f"{OWN}, 16 in flight: 6.0 µs, 50 thousand answers a second" in picture.alt
    assert len(picture.html) < 100_000
