"""What the tests in a browser share: a real JupyterLab, a real Chromium, and their handles."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import series
from conftest import chromium, until
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
    # Names for sites, of which there is none in the world: .test is reserved for this.
    "--host-resolver-rules=MAP *.nestling.test 127.0.0.1",
]

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Keeps the cells that are out of sight in the page, where the test can read them.
    "notebook-extension/tracker": {"windowingMode": "none"},
}

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


@asynccontextmanager
async def jupyterlab(
    tmp_path: Path, base: str = BASE, config: str = ""
) -> AsyncIterator[tuple[str, Path]]:
    """The address of a JupyterLab that serves a copy of the series, and the copy's folder.

    base: the path under which it is, as on a hub
    config: more lines for its configuration
    """
    shutil.copytree(series.NOTEBOOKS, tmp_path / "notebooks")
    shutil.copy(series.ROOT / "requirements.txt", tmp_path)
    for name, values in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.py").write_text(
        "c.ServerApp.allow_root = True\n"
        f"c.ServerApp.base_url = {base!r}\n"
        f"c.IdentityProvider.token = {TOKEN!r}\n" + config
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
                port = re.search(rf"http://127\.0\.0\.1:(\d+){base}lab", line)
        draining = asyncio.create_task(process.stderr.read())
        yield f"http://127.0.0.1:{port[1]}{base}lab/tree/{{}}?token={TOKEN}", tmp_path / "notebooks"
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:  # now and then a thread of its own keeps it
            process.kill()
            await process.wait()
        await draining


@asynccontextmanager
async def browsers() -> AsyncIterator[Callable[[], Awaitable[Page]]]:
    """Makes pages, each in a profile of its own; their uncaught errors fail the test."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        uncaught = []

        async def new_page() -> Page:
            context = await launched.new_context(viewport={"width": 1280, "height": 900})
            context.on("weberror", lambda it: uncaught.append(f"{it.page.url}: {it.error}"))
            return await context.new_page()

        yield new_page
        await launched.close()
        assert uncaught == [], uncaught


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A page; its uncaught errors, and those of others in its context, fail the test."""
    async with browsers() as new_page:
        yield await new_page()


async def prompts(page: Page) -> list[str]:
    return await page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()


async def open_notebook(page: Page, address: str) -> None:
    await page.goto(address)
    await page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)


async def run_cell(page: Page, number: int) -> None:
    """Run one code cell, counted from 0, and wait until it is done.

    The key is pressed again while nothing happens: a page that looks ready may not be.
    """
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(number)
    before = await prompt.inner_text()
    async with asyncio.timeout(30):
        while await prompt.inner_text() == before:
            await prompt.click()
            await page.keyboard.press("Control+Enter")
            await page.wait_for_timeout(300)
        while "*" in await prompt.inner_text():
            await page.wait_for_timeout(50)


async def save(page: Page, path: Path) -> str:
    """Save the notebook, and give what is in its file once that is another, and whole."""
    before = path.read_text()
    await page.locator(".jp-CodeCell .jp-InputPrompt").first.click()
    await page.keyboard.press("Control+s")
    await until(lambda: path.read_text() != before and path.read_text().endswith("}\n"), 10)
    return path.read_text()


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
