"""A client that plays a conversation with a server, and writes down what the server says."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from nestling.frames import Decoder, Frame, FrameError, Opcode
from nestling.handshake import HandshakeError, Response, parse_response

from workbench.conformance.player import masked
from workbench.parity.conversation import Again, Conversation, Do, Step, say, show

# Header fields that say something to a client; the others count where the whole head does.
FIELDS = ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Sec-WebSocket-Version")

LARGEST = 2**21  # bytes of a server's message


async def play(conversation: Conversation, host: str, port: int, timeout: float = 5.0) -> list[str]:
    """What the server says, a line for each thing, in at most so many seconds.

    `port` is that of the application, which is asked for another if the row wants that.
    A server that does not say what has to come ends the list with "silence".
    """
    if conversation.port:
        ports = await play(Conversation("ports", say("ports")), host, port, timeout)
        port = json.loads(ports[-1].removeprefix("text "))[conversation.port - 1]
    said: list[str] = []
    clients: list[Client] = []
    try:
        async with asyncio.timeout(timeout):
            for step in (Again(conversation.request), *conversation.steps, Do.SETTLE):
                if isinstance(step, Again):
                    await asyncio.gather(*(client.flush() for client in clients))
                    clients.append(await _open(host, port, step.request, said, conversation.whole))
                elif not clients[-1].ended:
                    await clients[-1].do(step)
    except TimeoutError:
        said.append("silence")
    except (HandshakeError, FrameError) as error:
        said.append(f"what no server may say: {error}")
    finally:
        for client in clients:
            client.drop()
    return said


async def _open(host: str, port: int, request: bytes, said: list[str], whole: bool) -> Client:
    client = Client(*await asyncio.open_connection(host, port), said)
    await client.open(request, whole)
    return client


class Client:
    """One connection.

    said:  what the server says on it is added here
    ended: whether it has ended TCP, or refused the request
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: list[str]
    ) -> None:
        self.said = said
        self.ended = False
        self._reader, self._writer = reader, writer
        self._decoder = Decoder(masked=False, max_payload=LARGEST)
        self._awaited: str | None = None
        self._has_closed = False
        self._unsent = b""

    async def open(self, request: bytes, whole: bool = False) -> None:
        """Send the request, and write down the answer."""
        self._unsent = request
        data = b""
        while not self.ended and not (parsed := parse_response(data)):
            data += await self._read()
        if self.ended:
            return
        response, rest = parsed
        self.ended = response.status != 101
        length = int(response.headers.get("Content-Length") or 0) if self.ended else 0
        while len(rest) < length and (more := await self._read()):
            rest += more
        self.said += head(response, rest[:length], whole)
        if not self.ended:
            self._take(rest)

    async def do(self, step: Step) -> None:
        """Take a step. Raises FrameError for what no server may send."""
        if step is Do.DROP:
            self.drop()
        elif step is Do.END:
            while not self.ended:
                self._take(await self._read())
        elif step is Do.HEAR:
            heard = len(self.said)
            while not self.ended and len(self.said) == heard:
                self._take(await self._read())
        elif step is Do.SETTLE:
            self._awaited = f"settled {len(self.said)}"
            self._send(*say("settled", self._awaited))
            while not self.ended and self._awaited:
                self._take(await self._read())
        elif isinstance(step, Frame | bytes):
            self._send(step)

    def drop(self) -> None:
        """End TCP without a word."""
        self.ended = True
        self._writer.transport.abort()

    def _take(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if self._awaited and self._awaited.encode() in frame.payload:
                self._awaited = None
                continue
            self.said.append(canonical(frame))
            if frame.opcode is Opcode.CLOSE and not self._has_closed:
                self._send(frame)

    async def _read(self) -> bytes:
        await self.flush()
        data = b""
        with suppress(ConnectionError):
            data = await self._reader.read(65536)
        if not data:
            self.ended = True
            self.said.append("the end of TCP")
            self._writer.close()
        return data

    def _send(self, step: Frame | bytes) -> None:
        self._has_closed |= isinstance(step, Frame) and step.opcode is Opcode.CLOSE
        self._unsent += masked(step) if isinstance(step, Frame) else step

    async def flush(self) -> None:
        """Send what is to be sent: in one piece, so that what comes back has one order."""
        data, self._unsent = self._unsent, b""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()


def head(response: Response, body: bytes, whole: bool) -> list[str]:
    """The answer to the request, as far as it counts."""
    lines = [f"HTTP {response.status}"]
    if whole:
        names = sorted(name.lower() for name, _ in response.headers)
        lines += [f"fields {', '.join(names)}", *body.decode(errors="replace").splitlines()]
    found = ((name, response.headers.get(name)) for name in FIELDS)
    return lines + [f"{name}: {value}" for name, value in found if value]


def canonical(frame: Frame) -> str:
    """A frame in a line, the same for texts that are equal as JSON, whatever their spelling."""
    if frame.opcode is not Opcode.TEXT or not frame.fin:
        return show(frame)
    try:
        value = json.loads(frame.payload, parse_float=_number)
    except ValueError:
        return f"{show(frame)} (no JSON)"
    return f"text {json.dumps(value, sort_keys=True)}"


def _number(spelling: str) -> float | int:
    """A number as JavaScript has it, where 1.0 is 1."""
    value = float(spelling)
    return int(value) if value.is_integer() else value
