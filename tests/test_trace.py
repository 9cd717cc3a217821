"""workbench.trace: what a relay's taps say."""

from __future__ import annotations

import asyncio

import pytest
from nestling.frames import Frame, Opcode, encode
from nestling.handshake import Request, Response, build_request
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from workbench import trace
from workbench.relay import Relay, Tap
from workbench.trace import Body, End, Trace, Undecoded

REQUEST = build_request("127.0.0.1", key="dGhlIHNhbXBsZSBub25jZQ==")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
HELLO = encode(Frame(Opcode.TEXT, b"Hello", mask=b"abcd"))


def taps(*sent: tuple[str, bytes], connection: int = 1) -> list[Tap]:
    return [Tap(connection, sender, float(at), data) for at, (sender, data) in enumerate(sent)]


def contents(decoded: Trace) -> list[type]:
    return [type(item.content) for item in decoded]


def test_heads_and_frames_in_any_pieces():
    data = REQUEST + HELLO + HELLO
    whole = trace.decode(taps(("client", data)))
    pieces = trace.decode(taps(*[("client", bytes([byte])) for byte in data]))
    assert contents(whole) == contents(pieces) == [Request, Frame, Frame]
    assert [i.raw for i in whole] == [i.raw for i in pieces] == [REQUEST, HELLO, HELLO]
    assert whole.frames[0].payload == b"Hello"


def test_an_item_was_sent_when_its_last_byte_was():
    decoded = trace.decode(
        taps(("client", REQUEST[:5]), ("server", SWITCHING), ("client", REQUEST[5:]))
    )
    assert [(i.sender, i.sent) for i in decoded] == [("server", 1.0), ("client", 2.0)]


def test_connections_are_kept_apart():
    decoded = trace.decode(
        taps(("client", REQUEST[:9])) + taps(("client", REQUEST), connection=2)
        + taps(("client", REQUEST[9:]))
    )  # fmt: skip
    assert [i.connection for i in decoded] == [2, 1]
    assert contents(decoded) == [Request, Request]


def test_http_with_bodies_before_and_without_an_upgrade():
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npage\n"
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    decoded = trace.decode(
        taps(("client", get + get), ("server", page + page[:-2]), ("server", page[-2:]))
    )
    assert contents(decoded) == [Request, Request, Response, Body, Response, Body, Body]
    assert decoded[-1].label == "body 'e\\n'"


def answer(*lengths: str) -> bytes:
    fields = "".join(f"Content-Length: {length}\r\n" for length in lengths)
    return f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode()


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        (["-5"], "Content-Length is no number: '-5'"),
        (["+5"], "Content-Length is no number: '+5'"),
        (["ten"], "Content-Length is no number: 'ten'"),
        (["1_0"], "Content-Length is no number: '1_0'"),
        (["5", "6"], "different values of Content-Length"),
        (["5, 6"], "different values of Content-Length"),
    ],
)
def test_what_follows_a_content_length_that_says_nothing_is_shown_undecoded(lengths, why):
    head = answer(*lengths)
    for pieces in [(head + b"Hello",), (head, b"He", b"llo")]:
        decoded = trace.decode(taps(*[("server", piece) for piece in pieces]))
        assert contents(decoded)[:2] == [Response, Undecoded]
        assert {item.content for item in decoded[1:]} == {Undecoded(why)}
        assert decoded[0].raw == head
        assert b"".join(item.raw for item in decoded[1:]) == b"Hello"


@pytest.mark.parametrize("lengths", [["5", "5"], ["5, 5"], ["5", "0" * 30 + "5"]])
def test_the_same_content_length_twice_is_one(lengths):
    decoded = trace.decode(taps(("server", answer(*lengths) + b"Hello" + answer("0"))))
    assert contents(decoded) == [Response, Body, Response]


@pytest.mark.parametrize("digits", [12, 30, 5000])
def test_a_body_that_will_never_be_complete_is_shown_as_far_as_it_came(digits):
    pieces = answer("9" * digits), b"Hello", answer("0")
    decoded = trace.decode(taps(*[("server", piece) for piece in pieces]))
    assert contents(decoded) == [Response, Body, Body]


def test_chunks_count_and_the_content_length_beside_them_does_not():
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: ten\r\n\r\n")
    decoded = trace.decode(taps(("server", head + CHUNKS[0])))
    assert contents(decoded) == [Response, Body]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
CHUNKS = [b"5\r\nHello\r\n", b"00A;of=ten\r\n0\r\n\r\nbytes\r\n"]


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"000;x\r\nA: b\r\nC: d\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_in_any_pieces_and_the_head_after_them(last, size):
    raws = [CHUNKED, *CHUNKS, last, CHUNKED, last, SWITCHING, encode(Frame(Opcode.PING))]
    data = b"".join(raws)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    decoded = trace.decode(taps(*[("server", piece) for piece in pieces]))
    assert [item.raw for item in decoded] == raws
    assert contents(decoded) == [Response, Body, Body, Body, Response, Body, Response, Frame]
    bodies = [item.content.data for item in decoded if isinstance(item.content, Body)]
    assert bodies == [b"Hello", b"0\r\n\r\nbytes", b"", b""]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"5\r\nHello!\r\n", "longer than its size"),
        (b"five\r\nHello\r\n", "not the size of a chunk"),
        (b"-5\r\nHello\r\n", "not the size of a chunk"),
        (b"\r\nHello\r\n", "not the size of a chunk"),
        (b"5\r\nHello", "incomplete"),
        (b"0\r\nA: b\r\n", "incomplete"),
        (b"5", "incomplete"),
    ],
)
def test_chunks_that_are_broken_or_cut_short(sent, why):
    for pieces in [[sent], [bytes([byte]) for byte in sent]]:
        decoded = trace.decode(taps(("server", CHUNKED), *[("server", p) for p in pieces]))
        assert why in decoded[-1].label
        assert isinstance(decoded[-1].content, Undecoded)
        assert b"".join(item.raw for item in decoded) == CHUNKED + sent


def test_cookies_and_credentials_are_illegible_everywhere():
    secrets = [
        ("Cookie", "session=hunter2"),
        ("authorization", "Bearer hunter2"),
        ("Proxy-Authorization", "Basic hunter2"),
    ]
    request = build_request("127.0.0.1", key="x", headers=secrets)
    response = SWITCHING[:-2] + b"Set-Cookie: session=hunter2\r\n\r\n"
    decoded = trace.decode(
        taps(*[("client", bytes([byte])) for byte in request], ("server", response))
    )
    assert contents(decoded) == [Request, Response]
    shown = [repr(decoded), decoded._repr_html_(), *(repr(i) for i in decoded)]
    assert not any("hunter2" in text for text in shown)
    assert [len(i.raw) for i in decoded] == [len(request), len(response)]


def test_cookies_behind_what_cannot_be_decoded_are_illegible_too():
    lost, secret = b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"Cookie: hunter2\r\n"
    for pieces in [(lost + secret,), (lost, secret)]:
        decoded = trace.decode(taps(*[("client", piece) for piece in pieces]))
        assert not any(b"hunter2" in item.raw for item in decoded)
        assert len(decoded[-1].raw) == len(secret)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "not a request line"),
        (REQUEST + b"\x83\x00", "opcode 3 is reserved"),
        (REQUEST + HELLO + b"\xff\xff\xff", "opcode 15 is reserved"),
        (REQUEST + HELLO[:4], "incomplete"),
        (REQUEST[:20], "incomplete"),
    ],
)
def test_bytes_that_cannot_be_decoded_are_shown_as_such(sent, why):
    decoded = trace.decode(taps(("client", sent)))
    assert isinstance(decoded[-1].content, Undecoded)
    assert why in decoded[-1].label
    assert b"".join(i.raw for i in decoded) == sent


def test_the_table_and_its_plain_text_say_the_same():
    decoded = trace.decode(
        taps(("client", REQUEST + HELLO), ("server", SWITCHING), ("server", b""))
    )
    assert repr(decoded).splitlines()[1] == "client        11 bytes  TEXT 'Hello'"
    assert "<td>11</td><td style='text-align:left'>TEXT &#x27;Hello&#x27;</td>" in (
        decoded._repr_html_()
    )
    assert isinstance(decoded[-1].content, End)
    assert repr(Trace()) == "(nothing was sent)"


@pytest.mark.parametrize(
    ("frame", "label"),
    [
        (Frame(Opcode.TEXT, "Grüße".encode()), "TEXT 'Grüße'"),
        (Frame(Opcode.TEXT, b"\xff\xfe"), "TEXT ff fe"),
        (Frame(Opcode.TEXT, b"x" * 100), f"TEXT {'x' * 24!r}… 100 characters"),
        (Frame(Opcode.BINARY, b"ab"), "BINARY 61 62"),
        (Frame(Opcode.BINARY, bytes(99)), "BINARY 00 00 00 00 00 00 00 00 … 99 bytes"),
        (Frame(Opcode.TEXT, b"Hel", fin=False), "TEXT, more to come 'Hel'"),
        (Frame(Opcode.PING), "PING"),
        (Frame(Opcode.CLOSE), "CLOSE"),
        (Frame(Opcode.CLOSE, b"\x03\xe8bye"), "CLOSE 1000 bye"),
        (Frame(Opcode.CLOSE, b"\x03"), "CLOSE, a close code has two bytes, and here is one"),
    ],
)
def test_labels(frame, label):
    decoded = trace.decode(taps(("server", SWITCHING + encode(frame))))
    assert decoded[-1].label.startswith(label)


async def test_a_real_conversation_is_decoded_to_the_last_byte():
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        async with Relay(server.sockets[0].getsockname()[1]) as relay, asyncio.timeout(10):
            async with connect(relay.url, compression=None) as client:
                for message in ("Hello", b"\x00" * 70_000, ""):
                    await client.send(message)
                    await client.recv()
    decoded = trace.decode(relay.taps)
    assert not [i for i in decoded if isinstance(i.content, Undecoded)]
    for sender in ("client", "server"):
        sent = b"".join(tap.data for tap in relay.taps if tap.sender == sender)
        assert b"".join(i.raw for i in decoded.of(sender)) == sent
        assert [frame.opcode for frame in decoded.of(sender).frames] == [1, 2, 1, 8]
