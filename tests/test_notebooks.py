"""Every notebook, run twice in one kernel, all of them side by side in this process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import series
from nbformat import NotebookNode

# A chapter's Run All takes 15 s at most on 2 cores, that of the measurements 45 s, that which
# compiles and measures a real Nest 60 s, and that which waits for broken connections 30 s.
SECONDS = {"03": 45, "07": 60, "08": 30}

Passes = list[tuple[NotebookNode, float]]


def seconds(path: Path) -> int:
    """What a notebook's Run All may take."""
    return 15 if path.stem.endswith("_solutions") else SECONDS.get(path.name[:2], 15)


def each_notebook(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="module")
def executed() -> dict[Path, Passes | Exception]:
    """What two passes over each notebook gave, or the error that ended them.

    Three at a time, those that may take longest first, so that none is left to the end.
    """
    paths = sorted(series.notebooks(), key=lambda path: -seconds(path))
    places = asyncio.Semaphore(3)

    async def run(path: Path) -> Passes:
        async with places:
            return await series.run(path, passes=2)

    async def run_all() -> list[Passes | Exception]:
        return await asyncio.gather(*map(run, paths), return_exceptions=True)

    return dict(zip(paths, asyncio.run(run_all()), strict=True))


@pytest.fixture
def passes(path: Path, executed: dict[Path, Passes | Exception]) -> Passes:
    if isinstance(found := executed[path], Exception):
        pytest.fail(str(found))
    return found


@pytest.mark.measures
def test_every_notebook_is_executed_with_nothing_else_beside_it(executed):
    assert executed.keys() == {*series.notebooks()}


@each_notebook(series.notebooks())
def test_runs_twice_in_one_kernel(passes):
    assert len(passes) == 2


@each_notebook(series.notebooks())
def test_is_done_in_time(path, passes):
    # Half as much again, since two others run beside it.
    for _, taken in passes:
        assert taken <= 1.5 * seconds(path)


@each_notebook(series.notebooks())
def test_prints_the_same_as_was_committed_in_both_passes(path, passes):
    committed = series.code_cells(series.read(path))
    for notebook, _ in passes:
        for was, now in zip(committed, series.code_cells(notebook), strict=True):
            if "volatile" not in series.tags(was):
                assert series.printed(now) == series.printed(was), was.source


@each_notebook(series.notebooks())
def test_prints_nothing_to_stderr(passes):
    for notebook, _ in passes:
        for cell in series.code_cells(notebook):
            assert not [o.text for o in cell.outputs if o.get("name") == "stderr"], cell.source


@each_notebook([path for path in series.notebooks() if path.stem.endswith("_solutions")])
def test_every_solution_is_right(passes):
    for notebook, _ in passes:
        checked = [c for c in series.code_cells(notebook) if "await check(" in c.source]
        assert checked
        for cell in checked:
            assert re.search(r"\d\d\.\d right: \S", series.printed(cell)), cell.source


@each_notebook(series.notebooks())
def test_is_committed_as_the_refresh_command_writes_it(path):
    notebook = series.read(path)
    assert notebook == series.normalised(notebook)
    assert {"version", "codemirror_mode"} <= notebook.metadata.language_info.keys()
    assert notebook == series.with_quotes(notebook)
    numbers = [cell.execution_count for cell in series.code_cells(notebook)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("01_handshake", "one of the two alone", "one of the two, edited by a reader"),
        ("02_message_types", "no extension uses", "no extension uses, edited by a reader"),
        ("04_gateway_server", "2, 3]", '"edited by a reader"]'),
    ],
)
async def test_a_quoted_cell_that_a_reader_edits_is_what_runs(name, was, becomes):
    path = series.NOTEBOOKS / f"{name}.ipynb"
    notebook = series.read(path)
    for cell in series.code_cells(notebook):
        if "quote" in cell.metadata:
            cell.source = cell.source.replace(was, becomes)
    [(executed, _)] = await series.run(path, notebook)
    assert any(becomes in series.printed(cell) for cell in series.code_cells(executed))


@pytest.mark.measures
async def test_chapter_03_judges_a_readers_numbers_by_the_law_for_them():
    path = series.NOTEBOOKS / "03_polling_vs_websocket.ipynb"
    notebook = series.read(path)
    for cell in series.code_cells(notebook):
        cell.source = cell.source.replace("DELAY = 4, 0.5, 0.05", "DELAY = 10, 0.2, 0.2")
        cell.source = cell.source.replace("schedule(RATE, 8, seed)", "schedule(RATE, 3, seed)")
    [(executed, _)] = await series.run(path, notebook, timeout=100)
    shown = "\n".join(series.printed(cell) for cell in series.code_cells(executed))
    # Two polls are left out for each that is under way.
    assert re.search(r"short poll 0\.2 s +500 ", shown)


async def test_chapter_05_shows_a_recording_where_there_is_no_node(monkeypatch):
    monkeypatch.setenv("PATH", "")
    [(executed, _)] = await series.run(series.NOTEBOOKS / "05_client.ipynb")
    shown = [series.printed(cell) for cell in series.code_cells(executed)]
    assert sum("(recorded, since Node is missing here)" in text for text in shown) == 2
    assert any("npm ci --prefix notebooks/node" in text for text in shown)


async def test_chapter_07_shows_recordings_where_there_is_no_nest(monkeypatch):
    monkeypatch.setenv("PATH", "")
    [(executed, _)] = await series.run(series.NOTEBOOKS / "07_the_original.ipynb")
    shown = [series.printed(cell) for cell in series.code_cells(executed)]
    assert sum("recorded" in text for text in shown) >= 6
    assert any("npm ci --prefix notebooks/node/nest" in text for text in shown)
