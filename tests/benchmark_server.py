"""What an echo costs on our server and on that of `websockets`: server CPU for a message.

    python tests/benchmark_server.py [--quick]

The servers, each turn in a fresh process, are driven in turns by one client with 10
connections, with one message of 60 bytes in flight on each and with 16, which are sent in one
piece. Servers and client have a core each, where the system lets a process choose. What is
shown are the medians of the turns, and of the ratios within a turn: first as everybody runs
it, then with glibc's allocator steadied, for the reason that `benchmark_gateway` gives. It is
`websockets` that this makes cheaper; our server reads into a buffer that it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import websockets.asyncio.server
from benchmark_gateway import CONNECTIONS, STEADY, take_core

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import nestling.server
from nestling.frames import Frame, Opcode, encode, new_mask
from nestling.handshake import build_request, new_key, parse_response

TURNS = 9
MESSAGES = 16_000
IN_FLIGHT = (1, 16)
SENT = json.dumps({"event": "events", "data": {"text": "hello world", "n": 123}}).ljust(60)
QUESTION = encode(Frame(Opcode.TEXT, SENT.encode(), mask=new_mask()))
ANSWER = len(encode(Frame(Opcode.TEXT, SENT.encode())))
SERVERS: dict[str, Callable[..., Any]] = {
    "websockets": websockets.asyncio.server.serve,
    "ours": nestling.server.serve,
}


async def be_a_server(name: str) -> None:
    """Say the port, then the CPU seconds used so far for every line on stdin, until it ends."""

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    take_core(1)
    server = await SERVERS[name](echo, "127.0.0.1", 0, compression=None, ping_interval=None)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(process_time(), flush=True)


class Client:
    """A client that costs little: it counts the bytes that come."""

    async def open(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(build_request("127.0.0.1", key=new_key()))
        assert parse_response(await self.reader.readuntil(b"\r\n\r\n"))

    def ask(self, questions: int) -> None:
        self.writer.write(QUESTION * questions)

    async def answered(self, questions: int) -> None:
        await self.reader.readexactly(ANSWER * questions)

    async def close(self) -> None:
        self.writer.write(encode(Frame(Opcode.CLOSE, mask=new_mask())))
        await self.reader.read()
        self.writer.close()


async def measure(name: str, messages: int, in_flight: int, environment: dict[str, str]) -> float:
    """CPU microseconds that a fresh server uses for each of that many messages."""
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--be", name, env=os.environ | environment, **pipes
    )

    async def cpu() -> float:
        process.stdin.write(b"\n")
        return float(await process.stdout.readline())

    clients = [Client() for _ in range(CONNECTIONS)]
    port = int(await process.stdout.readline())
    for client in clients:
        await client.open(port)
    for size in (messages // 5, messages):  # the first to warm up
        begin = await cpu()
        for _ in range(size // CONNECTIONS // in_flight):
            for client in clients:
                client.ask(in_flight)
            for client in clients:
                await client.answered(in_flight)
    used = (await cpu() - begin) / (messages // CONNECTIONS // in_flight * CONNECTIONS * in_flight)
    for client in clients:
        await client.close()
    process.stdin.close()
    await process.wait()
    return used * 1e6


async def compare(turns: int, messages: int, in_flight: int, environment: dict[str, str]) -> None:
    found: dict[str, list[float]] = {name: [] for name in SERVERS}
    for _ in range(turns):
        for name in SERVERS:
            found[name].append(await measure(name, messages, in_flight, environment))
    print(f"  {in_flight} in flight on each of {CONNECTIONS} connections")
    for name, used in found.items():
        ratio = median(mine / base for mine, base in zip(used, found["websockets"], strict=True))
        print(f"{name:12}{median(used):6.1f} us CPU a message, {ratio:.2f} of websockets")


async def main(turns: int, messages: int) -> None:
    take_core(0)
    for title, environment in {"as it is": {}, "allocator steadied": STEADY}.items():
        print(title)
        for in_flight in IN_FLIGHT:
            await compare(turns, messages, in_flight, environment)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and messages")
    parser.add_argument("--be", choices=SERVERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        asyncio.run(be_a_server(arguments.be))
    else:
        asyncio.run(main(*(3, 3_200) if arguments.quick else (TURNS, MESSAGES)))
