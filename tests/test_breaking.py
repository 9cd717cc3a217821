"""workbench.breaking: what each side of a broken connection knows, when."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys

import pytest
from nestling.server import connect, serve
from workbench import breaking
from workbench.breaking import HOLE, IDLE, Outcome, Patience, Segments

pytestmark = pytest.mark.usefixtures("nothing_left")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux says more than others")

BEAT = 0.1


def kinds(outcome: Outcome, sender: str, arrived: bool) -> set[str]:
    return {s.kind for s in outcome.sent if s.sender == sender and s.arrived == arrived}


async def test_without_a_heartbeat_nobody_notices():
    outcome = await breaking.half_open(seconds=0.6)
    assert outcome.noticed == outcome.codes == {"client": None, "server": None}
    assert outcome.sent == []
    assert outcome.watched == 0.6 and HOLE <= outcome.hole < 0.4


async def test_who_pings_notices_after_interval_and_timeout_and_the_other_does_not():
    for side, other in (("server", "client"), ("client", "server")):
        outcome = await breaking.half_open(**{side: BEAT}, seconds=0.7)
        assert outcome.noticed[other] is outcome.codes[other] is None
        assert outcome.hole + BEAT / 2 < outcome.noticed[side] < outcome.hole + 4 * BEAT
        assert outcome.codes[side] == 1006
        assert kinds(outcome, side, True) == {"ping"} and kinds(outcome, other, True) == {"pong"}
        assert kinds(outcome, side, False) == {"ping", "close"}
        assert kinds(outcome, other, False) <= {"pong"}


async def test_if_both_ping_both_notice():
    outcome = await breaking.half_open(client=BEAT, server=BEAT, seconds=0.7)
    assert None not in outcome.noticed.values()
    assert outcome.codes == {"client": 1006, "server": 1006}
    assert all(sent.arrived == (sent.at < outcome.hole) for sent in outcome.sent)
    assert [sent.at for sent in outcome.sent] == sorted(sent.at for sent in outcome.sent)


async def test_to_send_is_not_to_notice():
    outcome = await breaking.half_open(sends=BEAT, seconds=0.7)
    assert outcome.noticed == {"client": None, "server": None}
    assert {sent.kind for sent in outcome.sent} == {"message"}
    assert kinds(outcome, "client", True) == kinds(outcome, "client", False) == {"message"}
    assert kinds(outcome, "server", False) == set()
    if sys.platform == "linux":
        assert outcome.tcp == Segments(0, 0), "the relay has confirmed what it swallowed"


async def test_a_proxy_hangs_up_on_the_silent_only():
    silent = await breaking.idle_proxy()
    assert silent.hole is None and silent.sent == []
    assert all(0.9 * IDLE < at < 2 * IDLE for at in silent.noticed.values())
    assert silent.codes == {"client": 1006, "server": 1006}
    for side in ("client", "server"):
        alive = await breaking.idle_proxy(**{side: BEAT})
        assert alive.noticed == {"client": None, "server": None}
        assert len(alive.sent) > 4 and all(sent.arrived for sent in alive.sent)
    late = await breaking.idle_proxy(server=2 * IDLE)
    assert None not in late.noticed.values(), "a heartbeat slower than the proxy is none"


async def test_experiments_can_run_beside_each_other():
    outcomes = await asyncio.gather(breaking.half_open(server=BEAT), breaking.half_open())
    assert outcomes[0].noticed["server"] and not outcomes[1].noticed["server"]


@linux
async def test_what_the_system_says_of_a_socket_is_what_other_programs_read():
    async def handler(connection):
        connection.transport.pause_reading()
        await connection.wait_closed()

    async with serve(handler, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        client = await connect(f"ws://127.0.0.1:{port}/")
        assert breaking.segments(client) == Segments(0, 0)
        raw = client.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1, "established"
        client.abort()
        await client.wait_closed()
        assert breaking.segments(client) is None


def test_tcp_waits_twice_as_long_each_time_up_to_two_minutes():
    assert breaking.sending(0) == pytest.approx(0.2)
    assert breaking.sending(3) == pytest.approx(0.2 + 0.4 + 0.8 + 1.6)
    # Documentation/networking/ip-sysctl of Linux, on tcp_retries2
    assert breaking.sending(15) == pytest.approx(924.6)


@linux
def test_the_patience_of_this_system():
    found = breaking.patience()
    assert isinstance(found, Patience)
    assert found.sending == breaking.sending(found.retries)
    assert found.idle > found.keepalive > 0


def test_a_system_that_does_not_say(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(breaking.Path, "read_text", missing)
    assert breaking.patience() is None


async def test_tcp_sends_again_after_twice_the_wait_each_time():
    if (times := await breaking.retransmissions(4)) is None:
        pytest.skip("this system has no network namespaces, or does not let us")
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert len(times) >= 4 and all(0.15 < times[0] < first for first in times[1:])
    # The first may be a probe (RFC 8985, section 7); from the second on, the wait doubles.
    ratios = [after / before for before, after in itertools.pairwise(waits[1:])]
    assert all(1.5 < ratio < 2.5 for ratio in ratios), times


@pytest.mark.parametrize("command", [None, "/bin/false"])
async def test_a_system_that_does_not_let_us(monkeypatch, command, tmp_path):
    if command:
        (tmp_path / "unshare").symlink_to(command)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await breaking.retransmissions(0.1) is None
