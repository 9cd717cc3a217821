"""Node's programs, run as child processes of the kernel, and a recording where there is no Node.

Node and its package `ws` are set up by the README's command; `why_not` says what is missing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import masked
from workbench.relay import HOST, Relay, Tap

FOLDER = Path(__file__).parents[1] / "node"
RECORDED = FOLDER / "recorded.json"


# Lines of Node's report on an error that differ between machines.
_MACHINE = re.compile(r"\s+at |\s+\w+: |\}|Emitted|Node\.js v|node:")

_PORT = re.compile(rb"(?<=127\.0\.0\.1:)\d+")


@dataclass(frozen=True)
class Run:
    """What a Node program did.

    recorded: whether this is a recording, because Node is missing here
    code:     its exit code; 0 is success
    printed:  what it wrote, errors after the rest, with dots for ports
    taps:     what crossed between it and the server
    """

    recorded: bool
    code: int
    printed: str
    taps: list[Tap]

    def __repr__(self) -> str:
        lines = [textwrap.fill(line, 88) for line in self.printed.splitlines()]
        text = "\n".join([*lines, f"(exit code {self.code})"])
        return f"(recorded, since Node is missing here)\n{text}" if self.recorded else text


def why_not() -> str | None:
    """What to do before Node's clients can run here; None if they can."""
    if shutil.which("node") is None:
        return "install Node 20 or newer, then run: npm ci --prefix notebooks/node"
    if not (FOLDER / "node_modules" / "ws").exists():
        return "run, in a terminal: npm ci --prefix notebooks/node"
    return None


async def run(program: str, port: int | None, timeout: float = 10.0) -> Run:
    """Run a program of the folder node/ against the server on a port of 127.0.0.1.

    It goes through a relay; port None is a port where nobody listens. Where Node is
    missing, gives what was recorded. Raises TimeoutError if the program does not end by
    itself, having ended it.
    """
    if why_not():
        return recording(program, port)
    if port is None:
        return await _execute(program, f"ws://{HOST}:{_unused_port()}", timeout, [])
    async with Relay(port) as relay:
        return await _execute(program, relay.url, timeout, relay.taps)


@asynccontextmanager
async def echo(max_size: int) -> AsyncIterator[int]:
    """A server of `ws` that echoes messages of so many bytes at most, and compresses; its port.

    Raises RuntimeError that says what to do where Node is missing.
    """
    if why := why_not():
        raise RuntimeError(why)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", "echo.mjs", str(max_size), cwd=FOLDER, stdin=pipe, stdout=pipe
    )
    try:
        async with asyncio.timeout(10):
            port = int(await process.stdout.readline())
        yield port
    finally:
        process.kill()
        await process.wait()


async def _execute(program: str, url: str, timeout: float, taps: list[Tap]) -> Run:
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        url,
        cwd=FOLDER,
        env={k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | {"NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = (printed + errors).decode(errors="replace")
    return Run(False, process.returncode, _without_machine(text), list(taps))


def _without_machine(text: str) -> str:
    """The text without what differs between machines: ports, folders, versions, stacks."""
    lines = masked(text).replace(FOLDER.as_uri(), "").splitlines()
    kept = [line for line in lines if not _MACHINE.match(line)]
    return "\n".join(line.strip() for line in kept if line.strip(" ^"))


def _unused_port() -> int:
    with socket.socket() as held:
        held.bind((HOST, 0))
        return held.getsockname()[1]


# Recordings


def recording(program: str, port: int | None) -> Run:
    """What the program did when tests/refresh.py recorded it."""
    found = json.loads(RECORDED.read_text())[_name(program, port)]
    taps = [Tap(*tap[:3], base64.b64decode(tap[3])) for tap in found["taps"]]
    return Run(True, found["code"], found["printed"], taps)


def record(runs: dict[tuple[str, int | None], Run]) -> None:
    """Write down what programs did, by the arguments of `run`."""
    recorded = {
        _name(*arguments): {
            "code": ran.code,
            "printed": ran.printed,
            "taps": [_plain(tap, ran.taps[0].sent) for tap in ran.taps],
        }
        for arguments, ran in runs.items()
    }
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


def _plain(tap: Tap, begin: float) -> list[Any]:
    """A tap as JSON can say it, with zeros for the digits of its port."""
    data = _PORT.sub(lambda port: b"0" * len(port[0]), tap.data)
    return [tap.connection, tap.sender, round(tap.sent - begin, 4), base64.b64encode(data).decode()]


def _name(program: str, port: int | None) -> str:
    return program if port is not None else f"{program} without a server"
