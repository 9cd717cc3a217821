"""The refresh command: quotes, outputs, progress, and what it does when a cell fails."""

from __future__ import annotations

import nbformat
import pytest
import refresh
import series
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

MODULE = '''"""A module."""

import asyncio

LIMIT = 125  # bytes

# Why there is a decorator.
@staticmethod
def first():
    return 1


class Second:
    """Doc."""


def third():
    return LIMIT
'''


def quoting(*quotes: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell("old", metadata={"quote": quote}) for quote in quotes])


@pytest.fixture
def module(tmp_path):
    (tmp_path / "module.py").write_text(MODULE)
    return tmp_path


def test_quotes_are_the_module_whole_and_in_order(module):
    notebook = quoting("module.py", "module.py#LIMIT", "module.py#first", "module.py#third")
    notebook.cells.insert(2, new_markdown_cell("text between"))
    sources = [cell.source for cell in series.code_cells(series.with_quotes(notebook, module))]
    assert "\n".join("\n".join(sources).split()) == "\n".join(MODULE.split())
    assert sources[1] == "LIMIT = 125  # bytes"
    assert sources[2].startswith("# Why there is a decorator.\n@staticmethod\ndef first")
    assert sources[2].endswith('"""Doc."""')


def test_a_quote_that_differs_from_its_module_is_noticed(module):
    notebook = series.with_quotes(quoting("module.py", "module.py#first"), module)
    assert series.with_quotes(notebook, module) == notebook
    notebook.cells[1].source += "\n# an edit"
    assert series.with_quotes(notebook, module) != notebook


@pytest.mark.parametrize(
    ("quotes", "said"),
    [
        (["module.py#first"], "the first quote of module.py is its top"),
        (["module.py", "module.py#fourth"], "module.py defines no fourth"),
        (["module.py", "module.py"], "module.py defines no second top"),
        (["module.py", "module.py#third", "module.py#first"], "not in its order: third, first"),
    ],
)
def test_quotes_that_cannot_be_filled_say_why(module, quotes, said):
    with pytest.raises(ValueError, match=said):
        series.with_quotes(quoting(*quotes), module)


def test_a_refreshed_notebook_has_outputs_and_nothing_of_the_machine(tmp_path, capsys):
    path = tmp_path / "00_test.ipynb"
    notebook = new_notebook(cells=[new_code_cell("1 + 1", metadata={"tags": ["volatile"]})])
    notebook.metadata["kernelspec"] = {"name": "mine", "display_name": "at /home/me"}
    nbformat.write(notebook, path)
    refresh.refresh(path)
    written = series.read(path)
    assert series.printed(written.cells[0]) == "2"
    assert written.cells[0].execution_count == 1
    assert series.tags(written.cells[0]) == ["volatile"]
    assert "/home/me" not in path.read_text()
    assert "cell 1 of 1" in capsys.readouterr().out
    before = path.read_bytes()
    refresh.refresh(path)
    assert path.read_bytes() == before


def test_the_first_failing_cell_is_shown_and_the_notebook_left_as_it_was(tmp_path):
    path = tmp_path / "00_test.ipynb"
    cells = ["print('fine')", "number = 1\nnumber / 0", "print('never reached')"]
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in cells]), path)
    before = path.read_bytes()
    with pytest.raises(series.CellFailed) as caught:
        refresh.refresh(path)
    said = str(caught.value)
    assert "00_test.ipynb, cell 2, failed" in said
    assert "    number = 1\n    number / 0" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "never reached" not in said
    assert path.read_bytes() == before


async def test_a_cell_that_does_not_end_is_shown(tmp_path):
    cells = ["import asyncio", "await asyncio.sleep(60)"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    with pytest.raises(series.CellFailed) as caught:
        await series.run(tmp_path / "00_test.ipynb", notebook, timeout=1)
    said = str(caught.value)
    assert "00_test.ipynb, cell 2, failed" in said
    assert "    await asyncio.sleep(60)\n\nIt was not done after 1 s." in said


def test_a_name_that_no_notebook_has(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["refresh.py", "99"])
    assert refresh.main() == 2
    assert "no notebook's name begins with 99" in capsys.readouterr().out
