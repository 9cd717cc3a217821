"""What can be clicked: the bits of a frame, and what a real server answers to them."""

from __future__ import annotations

import pytest
from nestling.frames import Decoder, Opcode
from workbench import drawings, explore, kernel, laws


async def echo(connection):
    async for message in connection:
        await connection.send(message)


@pytest.fixture
async def server():
    yield await kernel.start("echo", echo, compression=None)
    await kernel.stop_all()


END = "the end of the connection"


@pytest.mark.parametrize(
    ("header", "heard"),
    [
        ("81 85", ["TEXT 'vote '"]),
        ("82 80", ["BINARY"]),
        ("89 84", ["PONG 'vote'"]),
        ("8a 84", []),
        ("01 84", []),
        ("88 82", ["CLOSE 1000", END]),
        ("88 80", ["CLOSE", END]),
        ("81 04", ["CLOSE 1002 incorrect masking", END]),
        ("91 84", ["CLOSE 1002 reserved bits must be 0", END]),
        ("83 84", ["CLOSE 1002 invalid opcode", END]),
        ("80 84", ["CLOSE 1002 unexpected continuation frame", END]),
        ("09 84", ["CLOSE 1002 fragmented control frame", END]),
        ("89 fe", ["CLOSE 1002 control frame too long", END]),
        ("81 fe", ["TEXT 'vote vote vote vote vote'… 126 characters"]),
        ("81 ff", ["TEXT 'vote vote vote vote vote'… 65536 characters"]),
    ],
)
async def test_what_a_server_answers(server, header, heard):
    sent = explore.frame_of(*bytes.fromhex(header))
    assert await explore.answers(server.port, sent) == heard


@pytest.mark.parametrize("second", [0, 1, 125, 126, 127, 128, 129, 253, 254, 255])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_what_follows_the_header_is_what_it_says(opcode, second):
    frames = list(Decoder(masked=None).feed(explore.frame_of(0x80 | opcode, second)))
    size = {126: 126, 127: 65_536}.get(second & 0x7F, second & 0x7F)
    assert [(frame.opcode, frame.payload) for frame in frames] == [
        (opcode, (b"vote " * 20_000)[:size])
    ]


async def test_a_click_sends_the_frame_and_shows_the_answer(server):
    bits = explore.Bits(server)
    assert bits.frame.hex(" ").startswith("81 84 ")
    bits._buttons[8].value = False
    assert bits.frame.hex(" ") == "81 04 76 6f 74 65"
    await bits._sending
    assert bits.said.splitlines() == [
        "sent  81 04 76 6f 74 65  (6 bytes)",
        "back  CLOSE 1002 incorrect masking",
        "back  the end of the connection",
    ]
    assert bits._buttons[8].description == "0"
    bits._buttons[8].value = True
    bits._buttons[0].value = False
    await bits._sending
    assert bits.said.endswith("\nback  nothing: silence")


async def test_clicks_faster_than_the_answers_end_with_the_last_one(server):
    bits = explore.Bits(server)
    for value in (False, True, False):
        bits._buttons[8].value = value
    await bits._sending
    assert bits.said.startswith("sent  81 04")
    assert "incorrect masking" in bits._shown.value


async def test_without_a_server_it_says_what_to_do(server):
    bits = explore.Bits(server)
    await kernel.stop_all()
    await bits.send()
    assert "run the cell that starts it" in bits.said


async def test_there_is_a_picture_where_no_kernel_is(server):
    bits = await explore.bits(server)
    assert bits.said.endswith("back  TEXT 'vote'")
    data, _ = bits._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= data.keys()


@pytest.fixture
def drawn(monkeypatch):
    """What the knobs have drawn, by the titles: lines, points and labels."""
    found: dict[str, tuple] = {}
    curves = drawings.curves

    def keep(lines, points, title, *labels, **options):
        found[title.split()[1]] = (lines, points, title)
        return curves(lines, points, title, *labels, **options)

    monkeypatch.setattr(drawings, "curves", keep)
    return found


def test_the_lines_are_the_laws_with_the_points_where_the_knobs_stand(drawn):
    knobs = explore.Knobs()
    knobs.knobs["interval"].value = 2
    knobs.knobs["delay"].value = 0.25
    lines, points, title = drawn["stale:"]
    assert "polls every 2 s" in title
    delays, latencies = lines["short polling"]
    assert latencies == pytest.approx([laws.short_poll_latency(2, d) for d in delays])
    assert points["SSE, WebSocket"] == ([0.25], [0.25])
    assert min(delays) < 0.25 < max(delays)


@pytest.mark.parametrize("name", ["rate", "delay", "interval", "headers"])
def test_each_knob_moves_a_line_and_the_pictures(drawn, name):
    knobs = explore.Knobs()
    before = {of: lines for of, (lines, _, _) in drawn.items()}
    images = [image.value for image in knobs._images]
    knobs.knobs[name].value *= 1.5
    assert any(drawn[of][0] != lines for of, lines in before.items()) or name == "delay"
    assert [image.value for image in knobs._images] != images


def test_what_it_costs_is_the_model_for_each_transport(drawn):
    explore.Knobs()
    lines, points, _ = drawn["it"]
    [rate], costs = points["WebSocket"]
    expected = laws.expectations(rate, 0.05, interval=0.5, exchange=250)
    assert costs == [expected[3].wire / rate]
    assert list(lines) == ["short polling", "long polling", "SSE", "WebSocket"]
