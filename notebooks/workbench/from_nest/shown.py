"""The page as a cell shows it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from workbench import sources
from workbench.from_nest.row import Row

_CELL = "text-align:left; vertical-align:top; white-space:normal"
_CODE = "overflow-x:auto; font-size:85%"
_SAID = "white-space:pre-wrap; overflow-wrap:anywhere; line-height:1.3; font-size:85%"
_ABOVE = "border-top:1px solid #888"


@dataclass(frozen=True)
class Result:
    """A row that was executed.

    said:    what its proof wrote down
    problem: why it failed; None if it did not
    """

    row: Row
    said: list[str]
    problem: str | None

    @property
    def mark(self) -> str:
        return "✓ executed" if self.problem is None else f"✗ failed: {self.problem}"


class Page(list[Result]):
    """Rows that were executed; a cell shows them as a table, Nest on the left, Python on the right.

    imports: what the code of every row can be run after
    """

    def __init__(self, results: list[Result], imports: str) -> None:
        super().__init__(results)
        self.imports = imports

    @property
    def failed(self) -> list[str]:
        """The names of the rows that failed."""
        return [each.row.name for each in self if each.problem is not None]

    def __repr__(self) -> str:
        return "\n\n\n".join([f"Imports\n{_indented(self.imports)}", *map(_as_text, self)])

    def _repr_html_(self) -> str:
        rows = "".join(map(_as_html, self))
        imports = sources.Source(self.imports)._repr_html_()
        above = f"<details><summary>The imports of all rows</summary>{imports}</details>"
        look = "width:100%; table-layout:fixed; border-collapse:collapse"
        return f'{above}<table style="{look}">{rows}</table>'


def _as_text(result: Result) -> str:
    row = result.row
    parts = [
        f"{row.name}: {row.nest}",
        _indented(row.typescript),
        f"in Python: {row.here}",
        _indented(row.code.code),
        "\n".join([f"{result.mark}", *(f"    {line}" for line in result.said)]),
    ]
    return "\n\n".join(parts)


def _as_html(result: Result) -> str:
    row = result.row
    colour = "#2E8B57" if result.problem is None else "#D55E00"
    mark = f'<strong style="color:{colour}">{escape(result.mark)}</strong>'
    said = escape("\n".join(result.said))
    original = f"{escape(row.nest)}{_code(row.typescript, 'typescript')}"
    here = f"{escape(row.here)}{_code(row.code.code, 'python')}"
    return (
        f'<tr style="{_ABOVE}"><th style="{_CELL}">{escape(row.name)}</th>'
        f'<th style="{_CELL}">in Python</th></tr>'
        f'<tr><td style="{_CELL}">{original}</td>'
        f'<td style="{_CELL}">{here}{mark}<pre style="{_SAID}">{said}</pre></td></tr>'
    )


def _code(code: str, language: str) -> str:
    return f'<div style="{_CODE}">{sources.Source(code, language)._repr_html_()}</div>'


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
