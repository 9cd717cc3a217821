"""The panel, when its connection breaks: in a real browser, and a relay before the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from browsing import browsers
from conftest import chromium, until
from gateways import TIMEOUT, serving
from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import Client, subscribe_message
from nestling.ping import AnswersPings
from nestling.poll import PollGateway
from playwright.async_api import Page, expect
from workbench import panel
from workbench.relay import HOST, Relay

TEA = {"question": "Tea?", "choices": ["yes", "no"]}
CLOSED, LOST = "No connection, trying again.", "No server answers, still trying. Was it stopped?"
LOST += " Run its cell again, then this one."

# What the status line says, each time that it says something new.
LISTEN = """
window.said = [];
const listen = ({ target, addedNodes: [node] }) => {
    if (node && target.role === "status") said.push(node.textContent);
};
new MutationObserver(changes => changes.forEach(listen))
    .observe(document, { subtree: true, childList: true });
"""

# Every wait before another try, in ms; and time that is 100 times as fast.
HURRY = """
const wait = setTimeout;
window.waits = [];
window.setTimeout = (call, ms) => {
    if (call.name === "connect") waits.push(ms);
    return wait(call, ms / 100);
};
"""


class Poll(PollGateway):
    """Keeps what has come as a vote."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    @subscribe_message("vote")
    def vote(self, client: Client, data: Any) -> None:
        self.seen.append(data)
        super().vote(client, data)

    @property
    def votes(self) -> list[int]:
        return self._votes


class Pinged(AnswersPings, Poll):
    """Has an answer to a ping."""


@pytest.fixture(scope="module", autouse=True)
def found() -> None:
    chromium()


@asynccontextmanager
async def site(port: int) -> AsyncIterator[str]:
    """The address of a page with a panel, whose poll is at a port."""
    still = panel.Panel("", {"question": None, "choices": [], "votes": []})._still()
    run = f"pollPanel(document.querySelector('.poll'), '{port}/poll')"
    page = f"{still}<script>{panel.source().code}\n{run}</script>".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + page)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def shown(
    gateway: Poll | None = None, script: str = ""
) -> AsyncIterator[tuple[Page, Relay, Poll]]:
    """A page with a panel, the relay between it and its server, and the gateway."""
    gateway = gateway or Poll()
    async with (
        browsers() as new_page,
        serving(gateway, check_origin=True) as app,
        Relay(app.ports[0]) as relay,
        site(relay.port) as address,
    ):
        async with GatewayClient(f"ws://{HOST}:{app.ports[0]}/poll") as teacher:
            await teacher.request("open", TEA)
        page = await new_page()
        await page.clock.install()
        await page.add_init_script(LISTEN + script)
        await page.goto(address)
        await says(page, "Choose an answer.")
        yield page, relay, gateway


async def says(page: Page, text: str) -> None:
    await expect(page.get_by_role("status")).to_have_text(text, timeout=10_000)


async def shows(page: Page, *votes: str) -> None:
    await expect(page.locator("li > span")).to_have_text(votes, timeout=10_000)


async def click(page: Page, choice: str) -> None:
    await page.get_by_role("button", name=choice, exact=True).click()


async def said(page: Page) -> list[str]:
    return [words for words in await page.evaluate("said") if words != panel.STILL]


async def test_after_a_cut_it_is_back_and_has_said_so():
    async with shown() as (page, relay, gateway):
        await expect(page.locator(".poll")).not_to_have_class("poll lost")
        relay.cut()
        await page.wait_for_function(f"said.at(-2) === {CLOSED!r}")
        assert await said(page) == [
            "Connecting.", "Choose an answer.", CLOSED, "Choose an answer."
        ]  # fmt: skip
        await expect(page.locator(".poll")).not_to_have_class("poll lost")
        await click(page, "no")
        await says(page, "Your vote: no.")
        assert gateway.votes == [0, 1]


@pytest.mark.parametrize(("swallowed", "seen"), [("server", 2), ("client", 1)])
async def test_a_vote_that_is_not_answered_is_sent_again_and_counts_once(swallowed, seen):
    async with shown() as (page, relay, gateway):
        relay.black_hole(swallowed)
        await click(page, "no")
        await says(page, "Sent.")
        await until(lambda: len(gateway.seen) == seen - 1)
        relay.cut()
        relay.lift()
        await says(page, "Your vote: no.")
        await shows(page, "0 votes", "1 vote")
        assert gateway.votes == [0, 1]
        assert len(gateway.seen) == seen and gateway.seen[0] == gateway.seen[-1]
        key = gateway.seen[0]["key"]
        assert gateway.seen[0] == {"choice": 1, "key": key, "question": "Tea?"}
        assert len(key) > 20


async def test_who_has_voted_cannot_vote_again_after_it_is_back():
    async with shown() as (page, relay, gateway):
        await click(page, "no")
        await says(page, "Your vote: no.")
        relay.cut()
        await page.wait_for_function(f"said.includes({CLOSED!r})")
        await says(page, "Your vote: no.")
        for choice in ("yes", "no"):
            await expect(page.get_by_role("button", name=choice, exact=True)).to_be_disabled()
            await page.get_by_role("button", name=choice, exact=True).dispatch_event("click")
        await says(page, "Your vote: no.")
        assert gateway.votes == [0, 1] and len(gateway.seen) == 1


async def test_a_vote_for_a_question_that_was_closed_meanwhile_is_not_sent_again():
    async with shown() as (page, relay, gateway):
        relay.black_hole("client")
        await click(page, "no")
        gateway.open(None, TEA | {"question": "Milk?"})
        relay.cut()
        relay.lift()
        await says(page, "Choose an answer.")
        await expect(page.get_by_text("Milk?")).to_be_visible()
        await click(page, "yes")
        await says(page, "Your vote: yes.")
        assert [vote["question"] for vote in gateway.seen] == ["Milk?"]


async def test_a_black_hole_is_noticed_and_left():
    async with shown() as (page, relay, _):
        relay.black_hole()
        await page.clock.fast_forward(15_000)
        await says(page, "Choose an answer.")
        await page.clock.fast_forward(5_000)
        await says(page, CLOSED)
        await expect(page.locator(".poll")).to_have_class("poll lost")
        await expect(page.get_by_role("button", name="no", exact=True)).to_be_disabled()
        relay.lift()
        await says(page, "Choose an answer.")
        await expect(page.locator(".poll")).not_to_have_class("poll lost")


async def test_a_way_that_leads_into_a_black_hole_is_given_up():
    async with shown() as (page, relay, _):
        relay.black_hole()
        relay.cut()
        await says(page, CLOSED)
        await until(lambda: relay.taps[-1].connection == 2)
        await page.clock.fast_forward(5_000)
        await page.clock.fast_forward(1_000)
        await until(lambda: relay.taps[-1].connection == 3)
        relay.lift()
        await says(page, "Choose an answer.")


@pytest.mark.parametrize("gateway", [Poll, Pinged])
async def test_a_server_that_has_nothing_to_say_is_not_taken_for_gone(gateway):
    async with shown(gateway()) as (page, relay, _):
        for _ in range(3):
            before = len(relay.taps)
            await page.clock.fast_forward(15_000)
            await until(lambda: relay.taps[-1].sender == "server" and len(relay.taps) > before)  # noqa: B023
            await page.wait_for_timeout(50)
            await page.clock.fast_forward(5_000)
        assert await said(page) == ["Connecting.", "Choose an answer."]
        assert {tap.connection for tap in relay.taps} == {1}


async def test_a_server_that_is_started_again_is_found_and_what_it_has_forgotten_shown():
    async with shown(script=HURRY + "Math.random = () => 1;") as (page, relay, gateway):
        await click(page, "no")
        await says(page, "Your vote: no.")
        port, relay.target = relay.target, 1  # where nobody listens
        relay.cut()
        await says(page, LOST)
        app = create(again := Poll())
        again.open(None, TEA)
        await app.listen(0)
        relay.target = app.ports[0]
        await says(page, "Choose an answer.")
        await click(page, "yes")
        await says(page, "Your vote: yes.")
        assert (gateway.votes, again.votes) == ([0, 1], [1, 0])
        assert gateway.seen[0]["key"] == again.seen[0]["key"] and port != relay.target
        tried = await page.evaluate("waits.length")
        relay.cut()
        await page.wait_for_function(f"waits.length > {tried}")
        assert (await page.evaluate("waits"))[tried] == 500, "the next wait is a first one"
        async with asyncio.timeout(TIMEOUT):
            await app.close(grace=0)


async def tries(new_page: Callable[[], Awaitable[Page]], dice: str) -> tuple[list, list]:
    """The waits, in ms, of a panel whose server is not there; and what it has said."""
    page = await new_page()
    await page.add_init_script(LISTEN + HURRY + dice)
    async with site(1) as address:
        await page.goto(address)
        await page.wait_for_function("waits.length >= 8")
    return (await page.evaluate("waits"))[:8], await said(page)


async def test_the_waits_double_up_to_a_bound_and_are_random_below_it():
    async with browsers() as new_page:
        bounds, _ = await tries(new_page, "Math.random = () => 1;")
        assert bounds == [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000]
        some, _ = await tries(new_page, "")
        others, _ = await tries(new_page, "")
        assert all(0 <= wait < bound for wait, bound in zip(some, bounds, strict=True))
        assert len(set(some + others)) == 16


async def test_it_does_not_speak_at_each_try():
    async with browsers() as new_page:
        _, words = await tries(new_page, "")
        assert words == ["Connecting.", CLOSED, LOST]
