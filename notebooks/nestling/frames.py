"""Frames (RFC 6455, section 5): what travels once the handshake is done.

byte 0          FIN, three reserved bits, the opcode
byte 1          MASK, the length of the payload up to 125, or 126 or 127
2 or 8 bytes    the length, if byte 1 says 126 or 127
4 bytes         the masking key, if MASK is set
the payload
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import IntEnum
from struct import pack
from typing import NamedTuple


class Opcode(IntEnum):
    """What a frame is (section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

    @property
    def is_control(self) -> bool:
        """Control frames steer the connection and may stand between two fragments."""
        return self >= 8


class CloseCode(IntEnum):
    """Why a connection ended (section 7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015

    @property
    def may_be_sent(self) -> bool:
        """False for those that a program only tells its own user: nobody sent them."""
        return self not in (1005, 1006, 1015)


class FrameError(Exception):
    """A rule of section 5 or 7 that the received bytes break.

    code: the CloseCode to close the connection with
    """

    def __init__(self, rule: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(rule)
        self.code = code


class Frame(NamedTuple):
    """One frame.

    opcode:  what it is
    payload: its bytes, never masked here
    fin:     whether it is the last of its message
    rsv:     the reserved bits RSV1 to RSV3 as a number from 0 to 7
    mask:    the masking key, 4 bytes, with which it travels; None for none
    """

    opcode: Opcode
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = None


def new_mask() -> bytes:
    """A fresh masking key: 4 bytes that nobody can foresee (section 5.3)."""
    return os.urandom(4)


def apply_mask(data: bytes | bytearray, mask: bytes) -> bytes:
    """Each byte of `data` XOR the key's, over and over; again gives it back (section 5.3).

    Raises ValueError unless `mask` has 4 bytes.
    """
    if len(mask) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(mask)}")
    size = len(data)
    repeated = mask * (size // 4) + mask[: size % 4]
    masked = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return masked.to_bytes(size, "little")


def encode(frame: Frame) -> bytes:
    """The bytes of a frame on the wire, with its length in the fewest bytes (section 5.2).

    A frame that breaks a rule, such as a ping of 126 bytes, is encoded as it is. Raises
    ValueError for what the format has no room for.
    """
    if frame.rsv >> 3 or frame.opcode >> 4:
        raise ValueError(f"rsv has 3 bits and opcode 4: {frame.rsv}, {frame.opcode}")
    first = frame.fin << 7 | frame.rsv << 4 | frame.opcode
    length = len(frame.payload)
    masked = 0 if frame.mask is None else 0x80
    if length <= 125:
        head = bytes((first, masked | length))
    elif length <= 0xFFFF:
        head = pack("!BBH", first, masked | 126, length)
    else:
        head = pack("!BBQ", first, masked | 127, length)
    if frame.mask is None:
        return head + frame.payload
    return head + frame.mask + apply_mask(frame.payload, frame.mask)


_OPCODES = {int(opcode): opcode for opcode in Opcode}


def _check_length(length: int, size: int) -> None:
    """The rules for a length of its own, in a header that ends with it at `size` bytes."""
    if length >= 2**63:
        raise FrameError("the top bit of the length is set (section 5.2)")
    if length <= (125 if size == 4 else 0xFFFF):
        raise FrameError(f"the length {length} is not in the fewest bytes (section 5.2)")


class Decoder:
    """Turns received bytes into frames, in whatever pieces the bytes come.

    masked:      whether frames must be masked (True for those a server receives), must
                 not be (False, a client), or may be either (None)
    max_payload: the longest payload in bytes; a longer one is refused by its header
    allowed_rsv: the reserved bits that an extension uses, a number from 0 to 7

        for frame in decoder.feed(data): ...
    """

    def __init__(
        self, *, masked: bool | None = None, max_payload: int = 2**20, allowed_rsv: int = 0
    ) -> None:
        self.masked = masked
        self.max_payload = max_payload
        self.allowed_rsv = allowed_rsv
        self._buffer = bytearray()
        self._header: tuple[int, int] | None = None
        self._error: FrameError | None = None

    @property
    def pending(self) -> int:
        """How many bytes are held that do not make a whole frame yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take in `data`, and give the frames that are whole now.

        Raises FrameError where the bytes break a rule, after the frames before it, and
        from then on at every call.
        """
        if self._error is None:
            self._buffer += data
        return iter(self._next, None)

    def _next(self) -> Frame | None:
        if self._error:
            raise self._error.with_traceback(None)
        try:
            if self._header is None:
                self._header = self._read_header()
        except FrameError as error:
            self._error = error
            self._buffer.clear()
            raise
        if self._header is None or len(self._buffer) < sum(self._header):
            return None
        return self._take_frame(*self._header)

    def _take_frame(self, header: int, length: int) -> Frame:
        """Cut a frame of `header` and `length` bytes off the buffer."""
        first, second = self._buffer[:2]
        payload: bytes | bytearray = self._buffer[header : header + length]
        mask = None
        if second & 0x80:
            mask = bytes(self._buffer[header - 4 : header])
            payload = apply_mask(payload, mask)
        del self._buffer[: header + length]
        self._header = None
        return Frame(_OPCODES[first & 0x0F], bytes(payload), first >= 0x80, first >> 4 & 7, mask)

    def _read_header(self) -> tuple[int, int] | None:
        """The size of the header and of the payload, once the header is there."""
        if len(self._buffer) < 2:
            return None
        first, second = self._buffer[:2]
        self._check_start(first, second)
        length, size = second & 0x7F, 2
        if length > 125:
            size = 4 if length == 126 else 10
            if len(self._buffer) < size:
                return None
            length = int.from_bytes(self._buffer[2:size], "big")
            _check_length(length, size)
        if length > self.max_payload:
            rule = f"a payload of {length} bytes, where {self.max_payload} are allowed"
            raise FrameError(rule, CloseCode.MESSAGE_TOO_BIG)
        return size + (4 if second & 0x80 else 0), length

    def _check_start(self, first: int, second: int) -> None:
        """The rules that the first two bytes of a frame can break."""
        opcode, length = first & 0x0F, second & 0x7F
        if first >> 4 & 7 & ~self.allowed_rsv:
            raise FrameError("a reserved bit is set that no extension uses (section 5.2)")
        if opcode not in _OPCODES:
            raise FrameError(f"opcode {opcode} is reserved (section 5.2)")
        if opcode >= 8 and not first & 0x80:
            raise FrameError("a control frame is fragmented (section 5.5)")
        if opcode >= 8 and length > 125:
            raise FrameError("a control frame is longer than 125 bytes (section 5.5)")
        if self.masked and not second & 0x80:
            raise FrameError("a client's frame is not masked (section 5.1)")
        if self.masked is False and second & 0x80:
            raise FrameError("a server's frame is masked (section 5.1)")


def _may_be_sent(code: int) -> bool:
    """Registered codes, and those of libraries and applications (section 7.4.2)."""
    if 3000 <= code <= 4999:
        return True
    return code in set(CloseCode) and CloseCode(code).may_be_sent


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame: a code and a reason (section 5.5.1).

    Raises ValueError for a code that may not be sent, or a reason over 123 bytes.
    """
    if not _may_be_sent(code):
        raise ValueError(f"close code {code} may not be sent (section 7.4)")
    payload = pack("!H", code) + reason.encode()
    if len(payload) > 125:
        raise ValueError(f"the reason has {len(payload) - 2} bytes, and may have 123")
    return payload


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason in the payload of a close frame; an empty one gives 1005.

    Raises FrameError with code 1002 for one byte or a code that may not be sent, and
    with 1007 for a reason that is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS_RECEIVED, ""
    if len(payload) == 1:
        raise FrameError("a close code has two bytes, and here is one (section 5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if not _may_be_sent(code):
        raise FrameError(f"close code {code} may not be sent (section 7.4)")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        rule = "the reason is not UTF-8 (section 5.5.1)"
        raise FrameError(rule, CloseCode.INVALID_PAYLOAD_DATA) from None
