"""Messages of gateways: what is inside of one, how long each waits, and who votes what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import matplotlib.style
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from nestling.frames import Frame, encode
from websockets.asyncio.client import connect

from workbench.drawings import CONTROL, DATA, LOOP, STYLE, Picture
from workbench.trace import Item, Trace

# Seconds for all answers together.
PATIENCE = 5.0

# For the choices of a question, by their number.
CHOICES = ["#AA3377", "#000000", CONTROL]


async def answered(url: str, event: str, questions: Mapping[str, Any]) -> dict[str, float]:
    """Ask all questions at once over one connection; the seconds until each was answered.

    `questions` maps a name to the data that is sent with the event, and that the gateway
    replies with. The first answer is first. Raises TimeoutError after PATIENCE seconds.
    """
    names = {json.dumps(data): name for name, data in questions.items()}
    seconds: dict[str, float] = {}
    async with asyncio.timeout(PATIENCE), connect(url, compression=None) as connection:
        begin = perf_counter()
        for data in questions.values():
            await connection.send(json.dumps({"event": event, "data": data}))
        for _ in questions:
            reply = json.loads(await connection.recv())
            seconds[names[json.dumps(reply)]] = perf_counter() - begin
    return seconds


def nested(frame: Frame, title: str) -> Picture:
    """A text frame, the JSON that is its payload, and in that the event and the data."""
    text = frame.payload.decode()
    said = json.loads(text)
    header = len(encode(frame)) - len(frame.payload)
    event, data = (f"{name}: {json.dumps(said.get(name))}" for name in ("event", "data"))
    boxes = [
        (0, 0, 10, 3, f"frame: type {frame.opcode.name}, {header} bytes of header"),
        (0.3, 0.25, 9.4, 2, f"payload, {len(frame.payload)} bytes: {text}"),
        (0.6, 0.5, 4.3, 0.95, event),
        (5.1, 0.5, 4.3, 0.95, data),
    ]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 2.1))
        axes = figure.subplots()
        for x, y, width, height, label in boxes:
            box = Rectangle((x, y), width, height, facecolor=to_rgba(DATA, 0.13), edgecolor=DATA)
            axes.add_patch(box)
            axes.text(x + 0.15, y + height - 0.12, label, va="top")
        axes.set(xlim=(-0.05, 10.05), ylim=(-0.05, 3.05), title=title)
        axes.axis("off")
        return Picture(figure, f"{title}. Boxes in boxes, {'; '.join(box[4] for box in boxes)}.")


def dispatched(
    message: dict[str, Any], table: Mapping[str, Any], replies: Sequence[str], title: str
) -> Picture:
    """The way of a message: to the table, to the method that stands there, and to its replies.

    `table` has methods by their events, `replies` the texts that were received.
    """
    rows = [(event, f"{method.__name__}()") for event, method in table.items()]
    height = max(len(rows), len(replies))
    columns = (
        ("the message", 0, 3.1, [json.dumps(message)], [message["event"]]),
        ("the table", 3.9, 1.5, [json.dumps(event) for event, _ in rows], list(table)),
        ("its method", 5.4, 1.7, [method for _, method in rows], list(table)),
        ("the replies", 7.9, 2.1, list(replies), [message["event"]] * len(replies)),
    )
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 0.42 * height))
        axes = figure.subplots()
        for name, x, width, texts, events in columns:
            axes.text(x, -0.15, name, va="bottom", color=LOOP)
            top = 0 if name != "the message" else [*table].index(message["event"])
            for row, (text, event) in enumerate(zip(texts, events, strict=True), start=top):
                strength = 0.25 if event == message["event"] else 0
                look = {"facecolor": to_rgba(DATA, strength), "edgecolor": DATA}
                axes.add_patch(Rectangle((x, row), width, 0.8, **look))
                axes.text(x + 0.1, row + 0.4, text, va="center", fontsize=9.5)
        at = [*table].index(message["event"]) + 0.4
        for begin, end, down in ((3.1, 3.9, at), (7.1, 7.9, 0.4)):
            arrow = {"arrowstyle": "-|>", "color": DATA, "linewidth": 1.6}
            axes.annotate("", (end, down), (begin, at), arrowprops=arrow)
        axes.set(xlim=(-0.05, 10.05), ylim=(height, -0.6), title=title)
        axes.axis("off")
        found = f"{table[message['event']].__name__}() stands there for {message['event']!r}"
        return Picture(figure, f"{title}. Of {', '.join(table)}, {found}; replies: {replies}.")


def waits(trace: Trace, title: str) -> Picture:
    """A bar for each question, from when its id was sent to when its last reply was."""
    asked = {_said(item)["id"]: item for item in trace.of("client") if "event" in _said(item)}
    answered = {_said(item)["id"]: item for item in trace.of("server") if "done" in _said(item)}
    begin = min(item.sent for item in asked.values())
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.5 * len(asked)))
        axes = figure.subplots()
        for row, (number, item) in enumerate(asked.items()):
            left, right = item.sent - begin, answered[number].sent - begin
            axes.barh(row, right - left, 0.6, left, color=to_rgba(DATA, 0.25))
            axes.text(left + 0.004, row, f"{_said(item)['data']} is waited for", va="center")
            reply = f" set_result({_said(answered[number])['data']})"
            axes.text(right, row, reply, va="center", family="monospace", color=DATA)
        axes.set_yticks(range(len(asked)), [f"id {number}" for number in asked])
        end = max(item.sent for item in answered.values()) - begin
        axes.set(xlim=(-0.02 * end, 1.35 * end), ylim=(len(asked) - 0.4, -0.6))
        axes.set(xlabel="seconds", title=title)
        order = sorted(answered, key=lambda number: answered[number].sent)
        return Picture(figure, f"{title}. Answered in the order of the ids {order}.")


def votes(trace: Trace, choices: Sequence[str], title: str) -> Picture:
    """A lane for each connection: its vote, a triangle coloured by choice, and what it is sent."""
    begin = min(item.sent for item in trace)
    connections = sorted({item.connection for item in trace})
    marks: dict[str, tuple[Sequence[Item], dict[str, Any]]] = {
        "asks for the tally": (
            [item for item in trace.of("client") if _said(item).get("event") == "tally"],
            {"marker": ">", "color": LOOP, "fillstyle": "none", "markersize": 6},
        ),
        "from the server": (trace.of("server"), {"marker": "o", "color": DATA, "markersize": 2.5}),
    }
    for number, choice in enumerate(choices):
        vote = {"event": "vote", "data": number}
        cast = [i for i in trace.of("client") if _said(i) | vote == _said(i)]
        style = {"marker": ">", "color": CHOICES[number % len(CHOICES)], "markersize": 10}
        style |= {"fillstyle": "none", "markeredgewidth": 2}  # what is behind it can be seen
        marks[f"votes {choice}"] = (cast, style)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 1.5 + 0.12 * len(connections)))
        axes = figure.subplots()
        for label, (items, style) in marks.items():
            times = [item.sent - begin for item in items]
            rows = [connections.index(item.connection) + 1 for item in items]
            axes.plot(times, rows, linestyle="", label=label, **style)
        axes.set(xlabel="seconds", ylabel="connection", title=title)
        axes.set_ylim(len(connections) + 0.7, 0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
        said = ", ".join(f"{len(items)} {label}" for label, (items, _) in marks.items())
        return Picture(figure, f"{title}: {len(connections)} lanes, {said}.")


def _said(item: Item) -> dict[str, Any]:
    """The JSON of a text frame, nothing for anything else."""
    is_text = isinstance(item.content, Frame) and item.content.payload[:1] == b"{"
    return json.loads(item.content.payload) if is_text else {}
