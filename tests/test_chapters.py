"""The rules that every chapter keeps."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import series
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

SECTIONS = ["In Nest this is…", "What you built", "Exercises", "In practice", "Next"]

# What a cell does not do (the whole kernel would wait, or listen to the world), unless
# it is tagged blocks-on-purpose.
BLOCKING = {
    "asyncio.run",
    "time.sleep",
    "input",
    "requests.get",
    "urllib.request.urlopen",
    "subprocess.run",
}
NEVER = ["localhost", "0.0.0.0", "websockets.legacy", "import nest_asyncio\n", "request.headers)"]

# 3000 is what the article's client has.
LEAK = re.compile(
    r"/(root|home|tmp|work|Users)/|_xsrf|(127\.0\.0\.1|localhost):(?!3000')\d|\bport \d", re.I
)

each_notebook = pytest.mark.parametrize(
    "path", series.notebooks(), ids=[path.stem for path in series.notebooks()]
)
each_chapter = pytest.mark.parametrize(
    "path", series.chapters(), ids=[path.stem for path in series.chapters()]
)


def text_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def headings(notebook: NotebookNode, level: int) -> list[str]:
    pattern = re.compile(rf"^{'#' * level} (.+)$", re.MULTILINE)
    return [heading for cell in text_cells(notebook) for heading in pattern.findall(cell.source)]


def tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(cell.source))


def calls(node: ast.AST) -> Iterator[str]:
    """The dotted names of the functions called in the code."""
    for found in ast.walk(node):
        if isinstance(found, ast.Call):
            yield ast.unparse(found.func)


@each_chapter
def test_begins_with_what_the_reader_wants_to_know(path):
    notebook = series.read(path)
    assert len(headings(notebook, 1)) == 1
    first = notebook.cells[0].source
    assert re.match(r"# \w", first)
    for promise in ("**You build**", "**You learn**", "**You need**", "**Time** "):
        assert promise in first
    assert re.search(r"\*\*Time\*\* \d+ minutes", first)


@each_chapter
def test_what_takes_longer_than_45_minutes_has_a_half_time(path):
    notebook = series.read(path)
    first, *others = (cell.source for cell in text_cells(notebook))
    whole = int(re.search(r"\*\*Time\*\* (\d+) minutes", first)[1])
    halves = re.search(r"minutes, in two sittings of (\d+) and (\d+)\b", first)
    assert bool(halves) == (whole > 45)
    marked = re.findall(r"> \*\*Half-time\.\*\* .+\n\n## ", "\n".join(others))
    assert len(marked) == bool(halves)
    if halves:
        minutes = [int(half) for half in halves.groups()]
        assert sum(minutes) == whole and max(minutes) <= 45


@each_chapter
def test_ends_with_the_required_sections_and_a_cell_that_stops_everything(path):
    notebook = series.read(path)
    assert headings(notebook, 2)[-len(SECTIONS) :] == SECTIONS
    assert notebook.cells[-1].source.startswith("await kernel.stop_all()")


@each_chapter
def test_something_runs_by_the_third_code_cell_and_there_is_text_beside_the_code(path):
    notebook = series.read(path)
    assert any(cell.outputs for cell in series.code_cells(notebook)[1:3])
    own = [cell for cell in series.code_cells(notebook) if "quote" not in cell.metadata]
    assert len(text_cells(notebook)) >= 0.8 * len(own)
    assert sum("**Predict.**" in cell.source for cell in text_cells(notebook)) >= 5


@each_chapter
def test_has_three_exercises_with_their_minutes_a_stub_and_a_check(path):
    notebook = series.read(path)
    text = "\n".join(cell.source for cell in text_cells(notebook))
    code = [cell.source for cell in series.code_cells(notebook)]
    for number, stars, minutes in ((1, "★", 5), (2, "★★", 10), (3, "★★★", 20)):
        exercise = f"{path.name[:2]}.{number}"
        assert f"**{exercise}** {stars} {minutes} minutes." in text
        [checked] = [c for c in series.code_cells(notebook) if f'check("{exercise}", ' in c.source]
        assert series.printed(checked).startswith(f"{exercise} not attempted yet")
    assert sum("raise NotImplementedError" in source for source in code) >= 3
    assert path.with_stem(f"{path.stem}_solutions").exists()


@each_notebook
def test_cells_are_short(path):
    for cell in series.code_cells(series.read(path)):
        if "quote" not in cell.metadata:
            lines = cell.source.splitlines()
            assert len(lines) <= 30, cell.source
            assert max(map(len, lines)) <= 88, cell.source


@each_notebook
def test_cells_block_nothing_and_open_nothing_to_the_world(path):
    for cell in series.code_cells(series.read(path)):
        if "blocks-on-purpose" not in series.tags(cell):
            assert not BLOCKING & set(calls(tree(cell))), cell.source
        assert not [word for word in NEVER if word in cell.source], cell.source


def unbounded(node: ast.AST, bounded: bool = False) -> Iterator[str]:
    """What is entered with `async with`, waits for a peer and stands under no asyncio.timeout.

    From Python 3.12 on, a server of asyncio waits when it is left, too.
    """
    if isinstance(node, ast.AsyncWith):
        for entered in (ast.unparse(item.context_expr) for item in node.items):
            bounded = bounded or entered.startswith("asyncio.timeout(")
            waits = entered.startswith(("connect(", "await asyncio.start_server("))
            if waits and not bounded:
                yield entered
    for child in ast.iter_child_nodes(node):
        yield from unbounded(child, bounded)


@each_notebook
def test_every_connection_and_server_of_asyncio_stands_under_a_timeout(path):
    for cell in series.code_cells(series.read(path)):
        assert not list(unbounded(tree(cell))), cell.source


@each_notebook
def test_outputs_show_nothing_of_the_machine_and_are_small(path):
    assert path.stat().st_size < 400_000
    for cell in series.code_cells(series.read(path)):
        assert not LEAK.search(series.printed(cell)), series.printed(cell)
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            for kind, data in output.get("data", {}).items():
                if kind == "image/png":
                    assert len(base64.b64decode(data)) < 100_000, cell.source
                for image in re.findall('base64,([^"]+)', data) if kind == "text/html" else []:
                    assert len(base64.b64decode(image)) < 100_000, cell.source


def targets(text: str) -> list[str]:
    """What Markdown links and images point to."""
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def anchors(path: Path) -> set[str]:
    """The fragments that JupyterLab and GitHub give to a notebook's headings."""
    notebook = series.read(path)
    return {h.replace(" ", "-") for level in (1, 2, 3) for h in headings(notebook, level)}


@each_notebook
def test_links_and_images_resolve(path):
    for cell in text_cells(series.read(path)):
        for target in targets(cell.source):
            if not re.match(r"https?://", target):
                file, _, fragment = target.partition("#")
                linked = path.parent / file if file else path
                assert linked.exists(), target
                assert not fragment or fragment in anchors(linked), target
