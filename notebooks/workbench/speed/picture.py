"""The figures as a picture."""

from __future__ import annotations

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.drawings import DATA, LOOP, OWN, STYLE, Picture
from workbench.speed.figures import IN_FLIGHT, Figures, Spread
from workbench.speed.processes import ON_NODE

BUSY = 0.9  # a client that is busy for more of the time than this sets the pace itself

# Who carries the messages: the mark and the colour.
_LOOKS = {name: ("s", LOOP) for name in ON_NODE} | {"gateway on our server": ("D", OWN)}


def draw(figures: Figures, title: str) -> Picture:
    """A row for each server: what a message costs, and how many are answered in a second.

    The mark is the median, the line the range of the turns; hollow with one message in flight
    on a connection, filled with sixteen. A rate that is the client's limit has a ≥.
    """
    said = []
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.62 * len(figures.servers)))
        costs, rates = figure.subplots(1, 2, sharey=True)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
        for row, name in enumerate(figures.servers):
            for in_flight, below in zip(IN_FLIGHT, (-0.17, 0.17), strict=True):
                cost = figures.cpu(name, in_flight)
                rate = Spread(*(each / 1000 for each in figures.rate(name, in_flight)))
                limit = "≥ " * (figures.client(name, in_flight).median > BUSY)
                marker, colour = _LOOKS.get(name, ("o", DATA))
                look = marker, colour, "white" if in_flight == IN_FLIGHT[0] else colour
                _mark(costs, cost, row + below, look, f"{cost.median:.0f}")
                _mark(rates, rate, row + below, look, f"{limit}{rate.median:.0f}")
                said.append(
                    f"{name}, {in_flight} in flight: {cost.median:.1f} µs, "
                    f"{limit}{rate.median:.0f} thousand answers a second"
                )
        costs.set_yticks(range(len(figures.servers)), figures.servers)
        costs.set(ylim=(len(figures.servers) - 0.5, -0.5), xlabel="server CPU, µs a message")
        rates.set(xlabel="answers a second, in thousands")
        for axes in (costs, rates):
            axes.set_xlim(0, 1.25 * axes.dataLim.xmax)
        costs.set_title("hollow: {} in flight, filled: {}".format(*IN_FLIGHT), fontsize=10.5)
        return Picture(figure, f"{title}. The medians of the turns: {'; '.join(said)}.")


def _mark(axes: Axes, spread: Spread, at: float, look: tuple[str, str, str], text: str) -> None:
    """A median with its range, and its number at the end of that."""
    marker, colour, fill = look
    axes.hlines(at, spread.least, spread.most, color=colour, linewidth=1.6)
    axes.plot(spread.median, at, marker, color=colour, markerfacecolor=fill, markersize=7)
    beside = {"textcoords": "offset points", "va": "center", "color": colour}
    axes.annotate(text, (spread.most, at), (7, 0), **beside)
