"""workbench.wire: the bytes of a key and of a mask, each under what it is made from."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes
from nestling.frames import Frame, Opcode, encode
from workbench import wire

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the pictures of a test stay figures."""
    monkeypatch.setattr(wire, "Picture", lambda figure, alt: figure.axes[0])


def rows(axes: Axes) -> list[tuple[str, ...]]:
    """What stands where, line by line from the top down, each from left to right."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for text in axes.texts:
        x, y = text.get_position()
        if text.get_text():
            lines.setdefault(round(y, 2), []).append((x, text.get_text()))
    return [tuple(text for _, text in sorted(lines[y])) for y in sorted(lines)]


def test_a_key_becomes_its_answer_step_by_step(axes):
    """The example of RFC 6455, section 1.3, with the hash that it gives there."""
    shown = wire.accept(KEY, "An answer")
    assert shown.yaxis_inverted()
    hashed = "b3 7a 4f 2c c0 62 4f 16 90 f6 46 06 cf 38 59 45 b2 be c4 ea"
    assert rows(shown) == [
        ("Sec-\nWebSocket-Key", KEY),
        ("append the fixed text",),
        ("key + GUID", f"{KEY}\n258EAFA5-E914-47DA-95CA-C5AB0DC85B11"),
        ("SHA-1",),
        ("a hash of 20 bytes", hashed),
        ("base64",),
        ("Sec-\nWebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]


def test_the_key_of_a_mask_stands_again_and_again_under_the_bytes_of_the_wire(axes):
    raw = encode(Frame(Opcode.TEXT, b"vote 2", mask=b"abcd"))
    assert rows(wire.mask(raw, "A mask")) == [
        ("on the wire", *raw[6:].hex(" ").split()),
        ("XOR the key", *b"abcdab".hex(" ").split()),
        ("the payload", *b"vote 2".hex(" ").split()),
        ("as text", *"vote 2"),
    ]


def test_a_letter_of_two_bytes_is_not_put_under_one_and_a_long_payload_is_cut(axes):
    drawn = rows(wire.mask(encode(Frame(Opcode.TEXT, "Grüße".encode(), mask=b"abcd")), "A mask"))
    assert len(drawn) == 3
    assert rows(wire.mask(encode(Frame(Opcode.TEXT, b"a\n", mask=b"abcd")), "A mask"))[3][2] == "·"
    drawn = rows(wire.mask(encode(Frame(Opcode.TEXT, b"x" * 300, mask=b"abcd")), "A mask"))
    assert [len(row) for row in drawn] == [13] * 4


def test_words_and_a_frame_without_a_mask():
    alt = wire.mask(encode(Frame(Opcode.TEXT, b"ab", mask=b"\x01\x02\x03\x04")), "A mask").alt
    assert alt == (
        "A mask. Byte under byte, on the wire: 60 60; XOR the key: 01 02; the payload: 61 62."
    )
    assert KEY in wire.accept(KEY, "An answer").alt
    with pytest.raises(ValueError, match="no masking key"):
        wire.mask(encode(Frame(Opcode.TEXT, b"ab")), "A mask")
