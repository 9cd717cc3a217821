"""Pictures of bytes: what becomes of a handshake's key, and of a payload under its mask."""

from __future__ import annotations

import hashlib

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from nestling.frames import Decoder
from nestling.handshake import GUID, accept_key

from workbench.drawings import DATA, HTTP, LOOP, MASK, STYLE, Picture, box


def accept(key: str, title: str) -> Picture:
    """From a Sec-WebSocket-Key to the Sec-WebSocket-Accept that answers it, step by step."""
    digest = hashlib.sha1((key + GUID).encode()).digest()
    steps = [
        ("Sec-WebSocket-Key", key, HTTP, "append the fixed text"),
        ("key + GUID", f"{key}\n{GUID}", LOOP, "SHA-1"),
        (f"a hash of {len(digest)} bytes", digest.hex(" "), LOOP, "base64"),
        ("Sec-WebSocket-Accept", accept_key(key), HTTP, ""),
    ]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 3.7))
        axes = figure.subplots()
        for row, (name, value, colour, then) in enumerate(steps):
            _draw_step(axes, row, name, value, colour)
            if then:
                arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4}
                axes.annotate("", (6.2, row + 1), (6.2, row + 0.72), arrowprops=arrow)
                axes.text(6.35, row + 0.87, then, va="center", fontsize=11.5)
        axes.set(xlim=(-0.05, 10.05), ylim=(len(steps) - 0.2, -0.05), title=title)
        axes.axis("off")
        said = "; then ".join(f"{name}, {value}".replace("\n", "") for name, value, *_ in steps)
        return Picture(figure, f"{title}. From the top down: {said}.")


def _draw_step(axes: Axes, row: int, name: str, value: str, colour: str) -> None:
    look = {"facecolor": to_rgba(colour, 0.15), "edgecolor": colour, "linewidth": 1.4}
    axes.add_patch(Rectangle((2.5, row), 7.5, 0.72, **look))
    axes.text(0, row + 0.36, name.replace("-W", "-\nW"), va="center", weight="bold", fontsize=11.5)
    beside = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 11}
    axes.text(6.25, row + 0.36, value, **beside)


def mask(raw: bytes, title: str) -> Picture:
    """The payload of a masked text frame, the key repeated under it, and what XOR makes of both.

    Of a long payload only the first 12 bytes are drawn. Raises ValueError unless `raw` is one
    whole masked frame.
    """
    [frame] = Decoder(max_payload=len(raw)).feed(raw)
    if not frame.mask:
        raise ValueError("this frame has no masking key: take one that a client sent")
    payload = frame.payload[:12]
    crossed = raw[len(raw) - len(frame.payload) :][: len(payload)]
    key = bytes(frame.mask[index % 4] for index in range(len(payload)))
    rows = {"on the wire": crossed, "XOR the key": key, "the payload": payload}
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(8, 2.7))
        axes = figure.subplots()
        for row, (name, data) in enumerate(rows.items()):
            axes.text(-0.3, 1.25 * row + 0.5, name, ha="right", va="center", fontsize=12)
            look = (MASK, 0.45) if data is key else (DATA, 0.2)
            for column, byte in enumerate(data):
                box(axes, column, 1.25 * row, f"{byte:02x}", *look)
        _draw_letters(axes, payload)
        axes.set(xlim=(-3.2, 12.2), ylim=(4.4, -0.1), title=title)
        axes.axis("off")
        said = "; ".join(f"{name}: {data.hex(' ')}" for name, data in rows.items())
        return Picture(figure, f"{title}. Byte under byte, {said}.")


def _draw_letters(axes: Axes, payload: bytes) -> None:
    """What the bytes say, if each is a letter."""
    if not payload.isascii():
        return
    middle = {"va": "center", "fontsize": 12}
    axes.text(-0.3, 4, "as text", ha="right", **middle)
    for column, letter in enumerate(payload.decode()):
        drawn = letter if letter.isprintable() else "·"
        axes.text(column + 0.5, 4, drawn, ha="center", family="monospace", **middle)
