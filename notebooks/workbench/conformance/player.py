"""A client that plays a row against a server, and compares."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from nestling import deflate
from nestling.frames import CloseCode, Decoder, Frame, FrameError, Opcode, encode, parse_close
from nestling.handshake import HandshakeError, Response, accept_key, parse_response

from workbench.conformance.case import KEY, MASK, Case, ask, close

EXTENSIONS = "Sec-WebSocket-Extensions"


class Play:
    """A connection on which a row is played, and what the server did.

    response: the head with which it answers; None if TCP ends before
    agreed:   whether it will compress
    came:     its pongs and whole messages, in order
    code:     of its close frame, 1005 for none in it; 1006 if there is no close frame
    ended:    whether it ended TCP
    """

    def __init__(self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.case = case
        self.response: Response | None = None
        self.agreed = False
        self.came: list[Frame] = []
        self.code = int(CloseCode.ABNORMAL_CLOSURE)
        self.ended = False
        self._reader, self._writer = reader, writer
        self._deflate: deflate.Deflate | None = None
        self._decoder = Decoder(masked=False, max_payload=2**20)
        self._begun: list[Frame] = []

    async def play(self) -> None:
        """All of it. Raises HandshakeError or FrameError for what no server may send."""
        case = self.case
        offer = [f"{EXTENSIONS}: {case.offer}"] if case.offer else []
        await self._write(case.request or ask(*offer))
        await self._open()
        if not self.response or self.response.status != 101:
            return
        frames = (f if isinstance(f, bytes) else masked(f) for f in case.sent)
        await self._write(b"".join(frames))
        if not case.codes:
            while len(self.came) < len(case.expected) and not self.ended:
                self._take(await self._read())
            await self._write(masked(close(1000)))
        while not self.ended:
            self._take(await self._read())

    async def _open(self) -> None:
        data = b""
        while not self.ended and not (parsed := parse_response(data)):
            data += await self._read()
        if self.ended:
            return
        self.response, rest = parsed
        if self.response.status == 101:
            headers = self.response.headers
            if headers.get("Sec-WebSocket-Accept") != accept_key(KEY):
                raise HandshakeError("Sec-WebSocket-Accept does not match the key")
            self._deflate = deflate.check(headers.get_all(EXTENSIONS), offered(self.case.offer))
            self.agreed = self._deflate is not None
            self._decoder.allowed_rsv = 4 if self.agreed else 0
            self._take(rest)

    def _take(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if frame.opcode is Opcode.CLOSE:
                self.code = parse_close(frame.payload)[0]
            elif frame.opcode.is_control:
                self.came.append(Frame(frame.opcode, frame.payload))
            else:
                self._begun.append(frame)
                if frame.fin:
                    self.came.append(self._message())

    def _message(self) -> Frame:
        first, pieces = self._begun[0], [frame.payload for frame in self._begun]
        self._begun = []
        if first.rsv and self._deflate:
            pieces = [self._deflate.decompress(b"".join(pieces), True, 2**20)]
        return Frame(first.opcode, b"".join(pieces))

    async def _read(self) -> bytes:
        data = b""
        with suppress(ConnectionError):
            data = await self._reader.read(65536)
        self.ended = not data
        return data

    async def _write(self, data: bytes) -> None:
        size = self.case.cut or max(1, len(data))
        with suppress(ConnectionError):  # the server may have seen enough
            for start in range(0, len(data), size):
                self._writer.write(data[start : start + size])
                await self._writer.drain()
                await asyncio.sleep(0.001 if self.case.cut else 0)


def masked(frame: Frame) -> bytes:
    """The frame as a client sends it."""
    return encode(frame._replace(mask=frame.mask or MASK))


def offered(offer: str) -> deflate.Parameters:
    """What the last of the offers says, as `deflate.check` wants it."""
    words = (word.strip().partition("=") for word in offer.split(",")[-1].split(";")[1:])
    values = ((name, value.strip('"')) for name, _, value in words)
    return {name: int(value) if value.isdigit() else 0 for name, value in values}


def difference(play: Play) -> str | None:
    """What the server did, if it is not what the row wants."""
    case, response = play.case, play.response
    status = str(response.status) if response else "" if play.ended else "silence"
    if not re.fullmatch(case.status, status):
        return f"status {status}" if response else status or "end of TCP"
    if case.section == "4.4" and "13" not in response.headers.tokens("Sec-WebSocket-Version"):
        return f"status {status}, and no word of version 13"
    if case.status != "101":
        return None
    if case.agreed not in (None, play.agreed):
        return "it compresses" if play.agreed else "it does not compress"
    if play.came == list(case.expected) and play.code in (case.codes or [1000]) and play.ended:
        return None
    came = [f"{f.opcode.name.lower()} of {len(f.payload)} bytes" for f in play.came[:4]]
    if play.code != CloseCode.ABNORMAL_CLOSURE:
        came.append(f"close {play.code}")
    return ", ".join([*came, "end of TCP" if play.ended else "silence"])


async def run(case: Case, host: str, port: int, timeout: float = 3.0) -> str | None:
    """Play a row against the server there, for so many seconds at most.

    Gives None if the server did what it must, or else what it did. Raises OSError if there
    is no server.
    """
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    play, broken = Play(case, reader, writer), ""
    try:
        async with asyncio.timeout(timeout):
            await play.play()
    except TimeoutError:
        pass
    except (HandshakeError, FrameError) as error:
        broken = f"not allowed: {error}"
    finally:
        writer.transport.abort()
    return broken or difference(play)
