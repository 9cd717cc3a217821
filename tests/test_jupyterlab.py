"""A real JupyterLab in a real Chromium, under a base path as on a hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nbformat
import pytest
import series
from conftest import chromium
from nbformat.v4 import new_code_cell, new_notebook
from playwright.async_api import Page, async_playwright

BASE = "/user/reader/"
TOKEN = "reader"
SCREENSHOTS = series.ROOT / ".screenshots"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Keeps the cells that are out of sight in the page, where the test can read them.
    "notebook-extension/tracker": {"windowingMode": "none"},
}

ECHO = """
from workbench import kernel

async def echo(connection):
    async for message in connection:
        await connection.send(message)

server = await kernel.start("echo", echo)
print("port", server.port)
"""

# Looks at every change of the page, so that no cell is too quick to be seen in the queue.
WATCH_THE_QUEUE = """
() => {
    window.queued = () => [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
        .filter(prompt => prompt.textContent === "[*]:").length;
    window.mostQueued = 0;
    new MutationObserver(() => { mostQueued = Math.max(mostQueued, queued()); })
        .observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""

ASK_THROUGH_THE_PROXY = """
port => new Promise((resolve, reject) => {
    const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    const socket = new WebSocket(
        location.origin.replace("http", "ws") + config.baseUrl + "proxy/" + port + "/");
    socket.onopen = () => socket.send("hello from the page");
    socket.onmessage = event => { resolve(event.data); socket.close(); };
    socket.onclose = event => reject(new Error("closed with " + event.code));
})
"""


@asynccontextmanager
async def jupyterlab(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """The address of a JupyterLab that serves a copy of the series, and the copy's folder."""
    shutil.copytree(series.NOTEBOOKS, tmp_path / "notebooks")
    shutil.copy(series.ROOT / "requirements.txt", tmp_path)
    for name, values in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text(
        "c.ServerApp.allow_root = True\n"
        f"c.ServerApp.base_url = {BASE!r}\n"
        f"c.IdentityProvider.token = {TOKEN!r}\n"
    )
    directories = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        "--port=0",
        cwd=tmp_path / "notebooks",
        env=os.environ | {name: str(tmp_path / folder) for name, folder in directories.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            port = None
            while port is None:
                line = (await process.stderr.readline()).decode()
                assert line, "JupyterLab ended before it listened"
                port = re.search(rf"http://127\.0\.0\.1:(\d+){BASE}lab", line)
        draining = asyncio.create_task(process.stderr.read())
        yield f"http://127.0.0.1:{port[1]}{BASE}lab/tree/{{}}?token={TOKEN}", tmp_path / "notebooks"
    finally:
        process.terminate()
        await process.wait()
        await draining


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A page whose uncaught errors fail the test."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = await launched.new_page(viewport={"width": 1280, "height": 900})
        uncaught = []
        page.on("pageerror", lambda error: uncaught.append(error))
        yield page
        await launched.close()
        assert not uncaught


async def prompts(page: Page) -> list[str]:
    return await page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()


async def open_notebook(page: Page, address: str) -> None:
    await page.goto(address)
    await page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)


async def run_all(page: Page) -> int:
    """Run All Cells from the menu and wait until every cell is done.

    Gives how many cells stood in the queue at once.
    """
    await page.evaluate(WATCH_THE_QUEUE)
    await page.get_by_role("menuitem", name="Run", exact=True).click()
    await page.get_by_text("Run All Cells", exact=True).click()
    await page.wait_for_function("mostQueued && !queued()", timeout=150_000)
    return await page.evaluate("mostQueued")


async def photograph(page: Page, name: str) -> None:
    """The whole notebook in one picture, for a human to look at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    notebook = page.locator(".jp-WindowedPanel-outer")
    height = await notebook.evaluate("node => node.scrollHeight")
    await page.set_viewport_size({"width": 1280, "height": height + 200})
    await notebook.evaluate("node => node.scrollTo(0, 0)")
    await page.wait_for_timeout(500)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png")
    await page.set_viewport_size({"width": 1280, "height": 900})


async def visit(path: Path, folder: Path) -> None:
    """Open a chapter in a JupyterLab of its own, run all its cells twice, and take a picture."""
    async with jupyterlab(folder) as (address, _), browser() as page:
        await open_notebook(page, address.format(path.name))
        cells = len(await prompts(page))
        for run in (1, 2):
            assert await run_all(page) > cells // 2
            numbers = [int(re.sub(r"\D", "", prompt)) for prompt in await prompts(page)]
            assert numbers == list(range((run - 1) * cells + 1, run * cells + 1))
            errors = page.locator(
                ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error'], "
                ".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']"
            )
            assert await errors.all_inner_texts() == []
            wordless = page.locator(".jp-OutputArea-output :is(img:not([alt]), img[alt=''])")
            assert await wordless.count() == 0
        await photograph(page, path.stem)


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, BaseException | None]:
    """What each visit ended with; three at a time, the last chapters first, which take longest."""
    chromium()
    paths = series.chapters()[::-1]
    places = asyncio.Semaphore(3)

    async def take_turns(path: Path) -> None:
        async with places:
            await visit(path, tmp_path_factory.mktemp(path.stem))

    async def visit_all() -> list[BaseException | None]:
        return await asyncio.gather(*map(take_turns, paths), return_exceptions=True)

    return dict(zip(paths, asyncio.run(visit_all()), strict=True))


@pytest.mark.parametrize("path", series.chapters(), ids=[path.stem for path in series.chapters()])
def test_run_all_with_all_cells_queued_at_once_twice(path, visited):
    if error := visited[path]:
        raise error


async def test_a_page_reaches_a_server_in_the_kernel_through_the_proxy(tmp_path):
    chromium()
    async with jupyterlab(tmp_path) as (address, folder), browser() as page:
        await ask_through_the_proxy(page, address, folder)


async def ask_through_the_proxy(page: Page, address: str, folder: Path) -> None:
    nbformat.write(
        new_notebook(cells=[new_code_cell(ECHO)], metadata=series.METADATA), folder / "echo.ipynb"
    )
    await open_notebook(page, address.format("echo.ipynb"))
    await run_all(page)
    said = await page.locator(".jp-OutputArea-output").first.inner_text()
    answer = await page.evaluate(ASK_THROUGH_THE_PROXY, int(said.split()[1]))
    assert answer == "hello from the page"
