from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import pytest
import series
from jupyter_client.manager import AsyncKernelManager
from workbench import kernel, node
from workbench.checks import check
from workbench.second_kernel import channels

# Files that take longest, and mostly wait: begun first, so that none is left to the end.
FIRST = {"test_jupyterlab.py", "test_pages.py", "test_panel.py", "test_readme.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


# The room, while this process has it for itself.
_alone: list[TextIO] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[Any]:
    """Let tests that are marked `measures` run while those of no other process do.

    One after the other, as long as the next is marked, too.
    """
    if sys.platform == "win32" or "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        return (yield)
    room = _alone.pop() if _alone else _enter(_measures(item))
    try:
        return (yield)
    finally:
        if _measures(item) and _measures(nextitem):
            _alone.append(room)
        else:
            room.close()


def _measures(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("measures") is not None


def _enter(alone: bool) -> TextIO:
    """The room, in which many may be, or one.

    Who wants to be alone waits at the door, and nobody passes it meanwhile.
    """
    import fcntl

    path = Path(tempfile.gettempdir()) / os.environ["PYTEST_XDIST_TESTRUNUID"]
    room = path.with_suffix(".room").open("a")
    with path.with_suffix(".door").open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    return room


def missing(what: str) -> None:
    """A component is not here: skip on a reader's machine, fail in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def chromium() -> str:
    """The path of the system's Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    missing("no Chromium: install it, on Debian with apt-get install chromium")


async def read_head(reader: asyncio.StreamReader, parse: Callable[[bytes], tuple | None]) -> tuple:
    """Feed a parser of nestling.handshake from a stream until it gives something."""
    data = b""
    while (parsed := parse(data)) is None:
        piece = await reader.read(1000)
        assert piece, f"closed after {data!r}"
        data += piece
    return parsed


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for what no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """After the test: no task, no socket, no warning, and no error that escaped a handler."""
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    before = open_files()
    gc.freeze()  # what was there before the test need not be looked through after it
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
        gc.unfreeze()
        await asyncio.sleep(0)
    assert noise == []
    assert [str(warning.message) for warning in warned] == []
    assert "connection handler failed" not in caplog.text
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: open_files() == before)


async def assert_hint(exercise: str, answer: object, hint: str) -> None:
    """An exercise's check calls the answer wrong, with this hint, and leaves nothing running."""
    verdict = await check(exercise, answer)
    assert verdict.passed is False, verdict.text
    assert re.search(hint, verdict.text), verdict.text
    assert kernel.status() == "nothing is running"


@asynccontextmanager
async def node_program(script: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """A Node program that may use `ws`, ended at the latest with the block. Gives its output."""
    if why := node.why_not():
        missing(why)
    process = await asyncio.create_subprocess_exec(
        *("node", "-e", script, *arguments), cwd=node.FOLDER, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Kernel:
    """A real kernel in the folder of the notebooks."""

    def __init__(self, folder: str) -> None:
        self.manager = AsyncKernelManager(**channels(folder))

    async def start(self) -> None:
        await self.manager.start_kernel(
            cwd=str(series.NOTEBOOKS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await self._connect()

    async def restart(self) -> None:
        self.client.stop_channels()
        await self.manager.restart_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await self._connect()

    async def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=30)

    async def run(self, source: str, timeout: float = 20) -> str:
        """Run a cell. Gives what it printed, and `Type: message` if it failed."""
        texts = []

        def keep(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] == "execute_result":
                texts.append(content["data"]["text/plain"])
            elif message["msg_type"] == "error":
                texts.append(f"{content['ename']}: {content['evalue']}")

        await self.client.execute_interactive(source, timeout=timeout, output_hook=keep)
        return "".join(texts)

    async def stop(self) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)


@pytest.fixture
async def real_kernel() -> AsyncIterator[Kernel]:
    with TemporaryDirectory() as folder:
        kernel = Kernel(folder)
        await kernel.start()
        yield kernel
        await kernel.stop()
