"""The conformance board as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from workbench.conformance import CASES
from workbench.drawings import DATA, STYLE, TROUBLE, Picture

FAMILIES = list(dict.fromkeys(case.family for case in CASES))
COLUMNS = 16  # squares beside each other

Look = Mapping[str, Any]  # of a mark, as matplotlib's `plot` takes it


def grid(found: Mapping[str, Mapping[str, str]], title: str) -> Picture:
    """A square for each row of the board, a panel for each server, crossed where it differs.

    `found` maps a server to what `play` gave.
    """
    panels = {}
    for server, problems in found.items():
        marks = panels[f"{server}: {len(problems)} differ"] = {}
        for case in CASES:
            wrong = case.name in problems
            look = {"marker": "X" if wrong else "s", "color": TROUBLE if wrong else DATA}
            marks.setdefault(case.family, []).append(look | {"markersize": 7 if wrong else 4})
    with matplotlib.style.context(STYLE):
        said = "; ".join(f"{server}, {len(problems)}" for server, problems in found.items())
        alt = f"{title}. Of {len(CASES)} rows, those that differ: {said}."
        return Picture(squares(panels, title, COLUMNS), alt)


def squares(panels: Mapping[str, Mapping[str, Sequence[Look]]], title: str, columns: int) -> Figure:
    """A mark for each row, by family, in a panel for each server; `columns` beside each other."""
    figure = Figure(figsize=(8, 6.6))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (name, families) in zip(axes, panels.items(), strict=True):
        top, ticks = 0, []
        for looks in families.values():
            for number, look in enumerate(looks):
                row, column = divmod(number, columns)
                panel.plot(column, top + row, **look)
            ticks.append(top)
            top += -(-len(looks) // columns) + 1
        panel.set_yticks(ticks, [family.replace("_", " ") for family in families])
        panel.set(xlim=(-1, columns), ylim=(top - 0.5, -1), xticks=[])
        panel.set_title(name, fontsize=10.5)
        panel.spines[:].set_visible(False)
    return figure
