"""What each transport of chapter 03 costs its server, and what a real browser sends for a poll.

    python tests/benchmark_polling.py [--record] [--quick]

The server is a process of its own, with 1, 50 and 200 clients in this one. Memory is what the
server's grows by when they connect; CPU is what it uses while ten events a second go to each
client, over the events that arrive. Then a headless Chromium polls and streams (browsing.py).
--record writes the result down for the chapter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import perf_counter, process_time

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import browsing
from workbench.race import (
    Arm,
    LongPolling,
    ServerSentEvents,
    ShortPolling,
    Source,
    WebSocket,
    schedule,
)

RECORD = Path(__file__).parents[1] / "notebooks" / "workbench" / "polling_costs.json"
ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (ShortPolling(1), LongPolling(), ServerSentEvents(), WebSocket(), WebSocket(True))
}
CLIENTS = (1, 50, 200)
RATE = 10.0


class Inbox:
    """Counts what a client receives; the same to an arm as that of a race."""

    def __init__(self, seed: int, begin: asyncio.Future[float]) -> None:
        self.random = Random(seed)
        self.is_ready = asyncio.Event()
        self.count = 0
        self._begin = begin

    def ready(self) -> asyncio.Future[float]:
        self.is_ready.set()
        return asyncio.shield(self._begin)

    def deliver(self, event_ids: Sequence[int]) -> None:
        self.count += len(event_ids)

    def note(self, what: str) -> None:
        pass


async def be_a_server(name: str, seconds: float) -> None:
    """Serve an arm; for each line on stdin say CPU seconds and bytes of memory; "go" publishes."""
    source = Source(schedule(RATE, seconds, 1, periodic=True))
    publishing = None
    async with ARMS[name].serve(source) as port:
        print(port, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "go":
                publishing = asyncio.create_task(source.publish())
            print(process_time(), psutil.Process().memory_info().rss, flush=True)
    if publishing:
        publishing.cancel()


async def measure(name: str, clients: int, seconds: float) -> dict[str, float]:
    """CPU microseconds for an event of a client, and kB for a client."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--be", name, "--seconds", str(seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def usage(command: str = "") -> tuple[float, int]:
        server.stdin.write(f"{command}\n".encode())
        cpu, memory = (await server.stdout.readline()).split()
        return float(cpu), int(memory)

    port = int(await server.stdout.readline())
    begin = asyncio.get_running_loop().create_future()
    await usage()
    _, before = await usage()
    inboxes = [Inbox(seed, begin) for seed in range(clients)]
    receiving = [asyncio.create_task(ARMS[name].receive(port, inbox)) for inbox in inboxes]
    await asyncio.gather(*(inbox.is_ready.wait() for inbox in inboxes))
    await asyncio.sleep(0.5)
    idle_cpu, idle = await usage("go")
    begin.set_result(perf_counter())
    await asyncio.sleep(seconds + 1.2)
    busy_cpu, _ = await usage()
    for task in receiving:
        task.cancel()
    await asyncio.wait(receiving)
    server.stdin.close()
    await server.wait()
    arrived = sum(inbox.count for inbox in inboxes)
    assert arrived == clients * RATE * seconds, f"{name}: {arrived} events arrived"
    return {
        "cpu": round((busy_cpu - idle_cpu) / arrived * 1e6, 1),
        "memory": round((idle - before) / clients / 1000, 1),
    }


async def measure_servers(clients: Sequence[int], seconds: float) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    print(f"{'':22}" + "".join(f"{n:>8} clients, us CPU, kB" for n in clients))
    for name in ARMS:
        found[name] = {str(n): await measure(name, n, seconds) for n in clients}
        cells = [f"{row['cpu']:18.0f}{row['memory']:12.0f}" for row in found[name].values()]
        print(f"{name:22}" + " ".join(cells), flush=True)
    return found


async def measure_browser() -> dict[str, object]:
    """What Chromium does; nothing where it is missing."""
    if not (chromium := browsing.find_chromium()):
        print("no Chromium: what a browser sends is not measured")
        return {}
    found = await browsing.measure(chromium)
    print(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--quick", action="store_true", help="one client, half a second")
    parser.add_argument("--be", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        asyncio.run(be_a_server(arguments.be, arguments.seconds))
        return
    size = ((1,), 0.5) if arguments.quick else (CLIENTS, arguments.seconds)
    found = {
        "server": asyncio.run(measure_servers(*size)),
        "browser": asyncio.run(measure_browser()),
    }
    if arguments.record and all(found.values()):
        RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
