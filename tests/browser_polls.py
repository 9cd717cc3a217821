"""What a real browser does: the bytes of its polls, and the limits of its EventSource.

For `benchmark_polling.py`, which records it for chapter 03.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trustme
from aiohttp import web
from nestling.handshake import Request
from playwright.async_api import BrowserContext, async_playwright
from workbench import trace
from workbench.race import http_server
from workbench.race.certificate import contexts
from workbench.relay import HOST, Relay

PATHS = ("/with-id", "/without-id", "/fails-once")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
POLLS = 10

POLL = """async count => {
    for (let n = 0; n < count; n++) await (await fetch("/?since=" + n)).json();
}"""

# Each gives a promise. EventSource.readyState: 0 connects, 1 is open, 2 is closed for good.
EIGHT_STREAMS = """async () => {
    const all = Array.from({length: 8}, (_, n) => new EventSource("/stream?n=" + n));
    await new Promise(done => setTimeout(done, 2000));
    const open = all.filter(each => each.readyState == 1).length;
    const patience = new Promise(done => setTimeout(() => done("hangs"), 1000));
    const fetched = await Promise.race([fetch("/?since=0").then(() => "is answered"), patience]);
    all.forEach(each => each.close());
    return [open, fetched];
}"""
RECONNECT = """async path => {
    const source = new EventSource(path);
    await new Promise(done => setTimeout(done, 1500));
    const state = source.readyState;
    source.close();
    return state;
}"""

# The same answers as aiohttp's, over HTTP/2.
HTTP2_SERVER = """
const fs = require("fs");
const options = { key: fs.readFileSync("key.pem"), cert: fs.readFileSync("certificate.pem") };
const server = require("http2").createSecureServer(options, (request, response) => {
    const isPoll = request.url.includes("since");
    const body = isPoll ? "[]" : "<title>polls</title>";
    response.writeHead(200, {
        "content-type": isPoll ? "application/json; charset=utf-8" : "text/html; charset=utf-8",
        "content-length": body.length, "server": "Node",
    });
    response.end(body);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


class Site:
    """A page, polls that find nothing, and streams; `asked` has the headers of each stream."""

    def __init__(self) -> None:
        self.asked: dict[str, list[dict[str, str]]] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if "since" in request.query:
            return web.json_response([])
        if request.path == "/":
            return web.Response(text="<title>polls</title>", content_type="text/html")
        before = self.asked.setdefault(request.path, [])
        before.append(dict(request.headers))
        if request.path == "/fails-once" and len(before) == 2:
            return web.Response(status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = "id: 7\n" if request.path == "/with-id" else ""
        await response.write(f"retry: 100\n{number}data: hello\n\n".encode())
        if request.path == "/stream":
            await asyncio.sleep(60)
        return response


@asynccontextmanager
async def http2_server() -> AsyncIterator[int]:
    """A server of Node's that speaks HTTP/2 under TLS; gives its port."""
    with tempfile.TemporaryDirectory() as folder:
        issued = trustme.CA().issue_cert(HOST)
        issued.private_key_pem.write_to_path(Path(folder) / "key.pem")
        issued.cert_chain_pems[0].write_to_path(Path(folder) / "certificate.pem")
        process = await asyncio.create_subprocess_exec(
            "node", "-e", HTTP2_SERVER, cwd=folder, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield int(await process.stdout.readline())
        finally:
            process.kill()
            await process.wait()


async def poll_size(context: BrowserContext, port: int, scheme: str) -> tuple[float, Relay]:
    """Bytes of a poll with its empty answer, and the cable, over a connection that is warm."""
    async with Relay(port) as relay:
        page = await context.new_page()
        await page.goto(f"{scheme}://{HOST}:{relay.port}/")
        await page.evaluate(POLL, 3)
        await asyncio.sleep(0.3)
        before = sum(len(tap.data) for tap in relay.taps)
        await page.evaluate(POLL, POLLS)
        await asyncio.sleep(0.3)
        after = sum(len(tap.data) for tap in relay.taps)
        await page.close()
    return (after - before) / POLLS, relay


def fields(relay: Relay) -> dict[str, int]:
    """The parts of the browser's last poll, and the bytes of each."""
    items = [item for item in trace.decode(relay.taps) if isinstance(item.content, Request)]
    line, *rest = items[-1].raw.decode().splitlines()
    sizes = {each.partition(":")[0]: len(each) + 2 for each in rest if each}
    return {"request line": len(line) + 2} | sizes | {"empty line": 2}


async def measure_polls(context: BrowserContext) -> dict[str, object]:
    site, sizes = Site(), {}
    async with http_server(site.answer) as port:
        sizes["Chromium, HTTP/1.1"], relay = await poll_size(context, port, "http")
    async with http_server(site.answer, contexts()[0]) as port:
        sizes["Chromium, HTTP/1.1, TLS"], _ = await poll_size(context, port, "https")
    if shutil.which("node"):
        async with http2_server() as port:
            sizes["Chromium, HTTP/2, TLS"], _ = await poll_size(context, port, "https")
    return {"polls": sizes, "fields": fields(relay)}


async def measure_streams(context: BrowserContext) -> dict[str, object]:
    site = Site()
    async with http_server(site.answer) as port:
        page = await context.new_page()
        await page.goto(f"http://{HOST}:{port}/")
        opened, fetched = await page.evaluate(EIGHT_STREAMS)
        states = {path: await page.evaluate(RECONNECT, path) for path in PATHS}
        await page.close()
    last = {path: site.asked[path][-1].get("Last-Event-ID") for path in ("/with-id", "/without-id")}
    return {
        "open of 8": opened,
        "a fetch beside them": fetched,
        "after a 503": "closed for good" if states["/fails-once"] == 2 else "tries again",
        "Last-Event-ID": {"with id": last["/with-id"], "without": last["/without-id"]},
    }


def find_chromium() -> str | None:
    """The path of the system's Chromium or Chrome."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


async def measure(chromium: str) -> dict[str, object]:
    """What this browser sends and does."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = await browser.new_context(ignore_https_errors=True)
        found = await measure_polls(context)
        found["streams"] = await measure_streams(context)
        found["version"] = f"Chromium {browser.version.partition('.')[0]}"
        await browser.close()
    return found
