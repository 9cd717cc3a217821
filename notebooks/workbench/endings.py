"""What ends a Nest process, and what the same does to ours.

::

    await nest("nested")     # starts a Nest, sends it 200 kB of brackets, says what became of it
    await ours("nested")     # the same for a gateway of ours, in the kernel
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nestling.application import create
from nestling.frames import Decoder, Frame, Opcode, encode, new_mask, parse_close
from nestling.gateway import Client, subscribe_message, websocket_gateway
from nestling.handshake import build_request, new_key, parse_response
from websockets.asyncio.server import serve

from workbench import nest as real
from workbench.relay import HOST

_log = logging.getLogger("nestling.gateway")

# Deeper than the parser of any Python goes: 3.13 takes some thousand levels.
_NESTED = "[" * 100_000 + "]" * 100_000

# By their names: what each is, the request's target, and the message after the handshake.
INPUTS = {
    "no json": ("a reply that JSON cannot say", "/", '{"event":"no json"}'),
    "circular": ("a reply that contains itself", "/", '{"event":"circular"}'),
    "nested": (
        "a list in a list, 100,000 deep, to be echoed",
        "/",
        f'{{"event":"echo","data":{_NESTED}}}',
    ),
    "hook": ("a handleConnection that throws", "/?throw", None),
    "slashes": ("a request for //", "//", None),
}

# What ours does not answer: to it, this is no message.
UNANSWERED = {"nested"}

# Seconds to wait for what is bound to come, and for what may be.
PATIENCE = 10.0
QUIET = 1.0


@dataclass(frozen=True)
class Ending:
    """What one input did to a server.

    server:   "Nest" and its version, or "ours"
    input:    what was sent, in words
    client:   what the client saw, in its order
    lives:    whether it answers the next client
    code:     the exit code of its process, if that has ended
    error:    the first telling line of its error output, if it said anything
    recorded: whether this is a recording, because Node or Nest is missing here
    """

    server: str
    input: str
    client: tuple[str, ...]
    lives: bool
    code: int | None
    error: str
    recorded: bool = False

    def __repr__(self) -> str:
        end = "goes on" if self.lives else f"ends, with exit code {self.code}"
        lines = ["(recorded, since Nest is missing here)"] if self.recorded else []
        lines += [f"{self.server}, {self.input}: {end}"]
        lines += [f"    the client sees   {seen}" for seen in self.client]
        lines += [f"    the process says  {self.error}"] if self.error else []
        return "\n".join(lines)


async def nest(name: str) -> Ending:
    """Start a Nest, send it the input of that name, and see what becomes of it.

    Where Node or Nest is missing, gives what was recorded. Raises KeyError for a name that is
    not in INPUTS.
    """
    what, target, message = INPUTS[name]
    if real.why_not():
        found = real.recorded("endings")[name]
        return Ending(**found | {"client": tuple(found["client"]), "recorded": True})
    async with real.running("endings") as (process, port):
        client = tuple(await _send(port, target, message, PATIENCE))
        lives = await _answers(port)
        code = None if lives else await _exit_code(process)
        real.end(process)
        said = (await process.stderr.read()).decode(errors="replace")
    return Ending(f"Nest {real.version()}", what, client, lives, code, real.telling(said))


async def ours(name: str) -> Ending:
    """Send the input of that name to a gateway of ours that does the same, in this kernel.

    What it would log is in `error`. Raises KeyError as `nest` does.
    """
    what, target, message = INPUTS[name]
    app = create(EndingsGateway())
    await app.listen(0, host=HOST, serve=serve)
    _log.addFilter(_unheard)
    try:
        patience = QUIET if name in UNANSWERED else PATIENCE
        client = tuple(await _send(app.ports[0], target, message, patience))
        lives = await _answers(app.ports[0])
    finally:
        await app.close(grace=0)
        _log.removeFilter(_unheard)
    error = "; ".join(f"{type(error).__name__}: {error}" for error in app.errors)
    return Ending("ours", what, client, lives, None, error)


@websocket_gateway()
class EndingsGateway:
    """What src/endings.ts is in Nest. Python has no BigInt: its integers have no bounds."""

    def handle_connection(self, client: Client, request: Any) -> None:
        if request.path == "/?throw":
            raise ValueError("the hook failed")

    @subscribe_message("echo")
    def echo(self, client: Client, data: Any) -> Any:
        return data

    @subscribe_message("no json")
    def no_json(self, client: Client, data: Any) -> Any:
        return {"votes": {1, 2}}

    @subscribe_message("circular")
    def circular(self, client: Client, data: Any) -> Any:
        things: list[Any] = []
        things.append(things)
        return things


# A client of a raw socket


async def _send(port: int, target: str, message: str | None, patience: float) -> list[str]:
    """Connect, send, and look what comes; `patience` is for the first of it, in seconds."""
    async with _opened(port, target) as (reader, status, rest, send):
        if status != "101 Switching Protocols":
            return [status]
        if message is not None:
            await send(message)
        return [status, *(await _seen(reader, rest, patience))]


async def _answers(port: int) -> bool:
    """Whether the next client gets its echo."""
    try:
        async with _opened(port, "/") as (reader, _, rest, send):
            await send('{"event":"echo","data":"still there"}')
            return '"still there"' in await _seen(reader, rest, PATIENCE, items=1)
    except OSError:
        return False


@asynccontextmanager
async def _opened(port: int, target: str) -> AsyncIterator[tuple[Any, ...]]:
    """A connection: its reader, the status that answers it, what follows that, and `send`."""
    reader, writer = await asyncio.open_connection(HOST, port)

    async def send(text: str) -> None:
        writer.write(encode(Frame(Opcode.TEXT, text.encode(), mask=new_mask())))
        await writer.drain()

    try:
        writer.write(build_request(f"{HOST}:{port}", target, key=new_key()))
        head = b""
        async with asyncio.timeout(5):
            while (parsed := parse_response(head)) is None and (piece := await _read(reader)):
                head += piece
        if parsed is None:
            said = f"half an answer, {head.decode()!r}, then" if head else "no answer:"
            yield reader, f"{said} the connection is lost", b"", send
        else:
            yield reader, f"{parsed[0].status} {parsed[0].reason}", parsed[1], send
    finally:
        writer.transport.abort()


async def _seen(reader: StreamReader, rest: bytes, patience: float, items: int = 9) -> list[str]:
    """What comes, one text an item, until the end, until it is quiet, or so many.

    The first may take `patience` seconds; after it, QUIET without any more are the end.
    """
    decoder, seen = Decoder(max_payload=1 << 20), []
    frames = list(decoder.feed(rest))
    while True:
        for frame in frames:
            seen.append(_words(frame))
        if len(seen) >= items:
            return seen
        try:
            async with asyncio.timeout(QUIET if seen else patience):
                piece = await _read(reader)
        except TimeoutError:
            return seen or ["nothing, and stays connected"]
        if not piece:
            closed = any(text.startswith("close ") for text in seen)
            return seen if closed else [*seen, "1006: the connection is lost, without a close"]
        frames = list(decoder.feed(piece))


def _words(frame: Frame) -> str:
    if frame.opcode is Opcode.CLOSE:
        code, reason = parse_close(frame.payload)
        return f"close {code} {reason}".strip()
    text = frame.payload.decode(errors="replace")
    return text if len(text) <= 150 else f"{text[:70]} … {text[-30:]}"


async def _read(reader: StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""


async def _exit_code(process: Process) -> int:
    """Of a process that answers no more; one that hangs is ended."""
    try:
        async with asyncio.timeout(5):
            return await process.wait()
    except TimeoutError:
        real.end(process)
        return await process.wait()


def _unheard(record: logging.LogRecord) -> bool:
    return False
