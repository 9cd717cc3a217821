"""A real Nest beside the kernel: the programs of node/nest/, run as child processes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "node" / "nest"


def why_not() -> str | None:
    """What to do before a Nest can run here; None if it can."""
    if shutil.which("node") is None:
        return "install Node 20 or newer, then run: npm ci --prefix notebooks/node/nest"
    if not (FOLDER / "node_modules" / "@nestjs").exists():
        return "run, in a terminal: npm ci --prefix notebooks/node/nest"
    return None


@asynccontextmanager
async def started(program: str) -> AsyncIterator[int]:
    """A program of node/nest/src/ that has been compiled, while it listens; its port."""
    if why := why_not():
        raise RuntimeError(why)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", f"dist/{program}.js", cwd=FOLDER, stdin=pipe, stdout=pipe
    )
    try:
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        yield port
    finally:
        process.kill()
        await process.wait()
