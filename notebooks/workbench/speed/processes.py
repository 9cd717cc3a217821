"""The servers that are measured, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from math import inf
from pathlib import Path
from time import perf_counter, process_time

from workbench import nest
from workbench.load import Asker, connected
from workbench.speed.figures import Turn

MESSAGE = b'{"event":"events","data":{"text":"hello world","n":1234567}}'
START, PATIENCE = 20.0, 5.0  # seconds: for a server to listen; for an answer, under load

# Who is measured, each beside its neighbours: the command, and the folder to run it in.
_NODE = ["node", "dist/speed.js"]
_PYTHON = [sys.executable, "-m", "workbench.speed.server"]
_NOTEBOOKS = Path(__file__).parents[2]
SERVERS = {
    "Node's ws, bare": ([*_NODE, "ws"], nest.FOLDER),
    "Nest": ([*_NODE, "nest"], nest.FOLDER),
    "websockets, bare": ([*_PYTHON, "websockets"], _NOTEBOOKS),
    "gateway on websockets": ([*_PYTHON, "gateway"], _NOTEBOOKS),
    "gateway on our server": ([*_PYTHON, "own"], _NOTEBOOKS),
}
ON_NODE = ("Node's ws, bare", "Nest")


def why_not() -> str | None:
    """What to do before Node's servers can be measured here; None if they can."""
    if why := nest.why_not():
        return why
    if not (nest.FOLDER / "dist" / "speed.js").exists():
        return "run, in a terminal: npm run build --prefix notebooks/node/nest"
    return None


class Server:
    """A server in a process of its own, and its clients."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, askers: Sequence[Asker]
    ) -> None:
        self._name = name
        self._process = process
        self._askers = askers

    async def load(self, in_flight: int, seconds: float = inf, questions: float = inf) -> Turn:
        """Keep so many messages in flight on each connection, until the time is up, or until
        so many have been asked on each."""
        cpu, client, begin = await self.cpu(), process_time(), perf_counter()
        done = [asker.begin(in_flight, questions) for asker in self._askers]
        limit = min(seconds, PATIENCE)
        await asyncio.wait(done, timeout=limit, return_when=asyncio.FIRST_EXCEPTION)
        for asker in self._askers:
            asker.left = 0
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*done)
        except TimeoutError:
            raise TimeoutError(f"{self._name} has stopped answering") from None
        passed, client = perf_counter() - begin, process_time() - client
        answers = sum(asker.answered for asker in self._askers)
        return Turn(answers, passed, await self.cpu() - cpu, client)

    async def cpu(self) -> float:
        """The CPU seconds that it has used so far."""
        return float(await self.ask(""))

    async def ask(self, question: str) -> bytes:
        """Its answer to a line on its standard input."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{question}\n".encode())
        async with asyncio.timeout(PATIENCE):
            if not (said := await self._process.stdout.readline()):
                raise ConnectionError(f"{self._name} has gone")
        return said


@asynccontextmanager
async def started(name: str) -> AsyncIterator[Server]:
    """One of SERVERS, in a new process that ends with the block, and its clients."""
    command, folder = SERVERS[name]
    pipe = asyncio.subprocess.PIPE
    with on_core(1):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdin=pipe, stdout=pipe, limit=2**20
        )
    try:
        async with asyncio.timeout(START):
            said = await process.stdout.readline()
        if not said:
            raise RuntimeError(f"{name} has not started: {' '.join(command[1:])}")
        async with connected(int(said), MESSAGE) as askers:
            yield Server(name, process, askers)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Stay on one of the machine's cores, where the system lets a process choose.

    Two processes that share one, or wander, measure the scheduler.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
