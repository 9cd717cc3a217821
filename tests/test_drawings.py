"""workbench.drawings: that a figure says what it was drawn from."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex
from nestling.frames import Frame, Opcode, encode
from nestling.handshake import build_request
from workbench import drawings, trace
from workbench.relay import Tap

REQUEST = build_request("127.0.0.1", key="dGhlIHNhbXBsZSBub25jZQ==")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
HELLO = encode(Frame(Opcode.TEXT, b"Hello", mask=b"abcd"))
WORLD = encode(Frame(Opcode.TEXT, b"World"))
PING = encode(Frame(Opcode.PING, b"", mask=b"abcd"))
PONG = encode(Frame(Opcode.PONG))


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """A drawing gives its figure instead of the picture of it."""
    monkeypatch.setattr(drawings, "Picture", lambda figure, alt: figure)


def conversation(connection: int = 1, begin: float = 10.0) -> trace.Trace:
    """A handshake, a text each way, a ping and its pong, half a second apart."""
    sent = [
        ("client", REQUEST),
        ("server", SWITCHING),
        ("client", HELLO),
        ("server", WORLD),
        ("client", PING),
        ("server", PONG),
    ]
    return trace.decode(
        Tap(connection, sender, begin + number / 2, data)
        for number, (sender, data) in enumerate(sent)
    )


KINDS = [drawings.HTTP, drawings.HTTP, drawings.DATA, drawings.DATA, drawings.CONTROL]
KINDS.append(drawings.CONTROL)


def test_each_kind_has_a_colour_of_its_own():
    colours = [getattr(drawings, name) for name in ("LOOP", "HTTP", "DATA", "CONTROL", "LENGTH")]
    colours += [drawings.MASK, drawings.TROUBLE]
    assert len(set(colours)) == 7


def test_an_arrow_of_a_sequence_goes_from_its_sender_and_has_the_colour_of_its_kind():
    [axes] = drawings.sequence(conversation(), "All").axes
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert [arrow.xyann[0] for arrow in arrows] == [0, 1] * 3
    assert [arrow.xy[0] for arrow in arrows] == [1, 0] * 3
    assert all(arrow.xy[1] > arrow.xyann[1] for arrow in arrows)
    heights = [arrow.xyann[1] for arrow in arrows]
    assert heights == sorted(heights)
    colours = [to_hex(arrow.arrow_patch.get_edgecolor()).upper() for arrow in arrows]
    assert colours == KINDS
    heads = [arrow.arrowprops["arrowstyle"] for arrow in arrows]
    assert heads == ["-|>"] * 6
    names = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert (names["client"], names["server"]) == (0, 1)


def marks(axes, *markers):
    lines = [line for line in axes.lines if line.get_marker() in markers]
    return [(line.get_marker(), line.get_color(), *line.get_xydata().tolist()) for line in lines]


def test_a_timeline_has_a_mark_for_each_item_when_it_was_sent():
    [axes] = drawings.timeline(conversation(), "All").axes
    assert marks(axes, "<", ">") == [
        (">" if row % 2 == 0 else "<", KINDS[row], [row / 2, row]) for row in range(6)
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["client", "server"] * 3


def test_lanes_have_the_clients_triangles_and_the_servers_dots():
    both = trace.Trace([*conversation(1), *conversation(2, begin=10.25)])
    [axes] = drawings.lanes(both, "Two").axes
    found = {(m, c): points for m, c, *points in marks(axes, ">", "o")}
    assert found[">", drawings.DATA] == [[1.0, 1], [1.25, 2]]
    assert found["o", drawings.DATA] == [[1.5, 1], [1.75, 2]]
    assert found[">", drawings.HTTP] == [[0.0, 1], [0.25, 2]]
    assert found["o", drawings.CONTROL] == [[2.5, 1], [2.75, 2]]


def test_a_gap_is_shaded_from_its_beginning_to_its_end_and_its_length_is_written():
    rows = {"steady": [0, 0.1, 0.2, 0.3], "stopped": [0, 0.1, 0.9, 1.0]}
    [axes] = drawings.ticks(rows, "Ticks").axes
    [gap] = axes.patches
    assert (gap.get_x(), gap.get_width()) == pytest.approx((0.1, 0.8))
    assert gap.get_y() < 1 < gap.get_y() + gap.get_height()
    assert [text.get_text() for text in axes.texts] == ["nothing for 0.80 s"]
    strokes = [collection.get_segments() for collection in axes.collections]
    assert [[segment[0][0] for segment in row] for row in strokes] == list(rows.values())
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is on top"


def test_waits_are_bars_from_the_question_to_the_answer():
    before, after = {"A": (0.0, 3.0), "B": (0.1, 5.0)}, {"A": (0.0, 3.1), "B": (0.1, 2.0)}
    [axes] = drawings.waits(before, after, ("then", "now"), "Waits").axes
    assert [bar.get_x() for bar in axes.patches] == [0.0, 0.0, 0.1, 0.1]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([3.0, 3.1, 4.9, 1.9])
    heights = [bar.get_y() for bar in axes.patches]
    assert heights == sorted(heights) and heights[1] < 0.5 < heights[2]
    hollow = [to_hex(bar.get_facecolor()) == "#ffffff" for bar in axes.patches]
    assert hollow == [True, False, True, False]
    ends = [line.get_xdata()[0] for line in axes.lines]
    assert ends == [3.0, 3.1, 5.0, 2.0]
    names = {text.get_text(): text.xy for text in axes.texts}
    assert names["then"][0] == 5.0 and names["now"][0] == 2.0
    assert names["then"][1] < names["now"][1]


def test_a_transport_has_the_same_look_in_every_figure_and_no_two_have_one():
    names = ["short polling", "long polling", "SSE", "WebSocket", "WebSocket, deflate"]
    names += ["short polling, fresh", "carrier pigeons", "carrier pigeons, fresh"]
    looks = [tuple(drawings._arm(name)[0].values()) for name in names]
    assert len(set(looks)) == len(names)
    samples = {name: [1.0, 2.0] for name in names}
    [axes] = drawings.ecdf(samples, [], "All", "s").axes
    assert [(line.get_color(), line.get_linestyle()) for line in axes.lines] == looks
    points = {name: ([1, 2], [1, 2]) for name in names}
    [axes] = drawings.curves({}, points, "All", "x", "y").axes
    drawn = [(line.get_color(), line.get_marker()) for line in axes.lines]
    assert drawn == [
        (look[0], drawings._arm(name)[1]) for name, look in zip(names, looks, strict=True)
    ]


def test_lanes_of_transports_tell_requests_empty_answers_and_events_apart():
    page = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = [("client", get), ("server", page % (2, b"[]")), ("client", get)]
    sent.append(("server", page % (5, b'["x"]')))
    polls = trace.decode(Tap(1, who, float(at), data) for at, (who, data) in enumerate(sent))
    [axes] = drawings.arms({"polls": polls, "frames": conversation()}, 0, 20, "All").axes
    found = [
        (
            line.get_marker(),
            line.get_fillstyle() == "none",
            line.get_xdata()[0],
            line.get_ydata()[0],
        )
        for line in axes.lines
    ]
    first = [("|", False, 0, 0), ("o", True, 1, 0), ("|", False, 2, 0), ("o", False, 3, 0)]
    assert found[:4] == first
    assert found[4:] == [("|", False, 10, 1), ("o", False, 11, 1), ("o", False, 11.5, 1)]
    assert [line.get_color() for line in axes.lines[4:]] == [drawings.HTTP] + [drawings.DATA] * 2


def test_a_frame_has_a_colour_for_each_field():
    raw = encode(Frame(Opcode.BINARY, bytes(130), mask=b"abcd"))
    [axes] = drawings.frame(raw, "A frame").axes
    boxes = [to_hex(box.get_facecolor()).upper() for box in axes.patches]
    assert boxes[:8] == [drawings.DATA] * 8
    assert boxes[8] == drawings.MASK and boxes[9:16] == [drawings.LENGTH] * 7
    assert boxes[16:24] == [drawings.DATA] + [drawings.LENGTH] * 3 + [drawings.MASK] * 4
    assert set(boxes[24:]) == {drawings.DATA}
    written = [text.get_text() for text in axes.texts]
    assert [f"{byte:02x}" for byte in raw[:16]] == [text for text in written if len(text) == 2]
    assert "and 122 bytes more" in written
    ping = drawings.frame(encode(Frame(Opcode.PING, b"x")), "A ping").axes[0]
    assert to_hex(ping.patches[0].get_facecolor()).upper() == drawings.CONTROL
