"""The conformance board as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.style
from matplotlib.figure import Figure

from workbench.conformance import CASES
from workbench.drawings import DATA, STYLE, TROUBLE, Picture

FAMILIES = list(dict.fromkeys(case.family for case in CASES))
COLUMNS = 16  # squares beside each other


def grid(found: Mapping[str, Mapping[str, str]], title: str) -> Picture:
    """A square for each row of the board, a panel for each server, crossed where it differs.

    `found` maps a server to what `play` gave.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 6.6))
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
        for panel, (server, problems) in zip(panels, found.items(), strict=True):
            top, ticks = 0, []
            for family in FAMILIES:
                names = [case.name for case in CASES if case.family == family]
                for number, name in enumerate(names):
                    wrong = name in problems
                    look = {"marker": "X" if wrong else "s", "color": TROUBLE if wrong else DATA}
                    row, column = divmod(number, COLUMNS)
                    panel.plot(column, top + row, markersize=7 if wrong else 4, **look)
                ticks.append(top)
                top += -(-len(names) // COLUMNS) + 1
            panel.set_yticks(ticks, [family.replace("_", " ") for family in FAMILIES])
            panel.set(xlim=(-1, COLUMNS), ylim=(top - 0.5, -1), xticks=[])
            panel.set_title(f"{server}: {len(problems)} differ", fontsize=10.5)
            panel.spines[:].set_visible(False)
        said = "; ".join(f"{server}, {len(problems)}" for server, problems in found.items())
        return Picture(figure, f"{title}. Of {len(CASES)} rows, those that differ: {said}.")
