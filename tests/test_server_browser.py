"""Our server and a real Chromium: what a page's WebSocket says, hears, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from browsing import browser
from conftest import until
from nestling.frames import Frame, Opcode, encode
from nestling.protocol import Close
from nestling.server import serve
from playwright.async_api import Page
from websockets.exceptions import ConnectionClosed

HOST = "127.0.0.1"

# A client for the page: `heard` has what came, bytes as "bytes" and their list.
CLIENT = """
url => new Promise(resolve => {
    window.heard = [];
    window.socket = new WebSocket(url, ["b", "a"]);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({data}) => heard.push(
        typeof data === "string" ? data : ["bytes", ...new Uint8Array(data)]);
    socket.onerror = () => heard.push("error");
    socket.onclose = ({code, reason, wasClean}) => heard.push([code, reason, wasClean]);
    socket.onopen = () => resolve([socket.protocol, socket.extensions]);
})
"""

FRAGMENTS = [(Opcode.TEXT, "h\u00e9llo".encode()[:2]), (Opcode.CONTINUATION, b"")]
LAST = (Opcode.CONTINUATION, "h\u00e9llo".encode()[2:])


class Served:
    """The latest connection of the server that a test talks to, and how it ended."""

    connection: Any
    url: str

    def __init__(self) -> None:
        self.pongs: list[bytes] = []
        self.ended = asyncio.Event()

    async def handle(self, connection: Any) -> None:
        """Echo until the end."""
        self.connection = connection
        receive = connection.protocol.receive

        def watch(data: bytes) -> list[Any]:
            events = receive(data)
            self.pongs += [event.payload for event in events if type(event).__name__ == "Pong"]
            return events

        connection.protocol.receive = watch
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass
        await connection.wait_closed()
        self.ended.set()


@asynccontextmanager
async def opened(compression: str | None) -> AsyncIterator[tuple[Page, Served]]:
    """A page with a WebSocket to a server, and the server's side of it."""
    served = Served()
    options = {"select_subprotocol": lambda _, offered: offered[-1], "compression": compression}
    async with asyncio.timeout(60), serve(served.handle, HOST, 0, **options) as listener:
        async with browser() as page:
            served.url = f"ws://{HOST}:{listener.sockets[0].getsockname()[1]}/"
            protocol, extensions = await page.evaluate(CLIENT, served.url)
            assert protocol == "a"
            assert extensions.startswith("permessage-deflate" if compression else "")
            assert bool(extensions) == bool(compression)
            yield page, served


async def hears(page: Page, *expected: Any) -> None:
    """What the page has heard since the last time, once there is so much."""
    await page.wait_for_function("count => heard.length >= count", arg=len(expected))
    assert await page.evaluate("heard.splice(0)") == list(expected)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages(compression):
    async with opened(compression) as (page, _):
        await page.evaluate("socket.send('h\u00e9llo \U0001f600'), socket.send('')")
        await page.evaluate("socket.send(new Uint8Array([255, 0])), socket.send(new Blob([]))")
        await hears(page, "h\u00e9llo \U0001f600", "", ["bytes", 255, 0], ["bytes"])
        await page.evaluate("socket.send('x'.repeat(2 ** 20))")
        await hears(page, "x" * 2**20)
        await page.evaluate("window.noise = crypto.getRandomValues(new Uint8Array(2 ** 16))")
        await page.evaluate("socket.send(noise)")
        await hears(page, ["bytes", *await page.evaluate("[...noise]")])


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_fragments_with_pings_between(compression):
    async with opened(compression) as (page, served):
        write = served.connection.write
        for number, (opcode, payload) in enumerate(FRAGMENTS):
            write(encode(Frame(opcode, payload, fin=False)))
            write(served.connection.protocol.send_ping(b"%d?" % number))
            await until(lambda: len(served.pongs) > number)  # noqa: B023
        write(encode(Frame(*LAST)))
        await hears(page, "h\u00e9llo")
        assert served.pongs == [b"0?", b"1?"]


@pytest.mark.parametrize("code", [1000, 3000, 4999])
async def test_a_page_closes(code):
    async with opened("deflate") as (page, served):
        await page.evaluate(f"socket.close({code}, 'enough, \u20ac')")
        await hears(page, [code, "enough, \u20ac", True])
        await served.ended.wait()
        assert served.connection.protocol.received == Close(code, "enough, \u20ac")


async def test_a_page_closes_without_a_code_and_one_that_is_left():
    async with opened(None) as (page, served):
        await page.evaluate("socket.close()")
        await hears(page, [1005, "", True])
        await served.ended.wait()
        served.ended.clear()
        await page.evaluate(CLIENT, served.url)
        await page.goto("about:blank?left")
        await served.ended.wait()
        assert served.connection.close_code == 1001


@pytest.mark.parametrize("code", [1001, 4000])
async def test_the_server_closes(code):
    async with opened("deflate") as (page, served):
        await served.connection.close(code, "bye")
        await hears(page, [code, "bye", True])
        assert served.connection.close_code == code


async def test_a_mistake_of_the_server_and_one_that_vanishes():
    async with opened(None) as (page, served):
        served.connection.write(encode(Frame(Opcode.TEXT, b"\xff")))
        await hears(page, "error", [1006, "", False])
        await served.ended.wait()
        assert served.connection.close_code in (1002, 1007)  # the RFC's is 1007, Chromium's 1002
        await page.evaluate(CLIENT, served.url)
        served.connection.abort()
        await page.wait_for_function("heard.length")
        assert (await page.evaluate("heard"))[-1] == [1006, "", False]
