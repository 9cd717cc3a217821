"""workbench.drawings: what stands where in the figures, in which colour and with which mark."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html import unescape
from io import BytesIO
from itertools import combinations
from math import nan

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from nestling.frames import Frame, Opcode, encode
from nestling.handshake import Headers, Request, Response
from PIL import Image
from workbench import drawings
from workbench.breaking import Outcome, Sent
from workbench.drawings import CONTROL, DATA, HTTP, LENGTH, LOOP, MASK, OWN, TROUBLE
from workbench.trace import Body, Content, End, Item, Trace, Undecoded

Draw = Callable[..., Axes]

GET = Request("GET", "/", Headers())
OK = Response(200, "OK", Headers())
TEXT = Frame(Opcode.TEXT, b"text")
PING = Frame(Opcode.PING)
HELLO = encode(Frame(Opcode.TEXT, b"Hello", mask=b"abcd"))

COLOURS = [
    (GET, HTTP),
    (OK, HTTP),
    (Body(b"page"), HTTP),
    (TEXT, DATA),
    (Frame(Opcode.BINARY, b"\x00"), DATA),
    (PING, CONTROL),
    (Frame(Opcode.CLOSE), CONTROL),
    (Undecoded("incomplete"), TROUBLE),
    (End(), LOOP),
]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Calls a function of drawings, and gives the axes of its figure before it is a picture."""
    monkeypatch.setattr(drawings, "Picture", lambda figure, alt: figure.axes[0])
    return lambda function, *arguments, **options: function(*arguments, **options)


def item(sender: str, content: Content, sent: float = 0.0, connection: int = 1) -> Item:
    return Item(connection, sender, sent, b"", content)


def place(axes: Axes, text: str) -> tuple[float, float]:
    """Where a text stands."""
    [found] = [each for each in axes.texts if each.get_text() == text]
    return found.get_position()


def arrows(axes: Axes) -> list[Annotation]:
    return [each for each in axes.texts if isinstance(each, Annotation)]


# Pictures


def test_pictures_are_small_pngs_that_say_in_words_what_they_show():
    sequence = drawings.sequence(Trace([item("client", GET), item("server", OK)]), "All")
    frame = drawings.frame(HELLO, "A frame")
    for picture in (sequence, frame):
        assert picture.png.startswith(b"\x89PNG")
        data, metadata = picture._repr_mimebundle_()
        assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt
        assert data["text/html"] == picture.html
    assert sequence.alt == "All. In this order, client: GET /; server: 200 OK."
    assert frame.alt == (
        "A frame. The bits of the first two bytes: FIN 1, RSV 000, opcode 0001 (TEXT), MASK 1 "
        "(masked), length 0000101. Then the rest of a header of 6 bytes, and a payload of 5, "
        "which begins 'Hello'."
    )


def test_the_page_gets_its_words_in_html_and_more_pixels_than_it_shows():
    picture = drawings.ticks({"one": [0, 1]}, '"<A & B>"')
    source, alt, width = re.fullmatch(
        '<img src="data:image/png;base64,(.*)" alt="(.*)" width="(.*)">', picture.html
    ).groups()
    assert unescape(alt) == picture.alt and '"' not in alt
    sharp, plain = (Image.open(BytesIO(png)) for png in (base64.b64decode(source), picture.png))
    assert plain.width == int(width) == 800
    assert sharp.width == 1.4 * plain.width and sharp.height > 1.3 * plain.height


def luminance(colour: str | tuple[float, ...]) -> float:
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def linear(colour: str | tuple[float, ...]) -> list[float]:
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]


# What the eyes of most people, and of those without red or green cones, make of linear RGB
# (Machado and others, 2009).
EYES = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
]


def lab(colour: str, eyes: list[list[float]]) -> np.ndarray:
    """A colour in CIELAB, in which distances are those that one sees."""
    seen = np.clip(np.array(eyes) @ linear(colour), 0, 1)
    to_xyz = [[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen + 1e-4)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


LINES = [LOOP, HTTP, DATA, CONTROL, MASK, TROUBLE, OWN]


@pytest.mark.parametrize("colour", LINES)
def test_lines_and_marks_stand_out_from_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3


def test_what_shares_a_figure_can_be_told_apart_by_the_colour_blind():
    """Chapter 01 calls the arrows of a goodbye green: CONTROL is Okabe and Ito's."""
    assert CONTROL == "#009E73"
    alike = {frozenset((LOOP, OWN)), frozenset((CONTROL, OWN))}  # their marks differ
    for one, other in combinations([*LINES, LENGTH], 2):
        if frozenset((one, other)) not in alike:
            apart = min(np.linalg.norm(lab(one, eyes) - lab(other, eyes)) for eyes in EYES)
            assert apart > 12, (one, other)


@pytest.mark.parametrize("colour", [HTTP, DATA, CONTROL, TROUBLE, LOOP])
def test_labels_are_dark_enough_to_be_read_on_white(colour):
    dark = drawings._dark(colour)
    assert 1.05 / (luminance(dark) + 0.05) >= 4.5
    brightest = max(to_rgb(colour))
    same_hue = [part * max(dark) / brightest for part in to_rgb(colour)]
    assert dark == pytest.approx(same_hue)


# The map

MAP = ["class poll", "client", "gateway", "protocol", "frames", "handshake", "TCP", "cable"]


def state(axes: Axes, layer: str) -> tuple[str, Rectangle]:
    """What stands at the right of a layer's box, and the box."""
    x, y = place(axes, layer)
    [box] = [b for b in axes.patches if b.get_bbox().contains(x, y)]
    [said] = [
        text.get_text()
        for text in axes.texts
        if text.get_ha() == "right" and box.get_bbox().contains(*text.get_position())
    ]
    return said, box


@pytest.mark.parametrize(
    ("chapter", "here", "been", "to_come"),
    [
        ("00", "class poll", [], [*MAP[1:6], "cable"]),
        ("01", "handshake", ["class poll"], ["client", "gateway", "protocol", "frames", "cable"]),
        ("02", "frames", ["class poll", "handshake"], ["client", "gateway", "protocol", "cable"]),
        ("03", "cable", ["handshake", "frames"], ["client", "gateway", "protocol"]),
        ("04", "gateway", ["handshake", "frames", "cable"], ["client", "protocol"]),
        ("05", "client", ["handshake", "frames", "cable", "gateway"], ["protocol"]),
        ("06", "protocol", ["handshake", "frames", "cable", "gateway", "client"], []),
        ("07", "gateway", MAP[:2] + MAP[3:6] + ["cable"], []),
        ("08", "cable", MAP[:6], []),
    ],
)
def test_the_map_says_where_the_reader_is_and_what_is_still_to_come(
    draw, chapter, here, been, to_come
):
    axes = draw(drawings.stack, chapter)
    said, box = state(axes, here)
    assert said == "◀ you are here"
    assert sum(text.get_text() == said for text in axes.texts) == 1
    darkest = min(axes.patches, key=lambda each: sum(each.get_facecolor()))
    assert box is darkest
    assert all(" still to come" not in state(axes, layer)[0] for layer in been)
    for layer in to_come:
        said, box = state(axes, layer)
        assert said.endswith(", still to come") and box.get_linestyle() == "--"
    assert axes.get_title(loc="left").startswith(f"Chapter {chapter} ")
    assert here.removeprefix("class ") in axes.get_title(loc="left")


def test_the_map_has_every_layer_in_its_order_the_client_beside_the_gateway(draw):
    axes = draw(drawings.stack, "01")
    places = [place(axes, layer) for layer in MAP]
    assert axes.yaxis_inverted()
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert places[1][1] == places[2][1] and places[1][0] < places[2][0]
    assert len({y for _, y in places}) == len(MAP) - 1
    for one, other in combinations(axes.patches, 2):
        assert not one.get_bbox().overlaps(other.get_bbox())
    down, up = [each for each in axes.texts if isinstance(each, Annotation)]
    assert down.xyann[1] < down.xy[1] and up.xyann[1] > up.xy[1], "down at the client's side"
    assert down.xy[0] < 0 < max(box.get_bbox().x1 for box in axes.patches) < up.xy[0]
    assert place(axes, "browser or client")[0] == down.xy[0]


def test_the_map_says_in_words_what_it_shows():
    alt = drawings.stack("02").alt
    assert alt.startswith("Chapter 02 takes the frames apart")
    assert "frames, where a message begins and ends, and of which type it is (you are here)" in alt
    assert "(chapter 05, still to come); gateway" in alt and "(chapter 01)" in alt
    with pytest.raises(KeyError):
        drawings.stack("09")


# Ticks


def test_a_gap_is_shaded_from_the_stroke_before_it_to_the_one_after(draw):
    rows = {"calm": [0.0, 0.1, 0.29], "held up": [0.0, 0.1, 0.6, 0.7]}
    axes = draw(drawings.ticks, rows, "Ticks")
    for height, (strokes, stamps) in enumerate(zip(axes.collections, rows.values(), strict=True)):
        assert [x for [(x, _), _] in strokes.get_segments()] == stamps
        assert {(low + high) / 2 for [(_, low), (_, high)] in strokes.get_segments()} == {height}
    [gap] = axes.patches
    assert (gap.get_x(), gap.get_width()) == pytest.approx((0.1, 0.5))
    assert gap.get_y() + gap.get_height() / 2 == pytest.approx(1)
    assert to_rgb(gap.get_facecolor()) == to_rgb(TROUBLE)
    assert place(axes, "nothing for 0.50 s") == pytest.approx((0.35, 1))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)
    assert axes.yaxis_inverted(), "the first row is at the top"


@pytest.mark.parametrize(("pause", "gaps"), [(0.19, 0), (0.21, 1)])
def test_a_gap_is_more_than_a_fifth_of_a_second(draw, pause, gaps):
    axes = draw(drawings.ticks, {"one": [0.0, pause]}, "Ticks")
    assert len(axes.patches) == len(axes.texts) == gaps


def test_the_longest_gap_is_found_wherever_it_is():
    assert drawings.longest_gap([0, 3, 4, 5]) == (0, 3)
    assert drawings.longest_gap([0, 1, 4, 5]) == (1, 4)
    assert drawings.longest_gap([0, 1, 2, 5]) == (2, 5)


def test_the_words_say_where_a_gap_is():
    rows = {"calm": [0.0, 0.1], "held up": [0.0, 0.5]}
    alt = drawings.ticks(rows, "Two").alt
    assert alt == (
        "Two. A stroke for each tick: calm, without a gap; held up, a gap in which nothing ticks."
    )


def test_ticks_need_two_stamps():
    with pytest.raises(ValueError, match="here are 1"):
        drawings.ticks({"one": [0.5]}, "One tick")


# Sequences


@pytest.mark.parametrize(("sender", "other"), [("client", "server"), ("server", "client")])
def test_an_arrow_points_from_the_line_of_the_sender_to_that_of_the_other(draw, sender, other):
    axes = draw(drawings.sequence, Trace([item(sender, TEXT)]), "All")
    [arrow] = arrows(axes)
    assert arrow.xyann[0] == place(axes, sender)[0]
    assert arrow.xy[0] == place(axes, other)[0]
    assert arrow.arrowprops["arrowstyle"] == "-|>", "the head is at the end"
    lifelines = [x for [(x, _), _] in axes.collections[0].get_segments()]
    assert lifelines == [place(axes, "client")[0], place(axes, "server")[0]] == [0, 1]


def test_arrows_stand_in_the_order_of_the_items_at_equal_distances(draw):
    items = [item("client", GET, 0.0), item("server", OK, 0.001), item("server", TEXT, 60.0)]
    axes = draw(drawings.sequence, Trace(items), "All")
    begins = [arrow.xyann[1] for arrow in arrows(axes)]
    assert begins == [0, 1, 2]
    assert axes.yaxis_inverted(), "time runs downwards"
    assert all(arrow.xyann[1] < arrow.xy[1] < arrow.xyann[1] + 1 for arrow in arrows(axes))
    labels = [place(axes, each.label) for each in items]
    assert [x for x, _ in labels] == [0.5] * 3
    assert [y for _, y in labels] == pytest.approx(begins, abs=0.1)


@pytest.mark.parametrize(("content", "colour"), COLOURS)
def test_a_colour_says_what_an_item_is_whoever_sent_it(draw, content, colour):
    for sender in ("client", "server"):
        items = Trace([item(sender, content)])
        sequence = draw(drawings.sequence, items, "All")
        assert arrows(sequence)[0].arrowprops["color"] == colour
        [label] = [each for each in sequence.texts if each.get_text() == items[0].label]
        assert label.get_color() == drawings._dark(colour)


# Transports

ARMS = ["short poll 1 s", "long poll", "SSE", "WebSocket", "carrier pigeons"]


def test_each_transport_has_a_colour_a_stroke_and_a_mark_of_its_own_also_one_of_the_readers():
    styles = [drawings._arm(name) for name in ARMS]
    for (line, marker), (other_line, other_marker) in combinations(styles, 2):
        assert line["color"] != other_line["color"]
        assert line["linestyle"] != other_line["linestyle"] or {marker, other_marker} == {"o", "D"}
        assert marker != other_marker
    assert styles[3][0]["color"] == DATA and styles[4][0]["color"] == OWN


@pytest.mark.parametrize("name", ARMS)
def test_a_variant_differs_in_its_colour_alone(name):
    (line, marker), (variant, same) = drawings._arm(name), drawings._arm(f"{name}, in the rain")
    assert marker == same
    assert line["linestyle"] == variant["linestyle"]
    assert line["color"] != variant["color"]
    for colour in (line["color"], variant["color"]):
        assert 1.05 / (luminance(to_rgb(colour)) + 0.05) >= 3, "seen on white"


def names(axes: Axes) -> dict[str, Annotation]:
    """The transports' names that are written beside their lines."""
    return {text.get_text(): text for text in arrows(axes) if text.get_text()}


def test_a_law_and_its_measurement_have_the_same_colour_and_the_line_ends_in_its_mark(draw):
    law = {name: ([0, 1], [2, 3 + n]) for n, name in enumerate(ARMS)}
    measured = {name: ([0.5], [2.5]) for name in ARMS}
    axes = draw(drawings.curves, law, measured, "t", "x", "y")
    lines, points, ends = axes.lines[:5], axes.lines[5:10], axes.lines[10:]
    for n, (name, line, dot) in enumerate(zip(ARMS, lines, points, strict=True)):
        style, marker = drawings._arm(name)
        assert (line.get_color(), line.get_linestyle()) == (style["color"], style["linestyle"])
        assert (dot.get_color(), dot.get_marker(), dot.get_linestyle()) == (
            style["color"], marker, "None",
        )  # fmt: skip
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1], [2, 3 + n])
        assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0.5], [2.5])
        assert dot.get_fillstyle() == ("none" if name == "long poll" else "full")
        [end] = [e for e in ends if e.get_marker() == marker]
        assert (end.get_xdata()[0], end.get_ydata()[0]) == (1, 3 + n)
        assert end.get_color() == style["color"]
    assert axes.get_legend() is None


def test_a_lines_name_stands_to_its_right_and_none_upon_another(draw):
    law = {"SSE": ([0, 1], [2, 3]), "WebSocket": ([0, 1], [2, 2.99]), "long poll": ([0, 1], [2, 9])}
    axes = draw(drawings.curves, law, {}, "t", "x", "y")
    written = names(axes)
    assert list(written) == ["WebSocket", "SSE", "long poll"]
    heights = [name.xyann[1] for name in written.values()]
    assert heights[0] < heights[1] - 0.05 < heights[2] - 0.1
    for name, text in written.items():
        assert text.xyann[0] > text.xy[0] == 1, "to the right of the line's end"
        end = axes.transAxes.transform((1, text.xy[1]))
        assert axes.transData.inverted().transform(end) == pytest.approx([1, law[name][1][1]])


def test_a_logarithmic_axis_is_labelled_where_something_was_measured(draw):
    law = {"SSE": ([0.3, 40], [300, 300])}
    points = {"SSE": ([0.4, 4], [100, 100]), "WebSocket": ([4, 40], [1000, 100])}
    axes = draw(drawings.curves, law, points, "t", "x", "y", logarithmic=True)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.4", "4", "40"]
    assert list(axes.xaxis.get_minorticklocs()) == []
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = {label.get_text() for label in axes.get_yticklabels()}
    assert {"100", "200", "500", "1000"} <= labels


# The race

LANES = {
    "short poll 1 s": [(0.2, 1.3), (1.1, 1.3), (1.2, 2.3)],
    "WebSocket": [(0.2, 0.3), (1.1, 1.2)],
}


def race(draw: Draw) -> Axes:
    events, asked = [0.2, 1.1, 1.2, 1.9], {"short poll 1 s": [0.2, 1.2, 2.2, 3.2]}
    return draw(drawings.race, events, LANES, asked, 0.1, (0.5, 1.5), "Race")


def lane(axes: Axes, colour: str) -> tuple[list, list, list]:
    """The thick bars, the thin ones and the marks of a lane, each from x to x at a height."""
    lines = [line for line in axes.lines if line.get_color() == colour]
    marks = [line for line in lines if line.get_marker() != "None"]
    bars = [line for line in lines if line not in marks]
    thickest = max(bar.get_linewidth() for bar in bars)
    thick = [bar for bar in bars if bar.get_linewidth() == thickest]
    return thick, [bar for bar in bars if bar not in thick], marks


def test_events_have_a_lane_of_their_own_and_a_line_through_all_others(draw):
    axes = race(draw)
    [events] = [line for line in axes.lines if line.get_marker() == "v"]
    assert list(events.get_xdata()) == pytest.approx([0.6, 0.7]), "those that are due in the span"
    assert set(events.get_ydata()) == {0}
    through = axes.collections[0].get_segments()
    assert [x for [(x, _), _] in through] == pytest.approx([0.6, 0.7])
    assert all(low == 0 and high >= 2 for [(_, low), (_, high)] in through)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["events", *LANES]
    assert axes.yaxis_inverted(), "the events are at the top"


def test_a_bar_is_thick_from_the_event_until_it_is_sent_and_thin_to_its_arrival(draw):
    axes = race(draw)
    thick, thin, marks = lane(axes, drawings._arm("short")[0]["color"])
    assert [list(bar.get_xdata()) for bar in thick] == [
        pytest.approx([0.6, 0.7]), pytest.approx([0.7, 1.7]),
    ]  # fmt: skip
    assert [list(bar.get_xdata()) for bar in thin] == [
        pytest.approx([0.6, 0.8]), pytest.approx([0.7, 1.8]),
    ]  # fmt: skip
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([0.8, 1.8])
    assert {mark.get_marker() for mark in marks} == {"o"}
    heights = [bar.get_ydata()[0] for bar in thick]
    assert heights[0] != heights[1], "they overlap in time"
    assert heights == [bar.get_ydata()[0] for bar in thin] == [m.get_ydata()[0] for m in marks]
    assert all(abs(height - 1) < 0.5 for height in heights)


def test_what_is_sent_at_once_has_no_thick_bar(draw):
    thick, _, [mark] = lane(race(draw), DATA)
    assert all(bar.get_xdata()[1] - bar.get_xdata()[0] < 1e-9 for bar in thick)
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (pytest.approx(0.7), 2)
    assert mark.get_marker() == "D"


def test_a_stroke_for_each_question_as_long_as_its_lane_has_bars(draw):
    _, asked, none = race(draw).collections
    assert [x for [(x, _), _] in asked.get_segments()] == pytest.approx([0.7, 1.7])
    assert {(low + high) / 2 for [(_, low), (_, high)] in asked.get_segments()} == {1}
    assert not none.get_segments()


# How old events are


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> tuple[Axes, Axes]:
    monkeypatch.setattr(drawings, "Picture", lambda figure, alt: figure.axes)
    x = [0.1, 0.2, 0.3, 0.4]
    return drawings.staleness(
        {"SSE": [0.3, 0.1, 0.2, 0.4], "by hand": [0.5]},
        [([0.1, 0.4], [0, 1])],
        {"long poll": (x, [0.1, 0.2, 0.6, 0.8]), "WebSocket": (x, x)},
        {"long poll": ([0.2], [0.2])},
        0.25,
        ("Shares", "The knee"),
    )


def test_a_staircase_for_each_sample_with_its_name_and_the_law_in_black(panels):
    above, _ = panels
    stairs = [line for line in above.lines if line.get_drawstyle().startswith("steps")]
    assert [line.get_color() for line in stairs] == [drawings._arm("SSE")[0]["color"], OWN]
    assert list(stairs[0].get_xdata())[1:] == [0.1, 0.2, 0.3, 0.4]
    assert list(stairs[0].get_ydata()) == [0, 0.25, 0.5, 0.75, 1]
    [law] = [line for line in above.lines if line.get_color() == "black"]
    assert list(law.get_xdata()) == [0.1, 0.4]
    marks = [(line.get_marker(), line.get_xdata()[0], line.get_ydata()[0]) for line in above.lines
             if line.get_marker() in "^P"]  # fmt: skip
    assert all(x == 0.5 for marker, x, _ in marks if marker == "P")
    assert ("^", 0.4, 0.88) in [(marker, x, round(y, 2)) for marker, x, y in marks]
    assert set(names(above)) == {"SSE", "by hand"}
    assert above.get_title(loc="left") == "Shares" and above.get_xlim()[0] == 0


def test_a_line_is_broken_at_the_knee_and_the_far_side_is_shaded(panels):
    _, below = panels
    long, websocket = below.lines[:2]
    assert list(long.get_ydata()) == pytest.approx([0.1, 0.2, nan, 0.6, 0.8], nan_ok=True)
    assert list(websocket.get_xdata())[3:] == [0.3, 0.4]
    [shade] = below.patches
    assert (shade.get_x(), shade.get_width()) == pytest.approx((0.25, 0.15))
    assert below.get_title(loc="left") == "The knee"
    assert set(names(below)) == {"long poll", "WebSocket"}


def test_a_sample_without_values_is_refused():
    with pytest.raises(ValueError, match="'SSE' has no values"):
        drawings.staleness({"SSE": []}, [], {}, {}, 1, ("", ""))


def blind(draw: Draw) -> Axes:
    """A long poll that gets an answer at 10.5, and asks again, through a delay of 0.1 s."""
    items = [item("client", GET, 10.1), item("server", OK, 10.5), item("server", Body(b"x"), 10.5),
             item("client", GET, 10.6)]  # fmt: skip
    return draw(drawings.blind_window, Trace(items), [10.5, 10.55, 12], 0.1, (10, 11), "Blind")


def test_questions_go_up_and_answers_down_in_a_delay(draw):
    axes = blind(draw)
    found = [(*arrow.xyann, *arrow.xy) for arrow in arrows(axes)]
    expected = [(0.1, 0, 0.2, 1), (0.6, 0, 0.7, 1), (0.5, 1, 0.6, 0)]
    assert found == [pytest.approx(each) for each in expected]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["client", "server"]
    assert axes.get_xlim() == (0, 1)


def test_the_servers_time_is_shaded_from_an_answer_to_the_next_question(draw):
    axes = blind(draw)
    [shade] = axes.patches
    assert (shade.get_x(), shade.get_width()) == pytest.approx((0.5, 0.2))
    events = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"]
    assert events == pytest.approx([0.5, 0.55]), "those in the span"


def test_an_event_waits_until_the_next_answer(draw):
    items = [item("client", GET, 0.1), item("server", Body(b"x"), 0.5), item("client", GET, 0.6),
             item("server", Body(b"y"), 0.7), item("client", GET, 0.8)]  # fmt: skip
    axes = draw(drawings.blind_window, Trace(items), [0.5, 0.55], 0.1, (0, 1), "Blind")
    bars = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert bars == [pytest.approx([0.5, 0.5]), pytest.approx([0.55, 0.7])]


# Frames


def boxes(axes: Axes, row: float) -> list[Rectangle]:
    """The boxes of the upper row, 0, or the lower one, 1, from left to right."""
    rows = sorted({box.get_y() for box in axes.patches})
    found = [box for box in axes.patches if box.get_y() == rows[row]]
    begin = found[0].get_x()
    assert [box.get_x() for box in found] == list(range(begin, begin + len(found)))
    return found


def fields(axes: Axes, row: int) -> list[tuple[float, float, float]]:
    return [to_rgb(box.get_facecolor()) for box in boxes(axes, row)]


def texts(axes: Axes, row: int) -> str:
    """What stands in the boxes of a row."""
    middles = [(box.get_x() + 0.5, box.get_y() + 0.5) for box in boxes(axes, row)]
    inside = {text.get_position(): text.get_text() for text in axes.texts}
    return " ".join(inside[middle] for middle in middles)


@pytest.mark.parametrize(
    ("frame", "kind", "header"),
    [
        (Frame(Opcode.TEXT, b"Hello", mask=b"abcd"), DATA, [MASK] * 4),
        (Frame(Opcode.BINARY, b"Hello"), DATA, []),
        (Frame(Opcode.PING, b"Hello", mask=b"abcd"), CONTROL, [MASK] * 4),
        (Frame(Opcode.TEXT, bytes(300)), DATA, [LENGTH] * 2),
        (Frame(Opcode.TEXT, bytes(2**16), mask=b"abcd"), DATA, [*[LENGTH] * 8, *[MASK] * 4]),
    ],
)
def test_the_colours_of_a_frame_are_those_of_its_fields(draw, frame, kind, header):
    axes = draw(drawings.frame, raw := encode(frame), "A frame")
    bits = [*[kind] * 8, MASK, *[LENGTH] * 7]
    assert fields(axes, 0) == [to_rgb(colour) for colour in bits]
    drawn = raw[2:16]
    payload = [kind] * (len(drawn) - len(header))
    assert fields(axes, 1) == [to_rgb(colour) for colour in [*header, *payload]]
    assert texts(axes, 0).replace(" ", "") == f"{raw[0]:08b}{raw[1]:08b}"
    assert texts(axes, 1) == drawn.hex(" ")
    strengths = [box.get_facecolor()[3] for box in boxes(axes, 1)]
    assert set(strengths[len(header) :]) == {0.2} and min(strengths[: len(header)], default=1) > 0.2


def test_the_names_of_the_fields_stand_above_their_bits_and_the_bytes_below(draw):
    axes = draw(drawings.frame, HELLO, "A frame")
    middles = [place(axes, name)[0] for name in ("FIN", "RSV", "opcode", "MASK", "length")]
    assert middles == [0.5, 2.5, 6, 8.5, 12.5]
    assert axes.yaxis_inverted()
    bits, rest = boxes(axes, 0)[0], boxes(axes, 1)[0]
    assert place(axes, "FIN")[1] < bits.get_y()
    for said, middle in (("the first byte, 81", 4), ("the second byte, 85", 12)):
        x, y = place(axes, said)
        assert x == middle and bits.get_y() + 1 < y < rest.get_y() - 1


def test_the_names_of_the_other_fields_stand_above_their_bytes(draw):
    raw = encode(Frame(Opcode.TEXT, bytes(300), mask=b"abcd"))
    axes = draw(drawings.frame, raw, "A frame")
    row = boxes(axes, 1)
    lengths = [text.get_position() for text in axes.texts if text.get_text() == "length"]
    assert sorted(lengths, key=lambda xy: xy[1])[1][0] == row[0].get_x() + 1
    assert place(axes, "masking key")[0] == row[2].get_x() + 2
    assert place(axes, "payload")[0] == row[6].get_x() + 4


@pytest.mark.parametrize(
    ("frame", "signs"),
    [
        (Frame(Opcode.TEXT, b"Hey\x00", mask=b"abcd"), {"H": 0.5, "e": 1.5, "y": 2.5, "·": 3.5}),
        (Frame(Opcode.TEXT, "Grüße".encode()), {"G": 0.5, "r": 1.5, "ü": 3, "ß": 5, "e": 6.5}),
        (Frame(Opcode.TEXT, "a你".encode()), {"a": 0.5, "·": 2.5}),
        (Frame(Opcode.CLOSE, b"\x03\xe8bye"), {"1000": 1, "b": 2.5, "y": 3.5, "e": 4.5}),
        (Frame(Opcode.PING, b"\xffhi"), {"·": 0.5, "h": 1.5, "i": 2.5}),
    ],
)
def test_what_a_payload_says_stands_under_the_bytes_that_say_it(draw, frame, signs):
    axes = draw(drawings.frame, encode(frame), "A frame")
    row = boxes(axes, 1)[-len(frame.payload) :]
    for sign, middle in signs.items():
        x, y = place(axes, sign)
        assert x == row[0].get_x() + middle and y > row[0].get_y() + 1
    assert place(axes, "unmasked" if frame.mask else "says")[1] == y


def test_bytes_of_a_binary_message_say_nothing(draw):
    axes = draw(drawings.frame, encode(Frame(Opcode.BINARY, b"Hello")), "A frame")
    assert not {"H", "says"} & {text.get_text() for text in axes.texts}


@pytest.mark.parametrize(
    ("size", "more"), [(14, []), (15, ["and 1 byte more"]), (16, ["and 2 bytes more"])]
)
def test_of_a_long_frame_the_rest_is_counted(draw, size, more):
    axes = draw(drawings.frame, encode(Frame(Opcode.BINARY, b"x" * size)), "A frame")
    assert [text.get_text() for text in axes.texts if "more" in text.get_text()] == more


def test_a_frame_of_two_bytes_has_no_others(draw):
    axes = draw(drawings.frame, encode(Frame(Opcode.PING)), "A frame")
    assert len(axes.patches) == 16


@pytest.mark.parametrize("raw", [HELLO + HELLO, HELLO[:-1], b"", HELLO + b"\x00"])
def test_a_frame_is_drawn_only_from_exactly_one_frame(raw):
    with pytest.raises(ValueError):
        drawings.frame(raw, "Not one frame")


# Waits


def test_waits_are_bars_from_the_questions_to_the_answer(draw):
    before, after = {"A": 3.0, "B": 5.0}, {"B": 2.0, "A": 3.1}
    axes = draw(drawings.waits, before, after, ("then", "now"), "Waits")
    assert [bar.get_x() for bar in axes.patches] == [0.0] * 4
    assert [bar.get_width() for bar in axes.patches] == [3.0, 3.1, 5.0, 2.0]
    heights = [bar.get_y() for bar in axes.patches]
    assert heights == sorted(heights) and heights[1] < 0.5 < heights[2]
    assert [to_rgb(bar.get_facecolor()) == (1, 1, 1) for bar in axes.patches] == [True, False] * 2
    assert [line.get_xdata()[0] for line in axes.lines] == [3.0, 3.1, 5.0, 2.0]
    assert {line.get_marker() for line in axes.lines} == {"<"}
    names = {text.get_text(): text.xy for text in arrows(axes)}
    assert names["then"][0] == 5.0 and names["now"][0] == 2.0
    assert names["then"][1] < names["now"][1]


# Averages

LAW = {"ask and sleep": 0.35, "short poll 0.5 s": 0.3, "SSE": 0.05}
MEASURED = {"SSE": 0.06, "ask and sleep": 0.36, "short poll 0.5 s": 0.31}


def test_a_mean_is_filled_its_law_a_stroke_and_a_guess_the_same_mark_hollow(draw):
    axes = draw(drawings.averages, LAW, MEASURED, {"SSE": 0.0, "ask and sleep": None}, "Means")
    marks = [
        (line.get_ydata()[0], line.get_xdata()[0], line.get_marker(), line.get_fillstyle())
        for line in axes.lines
    ]
    assert marks == [
        (0, 0.36, "P", "full"),
        (0, 0.35, "|", "full"),
        (1, 0.31, "o", "full"),
        (1, 0.3, "|", "full"),
        (2, 0.06, "^", "full"),
        (2, 0.05, "|", "full"),
        (2, 0.0, "^", "none"),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LAW)
    assert axes.get_ylim()[0] > axes.get_ylim()[1] and axes.get_xlim()[0] < 0


def test_the_words_say_each_mean_its_law_and_a_guess():
    alt = drawings.averages(LAW, MEASURED, {"SSE": 0.1}, "Means").alt
    assert alt.endswith("short poll 0.5 s 0.31 s, law 0.30; SSE 0.06 s, law 0.05, guess 0.10.")


@pytest.mark.parametrize("guess", ["0.3", -0.1, float("inf"), float("nan"), [0.3]])
def test_a_guess_is_a_number_of_seconds(guess):
    with pytest.raises(ValueError, match="the guess for 'SSE' is in seconds"):
        drawings.averages(LAW, MEASURED, {"SSE": guess}, "Means")


def test_a_guess_is_for_a_transport_that_is_there():
    with pytest.raises(ValueError, match="a guess for 'sse', and there are ask and sleep"):
        drawings.averages(LAW, MEASURED, {"sse": 0.1}, "Means")


# States


def test_a_way_has_a_dot_in_each_of_its_states_and_arrows_between(draw):
    states = {"OPEN": "messages go both ways", "CLOSING": "we have said goodbye", "CLOSED": "over"}
    ways = {"first": ["OPEN", "CLOSING", "CLOSED"], "second": ["OPEN", "CLOSED"]}
    axes = draw(drawings.states, states, ways, "Ways")
    dots = [(list(line.get_xdata()), line.get_ydata()[0]) for line in axes.lines]
    assert dots == [([0, 1, 2], 0), ([0, 2], 1)]
    ends = [(arrow.xyann[0], arrow.xy[0], arrow.xy[1]) for arrow in arrows(axes)]
    assert [tuple(map(round, end)) for end in ends] == [(0, 1, 0), (1, 2, 0), (0, 2, 1)]
    assert [place(axes, name)[0] for name in states] == [0, 1, 2]
    assert place(axes, "second")[1] == 1 and place(axes, "second")[0] < 0


def test_the_words_say_the_states_of_each_connection():
    alt = drawings.states({"A": "a", "B": "b"}, {"one": ["A", "B"], "two": ["A"]}, "Ways").alt
    assert alt == "Ways. The states of each connection, one: A, B; two: A."


def test_a_state_that_is_none():
    with pytest.raises(KeyError):
        drawings.states({"A": "a"}, {"one": ["B"]}, "Ways")


# What each side of a connection believes

OUTCOME = Outcome(
    watched=1.0,
    hole=0.25,
    noticed={"client": None, "server": 0.4},
    codes={"client": None, "server": 1006},
    sent=[
        Sent(0.1, "client", "message", True),
        Sent(0.3, "client", "message", False),
        Sent(0.2, "server", "ping", True),
        Sent(0.4, "server", "close", False),
    ],
    tcp=None,
)
SILENT = Outcome(1.0, None, dict.fromkeys(("client", "server")), {}, [], None)


def rows(axes) -> dict[str, float]:
    """The heights of the first two labels."""
    return {"client": axes.get_yticks()[0], "server": axes.get_yticks()[1]}


def test_a_bar_lasts_as_long_as_a_side_believes_and_ends_in_its_mark(draw):
    axes = draw(drawings.beliefs, {"one": OUTCOME, "two": SILENT}, "Beliefs")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["client", "server"] * 2 and axes.yaxis_inverted()
    bars = {bar.get_y() + bar.get_height() / 2: bar for bar in axes.patches}
    height = rows(axes)
    assert bars[height["client"]].get_width() == 1.0
    assert bars[height["server"]].get_width() == 0.4
    marks = {(line.get_marker(), *line.get_xydata()[0]) for line in axes.lines}
    assert (">", 1.0, height["client"]) in marks and ("X", 0.4, height["server"]) in marks
    crosses = [line for line in axes.lines if line.get_marker() == "X"]
    assert [line.get_color() for line in crosses] == [TROUBLE]
    said = [text.get_text() for text in axes.texts]
    assert said == ["one", "still open, it thinks", "1006 after 0.40 s", "two", "open", "open"]
    assert place(axes, "one")[1] < height["client"] < height["server"] < place(axes, "two")[1]


def test_the_time_in_which_nothing_arrives_is_shaded(draw):
    axes = draw(drawings.beliefs, {"one": OUTCOME}, "Beliefs")
    [dark] = [bar for bar in axes.patches if bar.get_x() > 0]
    assert (dark.get_x(), dark.get_width()) == (0.25, 0.75)
    height = rows(axes)
    assert dark.get_y() < height["client"] < height["server"] < dark.get_y() + dark.get_height()
    assert all(bar.get_x() == 0 for bar in draw(drawings.beliefs, {"two": SILENT}, "B").patches)


def test_what_was_sent_has_its_mark_hollow_if_it_did_not_arrive(draw):
    axes = draw(drawings.beliefs, {"one": OUTCOME}, "Beliefs")
    sent = {
        (line.get_marker(), line.get_xydata()[0][0]): line
        for line in axes.lines
        if line.get_marker() in "^vo"
    }
    assert set(sent) == {("o", 0.1), ("o", 0.3), ("^", 0.2)}
    assert {sent["o", 0.1].get_color(), sent["o", 0.3].get_color()} == {DATA}
    assert sent["^", 0.2].get_color() == CONTROL
    assert sent["o", 0.1].get_markerfacecolor() == DATA
    assert sent["o", 0.3].get_markerfacecolor() == "white"
    height = rows(axes)
    assert sent["o", 0.1].get_xydata()[0][1] == height["client"]
    assert abs(sent["^", 0.2].get_xydata()[0][1] - height["server"]) < 0.2
    assert "▲ ping   ● message   (hollow: did not arrive)" in axes.get_xlabel()
    assert "hollow" not in draw(drawings.beliefs, {"two": SILENT}, "B").get_xlabel()


def test_the_words_say_who_knew_when():
    alt = drawings.beliefs({"one": OUTCOME, "two": SILENT}, "Beliefs").alt
    assert alt == (
        "Beliefs. What each side knows, one: nothing arrives after 0.25 s, client still open, it "
        "thinks and server 1006 after 0.40 s; two: client open and server open."
    )
