"""What a gateway costs beside a real Nest 12 that does the same: server CPU for a message.

    npm ci --prefix tests/nest
    python tests/benchmark_nest.py [--quick]

The servers, each turn in a fresh process, are driven in turns by one client with 10
connections, with one event of 60 bytes in flight on each and with 16, which are sent in one
piece. Servers and client have a core each, where the system lets a process choose. What is
shown are the medians of the turns, and of the ratios within a turn: to Nest's handler of the
same kind. Where Node or Nest is missing, only the gateways on Python are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from benchmark_gateway import CONNECTIONS, take_core

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import nestling.server
import nestling.transport
from nestling.application import create
from nestling.frames import Frame, Opcode, encode, new_mask
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.handshake import build_request, new_key, parse_response

TURNS = 9
MESSAGES = 20_000
IN_FLIGHT = (1, 16)
NEST = Path(__file__).parent / "nest"
DATA = {"text": "hello world", "n": 1234567}
SERVES: dict[str, nestling.transport.Serve] = {
    "ours": nestling.server.serve,
    "websockets": nestling.transport.serve,
}
# Name: the program, the event that it gets, and with whom it is compared.
SERVERS = {
    "Nest, plain": ("nest", "events", "Nest, plain"),
    "Nest, async": ("nest", "later", "Nest, async"),
    "Node's ws, bare": ("ws", "events", "Nest, plain"),
    "ours, plain": ("ours", "events", "Nest, plain"),
    "ours, coroutine": ("ours", "later", "Nest, async"),
    "websockets, plain": ("websockets", "events", "Nest, plain"),
    "websockets, coroutine": ("websockets", "later", "Nest, async"),
}


@websocket_gateway()
class Gateway:
    """The same as in nest/server.mjs."""

    @subscribe_message("events")
    def events(self, client: Client, data: Any) -> Any:
        return {"event": "events", "data": data}

    @subscribe_message("later")
    async def later(self, client: Client, data: Any) -> Any:
        return {"event": "later", "data": data}


async def be_a_server(program: str) -> None:
    """Say the port, then the CPU seconds used so far for every line on stdin, until it ends."""
    app = create(Gateway())
    await app.listen(0, serve=SERVES[program])
    print(app.ports[0], flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(process_time(), flush=True)


class Peer:
    """A client that costs little: it counts the bytes that come."""

    async def open(self, port: int, event: str) -> None:
        said = json.dumps({"event": event, "data": DATA}, separators=(",", ":"))
        sent = said.ljust(60).encode()
        self._question = encode(Frame(Opcode.TEXT, sent, mask=new_mask()))
        self._answer = encode(Frame(Opcode.TEXT, said.encode()))
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(build_request("127.0.0.1", key=new_key()))
        assert parse_response(await self._reader.readuntil(b"\r\n\r\n"))
        self.ask(1)
        assert await self.answered(1) == self._answer

    def ask(self, questions: int) -> None:
        self._writer.write(self._question * questions)

    async def answered(self, questions: int) -> bytes:
        return await self._reader.readexactly(len(self._answer) * questions)

    def close(self) -> None:
        self._writer.transport.abort()


async def start(program: str) -> asyncio.subprocess.Process:
    """A server in a process of its own."""
    if program in SERVES:
        command = [sys.executable, __file__, "--be", program]
    else:
        command = ["node", str(NEST / "server.mjs"), program]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, preexec_fn=partial(take_core, 1)
    )


async def measure(program: str, event: str, messages: int, in_flight: int) -> float:
    """CPU microseconds that a fresh server uses for each of that many messages."""
    process = await start(program)

    async def cpu() -> float:
        process.stdin.write(b"\n")
        return float(await process.stdout.readline())

    peers = [Peer() for _ in range(CONNECTIONS)]
    port = int(await process.stdout.readline())
    for peer in peers:
        await peer.open(port, event)
    rounds = messages // CONNECTIONS // in_flight
    for count in (rounds // 2, rounds):  # the first to warm up
        begin = await cpu()
        for _ in range(count):
            for peer in peers:
                peer.ask(in_flight)
            for peer in peers:
                await peer.answered(in_flight)
    used = (await cpu() - begin) / (rounds * CONNECTIONS * in_flight)
    for peer in peers:
        peer.close()
    process.stdin.close()
    await process.wait()
    return used * 1e6


async def compare(names: list[str], turns: int, messages: int, in_flight: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        for name in names:
            program, event, _ = SERVERS[name]
            found[name].append(await measure(program, event, messages, in_flight))
    print(f"{in_flight} in flight on each of {CONNECTIONS} connections")
    for name, used in found.items():
        base = SERVERS[name][2]
        line = f"  {name:22}{median(used):6.1f} us CPU a message"
        if base in found and base != name:
            ratios = [mine / theirs for mine, theirs in zip(used, found[base], strict=True)]
            line += f", {median(ratios):.2f} of {base} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, flush=True)


async def main(turns: int, messages: int) -> None:
    take_core(0)
    names = list(SERVERS)
    if not (shutil.which("node") and (NEST / "node_modules").exists()):
        print("no Nest here: with Node installed, run npm ci --prefix tests/nest")
        names = [name for name in names if SERVERS[name][0] in SERVES]
    for in_flight in IN_FLIGHT:
        await compare(names, turns, messages, in_flight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and messages")
    parser.add_argument("--be", choices=SERVES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        asyncio.run(be_a_server(arguments.be))
    else:
        asyncio.run(main(*(1, 3_200) if arguments.quick else (TURNS, MESSAGES)))
