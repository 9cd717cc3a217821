"""The parity table as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.lines import Line2D

from workbench.conformance.grid import squares
from workbench.drawings import CONTROL, DATA, HTTP, LOOP, MASK, STYLE, TROUBLE, Picture
from workbench.parity.conversation import EQUAL

if TYPE_CHECKING:
    from workbench.parity.compared import Found

COLUMNS = 16  # marks beside each other

LOOKS: dict[str, dict[str, Any]] = {
    "equal": {"marker": "s", "color": DATA, "markersize": 4},
    "improvement": {"marker": "^", "color": CONTROL, "markersize": 7},
    "library": {"marker": "D", "color": HTTP, "markersize": 6},
    "Python": {"marker": "P", "color": MASK, "markersize": 7},
    "unlisted": {"marker": "X", "color": TROUBLE, "markersize": 8},
    "stale": {"marker": "X", "color": TROUBLE, "markersize": 8},
    "unknown": {"marker": "_", "color": LOOP, "markersize": 6},
}


def grid(found: Found, title: str = "") -> Picture:
    """A mark for each row, by family, in a panel for each server of ours.

    Without a title of yours, it says how many rows differ, and whether it is known why.
    """
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    counts = {server: found.counts(server) for server in found.rows[0].verdicts}
    for server, kinds in counts.items():
        marks = panels[f"{server}: {kinds['equal']} equal"] = {}
        for row in found.rows:
            look = LOOKS[row.verdicts[server].kind]
            marks.setdefault(row.conversation.family, []).append(look)
    with matplotlib.style.context(STYLE):
        figure = squares(panels, title or _title(found), COLUMNS)
        kinds = [kind for kind in LOOKS if any(count[kind] for count in counts.values())]
        lines = [Line2D([], [], linestyle="", label=kind, **LOOKS[kind]) for kind in kinds]
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
        said = "; ".join(
            f"{server}, " + ", ".join(f"{count[kind]} {kind}" for kind in kinds if count[kind])
            for server, count in counts.items()
        )
        return Picture(figure, f"{title or _title(found)}. Of {len(found.rows)} rows: {said}.")


def _title(found: Found) -> str:
    nest = "a recorded Nest" if found.recorded else "Nest"
    if found.problems:
        return f"Beside {nest}: {len(found.problems)} verdicts do not hold"
    differing = sum(any(v != EQUAL for v in row.verdicts.values()) for row in found.rows)
    return f"Beside {nest}: of {len(found.rows)} rows, {differing} differ, each for a reason"
