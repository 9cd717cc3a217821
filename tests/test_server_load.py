"""Our server with thousands of clients: what one costs it, and that the slow hold up nobody.

The server and its clients each are a process, so that both may open as many files as a process
may, and that the memory that is measured is the server's alone. This file is both programs,
too: with an argument it is the server, or those clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import selectors
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import pytest
from nestling.frames import Decoder, Frame, Opcode, encode, new_mask
from nestling.handshake import build_request, new_key, parse_response
from nestling.server import broadcast, serve
from nestling.transport import UNREAD

pytestmark = pytest.mark.measures

HOST = "127.0.0.1"
IDLE = 10_000
READERS = 1_000
DEAF = 10
ROUNDS = 30
NEWS = "x" * 1000
FILES = IDLE + 100
MIB = 2**20

if not Path("/proc/self/statm").exists():
    pytest.skip("a process's memory is read from /proc", allow_module_level=True)


def raise_limit() -> int:
    """Let this process open as many files as it may, and give how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


# The server's process


class Server:
    """Keeps its clients by their path, and does what those at /control ask for."""

    def __init__(self) -> None:
        self.clients: defaultdict[str, set[Any]] = defaultdict(set)

    async def handle(self, connection: Any) -> None:
        clients = self.clients[connection.request.path]
        clients.add(connection)
        try:
            async for message in connection:
                await connection.send(json.dumps(await getattr(self, message)()))
        finally:
            clients.discard(connection)

    async def memory(self) -> int:
        """Bytes of the process that are in memory."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    async def count(self) -> int:
        """Clients, those at /control apart."""
        return len(self.clients["/"]) + len(self.clients["/deaf"])

    async def fill(self) -> None:
        """Send to those at /deaf until all of them leave too much unread."""
        while len(broadcast(self.clients["/deaf"], bytes(2**16))) < DEAF:
            await asyncio.sleep(0)

    async def tell(self) -> int:
        """Send the news to all, and give how many of them are left out."""
        return len(broadcast([*self.clients["/deaf"], *self.clients["/"]], NEWS))


async def be_the_server() -> None:
    """Say the port, then serve until the standard input ends."""
    async with serve(Server().handle, HOST, 0) as listener:
        print(listener.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # whatever is unread


# The clients' process


class Peer:
    """A client on a blocking socket."""

    def __init__(self, port: int, path: str, **options: int) -> None:
        self.socket = socket.socket()
        for name, value in options.items():
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        # Whoever closes vanishes, and leaves nothing behind in the system.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.settimeout(20)
        self.socket.connect((HOST, port))
        self.socket.sendall(build_request(HOST, path, key=new_key()))
        self._decoder = Decoder(masked=False)

    def opened(self) -> None:
        head = b""
        while not (parsed := parse_response(head)):
            head += self.socket.recv(1)
        assert parsed[0].status == 101

    def receive(self) -> list[Frame]:
        return list(self._decoder.feed(self.socket.recv(2**16)))

    def ask(self, what: str) -> Any:
        """What the server answers at /control."""
        self.socket.sendall(encode(Frame(Opcode.TEXT, what.encode(), mask=new_mask())))
        while not (frames := self.receive()):
            pass
        return json.loads(frames[0].payload)


def open_peers(number: int, port: int, path: str = "/", **options: int) -> list[Peer]:
    peers: list[Peer] = []
    while len(peers) < number:
        batch = [Peer(port, path, **options) for _ in range(min(500, number - len(peers)))]
        for peer in batch:
            peer.opened()
        peers += batch
    return peers


def be_idle(port: int) -> dict[str, float]:
    """What many clients that say nothing cost, and what is left of it when they vanish."""
    [control, *first] = open_peers(1 + 100, port, "/control")
    for peer in first:  # whatever a server needs for its first clients
        peer.socket.close()
    before = control.ask("memory")
    begin = monotonic()
    peers = open_peers(IDLE, port)
    found = {"seconds to open": monotonic() - begin, "count": control.ask("count")}
    found["bytes each"] = (control.ask("memory") - before) / IDLE
    begin = monotonic()
    [last] = open_peers(1, port, "/control")
    assert last.ask("count") == IDLE
    found["seconds for one more"] = monotonic() - begin
    for peer in peers:
        peer.socket.close()
    begin = monotonic()
    while (left := control.ask("count")) and monotonic() - begin < 10:
        pass
    return found | {"left": left, "seconds to vanish": monotonic() - begin}


def hear_news(port: int) -> dict[str, Any]:
    """How long the news takes to many clients, without and with some that never read."""
    [control] = open_peers(1, port, "/control")
    peers = open_peers(READERS, port)
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        alone = [_round(control, selector) for _ in range(ROUNDS)]
        deaf = open_peers(DEAF, port, "/deaf", SO_RCVBUF=4096)
        before = control.ask("memory")
        control.ask("fill")
        filled = control.ask("memory") - before
        beside = [_round(control, selector) for _ in range(ROUNDS)]
    assert control.ask("count") == READERS + len(deaf)
    assert {behind for behind, _ in alone} == {0}
    assert {behind for behind, _ in beside} == {DEAF}
    found = {"filled": filled, "then": control.ask("memory") - before}
    return found | {"alone": [each for _, each in alone], "beside": [each for _, each in beside]}


def _round(control: Peer, selector: selectors.BaseSelector) -> tuple[int, float]:
    """How many were left out of the news, and the seconds until all others had heard it."""
    begin = monotonic()
    behind = control.ask("tell")
    heard = 0
    while heard < READERS:
        ready = selector.select(10)
        assert ready, f"{READERS - heard} have not heard the news"
        for key, _ in ready:
            frames = key.data.receive()
            assert {bytes(frame.payload) for frame in frames} <= {NEWS.encode()}
            heard += len(frames)
    return behind, monotonic() - begin


# The tests


@pytest.fixture
def many_files() -> Iterator[None]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"a process may open {hard} files here, and {FILES} are needed: ulimit -Hn")
    yield


@asynccontextmanager
async def running(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """This file as a program, ended with the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, *map(str, arguments)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=pipe,
        stdout=pipe,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def found_by(clients: Callable[..., Any]) -> dict[str, Any]:
    """What such clients find out about a server."""
    async with asyncio.timeout(60), running("server") as server:
        port = int(await server.stdout.readline())
        async with running(clients.__name__, port) as process:
            printed = await process.stdout.read()
            assert await process.wait() == 0
    return json.loads(printed)


async def test_ten_thousand_idle_clients(many_files):
    found = await found_by(be_idle)
    print(f"{found['bytes each'] / 1000:.1f} kB for each of {IDLE} idle clients", found)
    assert (found["count"], found["left"]) == (IDLE, 0)
    assert found["bytes each"] < 30_000
    assert found["seconds for one more"] < 1


async def test_those_who_never_read_hold_up_nobody(many_files):
    found = await found_by(hear_news)
    alone, beside = median(found["alone"]), median(found["beside"])
    print(f"news to {READERS} in {alone * 1000:.0f} ms, beside {DEAF} deaf {beside * 1000:.0f} ms")
    print(f"{found['filled'] / MIB:.1f} MiB unread, {found['then'] / MIB:.1f} MiB at the end")
    assert beside < 1.5 * alone + 0.02
    assert found["filled"] < DEAF * (UNREAD + MIB)
    assert found["then"] < found["filled"] + 8 * MIB


if __name__ == "__main__":
    raise_limit()
    role, *ports = sys.argv[1:]
    if role == "server":
        asyncio.run(be_the_server())
    else:
        print(json.dumps({"be_idle": be_idle, "hear_news": hear_news}[role](*map(int, ports))))
