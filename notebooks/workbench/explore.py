"""Things to click on in a cell's output, with ipywidgets; a still picture without a kernel."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from nestling.frames import Decoder, FrameError, Opcode, apply_mask
from nestling.handshake import build_request, new_key, parse_response

from workbench import drawings, kernel, laws
from workbench.trace import frame_label

NAMES = ["FIN", "RSV1", "RSV2", "RSV3", "opcode", "", "", "", "MASK", "length", *[""] * 6]
KEY = bytes.fromhex("37fa213d")  # the RFC's own example, so that each run shows the same
SILENCE = 0.3


def frame_of(first: int, second: int) -> bytes:
    """A frame whose header begins with these two bytes, and of which the rest fits.

    Where the length says 126 or 127, there are 126 or 65,536 bytes of payload. A close has
    the code 1000, all else is made of letters. It may break every rule of section 5.
    """
    size = second & 0x7F
    extended = {126: (126).to_bytes(2, "big"), 127: (65_536).to_bytes(8, "big")}.get(size, b"")
    payload = (b"vote " * 13_108)[: int.from_bytes(extended, "big") if extended else size]
    if first & 0x0F == Opcode.CLOSE and len(payload) >= 2:
        payload = b"\x03\xe8" + payload[2:]
    masked = KEY + apply_mask(payload, KEY) if second & 0x80 else payload
    return bytes([first, second]) + extended + masked


async def answers(port: int, sent: bytes, silence: float = SILENCE) -> list[str]:
    """What a server on this machine answers to these bytes, sent when the handshake is done.

    A label for each frame, and `the end of the connection`, if it comes; nothing where the
    server is silent for `silence` seconds. Raises ConnectionError without a server.
    """
    heard: list[str] = []
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(kernel.HOST, port)
        try:
            writer.write(build_request(f"{kernel.HOST}:{port}", key=new_key()))
            parse_response(await reader.readuntil(b"\r\n\r\n"))
            writer.write(sent)
            data, decoder = b"", Decoder(masked=False)
            while True:
                heard += [frame_label(frame) for frame in decoder.feed(data)]
                async with asyncio.timeout(silence):
                    data = await reader.read(2**16)
                if not data:
                    return [*heard, "the end of the connection"]
        except TimeoutError:
            return heard
        finally:
            writer.transport.abort()


async def bits(server: kernel.Server) -> Bits:
    """The first sixteen bits of a frame to click, and what the server answers as they are."""
    made = Bits(server)
    await made.send()
    return made


class Bits:
    """The first sixteen bits of a frame, to click; each click sends the frame to a server.

    bits: as they are, sixteen of 0 and 1
    said: what was sent last, and what came back, a line each
    """

    def __init__(self, server: kernel.Server) -> None:
        self.bits = [int(bit) for bit in "1000000110000100"]
        self.said = ""
        self._server = server
        self._buttons = [self._button(place) for place in range(16)]
        self._shown = widgets.HTML()
        self._asking = asyncio.Lock()
        self._still = drawings.frame(self.frame, "Sixteen bits to click, where a kernel runs")

    def _button(self, place: int) -> widgets.ToggleButton:
        name = next(name for name in reversed(NAMES[: place + 1]) if name)
        button = widgets.ToggleButton(
            value=bool(self.bits[place]),
            description=str(self.bits[place]),
            tooltip=f"{name}: a bit of byte {place // 8}",
            layout=widgets.Layout(width="2.6em", padding="0"),
        )
        button.observe(lambda change: self._click(place, change["new"]), "value")
        return button

    def _click(self, place: int, value: bool) -> None:
        self.bits[place] = int(value)
        self._buttons[place].description = str(int(value))
        self._sending = asyncio.ensure_future(self.send())

    @property
    def frame(self) -> bytes:
        """The frame that the bits begin."""
        first, second = (int("".join(map(str, self.bits[at : at + 8])), 2) for at in (0, 8))
        return frame_of(first, second)

    async def send(self) -> None:
        """Send the frame over a connection of its own, and show the answer."""
        async with self._asking:
            sent = self.frame
            try:
                heard = await answers(self._server.port, sent)
            except ConnectionError:
                heard = ["no server is there: run the cell that starts it, and this one again"]
            except (FrameError, TimeoutError) as error:
                heard = [f"{type(error).__name__}: {error}"]
            self.said = "\n".join([f"sent  {_shown(sent)}", *(f"back  {it}" for it in heard)])
            if not heard:
                self.said += "\nback  nothing: silence"
            self._shown.value = f"<pre>{html.escape(self.said)}</pre>"

    def _rows(self) -> widgets.VBox:
        cells = [
            widgets.VBox([widgets.Label(name, layout=widgets.Layout(height="1.6em")), button])
            for name, button in zip(NAMES, self._buttons, strict=True)
        ]
        return widgets.VBox([widgets.HBox(cells[:8]), widgets.HBox(cells[8:]), self._shown])

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._still._repr_mimebundle_()
        return self._rows()._repr_mimebundle_() | data, metadata


class Knobs:
    """The laws of chapter 03 as lines that move with four knobs.

    knobs:    rate, in events a second; delay, one way, and interval, in seconds; headers, of a
              poll's request and response together, in bytes
    pictures: as the knobs stand, how stale news is and what it costs
    """

    def __init__(self) -> None:
        self.knobs = {
            "rate": _knob("events a second", 4, -2, 2),
            "delay": _knob("delay in s", 0.05, -3, 0),
            "interval": _knob("interval in s", 0.5, -1, 1),
            "headers": _knob("headers in bytes", 250, 1.7, 3.5),
        }
        self._images = [widgets.HTML() for _ in range(2)]
        for knob in self.knobs.values():
            knob.observe(self._draw, "value")
        self._draw()

    def _draw(self, _: object = None) -> None:
        self.pictures = [draw(**self._values()) for draw in (_stale, _cost)]
        for image, picture in zip(self._images, self.pictures, strict=True):
            image.value = picture.html

    def _values(self) -> dict[str, float]:
        return {name: knob.value for name, knob in self.knobs.items()}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        box = widgets.VBox([*self.knobs.values(), *self._images])
        data, metadata = self.pictures[1]._repr_mimebundle_()
        return box._repr_mimebundle_() | data, metadata


def _knob(name: str, value: float, low: float, high: float) -> widgets.FloatLogSlider:
    return widgets.FloatLogSlider(
        description=name,
        value=value,
        min=low,
        max=high,
        step=0.05,
        readout_format=".3g",
        continuous_update=False,
        style={"description_width": "9em"},
        layout=widgets.Layout(width="36em"),
    )


NAMES_OF_LAWS = ("short polling", "long polling", "SSE", "WebSocket")


def _lines(
    xs: list[float], now: float, of: Callable[[float], list[float]], names: tuple[str, ...]
) -> tuple[dict[str, drawings.Line], dict[str, drawings.Line]]:
    """A line over `xs` for each name, and its point where the knob stands."""
    rows, points = [of(x) for x in xs], of(now)
    return (
        {name: (xs, [row[at] for row in rows]) for at, name in enumerate(names)},
        {name: ([now], [points[at]]) for at, name in enumerate(names)},
    )


def _stale(rate: float, delay: float, interval: float, headers: float) -> drawings.Picture:
    def latencies(delay: float) -> list[float]:
        expected = laws.expectations(rate, delay, interval=interval, exchange=headers)
        return [row.latency for row in expected[:3]]

    delays = [max(0.1, 2 * delay) * n / 100 for n in range(1, 101)]
    names = (*NAMES_OF_LAWS[:2], "SSE, WebSocket")
    lines, points = _lines(delays, delay, latencies, names)
    title = f"How stale: {rate:.3g} events a second, polls every {interval:.3g} s"
    return drawings.curves(
        lines, points, title, "one-way delay in seconds", "mean latency in seconds"
    )


def _cost(rate: float, delay: float, interval: float, headers: float) -> drawings.Picture:
    def bytes_an_event(rate: float) -> list[float]:
        expected = laws.expectations(rate, delay, interval=interval, exchange=headers)
        return [row.wire / rate for row in expected]

    rates = [0.01 * 10 ** (n / 20) for n in range(81)]
    lines, points = _lines(rates, rate, bytes_an_event, NAMES_OF_LAWS)
    title = f"What it costs, with {headers:.3g} bytes of headers (a model)"
    ylabel = "bytes on the wire an event"
    return drawings.curves(lines, points, title, "events a second", ylabel, logarithmic=True)


def _shown(data: bytes) -> str:
    return data[:12].hex(" ") + (" …" if len(data) > 12 else "") + f"  ({len(data)} bytes)"
