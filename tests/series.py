"""The notebooks as data: where they are, how they run, how they are written down.

Used by the refresh command and by the tests, so that what is tested is what is written.
"""

from __future__ import annotations

import ast
import base64
import copy
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from packaging.requirements import Requirement
from workbench.second_kernel import channels

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellFailed(Exception):
    """A cell raised an error or did not end; the text shows which, its source and the error."""


def notebooks() -> list[Path]:
    """Every notebook of the series, chapters and solutions, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def chapters() -> list[Path]:
    return [path for path in notebooks() if not path.stem.endswith("_solutions")]


def figures() -> dict[Path, list[bytes]]:
    """The README's pictures: the file of each, and what the cells tagged `readme` have drawn."""
    return {
        ROOT / ".github" / f"{path.name[:2]}.png": [
            base64.b64decode(output.data["image/png"])
            for cell in code_cells(read(path))
            if "readme" in tags(cell)
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        for path in chapters()
    }


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(cell: NotebookNode) -> str:
    """The text of a cell's outputs, pictures represented by their alternative text."""
    return "\n".join(
        output.get("text") or output.get("data", {}).get("text/plain") or output.get("evalue", "")
        for output in cell.outputs
    )


async def run(
    path: Path,
    notebook: NotebookNode | None = None,
    passes: int = 1,
    progress: Callable[[int, int], None] = lambda cell, cells: None,
    timeout: int = 60,
) -> list[tuple[NotebookNode, float]]:
    """Execute a notebook's cells in a fresh kernel, in its folder, `passes` times over.

    Gives for each pass the executed notebook and its duration in seconds. Raises
    CellFailed at the first cell that fails, or is not done after `timeout` seconds.
    """
    notebook = copy.deepcopy(notebook or read(path))
    with TemporaryDirectory() as folder:
        kernel = AsyncKernelManager(kernel_name="python3", **channels(folder))
        return await _run(path, notebook, kernel, passes, progress, timeout)


async def _run(
    path: Path,
    notebook: NotebookNode,
    kernel: AsyncKernelManager,
    passes: int,
    progress: Callable[[int, int], None],
    timeout: int,
) -> list[tuple[NotebookNode, float]]:
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    done = []
    async with client.async_setup_kernel(cleanup_kc=True):
        said = await client.async_wait_for_reply(client.kc.kernel_info())
        notebook.metadata["language_info"] = said["content"]["language_info"]
        for _ in range(passes):
            start = perf_counter()
            for index, cell in enumerate(notebook.cells):
                progress(index + 1, len(notebook.cells))
                try:
                    await client.async_execute_cell(cell, index)
                except CellExecutionError as error:
                    traceback = _ANSI.sub("", error.traceback)
                    raise CellFailed(_report(path, index, cell, traceback)) from None
                except CellTimeoutError:
                    why = f"It was not done after {timeout} s."
                    raise CellFailed(_report(path, index, cell, why)) from None
            done.append((copy.deepcopy(notebook), perf_counter() - start))
    return done


def _report(path: Path, index: int, cell: NotebookNode, why: str) -> str:
    source = "\n".join("    " + line for line in cell.source.splitlines())
    return f"{path.name}, cell {index + 1}, failed:\n\n{source}\n\n{why}"


def normalised(notebook: NotebookNode) -> NotebookNode:
    """The notebook with nothing in its metadata that differs from run to run.

    What the kernel says of its language stays: JupyterLab takes a notebook that says anything
    else for a changed one, as soon as it is opened.
    """
    notebook = copy.deepcopy(notebook)
    kept = {"kernelspec": KERNEL, "language_info": notebook.metadata["language_info"]}
    notebook.metadata = nbformat.from_dict(kept)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:03}"
        kept = {key: cell.metadata[key] for key in ("tags", "quote") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        for output in cell.get("outputs", []):
            # Without its kernel a widget is an error message; the picture beside it is not.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.validate(notebook)
    return notebook


def with_quotes(notebook: NotebookNode, folder: Path = NOTEBOOKS) -> NotebookNode:
    """The notebook with each quoted cell filled anew from its module.

    A cell quotes through its metadata, `"quote": "nestling/frames.py"` for the top of
    that module and `"quote": "nestling/frames.py#Frame"` from the definition of Frame
    on. Each quote reaches to where the next quote of the module begins, the last to the
    end, so that together they are the module, whole and in order.

    Raises ValueError for a name that the module does not define, for quotes out of the
    module's order, and for a module whose first quote is not its top.
    """
    notebook = copy.deepcopy(notebook)
    quoting: dict[str, list[NotebookNode]] = {}
    for cell in notebook.cells:
        if quote := cell.metadata.get("quote"):
            quoting.setdefault(quote.partition("#")[0], []).append(cell)
    for module, cells in quoting.items():
        names = [cell.metadata["quote"].partition("#")[2] for cell in cells]
        for cell, source in zip(
            cells, _cut((folder / module).read_text(), module, names), strict=True
        ):
            cell.source = source
    return notebook


def _cut(source: str, module: str, names: list[str]) -> list[str]:
    """The source in pieces, each from the definition of a name to that of the next."""
    begins = _definitions(source)
    if names[0]:
        raise ValueError(f"the first quote of {module} is its top, not {names[0]}")
    if unknown := [name for name in names[1:] if name not in begins]:
        raise ValueError(f"{module} defines no {unknown[0] or 'second top'}")
    cuts = [0, *(begins[name] for name in names[1:])]
    if cuts != sorted(set(cuts)):
        raise ValueError(f"the quotes of {module} are not in its order: {', '.join(names[1:])}")
    lines = source.splitlines()
    return [
        "\n".join(lines[begin:end]).strip("\n")
        for begin, end in zip(cuts, [*cuts[1:], len(lines)], strict=True)
    ]


def _definitions(source: str) -> dict[str, int]:
    """The line, from 0, at which each top-level name's definition begins.

    Decorators, and comments right above, belong to the definition.
    """
    lines, begins = source.splitlines(), {}
    for node in ast.parse(source).body:
        names = [getattr(node, "name", "")]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        line = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while line and lines[line - 1].startswith("#"):
            line -= 1
        begins |= {name: line for name in names if name and name not in begins}
    return begins


def settings() -> dict[str, str]:
    """The series' own settings, [tool.nestling] in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nestling"]


def other_versions() -> list[str]:
    """Packages that the committed outputs are pinned to and that are installed otherwise."""
    lines = (ROOT / "tests" / "requirements.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if "==" in line]
    return [
        f"{pin} ({version(pin.name)} is installed)"
        for pin in pinned
        if version(pin.name) not in pin.specifier
    ]
