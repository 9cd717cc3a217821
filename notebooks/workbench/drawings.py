"""The series' figures, each drawn from what was just recorded."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("nestling.mplstyle")

# One meaning for each colour in the whole series, told apart by the colour-blind
# too (Okabe and Ito's palette).
ALIVE = "#0072B2"
BLOCKED = "#D55E00"


class Picture:
    """A figure as a cell displays it: a PNG, with words for those who cannot see it.

    png: the image's bytes
    alt: what it shows, in a sentence or two
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=2 * figure.dpi, metadata={"Software": None})
        self.png = buffer.getvalue()
        self.alt = alt
        self._width = int(figure.bbox.width)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        # Twice as many pixels as the page gives it: sharp on every screen.
        return data, {"image/png": {"alt": self.alt, "width": self._width}}


def longest_gap(stamps: Sequence[float]) -> tuple[float, float]:
    """When the longest pause between neighbouring time stamps began and ended, in seconds."""
    if len(stamps) < 2:
        raise ValueError(f"a gap lies between two time stamps, and here are {len(stamps)}")
    return max(pairwise(stamps), key=lambda gap: gap[1] - gap[0])


def ticks(rows: Mapping[str, Sequence[float]], title: str) -> Picture:
    """A row of strokes for each ticker, one stroke for each time it ticked.

    `rows` maps a label to the time stamps in seconds. Where no stroke falls for
    more than a fifth of a second, the gap is shaded and its length written in it.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 0.6 + 0.9 * len(rows)))
        axes = figure.subplots()
        for height, stamps in enumerate(rows.values()):
            axes.vlines(stamps, height - 0.32, height + 0.32, color=ALIVE, linewidth=1.6)
            begin, end = longest_gap(stamps)
            if end - begin > 0.2:
                axes.barh(height, end - begin, 0.64, begin, color=BLOCKED, alpha=0.25)
                axes.text(
                    (begin + end) / 2,
                    height,
                    f"nothing for {end - begin:.2f} s",
                    ha="center",
                    va="center",
                    color="#7A3500",
                )
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.set_title(title)
        return Picture(figure, f"{title}: a row of strokes for each of {', '.join(rows)}.")
