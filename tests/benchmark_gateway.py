"""What a gateway costs over a bare handler that does the same JSON: server CPU for a message.

    python tests/benchmark_gateway.py [--quick]

The servers, each in a process of its own, are driven in turns by one client with 10
connections and one message of 60 bytes in flight on each. Servers and client have a core
each, where the system lets a process choose. What is shown are the medians of the turns,
and of the ratios within a turn: first as everybody runs it, then with glibc's allocator
steadied. asyncio gives the library each read in a fresh buffer of 256 KiB, and whether
glibc asks the system for it each time is a matter of luck, in each process another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import process_time

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from nestling import transport
from nestling.application import create
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.transport import Serve

TURNS = 9
CONNECTIONS = 10
MESSAGES = 15_000
OPTIONS = {"compression": None, "ping_interval": None, "max_size": 100 * 2**20}
SENT = json.dumps({"event": "events", "data": {"text": "hello world", "n": 123}}).ljust(60)

STEADY = {"MALLOC_TRIM_THRESHOLD_": "100000000", "MALLOC_MMAP_THRESHOLD_": "100000000"}


async def bare(connection: ServerConnection) -> None:
    async for message in connection:
        received = json.loads(message)
        await connection.send(json.dumps({"event": received["event"], "data": received["data"]}))


@websocket_gateway()
class Plain:
    @subscribe_message("events")
    def events(self, client: Client, data: object) -> object:
        return {"event": "events", "data": data}


@websocket_gateway()
class Coroutine:
    @subscribe_message("events")
    async def events(self, client: Client, data: object) -> object:
        return {"event": "events", "data": data}


def listen_bare(serve: Serve) -> Callable[[], Awaitable[int]]:
    async def listen() -> int:
        server = await serve(bare, "127.0.0.1", 0, **OPTIONS)
        return server.sockets[0].getsockname()[1]

    return listen


def listen_gateway(gateway: type, eager: bool = False) -> Callable[[], Awaitable[int]]:
    async def listen() -> int:
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        app = create(gateway())
        await app.listen(0)
        return app.ports[0]

    return listen


SERVERS = {
    "bare": listen_bare(serve),
    "bare, our transport": listen_bare(transport.serve),
    "plain": listen_gateway(Plain),
    "coroutine": listen_gateway(Coroutine),
}
if sys.version_info >= (3, 12):
    SERVERS["plain, eager tasks"] = listen_gateway(Plain, eager=True)
    SERVERS["coroutine, eager tasks"] = listen_gateway(Coroutine, eager=True)


def take_core(number: int) -> None:
    """Stay on one core: two processes that share one, or wander, measure the scheduler."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


async def be_a_server(name: str) -> None:
    """Say the port, then the CPU seconds used so far for every line on stdin, until it ends."""
    take_core(1)
    print(await SERVERS[name](), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(process_time(), flush=True)


class Server:
    """One of the servers, in a process of its own."""

    async def start(self, name: str, environment: dict[str, str]) -> None:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--be", name, env=os.environ | environment, **pipes
        )
        url = f"ws://127.0.0.1:{int(await self.process.stdout.readline())}"
        self.clients = [await connect(url, **OPTIONS) for _ in range(CONNECTIONS)]

    async def cpu(self) -> float:
        self.process.stdin.write(b"\n")
        return float(await self.process.stdout.readline())

    async def turn(self, messages: int) -> float:
        """CPU microseconds that the server used for each of that many messages."""
        before = await self.cpu()
        for _ in range(messages // CONNECTIONS):
            for client in self.clients:
                await client.send(SENT)
            for client in self.clients:
                await client.recv()
        return (await self.cpu() - before) / messages * 1e6

    async def stop(self) -> None:
        await asyncio.gather(*(client.close() for client in self.clients))
        self.process.stdin.close()
        await self.process.wait()


async def measure(turns: int, messages: int, environment: dict[str, str]) -> dict[str, list[float]]:
    """CPU microseconds a message, for each kind of server and turn."""
    found: dict[str, list[float]] = {name: [] for name in SERVERS}
    for _ in range(turns):
        for name in SERVERS:
            server = Server()
            await server.start(name, environment)
            await server.turn(messages // 5)
            found[name].append(await server.turn(messages))
            await server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and messages")
    parser.add_argument("--be", choices=SERVERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        asyncio.run(be_a_server(arguments.be))
        return
    size = (3, 1_000) if arguments.quick else (TURNS, MESSAGES)
    for title, environment in {"as it is": {}, "allocator steadied": STEADY}.items():
        print(title)
        found = asyncio.run(measure(*size, environment))
        for name, turns in found.items():
            ratios = [mine / base for mine, base in zip(turns, found["bare"], strict=True)]
            print(f"{name:24}{median(turns):6.1f} us CPU a message, {median(ratios):.2f} of bare")


if __name__ == "__main__":
    main()
