"""The commands that measure: whether they run. What they measure is for their readers."""

from __future__ import annotations

import asyncio
import sys

import pytest
import series

COMMANDS = sorted((series.ROOT / "tests").glob("benchmark_*.py"))


@pytest.mark.parametrize("command", COMMANDS, ids=[path.stem for path in COMMANDS])
async def test_runs(command):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, command, "--quick"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert len(printed.splitlines()) >= 3
