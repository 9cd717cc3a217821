"""What the arms over HTTP share: a server, a client, and a poll."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from workbench.race.events import Event, Inbox
from workbench.relay import HOST

# Nobody listens: what goes wrong is a RaceError, not a traceback in some cell.
UNHEARD = logging.Logger("unheard", logging.CRITICAL + 1)


@asynccontextmanager
async def http_server(
    answer: Callable[[web.BaseRequest], Awaitable[Any]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Answer HTTP requests on any free port of 127.0.0.1 during a block; gives the port."""
    server = web.Server(answer, handler_cancellation=True, access_log=None, logger=UNHEARD)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    try:
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def http_client(keep_alive: bool = True, tls: ssl.SSLContext | None = None) -> ClientSession:
    """A client without a time limit, which raises for a status of 400 and above."""
    connector = TCPConnector(force_close=not keep_alive, ssl=tls or True)
    timeout = ClientTimeout(total=None)
    return ClientSession(connector=connector, timeout=timeout, raise_for_status=True)


def url(port: int, since: int, tls: bool = False) -> str:
    """Where an arm's client asks for what came after event number `since`."""
    return f"{'https' if tls else 'http'}://{HOST}:{port}/?since={since}"


def as_list(events: Sequence[Event]) -> web.Response:
    """The answer to a poll."""
    return web.json_response([event.message for event in events])


async def poll(http: ClientSession, address: str, inbox: Inbox, seen: int) -> int:
    """Ask once for what came after event number `seen`; gives the newest number now."""
    async with http.get(address) as response:
        ids = [message["id"] for message in await response.json()]
    if not ids:
        inbox.note("empty")
        return seen
    inbox.deliver(ids)
    return ids[-1]
