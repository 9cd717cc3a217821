"""A client that plays a row against a server, and compares."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import replace

from nestling import deflate
from nestling.frames import CloseCode, Decoder, Frame, FrameError, Opcode, encode, parse_close
from nestling.handshake import HandshakeError, accept_key, parse_response

from workbench.conformance.case import KEY, MASK, Case, ask, close

EXTENSIONS = "Sec-WebSocket-Extensions"


class Play:
    """A connection on which a row is played.

    status:  of the response, "" if TCP ends before
    versions: of the protocol, those that the response names
    agreed:  whether the server compresses
    came:    pongs and whole messages, in order
    code:    of the close frame, 1005 if it has none, 1006 without a close frame
    ended:   whether the server has ended TCP
    """

    def __init__(self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.status, self.versions = "", []
        self.agreed = False
        self.came: list[Frame] = []
        self.code = int(CloseCode.ABNORMAL_CLOSURE)
        self.ended = False
        self._case, self._reader, self._writer = case, reader, writer
        self._deflate: deflate.Deflate | None = None
        self._decoder = Decoder(masked=False, max_payload=2**20)
        self._begun: list[Frame] = []
        self._closes = any(isinstance(f, Frame) and f.opcode is Opcode.CLOSE for f in case.sent)

    async def play(self) -> None:
        """All of it. Raises HandshakeError or FrameError for what no server may send."""
        case = self._case
        offer = [f"{EXTENSIONS}: {case.offer}"] if case.offer else []
        await self._write(case.request or ask(*offer))
        await self._open()
        if self.status != "101":
            return
        frames = (f if isinstance(f, bytes) else encode(masked(f)) for f in case.sent)
        await self._write(b"".join(frames))
        if not case.codes:
            while len(self.came) < len(case.expected) and not self.ended:
                await self._read()
            await self._close(close(1000))
        while not self.ended:
            await self._read()

    async def _open(self) -> None:
        data = b""
        while (parsed := parse_response(data)) is None:
            try:
                piece = await self._reader.read(65536)
            except ConnectionError:
                piece = b""
            if not piece:
                self.ended = True
                return
            data += piece
        response, rest = parsed
        headers = response.headers
        self.status = str(response.status)
        self.versions = headers.tokens("Sec-WebSocket-Version")
        if response.status == 101:
            if headers.get("Sec-WebSocket-Accept") != accept_key(KEY):
                raise HandshakeError("Sec-WebSocket-Accept does not match the key")
            self._deflate = deflate.check(headers.get_all(EXTENSIONS), offered(self._case.offer))
            self.agreed = self._deflate is not None
            self._decoder.allowed_rsv = 4 if self.agreed else 0
            await self._take(rest)

    async def _read(self) -> None:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        self.ended = not data
        await self._take(data)

    async def _close(self, frame: Frame) -> None:
        if not self._closes:
            self._closes = True
            await self._write(encode(masked(frame)))

    async def _take(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if frame.opcode is Opcode.CLOSE:
                self.code = parse_close(frame.payload)[0]
                await self._close(frame)
            elif frame.opcode.is_control:
                self.came.append(Frame(frame.opcode, frame.payload))
            else:
                self._begun.append(frame)
                if frame.fin:
                    self.came.append(self._whole())

    def _whole(self) -> Frame:
        first, pieces = self._begun[0], [frame.payload for frame in self._begun]
        self._begun = []
        if first.rsv and self._deflate:
            last = len(pieces) - 1
            decompress = self._deflate.decompress
            pieces = [decompress(piece, n == last, 2**20) for n, piece in enumerate(pieces)]
        return Frame(first.opcode, b"".join(pieces))

    async def _write(self, data: bytes) -> None:
        size = self._case.cut or max(1, len(data))
        with suppress(ConnectionError):  # it may end as soon as it has seen enough
            for start in range(0, len(data), size):
                self._writer.write(data[start : start + size])
                await self._writer.drain()
                if self._case.cut:
                    await asyncio.sleep(0.001)


def masked(frame: Frame) -> Frame:
    """The frame as a client sends it."""
    return replace(frame, mask=frame.mask or MASK)


def offered(offer: str) -> deflate.Parameters:
    """What the last of the offers says, as `deflate.check` wants it."""
    words = (word.strip().partition("=") for word in offer.split(",")[-1].split(";")[1:])
    values = ((name, value.strip('"')) for name, _, value in words)
    return {name: int(value) if value.isdigit() else 0 for name, value in values}


def described(frame: Frame) -> str:
    """A frame in a few characters."""
    payload = repr(frame.payload[:12])[1:] + ("..." if len(frame.payload) > 12 else "")
    return f"{frame.opcode.name.lower()} {payload}"


def difference(case: Case, play: Play) -> str | None:
    """What the server did, if it is not what the row wants."""
    if not re.fullmatch(case.status, play.status):
        return f"status {play.status.partition(chr(10))[0] or 'none'}"
    if case.section == "4.4" and "13" not in play.versions:
        return f"status {play.status}, and no word of version 13"
    if case.status != "101":
        return None
    if case.agreed not in (None, play.agreed):
        return "it compresses" if play.agreed else "it does not compress"
    codes = case.codes or [1000]
    if play.came == list(case.expected) and play.code in codes and play.ended:
        return None
    came = [described(frame) for frame in play.came[:4]]
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
    return broken or difference(case, play)
