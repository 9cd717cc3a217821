"""The series' figures, each drawn from what was just recorded."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from nestling.frames import Decoder, Frame, Opcode, encode
from nestling.handshake import Request, Response
from PIL import Image

from workbench.breaking import Outcome
from workbench.trace import Body, Content, Trace, Undecoded

STYLE = Path(__file__).with_name("nestling.mplstyle")

# One meaning for each colour in the whole series, told apart by the colour-blind too, and
# all but LENGTH, which only fills boxes, dark enough for lines on white.
LOOP = "#555555"
HTTP = "#C07E00"
DATA = "#0072B2"
CONTROL = "#009E73"
LENGTH = "#F0E442"
MASK = "#CC79A7"
TROUBLE = "#8B0000"
OWN = "#C2185B"  # a transport of the reader's own

# What is drawn as a line: its x and its y.
Line = tuple[Sequence[float], Sequence[float]]


class Picture:
    """A figure as a cell displays it, with words for those who cannot see it.

    A page shows the HTML, whose image has the words as its alternative text: notebooks drop
    that of a bare PNG. The PNG beside it is for what shows no HTML, such as a PDF.

    png: the image's bytes
    alt: what it shows, in a sentence or two
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        self.alt = alt
        self.png = _png(figure, 1)
        width = int(figure.bbox.width)
        # More pixels than the page gives it: sharp on screens that have them.
        source = f"data:image/png;base64,{base64.b64encode(_png(figure, 1.4)).decode()}"
        self.html = f'<img src="{source}" alt="{escape(alt)}" width="{width}">'

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        png = base64.b64encode(self.png).decode()
        data = {"text/html": self.html, "image/png": png, "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


def _png(figure: Figure, scale: float) -> bytes:
    """The figure as a PNG of `scale` pixels to each of the page's."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=scale * figure.dpi)
    # A palette is enough for what is drawn here, and makes it a third of the size.
    Image.open(drawn).convert("RGB").quantize(32).save(packed, "png", optimize=True)
    return packed.getvalue()


class Layer(NamedTuple):
    """A box of the map: what it is called, what it does, and the chapter that takes it apart."""

    name: str
    does: str
    chapter: str | None


# From the top down; where a row has two boxes, the left one is the client's.
_STACK = [
    [Layer("class poll", "a question, votes, a tally", "00")],
    [
        Layer("client", "whose answer is this?", "05"),
        Layer("gateway", "which method is this for?", "04"),
    ],
    [Layer("protocol", "pieces become messages; pings and goodbyes are answered", "06")],
    [Layer("frames", "where a message begins and ends, and of which type it is", "02")],
    [Layer("handshake", "HTTP, once, and then WebSocket", "01")],
    [Layer("TCP", "bytes in order, both ways", None)],
    [Layer("cable", "every byte and every way takes time", "03")],
]

_HERE = {
    "00": "Chapter 00 runs the poll: everything below carries its votes",
    "01": "Chapter 01 takes the handshake apart: how HTTP becomes a WebSocket",
    "02": "Chapter 02 takes the frames apart: what a message is in bytes",
    "03": "Chapter 03 measures the cable: what crosses it, and when it arrives",
    "04": "Chapter 04 builds the gateway: a method for each kind of message",
    "05": "Chapter 05 builds the client: each answer to the one who asked",
    "06": "Chapter 06 builds the protocol, and the server around it",
    "07": "Chapter 07 puts the original beside our gateway: Nest, on the same cable",
    "08": "Chapter 08 breaks the cable, and the poll on top of it survives",
}

_AGAIN = {"07": "gateway", "08": "cable"}  # the layer that a later chapter comes back to


def stack(chapter: str) -> Picture:
    """The map of the series: what a vote passes through, and *you are here*.

    `chapter` is a number from "00" to "08"; what later chapters take apart is still to come.
    Raises KeyError for a chapter without a place on the map.
    """
    title = _HERE[chapter]
    said = []
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 4.6))
        axes = figure.subplots()
        for row, layers in enumerate(_STACK):
            width = 10 / len(layers)
            for column, layer in enumerate(layers):
                _draw_layer(axes, layer, (column * width, row, width), chapter)
                said.append(f"{layer.name}, {layer.does} ({_state(layer, chapter)})")
        _draw_sides(axes, len(_STACK) - 0.5)
        axes.set(xlim=(-0.6, 10.6), ylim=(len(_STACK), -0.5), title=title)
        axes.axis("off")
        return Picture(figure, f"{title}. The whole stack from the top down: {'; '.join(said)}.")


def _draw_sides(axes: Axes, bottom: float) -> None:
    """The way of a vote: down at the client's side, across, and up at the server's."""
    above = {"y": -0.12, "va": "bottom", "fontsize": 11}
    axes.text(5, s="a vote goes down, across and up", ha="center", **above)
    arrow = {"arrowstyle": "-|>", "color": LOOP, "linewidth": 1.6}
    for x, side, ha, (begin, end) in (
        (-0.35, "browser or client", "left", (0, bottom)),
        (10.35, "server", "right", (bottom, 0)),
    ):
        axes.annotate("", (x, end), (x, begin), arrowprops=arrow)
        axes.text(x, s=side, ha=ha, weight="bold", **above)


def _state(layer: Layer, chapter: str) -> str:
    """What the map says of a layer to a reader of a chapter."""
    if chapter == layer.chapter or _AGAIN.get(chapter) == layer.name:
        return "you are here"
    if layer.chapter is None:
        return "your operating system's"
    return f"chapter {layer.chapter}" + (", still to come" if layer.chapter > chapter else "")


def _draw_layer(axes: Axes, layer: Layer, place: tuple[float, int, float], chapter: str) -> None:
    """A layer's box: dark where the reader is, dashed where no chapter has been yet."""
    x, y, width = place
    state = _state(layer, chapter)
    looks, ink = {"facecolor": "#EEEEEE", "edgecolor": LOOP, "linewidth": 1}, "black"
    if state == "you are here":
        looks, ink, state = {"facecolor": "#333333", "edgecolor": "black"}, "white", f"◀ {state}"
    elif state.endswith("to come"):
        looks = {"facecolor": "white", "edgecolor": LOOP, "linewidth": 1, "linestyle": "--"}
    axes.add_patch(Rectangle((x + 0.08, y + 0.06), width - 0.16, 0.88, **looks))
    axes.text(x + 0.25, y + 0.34, layer.name, va="center", weight="bold", color=ink, fontsize=12)
    axes.text(x + 0.25, y + 0.71, layer.does, va="center", color=ink, fontsize=11)
    beside = {"ha": "right", "va": "center", "color": ink, "fontsize": 11}
    axes.text(x + width - 0.25, y + 0.34, state, **beside)


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
        said = []
        for height, (label, stamps) in enumerate(rows.items()):
            axes.vlines(stamps, height - 0.32, height + 0.32, color=LOOP, linewidth=1.6)
            begin, end = longest_gap(stamps)
            gap = end - begin > 0.2
            said.append(f"{label}, {'a gap in which nothing ticks' if gap else 'without a gap'}")
            if gap:
                axes.barh(height, end - begin, 0.64, begin, color=TROUBLE, alpha=0.25)
                axes.text(
                    (begin + end) / 2,
                    height,
                    f"nothing for {end - begin:.2f} s",
                    ha="center",
                    va="center",
                    color=TROUBLE,
                )
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.set_title(title)
        return Picture(figure, f"{title}. A stroke for each tick: {'; '.join(said)}.")


def states(states: Mapping[str, str], ways: Mapping[str, Sequence[str]], title: str) -> Picture:
    """The states of a connection from left to right, and below them a line for each way through.

    `states` maps a name to what it means, in their order; `ways` maps a connection to the
    states that it was in. Raises KeyError for a state that is none.
    """
    columns = {name: column for column, name in enumerate(states)}
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.42 * len(ways)))
        axes = figure.subplots()
        for name, column in columns.items():
            wrapped = "\n".join(wrap(states[name], 22))
            axes.text(column, -1.35, name, ha="center", weight="bold", color=CONTROL)
            axes.text(column, -1.2, wrapped, ha="center", va="top", fontsize=9)
        for row, (connection, passed) in enumerate(ways.items()):
            places = [columns[name] for name in passed]
            for begin, end in pairwise(places):
                arrow = {"arrowstyle": "-|>", "color": CONTROL, "linewidth": 1.6}
                axes.annotate("", (end - 0.05, row), (begin + 0.05, row), arrowprops=arrow)
            axes.plot(places, [row] * len(places), "o", color=CONTROL, markersize=9)
            axes.text(-0.3, row, connection, ha="right", va="center")
        axes.set(xlim=(-1.1, len(states) - 0.55), ylim=(len(ways) - 0.5, -1.7), title=title)
        axes.axis("off")
        said = "; ".join(f"{name}: {', '.join(passed)}" for name, passed in ways.items())
        return Picture(figure, f"{title}. The states of each connection, {said}.")


# How what is sent is drawn: its mark, that of the legend, its colour, and how far below its row.
_SENT = {
    "ping": ("^", "▲", CONTROL, -0.12),
    "pong": ("v", "▼", CONTROL, 0.12),
    "message": ("o", "●", DATA, 0.0),
}


def beliefs(outcomes: Mapping[str, Outcome], title: str) -> Picture:
    """What each side of a connection believes, and for how long: a bar while it is open to it.

    `outcomes` maps what is different about each to it. A bar ends in a cross where the side
    knows better, and in an arrow where it does not. What was sent has marks, hollow if it did
    not arrive; the time in which nothing arrives is shaded.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.95 * len(outcomes)))
        axes = figure.subplots()
        for place, (name, outcome) in enumerate(outcomes.items()):
            axes.text(0, 3 * place + 0.1, name, weight="bold", va="center")
            _draw_outcome(axes, 3 * place + 1, outcome)
        rows = [3 * place + 1 + row for place in range(len(outcomes)) for row in (0, 1)]
        axes.set_yticks(rows, ["client", "server"] * len(outcomes))
        axes.tick_params(axis="y", length=0)
        end = max(outcome.watched for outcome in outcomes.values())
        axes.set(xlim=(-0.01 * end, 1.32 * end), ylim=(3 * len(outcomes) - 0.4, -0.5), title=title)
        kinds = {sent.kind for outcome in outcomes.values() for sent in outcome.sent}
        shown = [f"{mark} {kind}" for kind, (_, mark, _, _) in _SENT.items() if kind in kinds]
        legend = f"\n{'   '.join(shown)}   (hollow: did not arrive)" if shown else ""
        axes.set_xlabel(f"seconds since the connection was open{legend}")
        said = "; ".join(f"{name}: {_said(outcome)}" for name, outcome in outcomes.items())
        return Picture(figure, f"{title}. What each side knows, {said}.")


def _draw_outcome(axes: Axes, top: float, outcome: Outcome) -> None:
    """Two rows: the client's at the height `top`, and below it the server's."""
    if outcome.hole is not None:
        dark = {"color": TROUBLE, "alpha": 0.12, "linewidth": 0}
        axes.barh(top + 0.5, outcome.watched - outcome.hole, 1.9, outcome.hole, **dark)
    for row, side in enumerate(("client", "server"), int(top)):
        noticed = outcome.noticed[side]
        end = outcome.watched if noticed is None else noticed
        axes.barh(row, end, 0.62, color=LOOP, alpha=0.25)
        if noticed is None:
            axes.plot(end, row, ">", color=LOOP, markersize=9)
        else:
            axes.plot(end, row, "X", color=TROUBLE, markersize=11)
        at = {"xytext": (10, 0), "textcoords": "offset points", "va": "center"}
        colour = _dark(LOOP if noticed is None else TROUBLE)
        axes.annotate(_belief(outcome, side), (end, row), color=colour, fontsize=11, **at)
        for sent in (each for each in outcome.sent if each.sender == side and each.kind in _SENT):
            mark, _, colour, below = _SENT[sent.kind]
            face = {"markerfacecolor": colour if sent.arrived else "white"}
            axes.plot(sent.at, row + below, mark, color=colour, markersize=7.5, **face)


def _belief(outcome: Outcome, side: str) -> str:
    if (noticed := outcome.noticed[side]) is None:
        return "open" if outcome.hole is None else "still open, it thinks"
    return f"{outcome.codes[side]} after {noticed:.2f} s"


def _said(outcome: Outcome) -> str:
    """An outcome in words."""
    began = "" if outcome.hole is None else f"nothing arrives after {outcome.hole:.2f} s, "
    sides = (f"{side} {_belief(outcome, side)}" for side in ("client", "server"))
    return began + " and ".join(sides)


def sequence(trace: Trace, title: str) -> Picture:
    """A sequence diagram: the client's and the server's line, and an arrow for each item.

    The arrows stand in the order in which the items were sent, at equal distances.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.46 * len(trace)))
        axes = figure.subplots()
        axes.vlines([0, 1], -0.6, len(trace), color="black", linewidth=1)
        for row, item in enumerate(trace):
            begin, end = (0, 1) if item.sender == "client" else (1, 0)
            colour = _colour(item.content)
            axes.annotate(
                "",
                (end, row + 0.25),
                (begin, row),
                arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6},
            )
            label = {"ha": "center", "va": "bottom", "color": _dark(colour), "fontsize": 11.5}
            axes.text(0.5, row - 0.02, item.label, **label)
        for place, name in enumerate(("client", "server")):
            axes.text(place, -0.75, name, ha="center", va="bottom", weight="bold", fontsize=11.5)
        axes.set(xlim=(-0.1, 1.1), ylim=(len(trace), -1.2))
        axes.set_title(title, pad=12)
        axes.axis("off")
        said = "; ".join(f"{item.sender}: {item.label}" for item in trace)
        return Picture(figure, f"{title}. In this order, {said}.")


def waits(
    before: Mapping[str, float],
    after: Mapping[str, float],
    names: tuple[str, str],
    title: str,
) -> Picture:
    """A row for each question, and in it two bars, each as long as its answer took.

    `before` and `after` map the same questions, asked at once, to the seconds until each was
    answered; the rows are in the order of `before`. `names` says what the two are. Bars of
    `before` are hollow.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.8 * len(before)))
        axes = figure.subplots()
        for row, label in enumerate(before):
            looks = ((-0.19, "white", before[label]), (0.19, DATA, after[label]))
            for shift, face, answered in looks:
                bar = {"facecolor": face, "edgecolor": DATA, "linewidth": 1.6}
                axes.barh(row + shift, answered, 0.3, **bar)
                axes.plot(answered, row + shift, marker="<", color=DATA, markersize=9)
        for shift, name, answered in zip(
            (-0.19, 0.19), names, (before[label], after[label]), strict=True
        ):
            beside = {"textcoords": "offset points", "va": "center"}
            axes.annotate(name, (answered, row + shift), (10, 0), **beside)
        axes.set_yticks(range(len(before)), before)
        axes.invert_yaxis()
        end = max(*before.values(), *after.values())
        axes.set(xlim=(-0.02 * end, 1.35 * end), xlabel="seconds since the questions")
        axes.set_title(title)
        said = "; ".join(
            f"{label} after {before[label]:.1f} s and after {after[label]:.1f} s"
            for label in before
        )
        return Picture(figure, f"{title}. Answered, {names[0]} and {names[1]}: {said}.")


def curves(
    lines: Mapping[str, Line],
    points: Mapping[str, Line],
    title: str,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Picture:
    """The law as lines, the measurement as points; the same name has the same colour and mark.

    Each line ends in its mark and its name. On logarithmic axes, x is labelled where something
    was measured, if at more than one place, y at 1, 2 and 5 times the powers of ten.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 4))
        axes = figure.subplots()
        if logarithmic:
            axes.set(xscale="log", yscale="log")
        _draw_law(axes, lines, points)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if logarithmic:
            measured = sorted({value for x, _ in points.values() for value in x})
            axes.xaxis.set_major_formatter("{x:g}")
            if len(measured) > 1:
                axes.set_xticks(measured, [f"{value:g}" for value in measured])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        _name_the_ends(figure, axes, {name: (x[-1], y[-1]) for name, (x, y) in lines.items()})
        drawn = {"the law as lines for": lines, "points for": points}
        said = "; ".join(f"{what} {', '.join(them)}" for what, them in drawn.items() if them)
        return Picture(figure, f"{title}: {said}.")


def race(
    events: Sequence[float],
    lanes: Mapping[str, Sequence[tuple[float, float]]],
    asked: Mapping[str, Sequence[float]],
    delay: float,
    span: tuple[float, float],
    title: str,
) -> Picture:
    """A lane of events, and one for each transport, with a bar from each event to its arrival.

    A bar is thick while the event waits at the server, and thin for the `delay` that it is on
    its way; it ends in the transport's mark. `asked` has the moments at which a question
    reached a server: a stroke each. Times are in seconds; drawn are the events due in `span`.
    """
    begin, end = span
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.3 + 0.62 * len(lanes)))
        axes = figure.subplots()
        due = [at - begin for at in events if begin <= at < end]
        axes.vlines(due, 0, len(lanes) + 0.5, color="#CCCCCC", linewidth=0.8, zorder=0)
        axes.plot(due, [0] * len(due), "v", color="black", markersize=8)
        for height, (name, waits) in enumerate(lanes.items(), 1):
            shown = [wait for wait in waits if begin <= wait[0] < end]
            until = max([end, *(arrived for _, arrived in shown)])
            strokes = [at - begin for at in asked.get(name, ()) if begin <= at <= until]
            style = {"color": _arm(name)[0]["color"], "linewidth": 1.2}
            axes.vlines(strokes, height - 0.42, height + 0.42, **style)
            _draw_waits(axes, height, name, shown, begin, delay)
        axes.axhline(0.5, color="black", linewidth=0.8)
        axes.set_yticks(range(len(lanes) + 1), ["events", *lanes])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(len(lanes) + 0.5, -0.5), xlabel="seconds", title=title)
        axes.set_xlim(-0.01 * (end - begin), max(end - begin, axes.dataLim.x1 + 0.02))
        means = {name: [there - at for at, there in waits] for name, waits in lanes.items()}
        said = ", ".join(f"{n} {sum(m) / len(m):.2f} s" for n, m in means.items() if m)
        return Picture(
            figure, f"{title}. The bars are as long as an event took, on average: {said}."
        )


def _draw_waits(
    axes: Axes,
    height: float,
    name: str,
    waits: Sequence[tuple[float, float]],
    begin: float,
    delay: float,
) -> None:
    """The bars of one lane; those that overlap lie one above the other."""
    style, marker = _arm(name)
    free: list[float] = []  # when the last bar of each row ends
    rows = []
    for due, arrived in waits:
        row = next((n for n, ended in enumerate(free) if ended < due), len(free))
        free[row : row + 1] = [arrived + 0.02]
        rows.append(row)
    for row, (due, arrived) in zip(rows, waits, strict=True):
        y = height + (row - (len(free) - 1) / 2) * min(0.24, 0.7 / len(free))
        sent = max(arrived - delay, due)
        colour = style["color"]
        bar = {"color": colour, "solid_capstyle": "butt"}
        axes.plot([due - begin, sent - begin], [y, y], linewidth=5.5, alpha=0.55, **bar)
        axes.plot([due - begin, arrived - begin], [y, y], linewidth=1.4, **bar)
        axes.plot(arrived - begin, y, marker=marker, color=colour, markersize=5.5)


def staleness(
    samples: Mapping[str, Sequence[float]],
    law: Sequence[Line],
    lines: Mapping[str, Line],
    points: Mapping[str, Line],
    knee: float,
    titles: tuple[str, str],
) -> Picture:
    """How old events are: above, the share of each sample's values up to x, as a staircase, and
    `law` in black; below, means by delay, as lines and points, and what is beyond the `knee`
    shaded.

    Raises ValueError for a sample without values.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 6.8))
        above, below = figure.subplots(2)
        _draw_shares(above, samples, law)
        above.set(xlabel="latency in seconds", ylabel="share of the events", title=titles[0])
        broken = {name: _broken(line, knee) for name, line in lines.items()}
        _draw_law(below, broken, points)
        right = max(x[-1] for x, _ in lines.values())
        below.axvspan(knee, right, color=TROUBLE, alpha=0.12, linewidth=0)
        below.set(xlabel="one-way delay in seconds", ylabel="mean latency in s", title=titles[1])
        _name_the_ends(figure, below, {name: (x[-1], y[-1]) for name, (x, y) in lines.items()})
        return Picture(
            figure,
            f"{titles[0]}: a staircase for each of {', '.join(samples)}. "
            f"{titles[1]}: {', '.join(lines)} by delay, the far side of {knee:g} s shaded.",
        )


def _draw_shares(axes: Axes, samples: Mapping[str, Sequence[float]], law: Sequence[Line]) -> None:
    """A staircase for each sample, with its mark at some heights, and its name beside one."""
    if empty := [name for name, values in samples.items() if not values]:
        raise ValueError(f"{empty[0]!r} has no values")
    longest = max(max(values) for values in samples.values())
    for number, (name, values) in enumerate(samples.items()):
        style, marker = _arm(name)
        axes.ecdf(values, **style)
        own = 0.88 - 0.6 * number / max(len(samples) - 1, 1)
        for height in (own, (own + 0.5) % 1):
            at = sorted(values)[min(int(height * len(values)), len(values) - 1)]
            axes.plot(at, height, marker=marker, color=style["color"], markersize=8)
        at = sorted(values)[int(own * len(values))]
        _name(axes, name, (at, own), "data", (at + longest / 25, own))
    for x, y in law:
        axes.plot(x, y, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1.25 * longest), ylim=(0, 1.02))


def _broken(line: Line, knee: float) -> Line:
    """A line with a gap at the knee."""
    x, y = list(line[0]), list(line[1])
    place = next((n for n, at in enumerate(x) if at >= knee), len(x))
    return [*x[:place], nan, *x[place:]], [*y[:place], nan, *y[place:]]


def _draw_law(axes: Axes, lines: Mapping[str, Line], points: Mapping[str, Line]) -> None:
    for name, (x, y) in lines.items():
        axes.plot(x, y, **_arm(name)[0])
    for name, (x, y) in points.items():
        style, marker = _arm(name)
        # The squares are hollow, so that what is right under one is seen.
        look = {"fillstyle": "none", "markersize": 10} if marker == "s" else {"markersize": 6}
        axes.plot(x, y, marker, color=style["color"], **look)


def _name_the_ends(figure: Figure, axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Give each line its mark at its end, and its name to the right, none upon another."""
    axes.set_xlim(right=max(x for x, _ in ends.values()))
    to_fraction = (axes.transData - axes.transAxes).transform
    apart = 20 * len(figure.axes) / (72 * figure.get_figheight())
    lowest = -1.0
    for name, end in sorted(ends.items(), key=lambda each: to_fraction(each[1])[1]):
        style, marker = _arm(name)
        axes.plot(*end, marker, color=style["color"], markersize=8, clip_on=False)
        height = to_fraction(end)[1]
        lowest = max(height, lowest + apart)
        _name(axes, name, (1, height), "axes fraction", (1.05, lowest))


def _name(
    axes: Axes,
    name: str,
    point: tuple[float, float],
    coordinates: str,
    place: tuple[float, float],
) -> None:
    """Write a transport's name at a place, with a thin line to the point that it is of."""
    colour = _arm(name)[0]["color"]
    axes.annotate(
        name,
        point,
        place,
        xycoords=coordinates,
        textcoords=coordinates,
        va="center",
        color=_dark(colour),
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "relpos": (0, 0.5)},
        annotation_clip=False,
    )


def averages(
    law: Mapping[str, float],
    measured: Mapping[str, float],
    guesses: Mapping[str, float | None],
    title: str,
) -> Picture:
    """A row for each transport of `law`: its mean latency as its mark, what the law says as a
    stroke, and what somebody has guessed, where that is not None, as a hollow mark.

    All in seconds. Raises ValueError for a guess that is no number of seconds, or is for a
    transport that is not there.
    """
    _check_guesses(guesses, law)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.42 * len(law)))
        axes = figure.subplots()
        for row, name in enumerate(law):
            style, marker = _arm(name)
            axes.plot(measured[name], row, marker, color=style["color"], markersize=9)
            axes.plot(law[name], row, "|", color="black", markersize=22)
            if (guess := guesses.get(name)) is not None:
                hollow = {"fillstyle": "none", "markersize": 13, "markeredgewidth": 1.6}
                axes.plot(guess, row, marker, color=style["color"], **hollow)
        axes.set_yticks(range(len(law)), law)
        axes.set(xlim=(-0.02, None), ylim=(len(law) - 0.5, -0.5))
        axes.set(xlabel="mean latency in seconds", title=title)
        said = [
            f"{name} {measured[name]:.2f} s, law {law[name]:.2f}"
            + (f", guess {guesses[name]:.2f}" if guesses.get(name) is not None else "")
            for name in law
        ]
        return Picture(figure, f"{title}. Measured: {'; '.join(said)}.")


def _check_guesses(guesses: Mapping[str, object], names: Collection[str]) -> None:
    for name, guess in guesses.items():
        if name not in names:
            raise ValueError(f"a guess for {name!r}, and there are {', '.join(names)}")
        if guess is not None and not (isinstance(guess, int | float) and 0 <= guess < inf):
            raise ValueError(f"the guess for {name!r} is in seconds, such as 0.3, not {guess!r}")


def blind_window(
    trace: Trace, due: Sequence[float], delay: float, span: tuple[float, float], title: str
) -> Picture:
    """Long polls in time and space: the server's line above, the client's below.

    Each question and each answer is an arrow that takes `delay` seconds. From an answer to
    the next question, the server's time is shaded. `due` has the moments of the events: one
    that falls into the shade waits, and a bar shows for how long. Moments and `span`, what is
    drawn, are in seconds of one clock.
    """
    begin, end = span
    asked = [item.sent + delay for item in trace.of("client") if isinstance(item.content, Request)]
    told = [item.sent for item in trace.of("server") if isinstance(item.content, Body)]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 2.9))
        axes = figure.subplots()
        style, _ = _arm("long")
        arrow = {"arrowstyle": "-|>", "color": style["color"], "linewidth": 1.5}
        axes.hlines([0, 1], 0, end - begin, color="black", linewidth=1)
        for there in (at - begin for at in asked if begin <= at - delay and at < end):
            axes.annotate("", (there, 1), (there - delay, 0), arrowprops=arrow)
        for sent in (at for at in told if begin <= at and at + delay < end):
            axes.annotate("", (sent + delay - begin, 0), (sent - begin, 1), arrowprops=arrow)
            back = min((at for at in asked if at > sent), default=sent)
            axes.axvspan(sent - begin, back - begin, color=TROUBLE, alpha=0.15, linewidth=0)
        for at in (at for at in due if begin <= at < end):
            sent = min((each for each in told if each >= at), default=at)
            bar = {"color": "black", "linewidth": 5, "alpha": 0.5, "solid_capstyle": "butt"}
            axes.plot([at - begin, sent - begin], [1.14, 1.14], **bar)
            axes.plot(at - begin, 1.14, "v", color="black", markersize=8)
        axes.set_yticks([0, 1, 1.14], ["client", "server", "events"])
        axes.set(xlim=(0, end - begin), ylim=(-0.1, 1.3), xlabel="seconds", title=title)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return Picture(
            figure,
            f"{title}: answers go down, each followed by a question that goes up; in between, "
            "the server's time is shaded, and an event that falls there waits.",
        )


# How transports are drawn: beginning of the name, stroke, marker, colours; the last row is for
# any other. What follows a comma in a name is a variant, drawn in the second colour. On white,
# each has a contrast of at least 3 : 1.
_TRANSPORTS = [
    ("short", "-", "o", ("#C46A00", "#8A2E00")),
    ("long", "--", "s", ("#8A3B8F", "#5B1F60")),
    ("SSE", ":", "^", ("#5F6B00", "#3A4200")),
    ("WebSocket", "-", "D", (DATA, "#003C66")),
    ("", "-.", "P", (OWN, LOOP)),
]


def _arm(name: str) -> tuple[dict[str, str], str]:
    """How the line of a transport is drawn, and its marker."""
    rows = (row for row in _TRANSPORTS if name.startswith(row[0]))
    _, stroke, marker, colours = next(rows)
    return {"color": colours["," in name], "linestyle": stroke}, marker


def frame(raw: bytes, title: str) -> Picture:
    """The bytes of one frame: the first two bit by bit, and below them the others.

    Of a long payload only the beginning is drawn. Raises ValueError unless `raw` is
    exactly one whole frame.
    """
    [decoded] = Decoder(max_payload=len(raw), allowed_rsv=7).feed(raw)
    if encode(decoded) != raw:
        raise ValueError(f"one frame of {len(encode(decoded))} bytes, and {len(raw)} were given")
    kind = CONTROL if decoded.opcode.is_control else DATA
    header = len(raw) - len(decoded.payload)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 3.1 if len(raw) > 2 else 1.6))
        axes = figure.subplots()
        _draw_bits(axes, raw, kind)
        if len(raw) > 2:
            _draw_rest(axes, raw, decoded, kind)
        bottom = 5.3 if len(raw) > 2 else 2
        axes.set(xlim=(-0.1, 16.1), ylim=(bottom, -0.8), title=title)
        axes.axis("off")
        masked = "masked" if decoded.mask else "not masked"
        beginning = "".join(sign for _, _, sign in _signs(decoded)[:14])
        said = f", which begins {beginning!r}" if beginning else ""
        return Picture(
            figure,
            f"{title}. The bits of the first two bytes: FIN {raw[0] >> 7}, RSV "
            f"{raw[0] >> 4 & 7:03b}, opcode {decoded.opcode:04b} ({decoded.opcode.name}), MASK "
            f"{raw[1] >> 7} ({masked}), length {raw[1] & 127:07b}. Then the rest of a header of "
            f"{header} bytes, and a payload of {len(decoded.payload)}{said}.",
        )


def _draw_bits(axes: Axes, raw: bytes, kind: str) -> None:
    """The first two bytes as 16 boxes: the names of the fields above, the bytes below."""
    fields = [("FIN", 1, kind), ("RSV", 3, kind), ("opcode", 4, kind)]
    fields += [("MASK", 1, MASK), ("length", 7, LENGTH)]
    _draw_fields(axes, 0, 0, fields, f"{raw[0]:08b}{raw[1]:08b}")
    for place, byte in (("first", raw[0]), ("second", raw[1])):
        left = 0 if place == "first" else 8
        axes.hlines(1.14, left + 0.06, left + 7.94, color="black", linewidth=1)
        axes.text(
            left + 4, 1.22, f"the {place} byte, {byte:02x}", ha="center", va="top", fontsize=11
        )


def _draw_rest(axes: Axes, raw: bytes, decoded: Frame, kind: str) -> None:
    """The bytes behind the first two, as far as 14 go, and what the payload says under it."""
    mask = 4 if decoded.mask else 0
    extended = len(raw) - 2 - mask - len(decoded.payload)
    shown = [f"{byte:02x}" for byte in raw[2:16]]
    payload = len(shown) - extended - mask
    fields = [("length", extended, LENGTH), ("masking key", mask, MASK), ("payload", payload, kind)]
    _draw_fields(axes, 2, 3, [field for field in fields if field[1] > 0], shown)
    axes.text(0, 3.5, "the others", va="center", fontsize=11)
    for start, width, sign in _signs(decoded):
        if start + width <= payload:
            middle = 2 + extended + mask + start + width / 2
            axes.text(middle, 4.4, sign, ha="center", va="center", family="monospace", fontsize=12)
    if payload and _signs(decoded):
        says = "unmasked" if decoded.mask else "says"
        axes.text(0, 4.4, says, va="center", fontsize=11)
    if (more := len(raw) - 16) > 0:
        counted = "1 byte" if more == 1 else f"{more} bytes"
        axes.text(16, 5, f"and {counted} more", ha="right", va="center", fontsize=11)


def _draw_fields(
    axes: Axes, x: float, y: float, fields: Sequence[tuple[str, int, str]], texts: Sequence[str]
) -> None:
    """A row of boxes with a text in each; every field is named above its boxes."""
    for name, width, colour in fields:
        axes.text(x + width / 2, y - 0.2, name, ha="center", va="bottom", fontsize=11)
        axes.hlines(y - 0.12, x + 0.06, x + width - 0.06, color="black", linewidth=1)
        strength = 0.2 if name == "payload" else 0.45
        for _ in range(width):
            box(axes, x, y, texts[0], colour, strength)
            x, texts = x + 1, texts[1:]


def _signs(decoded: Frame) -> list[tuple[int, int, str]]:
    """What a payload says, sign by sign: where its bytes begin, how many they are, the sign.

    A close frame says a number and then a text; bytes of a binary message say nothing. A dot
    stands for what cannot be drawn.
    """
    if decoded.opcode is Opcode.BINARY:
        return []
    font = get_font(findfont("DejaVu Sans Mono"))
    payload, place, signs = decoded.payload, 0, []
    if decoded.opcode is Opcode.CLOSE and len(payload) >= 2:
        signs, place = [(0, 2, str(int.from_bytes(payload[:2], "big")))], 2
    for char in payload[place:].decode(errors="surrogateescape"):
        width = len(char.encode(errors="surrogateescape"))
        known = char.isprintable() and font.get_char_index(ord(char))
        signs.append((place, width, char if known else "·"))
        place += width
    return signs


def box(axes: Axes, x: float, y: float, text: str, colour: str, strength: float = 0.45) -> None:
    """A box of one unit with a text in it; its edge can be seen whatever its colour."""
    face = to_rgba(colour, strength)
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=LOOP, linewidth=0.8))
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", family="monospace", fontsize=12)


def _colour(content: Content) -> str:
    """What an item's colour says about it."""
    match content:
        case Request() | Response() | Body():
            return HTTP
        case Frame(opcode):
            return CONTROL if opcode.is_control else DATA
        case Undecoded():
            return TROUBLE
    return LOOP


def _dark(colour: str) -> tuple[float, ...]:
    """The same hue, dark enough to be read as text on white."""
    return tuple(0.65 * part for part in to_rgb(colour))
