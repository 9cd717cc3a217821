"""A real JupyterLab in a real Chromium, under a base path as on a hub."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import nbformat
import pytest
import series
from browsing import browser, jupyterlab, open_notebook, photograph, prompts, run_all
from conftest import chromium
from nbformat.v4 import new_code_cell, new_notebook
from playwright.async_api import Page

ECHO = """
from workbench import kernel

async def echo(connection):
    async for message in connection:
        await connection.send(message)

server = await kernel.start("echo", echo)
print("port", server.port)
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
