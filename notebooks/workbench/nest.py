"""A real Nest beside the kernel: the programs of node/nest/, compiled and run as child processes.

::

    async with started("article") as port: ...              # for a block
    port = await kernel.hold("nest", started("article"))    # until kernel.stop("nest")

A process ends with the block, and with the kernel, however that ends: see node/nest/ends.mjs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "node" / "nest"
RECORDED = FOLDER / "recorded.json"

START = 20.0  # seconds that a program has until it listens
COMPILE = 60.0  # seconds that the compiler has

_INSTALL = "npm ci --prefix notebooks/node/nest"

# What Nest's logger puts before what it says, and after it.
_LOGGED = re.compile(r"\[Nest\] \d+ +- .*? +[A-Z]+ (\[.*?)(?: \+\d+ms)?$")

# An error's name and what it says, as Node reports it; a call as the compiler writes it.
_ERROR = re.compile(r"(?:Uncaught )?(\w*(?:Error|Exception))(?: \[\w+\])?(: .*)")
_CALL = re.compile(r"\(0 , \w+\.(\w+)\)")


class NestError(RuntimeError):
    """A Nest cannot run here, or has not started: what to do, or what it said."""


def why_not() -> str | None:
    """What to do before a Nest can run here; None if it can."""
    if shutil.which("node") is None:
        return f"install Node 20 or newer, then run: {_INSTALL}"
    for package in ("@nestjs/core", "@nestjs/platform-ws", "typescript"):
        if not (FOLDER / "node_modules" / package / "package.json").exists():
            return f"run, in a terminal: {_INSTALL}"
    return None


def version(package: str = "@nestjs/core") -> str:
    """The version of an installed package. Raises NestError where it is missing."""
    if why := why_not():
        raise NestError(why)
    return json.loads((FOLDER / "node_modules" / package / "package.json").read_text())["version"]


@asynccontextmanager
async def started(program: str) -> AsyncIterator[int]:
    """A program of node/nest/src/ while it listens; its port. Compiles it if need be.

    Raises NestError where Node or a package is missing, where the compiler finds an error,
    and where the program ends, or says nothing for START seconds.
    """
    async with running(program) as (_, port):
        yield port


@asynccontextmanager
async def running(program: str) -> AsyncIterator[tuple[Process, int]]:
    """The same, with the process, whose error output is kept in its `stderr`."""
    await build()
    async with node(f"dist/{program}.js", stderr=PIPE) as process:
        try:
            async with asyncio.timeout(START):
                line = await process.stdout.readline()
                if not line:
                    said = telling((await process.stderr.read()).decode(errors="replace"))
                    raise NestError(f"{program} has ended before it listened: {said}")
        except TimeoutError:
            raise NestError(f"{program} does not listen after {START:g} s") from None
        yield process, int(line)


async def build() -> None:
    """Compile src/ to dist/ if anything in it is newer.

    Raises NestError where Node or the compiler is missing, where it finds an error, and after
    COMPILE seconds.
    """
    if why := why_not():
        raise NestError(why)
    if not _is_stale():
        return
    async with node("node_modules/typescript/bin/tsc") as process:
        try:
            async with asyncio.timeout(COMPILE):
                said = (await process.stdout.read()).decode(errors="replace")
                await process.wait()
        except TimeoutError:
            raise NestError(f"the compiler has not ended after {COMPILE:g} s") from None
    if process.returncode:
        raise NestError(said.partition("\n")[0] or "the compiler has failed")


def _is_stale() -> bool:
    sources = list((FOLDER / "src").glob("*.ts"))
    compiled = [FOLDER / "dist" / f"{source.stem}.js" for source in sources]
    if not all(path.exists() for path in compiled):
        return True
    newest = max(path.stat().st_mtime for path in [*sources, FOLDER / "tsconfig.json"])
    return newest > min(path.stat().st_mtime for path in compiled)


@asynccontextmanager
async def node(
    *arguments: str, cwd: Path | None = None, stderr: int | None = None, ends: bool = True
) -> AsyncIterator[Process]:
    """A Node process with pipes, ended with the block.

    It ends with the kernel, too, at once, whatever it does; with `ends=False`, only when it
    comes to the end of its standard input. Jupyter's Stop button does not reach it.
    """
    loaded = ["--import", (FOLDER / "ends.mjs").as_uri()] if ends else []
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NODE_OPTIONS")}
    process = await asyncio.create_subprocess_exec(
        *("node", *loaded, *arguments),
        cwd=cwd or FOLDER,
        env=environment | {"NO_COLOR": "1"},
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        limit=1 << 24,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)
        await process.wait()


def end(process: Process) -> None:
    """End a process, if it has not ended yet; its exit code comes out of `process.wait()`.

    `process.kill()` would look first whether it has ended, and so take the exit code away from
    asyncio, which then warns that it does not know the process.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def telling(text: str) -> str:
    """The first line of an error output that says what happened, without stack and machine."""
    lines = text.splitlines()
    for line in lines:
        if found := _ERROR.match(line):
            return _CALL.sub(r"\1", found[1] + found[2])
        if found := _LOGGED.match(line):
            return found[1]
    return next((line.strip() for line in lines if line.strip()), "")


def logged(line: str) -> str:
    """A line that a program printed; of Nest's logger only what it says."""
    found = _LOGGED.match(line)
    return found[1] if found else line


def recorded(part: str) -> dict[str, Any]:
    """What tests/refresh.py has recorded of a real Nest: `endings` or `programs`."""
    return json.loads(RECORDED.read_text())[part]
