"""Film the panel of chapter 00, in a real JupyterLab and a real browser: the README's picture.

python tests/film_poll.py        writes .github/poll.gif
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from PIL import Image
from playwright.async_api import Page

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import series
from browsing import browser, jupyterlab, open_notebook, run_cell

FILM = series.ROOT / ".github" / "poll.gif"
LARGEST = 2**20  # bytes
EVERY = 0.2  # seconds
LONGEST = 8.0
STILL = 2.0  # how long the last picture stays
CELLS = 3  # of chapter 00, up to the panel


async def film(page: Page) -> list[Image.Image]:
    """Pictures of the first panel from when it shows the question, with a vote of ours."""
    panel = page.locator(".poll").first
    await panel.get_by_role("button").first.wait_for()
    pictures: list[Image.Image] = []
    for number in range(round(LONGEST / EVERY)):
        if number == round(LONGEST / EVERY / 2):
            await panel.get_by_role("button").nth(1).click()
        shot = await panel.screenshot(animations="disabled")
        pictures.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        await page.wait_for_timeout(1000 * EVERY)
    return pictures


def write(pictures: list[Image.Image], path: Path) -> None:
    """One GIF of all pictures, those that show nothing new left out. ValueError if too large."""
    last = pictures[-1].quantize(64)
    alike = [list(same) for _, same in groupby(pictures, Image.Image.tobytes)]
    shown = [same[0].quantize(palette=last, dither=Image.Dither.NONE) for same in alike]
    lasting = [round(1000 * EVERY * len(same)) for same in alike]
    lasting[-1] += round(1000 * STILL)
    made = io.BytesIO()
    first, *rest = shown
    first.save(made, "gif", save_all=True, append_images=rest, duration=lasting, loop=0)
    if len(made.getvalue()) > LARGEST:
        raise ValueError(f"the film has {len(made.getvalue())} bytes, more than {LARGEST}")
    path.write_bytes(made.getvalue())


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with jupyterlab(Path(folder)) as (address, _), browser() as page:
            await open_notebook(page, address.format(series.chapters()[0].name))
            for number in range(CELLS):
                await run_cell(page, number)
            write(await film(page), FILM)


if __name__ == "__main__":
    asyncio.run(main())
