"""The class poll in a cell's output: a client that runs in the reader's browser.

::

    server = await kernel.start("poll", create(PollGateway()), check_origin=True)
    await panel.poll(server)

The client is `panel.js`. What a notebook keeps of it is that script and a still picture, the
tally at that time; they are all that a page shows without a kernel. Where the server is, the
page learns from an output that holds nothing else, and that the panel replaces at once.
"""

from __future__ import annotations

import asyncio
import json
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from IPython.display import display
from nestling.client import GatewayClient
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from workbench.kernel import Server
from workbench.relay import Relay
from workbench.sources import Source

SCRIPT = Path(__file__).with_name("panel.js")
STYLE = Path(__file__).with_name("panel.css")

# Seconds that a server has to answer.
PATIENCE = 5.0

ELSEWHERE = "https://elsewhere.example"

# Letters of the longest bar of a still picture.
BAR = 30

# What is said below the picture where the script does not run.
STILL = "A still picture, from when this cell was run. In JupyterLab you can run it and vote."

# The part of a cell that stays when its outputs are replaced, in JupyterLab and Notebook 7.
AREA = 'document.currentScript.closest(".jp-OutputArea")'


class Panel:
    """The browser's client of a class poll, as a cell displays it; `poll` makes one.

    tally: the question, the choices and the votes, as they were when it was made
    """

    def __init__(self, place: str, tally: dict[str, Any]) -> None:
        self.tally = tally
        self._place = place

    def __repr__(self) -> str:
        counts = [f"{choice}: {votes}" for choice, votes in self._rows()]
        return " ".join([self._question(), ", ".join(counts)]).strip()

    def _ipython_display_(self) -> None:
        tell = f"{{ const area = {AREA}; if (area) area.poll = {json.dumps(self._place)}; }}"
        root = "document.currentScript.previousElementSibling"
        run = f"(() => {{\n{SCRIPT.read_text()}\npollPanel({root}, {AREA}?.poll);\n}})();"
        page = f"<style>{STYLE.read_text()}</style>{self._still()}<script>{run}</script>"
        told = {"text/html": f"<script>{tell}</script>", "text/plain": ""}
        shown = display(told, raw=True, display_id=True)
        shown.update({"text/html": page, "text/plain": repr(self)}, raw=True)

    def _still(self) -> str:
        """The tally as a table, with bars of letters: every page can show that."""
        longest, left = max([BAR, *self.tally["votes"]]), 'style="text-align: left"'
        rows = "".join(
            f'<tr><th scope="row" {left}>{escape(choice)}</th><td>{votes}</td>'
            f'<td aria-hidden="true" {left}>{"█" * round(votes * BAR / longest)}</td></tr>'
            for choice, votes in self._rows()
        )
        return (
            f'<div class="poll"><p><b>{escape(self._question())}</b></p>'
            f"<table><tr><th {left}>answer</th><th>votes</th><th></th></tr>{rows}</table>"
            f'<p role="status">{STILL}</p></div>'
        )

    def _question(self) -> str:
        return self.tally["question"] or "No question is open yet."

    def _rows(self) -> list[tuple[str, int]]:
        return list(zip(self.tally["choices"], self.tally["votes"], strict=True))


async def poll(server: Server, path: str = "/poll", relay: Relay | None = None) -> Panel:
    """A panel of the class poll that a server of this kernel has at this path.

    With a relay, which leads to the server, it is the cable between the page and it.

    Raises ConnectionError if the server does not run any more, ValueError if pages of other
    sites could connect to it, too, or if it is no class poll, and TimeoutError if it is silent.
    """
    url = server.url + path
    try:
        await _check_origin(url, server.name)
        async with GatewayClient(url, timeout=PATIENCE) as client:
            tally = await client.request("tally")
    except ConnectionRefusedError:
        raise ConnectionError(f"{server.name!r} does not run: start it again first") from None
    match tally:
        case {"question": _, "choices": [*choices], "votes": [*votes]} if len(choices) == len(
            votes
        ):
            return Panel(f"{(relay or server).port}{path}", tally)
    raise ValueError(f"a tally has a question, choices, and as many votes, not {tally!r}")


async def _check_origin(url: str, name: str) -> None:
    """Raise ValueError unless the server turns away a page of another site."""
    try:
        async with asyncio.timeout(PATIENCE), connect(url, origin=ELSEWHERE, compression=None):
            pass
    except InvalidStatus as refused:
        if refused.response.status_code == HTTPStatus.FORBIDDEN:
            return
    raise ValueError(
        f"every web page may connect to {name!r}: start it with check_origin=True for a panel"
    )


def source() -> Source:
    """The script of the client, as the browser gets it."""
    return Source(SCRIPT.read_text().rstrip(), "javascript")
