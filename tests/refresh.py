"""Write notebooks anew: quotes from their modules, outputs from a fresh kernel.

    python tests/refresh.py          all notebooks, what README.md takes from them, and the
                                     versions that Binder installs: those of this environment
    python tests/refresh.py 00 01    those whose names begin so

With chapter 05, what Node's client does is recorded anew, for readers without Node; with
chapter 07, what a real Nest does.
A notebook in which a cell fails is left as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import requires, version
from pathlib import Path

import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

import series
from nestling.application import create
from nestling.events import EventsGateway
from workbench import article_code, endings, kernel, nest, node
from workbench.workshop import workshop

WITHOUT_ADDRESS = (
    "give [mybinder.org](https://mybinder.org) the address of this repository and, as the URL"
    " to open, `lab/tree/notebooks/00_start_here.ipynb`."
)


def refresh(path: Path) -> None:
    """Write one notebook anew, or raise series.CellFailed and leave it alone."""

    def show(cell: int, cells: int) -> None:
        print(f"\r{path.name}: cell {cell} of {cells}", end="", flush=True)

    notebook = series.with_quotes(series.read(path))
    [(executed, seconds)] = asyncio.run(series.run(path, notebook, progress=show))
    nbformat.write(series.normalised(executed), path)
    print(f"\r{path.name}: {len(executed.cells)} cells in {seconds:.1f} s")


def refresh_readme() -> None:
    """Give README.md the repository's address, and the figures that chapters have drawn."""
    readme = series.ROOT / "README.md"
    readme.write_text(with_address(readme.read_text(), repository()))
    for path, drawn in series.figures().items():
        for picture in drawn:
            path.write_bytes(picture)


def frozen() -> list[str]:
    """Each package that requirements.txt brings, with the version that is here."""
    found: dict[str, str] = {}
    lines = (series.ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    while wanted:
        name = canonicalize_name(wanted.pop().name)
        if name not in found:
            found[name] = version(name)
            asked = map(Requirement, requires(name) or [])
            wanted += [r for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    return sorted(f"{name}=={there}" for name, there in found.items())


async def record_node() -> None:
    """Record what Node's client does with a gateway, and without one."""
    server = await kernel.start("events", create(EventsGateway()))
    ports = (server.port, None)
    node.record({("client.mjs", port): await node.run("client.mjs", port) for port in ports})
    await kernel.stop_all()


async def record_nest() -> None:
    """Record what a real Nest says to the article's code, and what ends it."""
    async with workshop() as shop:
        for step in (*article_code.STEPS, article_code.BOTH):
            await shop.compile(step)
            await shop.run()
            await shop.ask(article_code.MESSAGE)
        for options in ({}, {"port": 0}, {"module": True}):
            await shop.client(article_code.CLIENT, **options)
        await shop.compile(article_code.PRINTED, noImplicitAny=True)
    ended = {name: asdict(await endings.nest(name)) for name in endings.INPUTS}
    text = json.dumps({"programs": shop.kept, "endings": ended}, indent=1)
    nest.RECORDED.write_text(f"{text}\n")


def repository() -> str:
    """Where the series is on GitHub, owner/name, as pyproject.toml or the remote says; or ""."""
    remote = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=series.ROOT, capture_output=True, text=True
    )
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?$", remote.stdout.strip())
    return series.settings()["repository"] or (found[1] if found else "")


def with_address(text: str, repository: str) -> str:
    """The text, its line on Binder with a link for each chapter, or without an address a way."""
    if repository:
        tree = f"https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/notebooks/"
        chapters = (f"[{path.name[:2]}]({tree}{path.name})" for path in series.chapters())
        way = f"open {' · '.join(chapters)}."
    else:
        way = WITHOUT_ADDRESS
    return re.sub(
        r"^(\*\*On Binder\*\*, with nothing to install: ).*$", rf"\g<1>{way}", text, flags=re.M
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names, such as 00")
    names = tuple(parser.parse_args().names)
    paths = [path for path in series.notebooks() if not names or path.name.startswith(names)]
    if not paths:
        print(f"no notebook's name begins with {' or '.join(names)}")
        return 2
    if others := series.other_versions():
        print("outputs are written in the pinned environment only:", *others, sep="\n  ")
        return 2
    if any(path.name.startswith("05") for path in paths):
        if why := node.why_not():
            print(f"chapter 05 needs Node here: {why}")
            return 2
        asyncio.run(record_node())
    if any(path.name.startswith("07") for path in paths):
        if why := nest.why_not():
            print(f"chapter 07 needs Nest here: {why}")
            return 2
        asyncio.run(record_nest())
    try:
        for path in paths:
            refresh(path)
    except (series.CellFailed, ValueError) as error:
        print(f"\n\n{error}\nThe notebook is unchanged.")
        return 1
    refresh_readme()
    if not names:
        (series.ROOT / "binder" / "constraints.txt").write_text("\n".join([*frozen(), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
