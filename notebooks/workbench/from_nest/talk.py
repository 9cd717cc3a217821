"""Conversations between a real client and an application on loopback, written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nestling.application import Application
from websockets.asyncio.client import ClientConnection, connect

HOST = "127.0.0.1"

# Seconds to wait for a frame that is to come, and for one that is not.
PATIENCE = 2.0
QUIET = 0.05


class Unexpected(Exception):
    """Something else came than what was expected."""


class Talk:
    """What was said in a proof.

    lines: what clients sent, after >, and what came, after <
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def shows(self, value: Any, expected: Any) -> None:
        """Write a value down. Raises Unexpected if it is not what was expected."""
        self.lines.append(_text(value))
        if value != expected:
            raise Unexpected(f"expected {_text(expected)}")

    @asynccontextmanager
    async def client(self, port: int, path: str = "/") -> AsyncIterator[Peer]:
        """A client of the application that listens on a port."""
        connecting = connect(f"ws://{HOST}:{port}{path}", compression=None, open_timeout=PATIENCE)
        async with connecting as connection:
            yield Peer(self.lines, connection)


class Peer:
    """A client: what it sends and gets is written down."""

    def __init__(self, lines: list[str], connection: ClientConnection) -> None:
        self._lines = lines
        self._connection = connection

    async def says(self, event: str, data: Any, *expected: Any, quiet: float = QUIET) -> None:
        """Send a message and wait for the frames that are expected.

        Where none is, waits `quiet` seconds for one. Raises Unexpected if something else comes.
        """
        message = {"event": event} if data is None else {"event": event, "data": data}
        self._lines.append(f"> {_text(message)}")
        await self._connection.send(json.dumps(message))
        for frame in expected:
            await self._hears(frame)
        if not expected:
            await self._hears_nothing(quiet)

    async def _hears(self, expected: Any) -> None:
        try:
            received = json.loads(await asyncio.wait_for(self._connection.recv(), PATIENCE))
        except TimeoutError:
            self._lines.append("< (nothing)")
            raise Unexpected(f"expected {_text(expected)}") from None
        self._lines.append(f"< {_text(received)}")
        if received != expected:
            raise Unexpected(f"expected {_text(expected)}")

    async def _hears_nothing(self, seconds: float) -> None:
        try:
            received = await asyncio.wait_for(self._connection.recv(), seconds)
        except TimeoutError:
            self._lines.append("< (nothing)")
        else:
            self._lines.append(f"< {received}")
            raise Unexpected("expected nothing")


@asynccontextmanager
async def serving(app: Application) -> AsyncIterator[int]:
    """The application, while it listens; its port."""
    await app.listen(0, host=HOST)
    try:
        yield app.ports[0]
    finally:
        await app.close()


def exception(message: str, event: str, data: Any = None) -> dict[str, Any]:
    """The frame that tells a client of an error."""
    cause = {"pattern": event} if data is None else {"pattern": event, "data": data}
    return {"event": "exception", "data": {"status": "error", "message": message, "cause": cause}}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
