"""The transports: for each a server and a client, and nothing that another would need."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from aiohttp import web
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed

from workbench.race.certificate import contexts
from workbench.race.events import Inbox, Source, check_positive
from workbench.race.http import UNHEARD, as_list, http_client, http_server, poll, url
from workbench.relay import HOST


class Arm(Protocol):
    """One way to bring events from a server to a client.

    An arm that lets events wait on purpose has an `interval` too, the longest time that
    they may: a race is so much more patient with it.
    """

    name: str

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        """Serve a source on any free port of 127.0.0.1 during a block; gives the port."""

    async def receive(self, port: int, inbox: Inbox) -> None:
        """Connect to a port of 127.0.0.1, say inbox.ready(), and receive until cancelled."""


@dataclass(frozen=True)
class ShortPolling:
    """Ask every `interval` seconds, from a random moment on.

    A poll that is due while the one before is under way is left out. Without keep_alive,
    each makes a connection of its own; with tls, over https. Raises ValueError unless the
    interval is positive.
    """

    interval: float
    keep_alive: bool = True
    tls: bool = False

    def __post_init__(self) -> None:
        check_positive("interval", self.interval)

    @property
    def name(self) -> str:
        variant = ("" if self.keep_alive else ", no keep-alive") + (", TLS" if self.tls else "")
        return f"short poll {self.interval:g} s{variant}"

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.Response:
            return as_list(source.since(int(request.query["since"])))

        return http_server(answer, contexts()[0] if self.tls else None)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with http_client(self.keep_alive, contexts()[1] if self.tls else None) as http:
            seen = await poll(http, url(port, 0, self.tls), inbox, 0)
            first = await inbox.ready() + inbox.random.uniform(0, self.interval)
            turn = 0
            while True:
                await asyncio.sleep(first + turn * self.interval - perf_counter())
                seen = await poll(http, url(port, seen, self.tls), inbox, seen)
                turn = max(turn, math.floor((perf_counter() - first) / self.interval)) + 1


@dataclass(frozen=True)
class LongPolling:
    """Ask, and again after each answer; the server answers as soon as it has events.

    It answers with nothing after `hold` seconds, before anybody on the way gives up. Raises
    ValueError unless that is positive.
    """

    hold: float = 25.0

    name = "long poll"

    def __post_init__(self) -> None:
        check_positive("hold", self.hold)

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.Response:
            seen = int(request.query["since"])
            with suppress(TimeoutError):
                async with asyncio.timeout(self.hold):
                    await source.after(seen)
            return as_list(source.since(seen))

        return http_server(answer)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with http_client() as http:
            inbox.ready()
            seen = 0
            while True:
                seen = await poll(http, url(port, seen), inbox, seen)


@dataclass(frozen=True)
class ServerSentEvents:
    """One HTTP answer that never ends, with a line for each event."""

    name = "SSE"

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            seen = int(request.query["since"])
            while True:
                for event in await source.after(seen):
                    await response.write(f"data: {json.dumps(event.message)}\n\n".encode())
                    seen = event.id

        return http_server(answer)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with http_client() as http, http.get(url(port, 0)) as response:
            inbox.ready()
            async for line in response.content:
                if line.startswith(b"data: "):
                    inbox.deliver([json.loads(line[6:])["id"]])


@dataclass(frozen=True)
class WebSocket:
    """One WebSocket with a message for each event, compressed if `deflate`; with tls, wss."""

    deflate: bool = False
    tls: bool = False

    @property
    def name(self) -> str:
        return "WebSocket" + (", deflate" if self.deflate else "") + (", TLS" if self.tls else "")

    @property
    def _options(self) -> dict[str, Any]:
        compression = "deflate" if self.deflate else None
        return {"compression": compression, "ping_interval": None, "close_timeout": 1}

    @asynccontextmanager
    async def serve(self, source: Source) -> AsyncIterator[int]:
        async def send(connection: ServerConnection) -> None:
            seen = int(connection.request.path.partition("since=")[2])
            with suppress(ConnectionClosed):
                while True:
                    for event in await source.after(seen):
                        await connection.send(json.dumps(event.message))
                        seen = event.id

        async def handle(connection: ServerConnection) -> None:
            sending = asyncio.create_task(send(connection))
            try:
                await connection.wait_closed()
            finally:
                sending.cancel()

        options = self._options | {"ssl": contexts()[0] if self.tls else None}
        async with serve_websocket(handle, HOST, 0, logger=UNHEARD, **options) as server:
            yield server.sockets[0].getsockname()[1]

    async def receive(self, port: int, inbox: Inbox) -> None:
        address = url(port, 0, self.tls).replace("http", "ws")
        options = self._options | {"ssl": contexts()[1] if self.tls else None}
        async with connect(address, proxy=None, **options) as connection:
            inbox.ready()
            async for message in connection:
                inbox.deliver([json.loads(message)["id"]])
