"""Compressed messages: permessage-deflate (RFC 7692), both sides. Sections are that RFC's."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

from nestling.frames import CloseCode, FrameError
from nestling.handshake import HandshakeError

# Of an offer or an answer, by name (section 7.1); 0 for a parameter without a value.
Parameters = dict[str, int]
BITS = "client_max_window_bits"  # the one that a server may use only if it was offered
# 12 bits, level 5: a connection takes 50 kB, not 308 as with 15, 8; votes shrink to 21%, not 20.
SERVER: Parameters = {"server_max_window_bits": 12, BITS: 12}
CLIENT: Parameters = {BITS: 0}
MEMORY_LEVEL = 5
TAIL = b"\x00\x00\xff\xff"  # ends every flush, and does not travel (section 7.2.1)
MAX_FINAL = 64  # final blocks in a frame: at each, zlib copies the rest of it
_PARAMETER = re.compile(
    "((?:server|client)_no_context_takeover|client_max_window_bits)"
    "|((?:server|client)_max_window_bits)=([89]|1[0-5])"
)


class Deflate:
    """Compresses a side's own messages, and decompresses those of its peer."""

    def __init__(self, agreed: Parameters, *, server: bool) -> None:
        own, peer = ("server", "client") if server else ("client", "server")
        self.agreed = agreed
        self._own_bits = agreed.get(f"{own}_max_window_bits") or 15
        self._peer_bits = agreed.get(f"{peer}_max_window_bits") or 15
        self._own_reset = f"{own}_no_context_takeover" in agreed
        self._peer_reset = f"{peer}_no_context_takeover" in agreed
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None

    def compress(self, payload: bytes) -> bytes:
        """The payload of a whole message, compressed; never empty (section 7.2.1)."""
        # zlib refuses 8 bits; with 9 it looks back over 512 - 262 bytes, which fits in 8.
        bits = max(9, self._own_bits)
        stream = self._compressor or zlib.compressobj(wbits=-bits, memLevel=MEMORY_LEVEL)
        self._compressor = None if self._own_reset else stream
        return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]

    def decompress(self, piece: bytes, last: bool, room: int) -> bytes:
        """What a frame's payload adds to its message, of which it may be the last.

        Raises FrameError: 1009 as soon as it adds more than `room` bytes, 1007 if it is not
        DEFLATE or its message ends inside a block, 1008 for more than MAX_FINAL.
        """
        try:
            return self._inflate(piece + TAIL if last else piece, last, room)
        except zlib.error:
            rule = "a message is not compressed with DEFLATE (RFC 7692, section 7.2.2)"
            raise FrameError(rule, CloseCode.INVALID_PAYLOAD_DATA) from None

    def _inflate(self, data: bytes, last: bool, room: int) -> bytes:
        added = b""
        for _ in range(MAX_FINAL + 1):
            stream = self._decompressor or zlib.decompressobj(-self._peer_bits)
            added += stream.decompress(data, room + 1 - len(added))
            if len(added) > room:
                raise FrameError("the decompressed message is too big", CloseCode.MESSAGE_TOO_BIG)
            if not stream.eof:
                if last:
                    end = stream.copy()
                    end.decompress(b"\x01" + TAIL)  # a last block, empty; data inside another
                    if not end.eof:
                        raise zlib.error
                self._decompressor = None if last and self._peer_reset else stream
                return added
            # The sender's zlib began anew behind a final block, with an empty window.
            data, self._decompressor = stream.unused_data, None
        raise FrameError("too many final blocks in a frame", CloseCode.POLICY_VIOLATION)


def _parse(fields: Sequence[str]) -> Iterator[Parameters | None]:
    """The extensions in fields Sec-WebSocket-Extensions; None is one that we do not know."""
    for item in filter(str.strip, ",".join(fields).split(",")):
        unquoted = re.sub(r'="(\w+)"', r"=\1", item)
        name, *words = (word.strip(" \t") for word in unquoted.split(";"))
        found = [match.groups("") for match in map(_PARAMETER.fullmatch, words) if match]
        named = {flag or bits: int(value or 0) for flag, bits, value in found}
        yield named if name == "permessage-deflate" and len(named) == len(words) else None


def offer(parameters: Parameters = CLIENT) -> str:
    """The value of Sec-WebSocket-Extensions for a client's offer, and for an answer."""
    words = (f"{name}={value}" if value else name for name, value in parameters.items())
    return "; ".join(["permessage-deflate", *words])


def accept(offers: Sequence[str], wish: Parameters = SERVER) -> tuple[Deflate, str] | None:
    """A server's side of the first valid offer, narrowed by `wish`, and the answer to it."""
    for asked in _parse(offers):
        if asked is not None:
            own = {n: v for n, v in ({BITS: 15} | wish).items() if n in asked or n != BITS}
            agreed = asked | {n: min(v, asked.get(n) or 15) for n, v in own.items()}
            return Deflate(agreed, server=True), offer(agreed)
    return None


def check(answer: Sequence[str], offered: Parameters = CLIENT) -> Deflate | None:
    """A client's side of what the server answers; None if it does not want to compress.

    Raises HandshakeError for what may not answer `offered` (section 7.1).
    """
    if not (answers := list(_parse(answer))):
        return None
    if len(answers) > 1 or (agreed := answers[0]) is None:
        raise HandshakeError(f"no answer to {offer(offered)!r}: {', '.join(answer)!r}")
    wrong = [name for name in offered if name.startswith("server") and name not in agreed]
    wrong += [name for name, bits in agreed.items() if bits > (offered.get(name) or 15)]
    if wrong or (BITS in agreed and not (BITS in offered and agreed[BITS])):
        name = (wrong or [BITS])[0]
        raise HandshakeError(f"{name} in {offer(agreed)!r} does not answer {offer(offered)!r}")
    return Deflate(offered | agreed, server=False)
