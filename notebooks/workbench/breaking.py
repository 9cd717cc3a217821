"""Connections that are broken on purpose, and what each side knew of it, when.

::

    outcome = await half_open(server=0.1)
    outcome.noticed    # {"client": None, "server": 0.4}
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from nestling.frames import Frame, Opcode
from nestling.heartbeat import Heartbeat
from nestling.server import connect, serve
from websockets.exceptions import ConnectionClosed

from workbench import trace
from workbench.relay import HOST, Relay

HOLE = 0.25  # when a black hole begins, in seconds since the connection was open
IDLE = 0.5  # seconds after which the proxy of these experiments hangs up; nginx takes 60

PATIENCE = 10.0  # seconds for a program to start and to end
UNPLUGGED = Path(__file__).with_name("unplugged.py")

# What is sent in an experiment, by its opcode.
KINDS = {
    Opcode.PING: "ping",
    Opcode.PONG: "pong",
    Opcode.TEXT: "message",
    Opcode.CLOSE: "close",
}


class Sent(NamedTuple):
    """A frame that one side has sent: when, who, what (of KINDS), and whether it arrived."""

    at: float
    sender: str
    kind: str
    arrived: bool


class Segments(NamedTuple):
    """What a TCP socket's own system says: sent and not confirmed, and sent once more."""

    unconfirmed: int
    sent_again: int


@dataclass(frozen=True)
class Outcome:
    """What became of a connection. Times are in seconds since it was open.

    watched: how long it was watched
    hole:    when a black hole began, None if there was none
    noticed: when the "client" and the "server" knew that it is closed; None is not yet
    codes:   the `close_code` of each, None while it believes the connection open
    sent:    every frame, in order
    tcp:     the client's socket, in the end; None if it is closed, or the system does not say
    """

    watched: float
    hole: float | None
    noticed: dict[str, float | None]
    codes: dict[str, int | None]
    sent: list[Sent]
    tcp: Segments | None


async def half_open(
    *,
    client: float | None = None,
    server: float | None = None,
    sends: float | None = None,
    seconds: float = 1.0,
) -> Outcome:
    """An open connection falls into a black hole: who notices, and when?

    client, server: seconds between a side's pings, and as many for the pong; None is none
    sends:          seconds between messages of the client, None for one that says nothing
    seconds:        how long it is watched
    """
    return await _watch(HOLE, None, client, server, sends, seconds)


async def idle_proxy(
    *, client: float | None = None, server: float | None = None, seconds: float = 1.0
) -> Outcome:
    """Client and server have nothing to say, and the proxy between them hangs up after IDLE.

    The arguments are those of `half_open`.
    """
    return await _watch(None, IDLE, client, server, None, seconds)


async def _watch(
    hole: float | None,
    idle: float | None,
    client: float | None,
    server: float | None,
    sends: float | None,
    seconds: float,
) -> Outcome:
    ends: dict[str, tuple[float, int | None]] = {}

    async def receive(side: str, connection: Any) -> None:
        with suppress(ConnectionClosed):
            while True:
                await connection.recv()
        ends[side] = perf_counter(), connection.close_code

    async with serve(
        lambda connection: receive("server", connection), HOST, 0, ping_interval=server
    ) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with Relay(port, idle_timeout=idle) as relay:
            connection = await connect(relay.url)
            begin = perf_counter()
            async with Heartbeat(connection, client, client) if client else nullcontext():
                tasks = [asyncio.create_task(receive("client", connection))]
                if sends:
                    tasks.append(asyncio.create_task(_say(connection, sends)))
                if hole is not None:
                    await asyncio.sleep(hole)
                    relay.black_hole()
                    hole = perf_counter() - begin
                await asyncio.sleep(begin + seconds - perf_counter())
                outcome = _outcome(begin, seconds, hole, dict(ends), relay, connection)
            relay.cut()
            await asyncio.wait(tasks)
    return outcome


async def _say(connection: Any, interval: float) -> None:
    with suppress(ConnectionClosed):
        while True:
            await connection.send("still there?")
            await asyncio.sleep(interval)


def _outcome(
    begin: float,
    seconds: float,
    hole: float | None,
    ends: dict[str, tuple[float, int | None]],
    relay: Relay,
    connection: Any,
) -> Outcome:
    sides = ("client", "server")
    noticed = {side: ends[side][0] - begin if side in ends else None for side in sides}
    codes = {side: ends[side][1] if side in ends else None for side in sides}
    sent = [
        Sent(at, item.sender, KINDS[item.content.opcode], hole is None or at < hole)
        for item in trace.decode(relay.taps)
        if isinstance(item.content, Frame) and (at := item.sent - begin) <= seconds
    ]
    return Outcome(seconds, hole, noticed, codes, sent, segments(connection))


# What the operating system does


def segments(connection: Any) -> Segments | None:
    """What the system says of a connection's socket (Linux; see tcp(7)), None if nothing."""
    opened = connection.transport.get_extra_info("socket")
    if opened is None or opened.fileno() < 0 or not hasattr(socket, "TCP_INFO"):
        return None
    # Eight bytes, then 24 numbers of 32 bits: the 5th and the last are those.
    numbers = struct.unpack("8x24I", opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104))
    return Segments(numbers[4], numbers[23])


class Patience(NamedTuple):
    """How long this system's TCP waits for another that is silent, in seconds.

    retries:   how often it sends again what is not confirmed (tcp_retries2)
    sending:   until it gives up what is not confirmed, at the earliest
    keepalive: until it asks an idle one, if the program has asked for that (SO_KEEPALIVE)
    idle:      until it gives up an idle one
    """

    retries: int
    sending: float
    keepalive: float
    idle: float


def patience() -> Patience | None:
    """What is set on this machine; None where the system does not say (Linux does)."""
    try:
        retries, keepalive, interval, probes = (
            int(Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text())
            for name in ("retries2", "keepalive_time", "keepalive_intvl", "keepalive_probes")
        )
    except OSError:
        return None
    return Patience(retries, sending(retries), keepalive, keepalive + probes * interval)


def sending(retries: int, shortest: float = 0.2, longest: float = 120.0) -> float:
    """Seconds until TCP gives up, having sent again so often, each time after twice the wait.

    Linux begins with 0.2 s on a fast connection, and waits for 2 minutes at the most.
    """
    return sum(min(shortest * 2**turn, longest) for turn in range(retries + 1))


async def retransmissions(seconds: float = 4.0) -> list[float] | None:
    """When TCP sends again what nobody confirms, in seconds since it was sent first.

    Measured on a network that is taken down, in a namespace of its own; None where this system
    has none (only Linux does) or does not let us.
    """
    if shutil.which("unshare") is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--net"),
        *(sys.executable, str(UNPLUGGED), str(seconds)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(seconds + PATIENCE):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return json.loads(printed) if process.returncode == 0 else None
