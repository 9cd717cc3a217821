"""A connection without a network: what each side sends, hears, and does about mistakes."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling import protocol
from nestling.frames import (
    CloseCode,
    Decoder,
    Frame,
    FrameError,
    Opcode,
    close_payload,
    encode,
    new_mask,
    parse_close,
)
from nestling.handshake import (
    HandshakeError,
    Refusal,
    Request,
    Response,
    accept,
    parse_request,
    parse_response,
)
from nestling.protocol import Close, Message, Ping, Pong, Protocol, State, StateError

CLIENT, SERVER = "client", "server"
BOTH = pytest.mark.parametrize("side", [CLIENT, SERVER])


class Shout:
    """An extension that turns letters round, and is asked for as `shout`."""

    def offer(self) -> str:
        return "shout; loud"

    def accept(self, offers: Sequence[str]) -> tuple[Shout, str] | None:
        if "nonsense" in offers:
            raise Refusal(400, "not an extension")
        return (self, "shout") if offers == ["shout; loud"] else None

    def check(self, answers: Sequence[str]) -> Shout:
        if answers != ["shout"]:
            raise HandshakeError("not the extension that was offered")
        return self

    def compress(self, payload: bytes) -> bytes:
        return payload.swapcase()

    def decompress(self, piece: bytes, last: bool, room: int) -> bytes:
        if len(piece) > room:
            raise FrameError("shouted for too long", CloseCode.MESSAGE_TOO_BIG)
        return piece.swapcase() + (b"!" if last else b"")


def connected(**options: Any) -> tuple[Protocol, Protocol]:
    """A client and a server with the handshake behind them."""
    client, server = Protocol(is_client=True, **options), Protocol(**options)
    server.receive(client.connect("localhost"))
    client.receive(server.accept())
    assert client.state is server.state is State.OPEN
    return client, server


def opened(side: str, **options: Any) -> Protocol:
    return connected(**options)[side == SERVER]


def wire(side: str, opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    """A frame for that side: for a server it is masked."""
    mask = new_mask() if side == SERVER else None
    return encode(Frame(opcode, payload, fin, rsv, mask))


def answered(side: str, connection: Protocol) -> list[Frame]:
    """The frames that the connection has to send, their masks checked and left out."""
    decoder = Decoder(masked=side == CLIENT)
    frames = list(decoder.feed(connection.take_answers()))
    assert decoder.pending == 0
    return [Frame(f.opcode, f.payload, f.fin, f.rsv) for f in frames]


def assert_failed(side: str, connection: Protocol, events: list[Any], code: int, why: str) -> None:
    """The last event and the answer say what was wrong, and nothing more is read."""
    assert events[-1].code == 1006 and why in events[-1].reason
    [frame] = answered(side, connection)
    assert frame.opcode is Opcode.CLOSE
    assert parse_close(frame.payload)[0] == code
    assert why in parse_close(frame.payload)[1]
    assert connection.state is State.CLOSED
    assert connection.sent.code == code and connection.received is None
    assert connection.receive(wire(side, 1, b"late")) == []
    assert connection.receive(wire(side, 8)) == []
    assert connection.receive_eof() == []
    assert connection.take_answers() == b""


# The handshake


def test_a_client_and_a_server_open_a_connection():
    client = Protocol(is_client=True)
    server = Protocol()
    request = client.connect("localhost:80", "/a?b", subprotocols=["x", "y"], headers=[("C", "d")])
    [event] = server.receive(request)
    assert isinstance(event, Request) and event is server.request
    assert (event.path, event.headers.get("host")) == ("/a?b", "localhost:80")
    assert event.headers.get("C") == "d"
    assert server.state is client.state is State.CONNECTING
    [event] = client.receive(server.accept("y", [("E", "f")]))
    assert isinstance(event, Response) and event.headers.get("E") == "f"
    assert server.state is client.state is State.OPEN
    assert server.subprotocol == client.subprotocol == "y"
    assert server.take_answers() == client.take_answers() == b""


def test_the_key_is_another_one_each_time():
    heads = [Protocol(is_client=True).connect("h") for _ in range(2)]
    keys = [parse_request(head)[0].headers.get("Sec-WebSocket-Key") for head in heads]
    assert keys[0] != keys[1]


def test_frames_right_behind_the_handshake_are_read():
    client, server = Protocol(is_client=True), Protocol()
    head = client.connect("h")
    early = wire(SERVER, 1, b"early")
    assert len(server.receive(head + early)) == 1
    assert server.receive(early[:3]) == []
    assert server.receive(early[3:]) == []
    answer = server.accept()
    assert server.receive(b"") == [Message("early")] * 2
    assert client.receive(answer + server.send_text("hello"))[1:] == [Message("hello")]


def test_a_bad_request_is_refused():
    server = Protocol()
    [event] = server.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert event.code == 1006 and "Upgrade" in event.reason
    response, body = parse_response(server.take_answers())
    assert response.status == 426 and b"Upgrade" in body
    assert server.state is State.CLOSED and server.request is None
    assert server.receive(b"GET") == [] and server.take_answers() == b""
    with pytest.raises(StateError, match=r"CLOSED"):
        server.accept()


def test_a_server_refuses():
    server = Protocol()
    server.receive(Protocol(is_client=True).connect("h"))
    response, body = parse_response(server.refuse(Refusal(404, "nothing here")))
    assert (response.status, body) == (404, b"nothing here\n")
    assert server.state is State.CLOSED
    for answer in (server.accept, lambda: server.refuse(Refusal(404, "again"))):
        with pytest.raises(StateError):
            answer()


def test_a_client_does_not_take_a_refusal_or_a_wrong_answer():
    for answer, why in [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (accept(parse_request(Protocol(is_client=True).connect("h"))[0]), "key"),
        (b"nonsense\r\n\r\n", "status line"),
    ]:
        client = Protocol(is_client=True)
        client.connect("h")
        [event] = client.receive(answer)
        assert event.code == 1006 and why in event.reason
        assert client.state is State.CLOSED and client.take_answers() == b""
        assert client.receive(b"\x81\x00") == []


def test_what_a_server_accepts_is_up_to_handshake():
    server = Protocol()
    with pytest.raises(StateError, match="no request"):
        server.accept()
    server.receive(Protocol(is_client=True).connect("h"))
    with pytest.raises(ValueError, match="did not offer"):
        server.accept("x")
    assert server.state is State.CONNECTING and server.subprotocol is None
    server.accept()
    with pytest.raises(StateError):
        server.accept()


def test_an_answer_to_nothing():
    [end] = Protocol(is_client=True).receive(
        accept(parse_request(Protocol(is_client=True).connect("h"))[0])
    )
    assert end.code == 1006 and "key" in end.reason


def test_a_client_connects_once():
    client, _ = connected()
    with pytest.raises(StateError):
        client.connect("h")


def test_nothing_can_be_sent_before_the_handshake_is_done():
    for connection in (Protocol(), Protocol(is_client=True)):
        for send in sends(connection):
            with pytest.raises(StateError, match="CONNECTING: the handshake is under way"):
                send()


@BOTH
def test_a_handshake_that_is_cut_off(side):
    connection = Protocol(is_client=side == CLIENT)
    assert connection.receive(b"GET") == [] or side == CLIENT
    [event] = connection.receive_eof()
    assert event.code == 1006 and connection.state is State.CLOSED


def sends(connection: Protocol) -> list[Any]:
    return [
        lambda: connection.send_text("x"),
        lambda: connection.send_binary(b"x"),
        lambda: connection.send_ping(),
        lambda: connection.send_pong(),
        lambda: connection.send_close(),
    ]


# Messages


@BOTH
@pytest.mark.parametrize("data", ["", "h\u00e9llo", "\U0001f600" * 20_000, b"", bytes(70_000)])
def test_messages(side, data):
    client, server = connected()
    sender, receiver = (server, client) if side == CLIENT else (client, server)
    send = sender.send_text if isinstance(data, str) else sender.send_binary
    sent = send(data)
    assert (sent[1] >= 0x80) == (side == SERVER)
    assert receiver.receive(sent + sent) == [Message(data), Message(data)]
    assert receiver.take_answers() == b""


@BOTH
def test_fragments(side):
    connection = opened(side)
    assert connection.receive(wire(side, 1, b"a", fin=False)) == []
    assert connection.receive(wire(side, 0, b"", fin=False)) == []
    assert connection.receive(wire(side, 9, b"?")) == [Ping(b"?")]
    assert connection.receive(wire(side, 10, b"!")) == [Pong(b"!")]
    assert connection.receive(wire(side, 0, b"b")) == [Message("ab")]
    assert answered(side, connection) == [Frame(Opcode.PONG, b"?")]
    assert connection.receive(wire(side, 2, b"a", fin=False) + wire(side, 0, b"b")) == [
        Message(b"ab")
    ]
    assert connection.receive(wire(side, 1, b"c")) == [Message("c")]


@BOTH
def test_a_character_may_be_in_two_fragments(side):
    connection = opened(side)
    for data in ("\u00e9", "\u20ac", "\ud7ff", "\ue000", "\U0001f600"):
        for cut in range(1, len(data.encode())):
            first, rest = data.encode()[:cut], data.encode()[cut:]
            assert connection.receive(wire(side, 1, first, fin=False)) == []
            assert connection.receive(wire(side, 0, rest)) == [Message(data)]


WRONG_TEXT = [
    b"\xff",
    b"a\x80",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90",
    b"\xe0\x80",
    b"\xf8",
    b"\xed\xa0",
    b"\xed\xbf",
]


@BOTH
@pytest.mark.parametrize("payload", WRONG_TEXT, ids=repr)
def test_a_wrong_byte_in_a_first_fragment_is_noticed_at_once(side, payload):
    connection = opened(side)
    events = connection.receive(wire(side, 1, payload, fin=False))
    assert_failed(side, connection, events, 1007, "UTF-8 (section 8.1)")


@BOTH
@pytest.mark.parametrize(
    ("frames", "noticed"),
    [
        ([(1, b"ab\xff" + b"c" * 9, True)], 3),
        ([(1, b"a\xe2\x82b" + b"c" * 9, True)], 4),
        ([(1, b"a\xed\xa0" + b"c" * 9, True)], 3),
        ([(1, b"a", False), (0, b"bcd\xff" + b"e" * 9, True)], 4),
        ([(1, b"a\xe2", False), (0, b"\x82b" + b"c" * 9, True)], 2),
        ([(2, b"\xff" * 9, True)], None),
        ([(2, b"a", False), (0, b"\xff" * 9, True)], None),
        ([(1, "é€𝄞".encode(), True), (1, "é".encode(), True)], None),
        ([(1, b"a\xe2", False), (0, b"\x82\xac", True)], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 3])
def test_a_wrong_byte_is_noticed_before_its_frame_is_whole(side, frames, noticed, size):
    connection = opened(side)
    *before, last = [wire(side, *frame) for frame in frames]
    for data in before:
        connection.receive(data)
    header = len(last) - len(frames[-1][1])
    for start in range(0, len(last), size):
        closes = [e for e in connection.receive(last[start : start + size]) if type(e) is Close]
        if closes:
            assert noticed is not None and start < header + noticed <= start + size
            return assert_failed(side, connection, closes, 1007, "not UTF-8")
    assert noticed is None


@BOTH
def test_each_frame_is_looked_at_from_its_first_byte_on(side):
    connection = opened(side)
    for byte in wire(side, 1, b"abcde", False):
        assert connection.receive(bytes([byte])) == []
    second = wire(side, 0, b"\xff" + b"c" * 9)
    events = connection.receive(second[: len(second) - 9])
    assert_failed(side, connection, events, 1007, "not UTF-8")


@pytest.mark.parametrize(("opcode", "times"), [(1, 2), (2, 1)])
def test_no_byte_is_unmasked_more_often_than_it_must(monkeypatch, opcode, times):
    unmasked = []
    apply_mask = protocol.frames.apply_mask
    counting = lambda data, key: unmasked.append(len(data)) or apply_mask(data, key)  # noqa: E731
    monkeypatch.setattr(protocol.frames, "apply_mask", counting)
    connection, data = opened(SERVER), wire(SERVER, opcode, b"a" * 1000)
    unmasked.clear()
    for start in range(0, len(data), 10):
        connection.receive(data[start : start + 10])
    assert sum(unmasked) <= times * 1000


def test_a_compressed_text_is_not_looked_at_before_it_is_whole():
    _, server = connected(extension=Shout())
    data = wire(SERVER, 1, b"\xff" * 9, rsv=4)
    assert server.receive(data[:-1]) == []
    _, server = connected(extension=Shout())
    server.receive(wire(SERVER, 1, b"a", False, 4))
    assert server.receive(wire(SERVER, 0, b"\xff" * 9)[:-1]) == []


@BOTH
def test_a_text_that_ends_inside_a_character(side):
    connection = opened(side)
    events = connection.receive(wire(side, 1, b"a", fin=False) + wire(side, 0, b"\xe2\x82"))
    assert_failed(side, connection, events, 1007, "UTF-8")
    connection = opened(side)
    assert connection.receive(wire(side, 1, b"\xe2\x82", fin=False)) == []
    events = connection.receive(wire(side, 0, b""))
    assert_failed(side, connection, events, 1007, "UTF-8")


@BOTH
def test_a_binary_message_need_not_be_text(side):
    connection = opened(side)
    data = wire(side, 2, b"\xff", fin=False) + wire(side, 0, b"\xfe")
    assert connection.receive(data) == [Message(b"\xff\xfe")]


# Rules

BROKEN = {
    "a continuation of nothing": ([(0, b"", True)], 1002, "not begun (section 5.4)"),
    "a continuation after the end": ([(1, b"", True), (0, b"", True)], 1002, "section 5.4"),
    "a text inside a text": ([(1, b"", False), (1, b"", True)], 1002, "inside another"),
    "a binary inside a text": ([(1, b"", False), (2, b"", False)], 1002, "inside another"),
    "a fragment of a ping": ([(9, b"", False)], 1002, "section 5.5"),
    "a long ping": ([(9, bytes(126), True)], 1002, "section 5.5"),
    "a reserved opcode": ([(3, b"", True)], 1002, "section 5.2"),
    "a reserved control opcode": ([(11, b"", True)], 1002, "section 5.2"),
    "RSV1": ([(1, b"", True, 4)], 1002, "reserved"),
    "RSV2": ([(1, b"", True, 2)], 1002, "reserved"),
    "RSV3 on a ping": ([(9, b"", True, 1)], 1002, "reserved"),
    "a close with one byte": ([(8, b"x", True)], 1002, "section 5.5.1"),
    "a close with code 1005": ([(8, b"\x03\xed", True)], 1002, "1005"),
    "a close with code 999": ([(8, b"\x03\xe7", True)], 1002, "999"),
    "a close with a reason that is no text": ([(8, b"\x03\xe8\xff", True)], 1007, "UTF-8"),
    "too long a frame": ([(1, bytes(1001), True)], 1009, "1001"),
    "too long a message": ([(1, bytes(1000), False), (0, b"x", True)], 1009, "1000"),
    "too many fragments": ([(1, b"", False), *[(0, b"", False)] * 10], 1009, "10 fragments"),
}


@BOTH
@pytest.mark.parametrize("frames, code, why", BROKEN.values(), ids=BROKEN)
def test_a_broken_rule(side, frames, code, why):
    connection = opened(side, max_size=1000, max_fragments=10)
    data = b"".join(wire(side, *frame) for frame in frames)
    assert_failed(side, connection, connection.receive(data), code, why)


@BOTH
def test_a_mask_where_it_is_wrong(side):
    other = CLIENT if side == SERVER else SERVER
    connection = opened(side)
    assert_failed(side, connection, connection.receive(wire(other, 1, b"x")), 1002, "masked")


@BOTH
def test_the_limits_are_reached_by_what_is_allowed(side):
    connection = opened(side, max_size=1000, max_fragments=10)
    frames = [(2, b"a" * 100, False), *[(0, b"b" * 100, False)] * 8, (0, b"c" * 100, True)]
    for _ in range(2):
        events = connection.receive(b"".join(wire(side, *frame) for frame in frames))
        assert events == [Message(b"a" * 100 + b"b" * 800 + b"c" * 100)]
    assert connection.receive(wire(side, 1, b"x" * 1000)) == [Message("x" * 1000)]


@BOTH
def test_a_limit_below_125_bytes_is_for_messages_alone(side):
    connection = opened(side, max_size=3)
    assert connection.receive(wire(side, 9, bytes(125))) == [Ping(bytes(125))]
    connection.take_answers()
    assert_failed(side, connection, connection.receive(wire(side, 1, b"abcd")), 1009, "3 bytes")


@BOTH
def test_what_came_before_a_mistake_counts(side):
    connection = opened(side)
    data = [wire(side, 1, b"a"), wire(side, 9, b"b"), wire(side, 3), wire(side, 1, b"c")]
    message, ping, end = connection.receive(b"".join(data))
    assert (message, ping, end.code) == (Message("a"), Ping(b"b"), 1006)
    pong, close = answered(side, connection)
    assert pong == Frame(Opcode.PONG, b"b")
    assert parse_close(close.payload)[0] == 1002


def test_a_reason_has_room_in_a_close_frame(monkeypatch):
    monkeypatch.setattr(
        protocol.Assembly, "add", lambda *_: (_ for _ in ()).throw(FrameError("x" + "\u20ac" * 99))
    )
    connection = opened(SERVER)
    [end] = connection.receive(wire(SERVER, 1))
    assert end.reason == "x" + "\u20ac" * 99
    [frame] = answered(SERVER, connection)
    assert parse_close(frame.payload)[1] == "x" + "\u20ac" * 40
    assert connection.sent == Close(1002, "x" + "\u20ac" * 40)


# Control frames


@BOTH
def test_pings_are_answered_in_order_and_pongs_are_not(side):
    connection = opened(side)
    data = [wire(side, 9, b"a"), wire(side, 10, b"b"), wire(side, 9, bytes(125))]
    assert connection.receive(b"".join(data)) == [Ping(b"a"), Pong(b"b"), Ping(bytes(125))]
    assert answered(side, connection) == [
        Frame(Opcode.PONG, b"a"),
        Frame(Opcode.PONG, bytes(125)),
    ]


@BOTH
def test_pings_and_pongs_that_are_sent(side):
    client, server = connected()
    sender, receiver = (server, client) if side == CLIENT else (client, server)
    data = sender.send_ping(b"a") + sender.send_pong(b"b") + sender.send_ping(bytes(125))
    assert receiver.receive(data) == [Ping(b"a"), Pong(b"b"), Ping(bytes(125))]
    for send in (sender.send_ping, sender.send_pong):
        with pytest.raises(ValueError, match="125"):
            send(bytes(126))


# The end


@BOTH
@pytest.mark.parametrize(
    "payload, close",
    [
        (b"", Close(1005)),
        (close_payload(1000), Close(1000)),
        (close_payload(4999, "enough \u20ac"), Close(4999, "enough \u20ac")),
        (close_payload(1001, "x" * 123), Close(1001, "x" * 123)),
    ],
)
def test_a_close_is_echoed_and_is_the_end(side, payload, close):
    connection = opened(side)
    late = wire(side, 1, b"late") + wire(side, 9) + wire(side, 3)
    assert connection.receive(wire(side, 1, b"a") + wire(side, 8, payload) + late) == [
        Message("a"),
        close,
    ]
    assert answered(side, connection) == [Frame(Opcode.CLOSE, payload)]
    assert connection.state is State.CLOSED
    assert connection.received == connection.sent == close
    assert connection.receive(late) == [] and connection.take_answers() == b""
    assert connection.receive_eof() == []
    for send in sends(connection):
        with pytest.raises(StateError, match="CLOSED"):
            send()


@BOTH
def test_a_close_that_we_begin(side):
    connection = opened(side)
    [frame] = Decoder().feed(connection.send_close(4000, "enough"))
    assert parse_close(frame.payload) == (4000, "enough")
    assert connection.state is State.CLOSING
    assert connection.sent == Close(4000, "enough") and connection.received is None
    for send in sends(connection):
        with pytest.raises(StateError, match="CLOSING"):
            send()
    # The other side may have sent before it knew; a ping wants a pong up to its own close.
    assert connection.receive(wire(side, 1, b"a") + wire(side, 9, b"b")) == [
        Message("a"),
        Ping(b"b"),
    ]
    assert answered(side, connection) == [Frame(Opcode.PONG, b"b")]
    assert connection.receive(wire(side, 8, close_payload(1000)) + wire(side, 1)) == [Close(1000)]
    assert connection.take_answers() == b""
    assert connection.state is State.CLOSED
    assert (connection.sent, connection.received) == (Close(4000, "enough"), Close(1000))


def test_two_closes_that_cross():
    client, server = connected()
    first, second = client.send_close(4001), server.send_close(4002)
    assert client.receive(second) == [Close(4002)]
    assert server.receive(first) == [Close(4001)]
    assert client.state is server.state is State.CLOSED
    assert client.take_answers() == server.take_answers() == b""


def test_a_close_without_a_code():
    client, server = connected()
    assert server.receive(client.send_close(None)) == [Close(1005)]
    assert client.sent == Close(1005)
    assert client.receive(server.take_answers()) == [Close(1005)]


@BOTH
def test_closes_that_cannot_be_sent(side):
    connection = opened(side)
    for code, reason in [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)]:
        with pytest.raises(ValueError):
            connection.send_close(code, reason)
    assert connection.state is State.OPEN and connection.sent is None


@BOTH
def test_an_unfinished_message_and_a_close(side):
    connection = opened(side)
    data = wire(side, 1, b"a", fin=False) + wire(side, 8, close_payload(4000))
    assert connection.receive(data) == [Close(4000)]
    assert answered(side, connection) == [Frame(Opcode.CLOSE, close_payload(4000))]


@BOTH
def test_a_mistake_after_our_close_has_no_second_close_frame(side):
    connection = opened(side)
    connection.send_close(1000)
    [end] = connection.receive(wire(side, 3))
    assert end.code == 1006 and connection.take_answers() == b""
    assert connection.state is State.CLOSED and connection.sent == Close(1000)


@BOTH
@pytest.mark.parametrize("closing", [False, True])
def test_a_connection_that_is_lost(side, closing):
    connection = opened(side)
    if closing:
        connection.send_close()
    connection.receive(wire(side, 1, b"x", fin=False))
    [end] = connection.receive_eof()
    assert end.code == 1006 and "without a close frame" in end.reason
    assert connection.state is State.CLOSED and connection.received is None
    assert connection.take_answers() == b""
    assert connection.receive_eof() == []


# An extension


@BOTH
def test_an_extension_that_is_agreed_on(side):
    client, server = connected(extension=Shout())
    sender, receiver = (server, client) if side == CLIENT else (client, server)
    for data in ("h", b"h"):
        sent = sender.send_text(data) if data == "h" else sender.send_binary(data)
        [frame] = Decoder(allowed_rsv=4).feed(sent)
        assert (frame.rsv, frame.payload) == (4, b"H")
        assert receiver.receive(sent) == [Message(data + type(data)("!" if data == "h" else b"!"))]
    assert receiver.receive(wire(side, 1, b"plain")) == [Message("plain")]
    fragments = wire(side, 1, b"A", False, 4) + wire(side, 0, b"b", False) + wire(side, 0, b"C")
    assert receiver.receive(fragments) == [Message("aBc!")]
    assert receiver.receive(sender.send_ping(b"p")) == [Ping(b"p")]


@BOTH
@pytest.mark.parametrize(
    "frames",
    [
        [(1, b"", False, 4), (0, b"", True, 4)],
        [(1, b"", False, 0), (0, b"", True, 4)],
        [(9, b"", True, 4)],
        [(8, b"", True, 4)],
    ],
)
def test_only_the_first_frame_of_a_message_is_marked(side, frames):
    connection = opened(side, extension=Shout())
    events = connection.receive(b"".join(wire(side, *frame) for frame in frames))
    assert_failed(side, connection, events, 1002, "RSV1")


@BOTH
@pytest.mark.parametrize("rsv", [1, 2, 6])
def test_other_reserved_bits_stay_reserved(side, rsv):
    connection = opened(side, extension=Shout())
    assert_failed(side, connection, connection.receive(wire(side, 1, b"", True, rsv)), 1002, "res")


@BOTH
def test_a_decompressed_message_has_a_limit(side):
    connection = opened(side, extension=Shout(), max_size=1000)
    assert connection.receive(wire(side, 1, b"x" * 999, True, 4)) == [Message("X" * 999 + "!")]
    data = wire(side, 1, b"x" * 900, False, 4) + wire(side, 0, b"x" * 101)
    assert_failed(side, connection, connection.receive(data), 1009, "shouted")


@pytest.mark.parametrize("who", [CLIENT, SERVER])
def test_an_extension_of_one_side_alone(who):
    client = Protocol(is_client=True, extension=Shout() if who == CLIENT else None)
    server = Protocol(extension=Shout() if who == SERVER else None)
    [request] = server.receive(client.connect("h", headers=[("A", "b")]))
    assert request.headers.get("A") == "b"
    assert request.headers.get_all("Sec-WebSocket-Extensions") == ["shout; loud"] * (who == CLIENT)
    [response] = client.receive(server.accept())
    assert not response.headers.get_all("Sec-WebSocket-Extensions")
    assert server.receive(client.send_text("h")) == [Message("h")]
    assert client.receive(server.send_text("h")) == [Message("h")]
    [end] = server.receive(wire(SERVER, 1, b"", True, 4))
    assert end.code == 1006 and server.sent.code == 1002


def test_what_the_other_side_says_of_an_extension_is_checked():
    server = Protocol(extension=Shout())
    headers = [("Sec-WebSocket-Extensions", "nonsense")]
    events = server.receive(Protocol(is_client=True).connect("h", headers=headers))
    assert events[-1].code == 1006
    assert parse_response(server.take_answers())[0].status == 400

    for extension, why in [(Shout(), "that was offered"), (None, "was not offered")]:
        client, server = Protocol(is_client=True, extension=extension), Protocol()
        server.receive(client.connect("h"))
        headers = [("Sec-WebSocket-Extensions", "whisper")]
        [end] = client.receive(server.accept(headers=headers))
        assert end.code == 1006 and why in end.reason and client.state is State.CLOSED


# Whatever comes, in whatever pieces

TEXTS = st.text(max_size=40)


@st.composite
def conversations(draw: Any) -> list[tuple[int, bytes, bool]]:
    """Frames of valid messages, with control frames between, and perhaps a close."""
    frames: list[tuple[int, bytes, bool]] = []
    control = st.tuples(st.sampled_from([9, 10]), st.binary(max_size=125), st.just(True))
    for data in draw(st.lists(TEXTS | st.binary(max_size=200), max_size=5)):
        opcode, payload = (1, data.encode()) if isinstance(data, str) else (2, data)
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        ends = [0, *cuts, len(payload)]
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            frames.append((0 if number else opcode, payload[begin:end], number == len(cuts)))
            frames += draw(st.lists(control, max_size=1))
    if draw(st.booleans()):
        frames.append((8, draw(st.sampled_from([b"", close_payload(4000, "bye")])), True))
    return frames


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


@BOTH
@given(conversations(), st.lists(st.integers(0, 10**6), max_size=20))
def test_any_cutting_of_a_conversation_gives_the_same_events(side, frames, cuts):
    client = Protocol(is_client=True)
    server = Protocol()
    head = client.connect("localhost")
    server.receive(head)
    if side == CLIENT:
        connection, head = client, server.accept()
    else:
        connection = Protocol()
    expected, texts = [], []
    for opcode, payload, fin in frames:
        if opcode in (0, 1, 2):
            texts = [opcode, payload] if opcode else [texts[0], texts[1] + payload]
            if fin:
                expected.append(Message(texts[1].decode() if texts[0] == 1 else texts[1]))
        elif opcode == 8:
            expected.append(Close(*parse_close(payload)))
        else:
            expected.append({9: Ping, 10: Pong}[opcode](payload))
    heard: list[Any] = []
    for piece in in_pieces(head + b"".join(wire(side, *frame) for frame in frames), cuts):
        events = connection.receive(piece)
        if side == SERVER and connection.state is State.CONNECTING and connection.request:
            connection.accept()
            events += connection.receive(b"")
        heard += events
    assert isinstance(heard[0], Response if side == CLIENT else Request)
    assert heard[1:] == expected
    answers = [f for f in answered(side, connection)]
    pings = [Frame(Opcode.PONG, e.payload) for e in expected if isinstance(e, Ping)]
    closes = [Frame(Opcode.CLOSE, payload) for opcode, payload, _ in frames if opcode == 8]
    assert answers == pings + closes


def check_end(connection: Protocol, events: list[Any]) -> None:
    """There is one Close, as the last event, just if the connection is closed."""
    ends = [isinstance(event, Close) for event in events]
    closed = connection.state is State.CLOSED
    assert ends.count(True) == closed and (not closed or ends[-1])


@BOTH
@settings(max_examples=300)
@given(st.lists(st.binary(max_size=50), max_size=8), st.booleans(), st.booleans())
def test_any_bytes_give_no_exception(side, pieces, extended, closing):
    connection = opened(side, extension=Shout() if extended else None, max_size=30)
    if closing:
        connection.send_close()
    events = [event for piece in pieces for event in connection.receive(piece)]
    check_end(connection, events)
    connection.receive_eof()
    answered(side, connection)


@BOTH
@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.binary(max_size=130), st.booleans(), st.integers(0, 7)),
        max_size=8,
    ),
    st.booleans(),
)
def test_any_frames_give_no_exception(side, frames, extended):
    connection = opened(side, extension=Shout() if extended else None, max_size=200)
    data = b"".join(wire(side, *frame) for frame in frames)
    check_end(connection, connection.receive(data))
    answered(side, connection)


@BOTH
@given(st.lists(st.binary(max_size=50), max_size=5), st.booleans())
def test_any_bytes_for_a_handshake_give_no_exception(side, pieces, extended):
    connection = Protocol(is_client=side == CLIENT, extension=Shout() if extended else None)
    if side == CLIENT:
        connection.connect("h")
    events = [event for piece in [*pieces, b"\r\n\r\n"] for event in connection.receive(piece)]
    check_end(connection, events)


VALUES = st.text(st.characters(max_codepoint=255), max_size=20)
NAMES = st.sampled_from(
    "Host Upgrade Connection Sec-WebSocket-Key Sec-WebSocket-Version Sec-WebSocket-Protocol "
    "Sec-WebSocket-Extensions Content-Length".split()
)


@settings(max_examples=300)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=3))
def test_what_the_handshake_lets_pass_can_be_accepted(fields):
    client, server = Protocol(is_client=True), Protocol(extension=Shout())
    head = client.connect("h").removesuffix(b"\r\n")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")
    events = server.receive(head + lines + b"\r\n")
    if events and isinstance(events[0], Request):
        offered = events[0].headers.tokens("Sec-WebSocket-Protocol")
        server.accept(offered[0] if offered else None)
        assert server.state is State.OPEN
    else:
        check_end(server, events)


# The module


def test_no_definition_is_long_and_no_network_is_there():
    tree = ast.parse(Path(protocol.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            limit = 30 if isinstance(node, ast.FunctionDef) else 100
            assert node.end_lineno - node.lineno < limit, node.name
    modules = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {"asyncio", "socket", "time"} & set(modules)


def test_states_read_as_documentation():
    assert [state.name for state in State] == ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]
    assert all("(section " in state.value for state in State)
