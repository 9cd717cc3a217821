"""The panel: a browser's client of the class poll, in real browsers and without one."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import nbformat
import pytest
import series
from browsing import TOKEN, browser, jupyterlab, open_notebook, run_cell, save
from conftest import chromium, until
from nbformat.v4 import new_code_cell, new_notebook
from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import subscribe_message, websocket_gateway
from nestling.poll import PollGateway
from playwright.async_api import Locator, Page, WebSocket, WebSocketRoute, expect
from workbench import kernel, panel
from workbench.relay import Relay

START = """
from nestling.application import create
from nestling.client import GatewayClient
from nestling.poll import PollGateway
from workbench import kernel, panel

async def start(name="poll", **options):
    server = await kernel.start(name, create(PollGateway()), **options)
    async with GatewayClient(server.url + "/poll") as client:
        await client.request("open", {"question": "<Tea>?", "choices": ["yes & no", "no"]})
    return server

server = await start(check_origin=True)
"""
SHOW = "await panel.poll(server)"
STOP = "await kernel.stop('poll')"
AGAIN = "server = await start(port=server.port, check_origin=True)"
ELSEWHERE = "server = await start(check_origin=True)"
UNCHECKED = "unchecked = await start('unchecked')\nprint(server.port, unchecked.port)"

HUB = "hub.nestling.test"
EVIL = "evil.nestling.test"

# As Binder configures it: Jupyter itself checks no Origin.
AS_ON_BINDER = "c.ServerApp.allow_remote_access = True\nc.ServerApp.allow_origin = '*'\n"

ASK = """
url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send('{"id": 1, "event": "tally"}');
    socket.onmessage = () => { resolve("answered"); socket.close(); };
    socket.onclose = () => resolve("closed");
})
"""


def write(path: Path, *cells: str) -> None:
    cells = [new_code_cell(source) for source in cells]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": series.KERNEL}), path)


def polls(page: Page) -> Locator:
    return page.locator(".poll")


def answer(poll: Locator, choice: str) -> Locator:
    return poll.get_by_role("button", name=choice, exact=True)


async def shows(poll: Locator, *votes: str) -> None:
    await expect(poll.locator("li > span")).to_have_text(votes, timeout=10_000)


async def says(poll: Locator, text: str | re.Pattern[str]) -> None:
    await expect(poll.get_by_role("status")).to_have_text(text, timeout=20_000)


def sockets(page: Page) -> list[WebSocket]:
    """The connections to polls that the page opens from now on."""
    opened: list[WebSocket] = []
    page.on("websocket", lambda socket: socket.url.endswith("/poll") and opened.append(socket))
    return opened


def holds_nothing(saved: str, port: str) -> bool:
    """Whether a saved notebook has neither the server's port nor Jupyter's token."""
    outputs = "".join(str(cell.outputs) for cell in nbformat.reads(saved, 4).cells)
    return "pollPanel" in outputs and not re.search(rf"\b({port}|{TOKEN})\b|\d/poll", outputs)


# Without a browser


async def opened(*, check_origin: bool = True) -> kernel.Server:
    server = await kernel.start("poll", create(PollGateway()), check_origin=check_origin)
    async with GatewayClient(server.url + "/poll") as client:
        await client.request("open", {"question": "<Tea>?", "choices": ["yes & no", "no"]})
        await client.request("vote", 1)
    return server


async def test_what_a_notebook_keeps_is_a_still_picture_and_the_script(tmp_path):
    write(
        tmp_path / "panel.ipynb",
        f"import sys; sys.path[0:0] = [{str(series.NOTEBOOKS)!r}]",
        START,
        SHOW,
        "print(server.port)",
    )
    [(notebook, _)] = await series.run(tmp_path / "panel.ipynb")
    [shown] = notebook.cells[2].outputs
    port = notebook.cells[3].outputs.pop().text.strip()
    assert shown.data["text/plain"] == "<Tea>? yes & no: 0, no: 0"
    assert ">yes &amp; no</th><td>0</td>" in shown.data["text/html"]
    assert holds_nothing(nbformat.writes(notebook), port)


async def test_the_still_picture_has_the_votes_and_bars_of_their_length():
    server = await opened()
    still = await panel.poll(server)
    assert repr(still) == "<Tea>? yes & no: 0, no: 1"
    many = panel.Panel("", {"question": "?", "choices": ["a", "b"], "votes": [300, 100]})
    bars = re.findall("█*</td></tr>", many._still())
    assert [bar.count("█") for bar in bars] == [30, 10]
    await kernel.stop_all()


async def test_a_poll_without_a_question_has_a_panel_all_the_same():
    server = await kernel.start("poll", create(PollGateway()), check_origin=True)
    still = await panel.poll(server)
    assert repr(still) == "No question is open yet."
    assert "No question is open yet." in still._still()
    await kernel.stop_all()


async def test_a_relay_may_be_the_way_to_the_server():
    server = await opened()
    async with Relay(server.port) as relay:
        assert (await panel.poll(server))._place == f"{server.port}/poll"
        assert (await panel.poll(server, relay=relay))._place == f"{relay.port}/poll"
    await kernel.stop_all()


async def test_a_server_that_any_page_could_use_gets_no_panel():
    server = await opened(check_origin=False)
    with pytest.raises(ValueError, match="every web page may connect to 'poll': .*check_origin"):
        await panel.poll(server)
    await kernel.stop_all()


async def test_a_server_that_is_stopped_gets_no_panel():
    server = await opened()
    await kernel.stop("poll")
    with pytest.raises(ConnectionError, match="'poll' does not run: start it again first"):
        await panel.poll(server)


async def test_a_server_that_is_no_poll_gets_no_panel():
    @websocket_gateway(path="/poll")
    class Other:
        @subscribe_message("tally")
        def tally(self, client, data):
            return {"question": "?", "choices": ["a"], "votes": []}

    server = await kernel.start("other", create(Other()), check_origin=True)
    with pytest.raises(ValueError, match="as many votes"):
        await panel.poll(server)
    await kernel.stop_all()


def test_the_script_can_be_read_in_one_sitting_and_needs_nothing_from_elsewhere():
    script = panel.source().code
    assert len(script.splitlines()) <= 106
    assert max(map(len, script.splitlines())) <= 100
    assert not re.search(r"import|require|https?://\w|</script", script)
    assert repr(panel.source()).startswith("// The browser's client")


# In JupyterLab on this machine, and in Notebook 7


async def on_this_machine(folder: Path) -> None:
    async with jupyterlab(folder, base="/") as (address, notebooks), browser() as page:
        write(notebooks / "lab.ipynb", START, SHOW, SHOW)
        write(notebooks / "seven.ipynb", START, SHOW)
        seven = address.replace("lab/tree", "notebooks").format("seven.ipynb")
        # Apart, since Notebook 7 has uncaught errors of its own.
        apart = await page.context.browser.new_context()
        await asyncio.gather(
            in_jupyterlab(page, address.format("lab.ipynb"), notebooks),
            in_notebook_7(await apart.new_page(), seven, notebooks / "seven.ipynb"),
            in_chapter_00(await page.context.new_page(), address.format("00_start_here.ipynb")),
        )


async def in_jupyterlab(page: Page, address: str, folder: Path) -> None:
    opened = sockets(page)
    await open_notebook(page, address)
    for cell in range(3):
        await run_cell(page, cell)
    first, second = polls(page).nth(0), polls(page).nth(1)
    await says(first, "Choose an answer.")
    await says(second, "Choose an answer.")
    [port] = {re.fullmatch(r"ws://127\.0\.0\.1:(\d+)/poll", each.url)[1] for each in opened}

    listed = first.get_by_role("list", name="<Tea>?").get_by_role("listitem")
    await expect(listed).to_have_text(["yes & no0 votes", "no0 votes"])
    await answer(first, "no").dblclick()
    await says(first, "Your vote: no.")
    await shows(second, "0 votes", "1 vote")
    await answer(second, "yes & no").focus()
    await page.keyboard.press("Enter")
    await shows(first, "1 vote", "1 vote")
    await says(second, "Your vote: yes & no.")
    await page.keyboard.press("Space")
    await expect(answer(second, "no")).to_be_disabled()
    await expect(answer(second, "yes & no")).to_have_attribute("aria-pressed", "true")

    saved = await save(page, folder / "lab.ipynb")
    assert holds_nothing(saved, port)
    await in_another_tab(page, address)
    await shows(first, "2 votes", "1 vote")
    await untrusted(page, address.replace("lab.ipynb", "other.ipynb"), folder, saved)


async def in_another_tab(page: Page, address: str) -> None:
    """The notebook as it was saved, in a second tab, where its panel then runs anew."""
    tab = await page.context.new_page()
    await open_notebook(tab, address)
    await says(polls(tab).first, re.compile("A still picture: its server is gone."))
    await expect(polls(tab).first.locator("td").first).to_have_text("0")
    await run_cell(tab, 1)
    await says(polls(tab).first, "Choose an answer.")
    await answer(polls(tab).first, "yes & no").click()
    await shows(polls(tab).first, "2 votes", "1 vote")


async def untrusted(page: Page, address: str, folder: Path, saved: str) -> None:
    """A notebook that Jupyter has not signed, as it comes from elsewhere: no script runs."""
    (folder / "other.ipynb").write_text(saved.replace("A still picture, from", "A picture from"))
    tab = await page.context.new_page()
    await open_notebook(tab, address)
    await expect(tab.get_by_text("A picture from when this cell was run.")).to_have_count(2)
    await expect(tab.get_by_role("rowheader")).to_have_text(["yes & no", "no"] * 2)


async def in_notebook_7(page: Page, address: str, path: Path) -> None:
    """Here the direct way leads nowhere, as if the kernel were at the end of a tunnel."""
    direct, proxied = re.compile(r"^ws://127\.0\.0\.1:\d+/poll$"), re.compile(r"/proxy/\d+/poll$")
    cables: list[WebSocketRoute] = []
    await page.route_web_socket(direct, lambda route: route.close())
    await page.route_web_socket(proxied, partial(tamper, cables, []))
    async with page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=60_000):
        await page.goto(address)
    await page.locator('[data-status="idle"]').wait_for(timeout=60_000)
    for cell in range(2):
        await run_cell(page, cell)
    await some_votes_go_wrong(polls(page), cables)
    port = re.search(r"/proxy/(\d+)/poll", cables[-1].url)[1]
    assert holds_nothing(await save(page, path), port)


def tamper(cables: list[WebSocketRoute], votes: list[str], route: WebSocketRoute) -> None:
    """Pass messages on; but lose the cable with the first vote, and falsify the second."""
    cables.append(route)
    server = route.connect_to_server()

    async def pass_on(message: str) -> None:
        if "vote" in message:
            votes.append(message)
        if "vote" in message and len(votes) == 1:
            await route.close()
        else:
            wrong = re.sub(r'"choice":\d', '"choice":9', message)
            server.send(wrong if len(votes) == 2 else message)

    route.on_message(pass_on)


async def some_votes_go_wrong(poll: Locator, cables: list[WebSocketRoute]) -> None:
    """What was lost with its connection is sent again; what was refused can be cast again, and
    what counted cannot."""
    await says(poll, "Choose an answer.")
    await answer(poll, "yes & no").click()
    await says(poll, "There is no such choice")
    assert len(cables) == 2
    await answer(poll, "no").click()
    await shows(poll, "0 votes", "1 vote")
    await says(poll, "Your vote: no.")
    await cables[-1].close()
    await until(lambda: len(cables) == 3)
    await says(poll, "Your vote: no.")
    await expect(answer(poll, "yes & no")).to_be_disabled()


async def in_chapter_00(page: Page, address: str) -> None:
    """The bars move within ten seconds of Run All, and in both of the chapter's panels."""
    await open_notebook(page, address)
    await page.get_by_role("menuitem", name="Run", exact=True).click()
    await page.get_by_text("Run All Cells", exact=True).click()
    counts = polls(page).first.locator("li > span")
    async with asyncio.timeout(10):
        while not {*await counts.all_inner_texts()} - {"0 votes"}:
            await page.wait_for_timeout(50)
    for number in range(2):
        await shows(polls(page).nth(number), "13 votes", "15 votes", "2 votes")
        await says(polls(page).nth(number), "Choose an answer.")


# As on a hub


async def on_a_hub(folder: Path) -> None:
    site = jupyterlab(folder, config=AS_ON_BINDER)
    async with site as (address, notebooks), browser() as page:
        write(notebooks / "hub.ipynb", START, SHOW, STOP, AGAIN, ELSEWHERE, UNCHECKED)
        opened = sockets(page)
        await open_notebook(page, address.replace("127.0.0.1", HUB).format("hub.ipynb"))
        await run_cell(page, 0)
        await run_cell(page, 1)
        await says(polls(page), "Choose an answer.")
        way = re.compile(rf"ws://{HUB}:\d+/user/reader/proxy/\d+/poll")
        assert all(way.fullmatch(each.url) for each in opened)
        await answer(polls(page), "no").click()
        await shows(polls(page), "0 votes", "1 vote")
        await is_lost_and_found(page)
        await lets_go(page, opened)
        saved = await save(page, notebooks / "hub.ipynb")
        evil = await page.context.new_page()
        await refuses_other_sites(page, evil, opened[0].url)
        await has_no_way(evil, saved)


async def is_lost_and_found(page: Page) -> None:
    """A server that is stopped is missed; on the same port it is found, else by the cell."""
    poll, lost = polls(page), re.compile("No server answers, still trying.")
    button = answer(poll, "yes & no")
    await run_cell(page, 2)
    await says(poll, lost)
    await run_cell(page, 3)
    await says(poll, "Choose an answer.")
    await expect(button).to_be_enabled()
    await run_cell(page, 4)
    await says(poll, lost)
    await expect(button).to_be_disabled()
    await run_cell(page, 1)
    await says(poll, "Choose an answer.")
    await button.click()
    await shows(poll, "1 vote", "0 votes")


async def lets_go(page: Page, opened: list[WebSocket]) -> None:
    """A panel that its cell has replaced ends its connection, and opens no other."""
    await run_cell(page, 1)
    await says(polls(page), "Choose an answer.")
    await answer(polls(page), "no").click()
    await shows(polls(page), "1 vote", "1 vote")
    async with asyncio.timeout(5):
        while [each.is_closed() for each in opened].count(False) > 1:
            await page.wait_for_timeout(50)
    before = len(opened)
    await page.wait_for_timeout(1500)
    assert len(opened) == before


async def refuses_other_sites(page: Page, evil: Page, proxied: str) -> None:
    """A page of another site, with the reader's cookies, is answered only where nobody checks."""
    await run_cell(page, 5)
    output = page.locator(".jp-CodeCell").nth(5).locator(".jp-OutputArea-output")
    checked, unchecked = (await output.inner_text()).split()
    async with await asyncio.start_server(a_page, "127.0.0.1", 0) as site:
        await evil.goto(f"http://{EVIL}:{site.sockets[0].getsockname()[1]}")
    for port, becomes in ((checked, "closed"), (unchecked, "answered")):
        for way in (re.sub(r"\d+/poll", f"{port}/poll", proxied), f"ws://127.0.0.1:{port}/poll"):
            assert await evil.evaluate(ASK, way) == becomes, way


async def has_no_way(page: Page, saved: str) -> None:
    """The saved notebook as a page that is neither Jupyter's nor of this machine."""
    [shown] = nbformat.reads(saved, 4).cells[1].outputs
    await page.set_content(shown.data["text/html"])
    await says(polls(page), "This page has no way to the kernel: open it in JupyterLab instead.")
    await expect(polls(page).get_by_role("rowheader")).to_have_text(["yes & no", "no"])


async def a_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nevil")
    await writer.drain()
    writer.close()


SCENES = [on_this_machine, on_a_hub]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[object, BaseException | None]:
    """What each scene ended with; they are played side by side."""
    chromium()

    async def play() -> list[BaseException | None]:
        folders = [tmp_path_factory.mktemp(scene.__name__) for scene in SCENES]
        scenes = [scene(folder) for scene, folder in zip(SCENES, folders, strict=True)]
        return await asyncio.gather(*scenes, return_exceptions=True)

    return dict(zip(SCENES, asyncio.run(play()), strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_in_a_real_browser(scene, played):
    if error := played[scene]:
        raise error
