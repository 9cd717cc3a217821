"""The conformance board: what a WebSocket server must do, as rows, and a client that plays them.

::

    problem = await run(case, "127.0.0.1", port)     # None if the server did what it must
    problems = await play("127.0.0.1", port)         # of all rows, by their names
    found = await examine({"websockets": serve})      # of all rows, for each server

The server under test echoes texts and binary messages, takes messages of MAX_SIZE bytes and no
more, and compresses with those who offer it. Rows and words are our own; sections are those of
RFC 6455, or of RFC 7692 where that is said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from websockets.exceptions import ConnectionClosed

from workbench import node
from workbench.conformance import compressed, frames, openings
from workbench.conformance.case import MAX_SIZE, Case
from workbench.conformance.player import run

FAMILIES = [
    *(frames.framing, frames.control, frames.reserved, frames.fragmentation, frames.utf8),
    *(frames.closing, frames.masking, frames.size, openings.handshake),
    *(compressed.negotiation, compressed.compression, compressed.compressed_fragments),
    compressed.broken_compression,
]
CASES = [replace(case, family=family.__name__) for family in FAMILIES for case in family()]

AT_ONCE = 40  # connections

HOST = "127.0.0.1"

__all__ = ["CASES", "MAX_SIZE", "Case", "examine", "play", "run"]

# Libraries report each broken rule, and here that is what they are for.
_unheard = logging.Logger("unheard", logging.CRITICAL)


async def play(host: str, port: int) -> dict[str, str]:
    """Play all rows against the server; what it does otherwise than a row wants, by its name."""
    some = asyncio.Semaphore(AT_ONCE)

    async def problem(case: Case) -> str | None:
        async with some:
            return await run(case, host, port)

    found = await asyncio.gather(*map(problem, CASES))
    return {case.name: said for case, said in zip(CASES, found, strict=True) if said}


async def examine(serves: Mapping[str, Callable[..., Any]]) -> dict[str, dict[str, str]]:
    """What `play` gives for an echo server of each `serve`, and for Node's where it is here.

    `serve` takes what `websockets.asyncio.server.serve` takes, as far as it can.
    """
    playing = {name: _play_echo(serve) for name, serve in serves.items()}
    if not node.why_not():
        playing["Node's ws"] = _play_ws()
    return dict(zip(playing, await asyncio.gather(*playing.values()), strict=True))


async def _play_echo(serve: Callable[..., Any]) -> dict[str, str]:
    options = {"max_size": MAX_SIZE, "compression": "deflate", "logger": _unheard}
    server = await serve(_echo, HOST, 0, **options)
    try:
        return await play(HOST, server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _play_ws() -> dict[str, str]:
    async with node.echo(MAX_SIZE) as port:
        return await play(HOST, port)


async def _echo(connection: Any) -> None:
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)
