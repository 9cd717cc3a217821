"""Everybody comes back at once: what a server sees after a cut, by how its clients wait.

::

    storms = {wait.__name__: await storm(wait) for wait in (in_step, backoff, full_jitter)}
    histograms(storms, "Dice keep the crowd apart")

A way to wait is a function of the number of the try, from 0, and of dice that give a number
from 0 to 1; it gives seconds.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import matplotlib.style
from matplotlib.figure import Figure
from nestling.handshake import Refusal, accept, build_request, new_key, parse_request, refuse

from workbench.drawings import DATA, STYLE, TROUBLE, Picture
from workbench.relay import HOST

Wait = Callable[[int, Callable[[], float]], float]

# A server takes that many handshakes within so many seconds, and answers 503 to all others.
# This is the one thing that is played here: a real one becomes slow, or falls over.
CAPACITY = 20
WITHIN = 0.1

BIN = 0.05  # seconds of the crowds that are counted


def in_step(attempt: int, dice: Callable[[], float]) -> float:
    """The same wait for everybody, each time."""
    return 0.25


def backoff(attempt: int, dice: Callable[[], float]) -> float:
    """Twice as long each time, for everybody."""
    return 0.25 * 2**attempt


def full_jitter(attempt: int, dice: Callable[[], float]) -> float:
    """Any wait up to that, as the dice fall."""
    return dice() * backoff(attempt, dice)


@dataclass(frozen=True)
class Storm:
    """What a server saw.

    clients: how many were cut off
    watched: how long the server was watched, in seconds since the cut
    taken:   when it took each handshake, in the same seconds
    refused: when it refused one
    """

    clients: int
    watched: float
    taken: list[float]
    refused: list[float]

    @property
    def crowd(self) -> int:
        """The most attempts within any BIN seconds."""
        last: deque[float] = deque()
        most = 0
        for at in sorted(self.taken + self.refused):
            last.append(at)
            while at - last[0] > BIN:
                last.popleft()
            most = max(most, len(last))
        return most

    def __repr__(self) -> str:
        attempts = len(self.taken) + len(self.refused)
        if len(self.taken) < self.clients:
            end = f"{len(self.taken)} of {self.clients} are in after {self.watched:g} s"
        else:
            end = f"all {self.clients} are in after {max(self.taken):.1f} s"
        return f"{attempts} attempts, up to {self.crowd} at a time; {end}"


async def storm(wait: Wait, *, clients: int = 200, seconds: float = 1.6, seed: int = 0) -> Storm:
    """Connect all clients, cut all connections, and watch until all are back, or for a time.

    Each client waits before each try, as `wait` says.
    """
    server = _Server()
    listener = await asyncio.start_server(server.receive, HOST, 0, backlog=clients)
    port = listener.sockets[0].getsockname()[1]
    dice = Random(seed).random
    tasks = [asyncio.create_task(_come_back(port, wait, dice)) for _ in range(clients)]
    try:
        async with asyncio.timeout(10):
            await server.until(clients)
        server.cut()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await server.until(clients)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        listener.close()
        await server.end()
    return Storm(clients, seconds, server.taken, server.refused)


def histograms(storms: Mapping[str, Storm], title: str) -> Picture:
    """When a server saw its clients' attempts: a row for each storm, by its name."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 1.15 * len(storms)))
        rows = figure.subplots(len(storms), sharex=True, sharey=True, squeeze=False)[:, 0]
        end = max(storm.watched for storm in storms.values())
        edges = [BIN * edge for edge in range(round(end / BIN) + 1)]
        for axes, (name, storm) in zip(rows, storms.items(), strict=True):
            looks = {"color": [DATA, TROUBLE], "hatch": ["", "////"], "edgecolor": "white"}
            axes.hist([storm.taken, storm.refused], edges, stacked=True, linewidth=0, **looks)
            axes.text(1, 1, f"{name}: {storm}", ha="right", va="top", transform=axes.transAxes)
        rows[0].set(title=title, ylim=(0, 1.3 * rows[0].get_ylim()[1]))
        rows[-1].set_xlabel(
            f"seconds since the cut; attempts in {1000 * BIN:g} ms: filled taken, hatched refused"
        )
        said = "; ".join(f"{name}: {storm}" for name, storm in storms.items())
        return Picture(figure, f"{title}. Attempts to connect after a cut, {said}.")


async def _come_back(port: int, wait: Wait, dice: Callable[[], float]) -> None:
    """A client: connects, and when the connection is refused or lost, waits and tries again."""
    attempt = 0
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(build_request(f"{HOST}:{port}", key=new_key()))
                status = await reader.readline()
                if b" 101 " in status:
                    attempt = 0
                await reader.read()  # until the end
            finally:
                writer.transport.abort()
        await asyncio.sleep(wait(attempt, dice))
        attempt += 1


class _Server:
    """Takes everybody until the cut, and from then on so many at a time."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.refused: list[float] = []
        self._cut_at: float | None = None
        self._inside: set[StreamWriter] = set()
        self._serving: dict[asyncio.Task[None], StreamWriter] = {}
        self._came = asyncio.Event()

    async def until(self, clients: int) -> None:
        """Wait until so many are connected."""
        while len(self._inside) < clients:
            self._came.clear()
            await self._came.wait()

    def cut(self) -> None:
        self._cut_at = asyncio.get_running_loop().time()
        self._inside.clear()
        for writer in self._serving.values():
            writer.transport.abort()

    async def end(self) -> None:
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)

    async def receive(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            with suppress(OSError, EOFError):
                await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)
                await reader.read()  # until the client has gone
        finally:
            writer.close()
            del self._serving[task]

    async def _answer(self, head: bytes, writer: StreamWriter) -> None:
        """Take a client, or send it away."""
        parsed = parse_request(head)
        if parsed is not None and self._has_room():
            writer.write(accept(parsed[0]))
            self._inside.add(writer)
            self._came.set()
        else:
            writer.write(refuse(Refusal(503, "come back later")))
            writer.write_eof()

    def _has_room(self) -> bool:
        """Whether a client that comes now is taken; notes when it came."""
        if self._cut_at is None:
            return True
        now = asyncio.get_running_loop().time() - self._cut_at
        room = sum(now - at < WITHIN for at in self.taken[-CAPACITY:]) < CAPACITY
        (self.taken if room else self.refused).append(now)
        return room
