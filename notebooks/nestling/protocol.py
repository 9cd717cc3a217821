"""A connection without a network (RFC 6455): bytes in, events out, and bytes to be sent.

It knows no socket and no clock: whoever has those hands it what was received, and sends
what it gives. One class does for both sides::

    server = Protocol()
    [request] = server.receive(data)
    send(server.accept())
    for event in server.receive(data):
        if isinstance(event, Message):
            send(server.send_text("hello"))
    send(server.take_answers())
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from nestling import frames, handshake
from nestling.frames import CloseCode, Decoder, Frame, FrameError, Opcode
from nestling.handshake import HandshakeError, Headers, Refusal, Request, Response

EXTENSIONS = "Sec-WebSocket-Extensions"
MAX_CONTROL = 125  # bytes of payload in a control frame (section 5.5)
COMPRESSED = 4  # RSV1 among the three reserved bits (RFC 7692, section 6)

# What each frame is compared with: up to Python 3.11, to look a member up in its Enum costs
# more than the comparison.
CONTINUATION, TEXT, BINARY, CLOSE = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE


class State(Enum):
    """Where a connection stands, from the first state to the last, and what that means."""

    CONNECTING = "the handshake is under way, and there are no frames yet (section 4)"
    OPEN = "messages go both ways (section 5)"
    CLOSING = "our close frame is sent, and the other side's has not come (section 7.1.3)"
    CLOSED = "nothing more is sent or read, and the TCP connection may end (section 7.1.4)"


OPEN = State.OPEN  # with which each message is compared, too


class StateError(RuntimeError):
    """What was asked for does not go with the state of the connection."""


class Message(NamedTuple):
    """A message is complete: a text is str, a binary one bytes (section 5.6)."""

    data: str | bytes


class Ping(NamedTuple):
    """The other side asks for a sign of life; the pong is among the answers (section 5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """The answer to a ping, or to none (section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The end, always the last event: what the other side's close frame says (section 7.1.5).

    The code is 1006 if there was no such frame; then the reason says why, in our words.
    """

    code: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{int(self.code)} {self.reason}".rstrip()


Event = Request | Response | Message | Ping | Pong | Close


class Handshake:
    """The first part of a `Protocol`: the handshake (section 4).

    state:       a `State`
    request:     what a client has asked of this server
    subprotocol: the one that both sides agreed on
    """

    def __init__(self, is_client: bool, extension: Any) -> None:
        self.is_client = is_client
        self.state = State.CONNECTING
        self.request: Request | None = None
        self.subprotocol: str | None = None
        self._extension = extension
        self._codec: Any = None  # what compresses, if both sides want it
        self._fields: list[tuple[str, str]] = []  # those that say so
        self._key, self._offered = "", tuple[str, ...]()  # of a client's request
        self._unread = b""
        self._answers: list[bytes] = []

    def connect(self, host: str, path: str = "/", **options: Any) -> bytes:
        """A client's request. Options, and what is raised, are those of `build_request`."""
        self._expect(State.CONNECTING)
        self._key = options.setdefault("key", handshake.new_key())
        self._offered = tuple(options.get("subprotocols", ()))
        if self._extension:
            self._fields = [(EXTENSIONS, self._extension.offer())]
        options["headers"] = [*self._fields, *options.get("headers", ())]
        return handshake.build_request(host, path, **options)

    def accept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> bytes:
        """A server's 101 to the request that `receive` gave, and the connection is open.

        Raises StateError if there is none, and what `handshake.accept` raises.
        """
        self._expect(State.CONNECTING)
        if self.request is None:
            raise StateError("there is no request to accept")
        data = handshake.accept(self.request, subprotocol, [*self._fields, *headers])
        self.state, self.subprotocol = OPEN, subprotocol
        return data

    def refuse(self, refusal: Refusal) -> bytes:
        """A server's answer to a request that it does not accept, and that is the end."""
        self._expect(State.CONNECTING)
        self.state = State.CLOSED
        return handshake.refuse(refusal)

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise StateError(f"the connection is {self.state.name}: {self.state.value}")

    def _receive_head(self, data: bytes) -> list[Event]:
        """The request or response, once it is there; a bad one is the end."""
        self._unread += data
        try:
            if self.is_client:
                return self._read_response()
            return [] if self.request else self._read_request()
        except HandshakeError as error:
            if isinstance(error, Refusal):
                self._answers.append(handshake.refuse(error))
            self.state = State.CLOSED
            return [Close(CloseCode.ABNORMAL_CLOSURE, str(error))]

    def _read_request(self) -> list[Event]:
        if (parsed := handshake.parse_request(self._unread)) is None:
            return []
        request, self._unread = parsed
        handshake.check_request(request)
        offers = request.headers.get_all(EXTENSIONS)
        if self._extension and (agreed := self._extension.accept(offers)):
            self._codec, self._fields = agreed[0], [(EXTENSIONS, agreed[1])]
        self.request = request
        return [request]

    def _read_response(self) -> list[Event]:
        if (parsed := handshake.parse_response(self._unread)) is None:
            return []
        response, self._unread = parsed
        fields = response.headers
        if self._extension and (answers := fields.get_all(EXTENSIONS)):
            self._codec = self._extension.check(answers)
            fields = Headers(each for each in fields if each[0].lower() != EXTENSIONS.lower())
        rest = Response(response.status, response.reason, fields)
        self.subprotocol = handshake.check_response(rest, self._key, self._offered)
        self.state = OPEN
        return [response]


class Sender(Handshake):
    """The second part: what is sent once the connection is open (section 6.1).

    sent: our close frame, None while there is none

    Each `send_...` gives the bytes for the network, and raises StateError in another state.
    """

    sent: Close | None = None

    def send_text(self, text: str) -> bytes:
        """A text message. Raises ValueError for half of a surrogate pair, which is no text."""
        return self._send(TEXT, text.encode())

    def send_binary(self, data: bytes) -> bytes:
        """A binary message."""
        return self._send(BINARY, data)

    def send_ping(self, payload: bytes = b"") -> bytes:
        """A ping. Raises ValueError for more than 125 bytes (section 5.5)."""
        return self._send(Opcode.PING, payload)

    def send_pong(self, payload: bytes = b"") -> bytes:
        """A pong that answers nothing (section 5.5.3), with the same limit."""
        return self._send(Opcode.PONG, payload)

    def send_close(self, code: int | None = 1000, reason: str = "") -> bytes:
        """A close frame (section 5.5.1), without a code for None; nothing can be sent after it.

        Raises ValueError for a code that may not be sent, or a reason over 123 bytes.
        """
        payload = b"" if code is None else frames.close_payload(code, reason)
        data = self._send(CLOSE, payload)
        self.state, self.sent = State.CLOSING, Close(*frames.parse_close(payload))
        return data

    @property
    def is_plain(self) -> bool:
        """Whether what is sent could be sent on another such connection: no mask, no codec."""
        return not self.is_client and self._codec is None

    def _send(self, opcode: Opcode, payload: bytes) -> bytes:
        self._expect(OPEN)
        if opcode >= CLOSE:
            if len(payload) > MAX_CONTROL:
                raise ValueError(f"a control frame has at most 125 bytes, not {len(payload)}")
        elif self._codec is not None:
            return self._encode(opcode, self._codec.compress(payload), COMPRESSED)
        return self._encode(opcode, payload)

    def _encode(self, opcode: Opcode, payload: bytes, rsv: int = 0) -> bytes:
        mask = frames.new_mask() if self.is_client else None
        return frames.encode(Frame(opcode, payload, True, rsv, mask))


class Assembly:
    """The message that is coming, in one frame or several (section 5.4).

    max_size:      bytes that it may have, decompressed
    max_fragments: frames that it may have
    size:          bytes that it has so far, decompressed
    """

    def __init__(self, max_size: int, max_fragments: int) -> None:
        self.max_size = max_size
        self.max_fragments = max_fragments
        self._opcode: Opcode | None = None  # None if none has begun
        self._is_compressed = False
        self._pieces: list[Any] = []
        self.size = 0
        self._cut = b""  # a character whose end is in the next frame
        self._ahead = b""  # the same, of a frame that is not whole

    def add(self, frame: Frame, codec: Any) -> Message | None:
        """Take in a frame, and give the message if that is its last.

        codec: what decompresses, None if there is no compression

        Raises FrameError, and then no more can be added.
        """
        opcode, payload = frame.opcode, frame.payload
        if frame.rsv or not frame.fin or self._opcode or opcode is CONTINUATION:
            return self._add_fragment(frame, codec)
        if len(payload) > self.max_size:
            raise self._too_big()
        return Message(payload if opcode is BINARY else self._text(payload, True))

    def _add_fragment(self, frame: Frame, codec: Any) -> Message | None:
        self._check(frame, codec)
        piece: Any = frame.payload
        if frame.opcode is not CONTINUATION:
            self._opcode, self._is_compressed = frame.opcode, frame.rsv == COMPRESSED
        if self._is_compressed:
            piece = codec.decompress(piece, frame.fin, self.max_size - self.size)
        self.size += len(piece)
        if self.size > self.max_size or len(self._pieces) >= self.max_fragments:
            raise self._too_big()
        if self._opcode is TEXT:
            piece = self._text(piece, frame.fin)
        self._pieces.append(piece)
        if not frame.fin:
            return None
        message = Message(type(piece)().join(self._pieces))
        self._opcode, self._pieces, self.size = None, [], 0
        return message

    def _too_big(self) -> FrameError:
        limits = f"{self.max_size} bytes or {self.max_fragments} fragments"
        rule = f"a message of more than {limits} (section 7.4.1)"
        return FrameError(rule, CloseCode.MESSAGE_TOO_BIG)

    def _check(self, frame: Frame, codec: Any) -> None:
        """What may come next: a first frame or a continuation, marked as compressed or not."""
        is_first = frame.opcode is not CONTINUATION
        if is_first and self._opcode is not None:
            raise FrameError("a message begins inside another (section 5.4)")
        if not is_first and self._opcode is None:
            raise FrameError("a message goes on that has not begun (section 5.4)")
        if frame.rsv and not (is_first and codec):
            raise FrameError("RSV1 is set where nothing is compressed (section 5.2)")

    def _text(self, payload: bytes, fin: bool) -> str:
        text, self._cut = _characters(self._cut + payload if self._cut else payload, fin)
        return text

    def look(self, coming: Frame, seen: int) -> None:
        """Notice that a text is none in a frame that is not whole yet (section 8.1).

        coming: what there is of it, but for the `seen` bytes that were looked at before
        """
        is_first = coming.opcode is not CONTINUATION
        is_plain = not (coming.rsv if is_first else self._is_compressed)
        if is_plain and (coming.opcode if is_first else self._opcode) is TEXT:
            if not seen:
                self._ahead = b"" if is_first else self._cut
            _, self._ahead = _characters(self._ahead + coming.payload, False)


def _characters(data: bytes, fin: bool) -> tuple[str, bytes]:
    """The characters that end in these bytes of a text, and what is left for the next.

    Raises FrameError with 1007, as soon as nothing that follows could make them right.
    """
    try:
        if fin:
            return data.decode(), b""
        text, used = utf_8_decode(data, "strict", False)
        rest = data[used:]
        if b"\xed\xa0" <= rest < b"\xee":  # half a surrogate pair, which Python lets wait
            rest.decode()
    except UnicodeDecodeError:
        rule = "a text that is not UTF-8 (section 8.1)"
        raise FrameError(rule, CloseCode.INVALID_PAYLOAD_DATA) from None
    return text, rest


class Lookahead(Decoder):
    """A decoder that also shows a frame that is still coming."""

    def coming(self, seen: int) -> Frame | None:
        """A text or a continuation that is coming, with its payload so far after `seen` bytes."""
        if self._header is None or self._buffer[0] & 0x0F > TEXT:
            return None
        start, (first, second) = self._header[0], self._buffer[:2]
        if len(self._buffer) <= start + seen:
            return None
        payload = bytes(self._buffer[start + seen :])
        if second & 0x80:
            key = bytes(self._buffer[start - 4 : start]) * 2
            payload = frames.apply_mask(payload, key[seen % 4 :][:4])
        return Frame(Opcode(first & 0x0F), payload, False, first >> 4 & 7)


class Protocol(Sender):
    """One side of a connection, from the handshake to the end.

    received:      the other side's close frame, None while none has come
    max_size:      bytes in a message, decompressed, above which the connection ends with 1009
    max_fragments: frames in a message, with the same end
    extension:     what compresses if both sides can, such as the module `deflate`
    """

    received: Close | None = None

    def __init__(
        self,
        *,
        is_client: bool = False,
        max_size: int = 2**20,
        max_fragments: int = 65_537,
        extension: Any = None,
    ) -> None:
        super().__init__(is_client, extension)
        self._assembly = Assembly(max_size, max_fragments)
        self._seen = 0  # bytes that were looked at of a frame that is not whole
        self._decoder = Lookahead(
            masked=not is_client,
            max_payload=self._longest(2 if extension else 1),
            allowed_rsv=COMPRESSED if extension else 0,
        )

    def receive(self, data: bytes) -> list[Event]:
        """Take in bytes, in whatever pieces they come, and give what has happened.

        A mistake of the other side is no exception, but the last event; what there is to say
        to it is among the answers. After that, and after its close frame, nothing is read.
        """
        events: list[Event] = []
        if self.state is State.CONNECTING:
            events, data = self._receive_head(data), b""
        if self.state in (OPEN, State.CLOSING):
            data, self._unread = self._unread + data, b""
            try:
                self._receive_frames(data, events)
            except FrameError as error:
                events.append(self._fail(error))
        return events

    def receive_eof(self) -> list[Event]:
        """Take in that nothing more will come (section 7.1.5)."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        why = "the TCP connection has ended without a close frame"
        return [Close(CloseCode.ABNORMAL_CLOSURE, why)]

    def take_answers(self) -> bytes:
        """What has to be sent for what was received: pongs, a close frame, a refusal. Once."""
        answers, self._answers = b"".join(self._answers), []
        return answers

    def _receive_frames(self, data: bytes, events: list[Event]) -> None:
        for frame in self._decoder.feed(data):
            self._seen = 0
            if frame.opcode < CLOSE:
                if (message := self._assembly.add(frame, self._codec)) is not None:
                    events.append(message)
                if not frame.fin or frame.opcode is CONTINUATION:
                    self._decoder.max_payload = self._longest(2 if self._codec else 1)
            else:
                events.append(self._receive_control(frame))
                if self.state is State.CLOSED:
                    return
        if (coming := self._decoder.coming(self._seen)) is not None:
            self._assembly.look(coming, self._seen)
            self._seen += len(coming.payload)

    def _longest(self, factor: int) -> int:
        """Bytes that the next frame may have; of noise, compression makes more than there were."""
        return max(factor * self._assembly.max_size - self._assembly.size, MAX_CONTROL)

    def _receive_control(self, frame: Frame) -> Event:
        if frame.rsv:
            raise FrameError("RSV1 is set on a control frame (RFC 7692, section 6)")
        if frame.opcode is Opcode.PONG:
            return Pong(frame.payload)
        if frame.opcode is Opcode.PING:
            self._answers.append(self._encode(Opcode.PONG, frame.payload))
            return Ping(frame.payload)
        self.received = Close(*frames.parse_close(frame.payload))
        if self.state is OPEN:
            self.sent = self.received
            self._answers.append(self._encode(CLOSE, frame.payload))
        self.state = State.CLOSED
        return self.received

    def _fail(self, error: FrameError) -> Close:
        """Say which rule was broken, and end (section 7.1.7)."""
        if self.state is OPEN:
            self.sent = Close(error.code, str(error).encode()[:123].decode(errors="ignore"))
            self._answers.append(self._encode(CLOSE, frames.close_payload(*self.sent)))
        self.state = State.CLOSED
        return Close(CloseCode.ABNORMAL_CLOSURE, str(error))
