"""Every chapter in a real JupyterLab in a real Chromium, under a base path as on a hub."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from platform import python_version

import pytest
import series
from browsing import browsers, jupyterlab, open_notebook, photograph, prompts, run_all
from conftest import chromium
from playwright.async_api import Page


async def visit(page: Page, address: str, path: Path) -> None:
    """Open a chapter in a workspace of its own, run all its cells twice, and take a picture."""
    workspace = address.replace("/lab/tree/", f"/lab/workspaces/{path.stem}/tree/")
    await open_notebook(page, workspace.format(path.name))
    cells = len(await prompts(page))
    if series.read(path).metadata.language_info.version == python_version():
        assert await page.locator(".jp-mod-dirty").count() == 0, "changed by being opened"
    for run in (1, 2):
        assert await run_all(page) > cells // 2
        errors = page.locator(
            ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error'], "
            ".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']"
        )
        assert await errors.all_inner_texts() == []
        numbers = [re.sub(r"\D", "", prompt) for prompt in await prompts(page)]
        assert numbers == [str((run - 1) * cells + number) for number in range(1, cells + 1)]
        wordless = page.locator(".jp-OutputArea-output :is(img:not([alt]), img[alt=''])")
        assert await wordless.count() == 0
    await photograph(page, path.stem)


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, BaseException | None]:
    """What each visit ended with; three at a time, the last chapters first, which take longest."""
    chromium()
    paths = series.chapters()[::-1]
    places = asyncio.Semaphore(3)

    async def visit_all() -> list[BaseException | None]:
        folder = tmp_path_factory.mktemp("series")
        async with jupyterlab(folder) as (address, _), browsers() as new_page:

            async def take_turns(path: Path) -> None:
                async with places:
                    page = await new_page()
                    await visit(page, address, path)
                    await page.close()

            return await asyncio.gather(*map(take_turns, paths), return_exceptions=True)

    return dict(zip(paths, asyncio.run(visit_all()), strict=True))


@pytest.mark.parametrize("path", series.chapters(), ids=[path.stem for path in series.chapters()])
def test_run_all_with_all_cells_queued_at_once_twice(path, visited):
    if error := visited[path]:
        raise error
