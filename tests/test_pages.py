"""What a reader's page shows of the outputs: words for every picture, code that looks like code."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import series
from browsing import FLAGS, jupyterlab
from conftest import chromium
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.async_api import Page, async_playwright
from workbench import sources

each_chapter = pytest.mark.parametrize(
    "path", series.chapters(), ids=[path.stem for path in series.chapters()]
)

PICTURES = """
() => [...document.querySelectorAll(".jp-OutputArea-output img")].map(image => ({
    alt: image.alt,
    loaded: image.naturalWidth > 0,
    fits: image.getBoundingClientRect().right <= window.innerWidth,
}))
"""

# The widths of a narrow and a wide letter in the code, and how bold its first word is.
LETTERS = """
() => {
    const code = document.querySelector(".jp-OutputArea-output pre");
    const width = letter => {
        const span = document.createElement("span");
        span.textContent = letter;
        code.append(span);
        return span.getBoundingClientRect().width;
    };
    const word = document.evaluate(
        ".//span[text()='def']", code, null, XPathResult.FIRST_ORDERED_NODE_TYPE);
    return [["i", "W"].map(width), getComputedStyle(word.singleNodeValue).fontWeight];
}
"""


def words(path: Path) -> list[str]:
    """What a chapter's pictures show, in words."""
    return [
        output.data["text/plain"]
        for cell in series.code_cells(series.read(path))
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


async def assert_words(page: Page, expected: list[str]) -> None:
    """The page has all the pictures, each with its words and within a narrow window."""
    await page.set_viewport_size({"width": 600, "height": 900})
    count = f'document.querySelectorAll(".jp-OutputArea-output img").length >= {len(expected)}'
    await page.wait_for_function(count, timeout=60_000)
    await page.wait_for_timeout(200)
    shown = await page.evaluate(PICTURES)
    assert shown == [{"alt": alt, "loaded": True, "fits": True} for alt in expected]


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A page, whatever errors it has: Notebook 7 has one of its own with every notebook."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield await launched.new_page()
        await launched.close()


@each_chapter
async def test_a_static_page_has_words_for_every_picture(path, tmp_path):
    exported, _ = HTMLExporter().from_notebook_node(copy.deepcopy(series.read(path)))
    (tmp_path / "page.html").write_text(exported)
    async with browser() as page:
        await page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
        await assert_words(page, words(path))


@pytest.mark.parametrize("view", ["lab/tree", "notebooks"])
async def test_a_notebook_that_nobody_trusts_yet_has_words_for_every_picture(view, tmp_path):
    """In JupyterLab and in Notebook 7; no cell runs, so the outputs are those of the file."""
    path = series.NOTEBOOKS / "02_message_types.ipynb"
    async with jupyterlab(tmp_path) as (address, _), browser() as page:
        await page.goto(address.replace("lab/tree", view).format(path.name))
        await assert_words(page, words(path))


async def test_source_code_stands_in_letters_of_one_width_with_its_marks(tmp_path):
    shown = sources.show(sources.show)
    assert repr(shown) == inspect.getsource(sources.show).rstrip()
    output = new_output("execute_result", {"text/html": shown._repr_html_()})
    notebook = new_notebook(cells=[new_code_cell("", outputs=[output])])
    exported, _ = HTMLExporter().from_notebook_node(copy.deepcopy(notebook))
    (tmp_path / "page.html").write_text(exported)
    async with browser() as page:
        await page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
        widths, weight = await page.evaluate(LETTERS)
    assert len(set(widths)) == 1
    assert int(weight) >= 600, "def is bold"
