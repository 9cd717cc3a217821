"""The conformance board, against every server there is: what differs is known, and why."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from fnmatch import fnmatch
from typing import Any

import nestling.server
import pytest
import websockets.asyncio.server
from conftest import missing
from nestling.frames import Frame, Opcode
from nestling.handshake import Headers, Response
from workbench import node
from workbench.conformance import CASES, MAX_SIZE, Case, examine, play, run
from workbench.conformance import grid as grids
from workbench.conformance.case import text
from workbench.conformance.player import Play, difference

HOST = "127.0.0.1"


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def python(serve: Callable[..., Any]) -> AsyncIterator[int]:
    async with serve(echo, HOST, 0, max_size=MAX_SIZE, compression="deflate") as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def ws() -> AsyncIterator[int]:
    if why := node.why_not():
        missing(why)
    async with node.echo(MAX_SIZE) as port:
        yield port


SERVERS: dict[str, Callable[[], AbstractAsyncContextManager[int]]] = {
    "nestling": lambda: python(nestling.server.serve),
    "websockets": lambda: python(websockets.asyncio.server.serve),
    "ws": ws,
}

# Which rows a server fails, as patterns of their names, and why.
BOTH = {
    "*, which are too many": "takes a length in any of the three forms",
    "at once, before the end: *": "looks at a text only once it is whole",
    "no Host": "does not read Host",
    "two Hosts": "does not read Host",
    "two final blocks": "drops what is behind a final block",
    "compressed: it ends inside a block": "gives what there is, and breaks the next message",
    "compressed: nothing at all": "gives what there is, and breaks the next message",
    "compressed: a final block without *": "gives what there is, and breaks the next message",
}
DIFFERENCES = {
    "nestling": {},
    "websockets": {
        **BOTH,
        "a message after a final block": "drops what is behind a final block, for ever",
        "close inside a message": "answers 1002, since the message is not whole",
        "a target without a slash": "does not read the target",
        "version *": "refuses with 400, and does not say what it can do",
    },
    "ws": {
        **BOTH,
        "HTTP/1.0": "does not read HTTP's version",
        "HTTP/0.9": "does not read HTTP's version",
        "version 8: *": "speaks the draft that is version 8, too",
        "version 013: *": "reads versions as JavaScript reads numbers",
        "version 13.0: *": "reads versions as JavaScript reads numbers",
        "an offer that no server may accept; *": "refuses with 400, or takes 09 for 9",
        "offer; unknown, permessage-deflate": "refuses with 400, though the second offer is good",
    },
}


def test_the_board():
    assert len(CASES) >= 200
    assert max(Counter(case.name for case in CASES).values()) == 1


@pytest.mark.parametrize("name", SERVERS)
async def test_what_differs_is_known(name):
    async with SERVERS[name]() as port:
        found = await play(HOST, port)
    known = {case.name for case in CASES for like in DIFFERENCES[name] if fnmatch(case.name, like)}
    assert {k: v for k, v in found.items() if k not in known} == {}
    assert known - set(found) == set()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
async def test_a_server_that_only_hangs_up(answer):
    """It passes where a refusal is right, if it hangs up at once, and nowhere else."""

    async def hang_up(reader, writer):
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(hang_up, HOST, 0) as server:
        found = await play(HOST, server.sockets[0].getsockname()[1])
    assert {case.name for case in CASES if case.name not in found} == {
        case.name for case in CASES if re.fullmatch(case.status, "") and not answer
    }


async def test_a_server_that_says_nothing():
    """Every row ends by itself, and says so."""

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        rows = (run(case, HOST, port, timeout=0.5) for case in CASES[::10])
        assert set(await asyncio.gather(*rows)) == {"silence"}


def played(case: Case, status: int = 101, version: str = "13", **changed: Any) -> Play:
    """A row as a right server plays it, except for what is changed."""
    it = Play(case, None, None)
    it.response = Response(status, "", Headers([("Sec-WebSocket-Version", version)]))
    it.agreed, it.ended = bool(case.agreed), True
    it.came, it.code = list(case.expected), (case.codes or [1000])[0]
    for name, value in changed.items():
        setattr(it, name, value)
    return it


@pytest.mark.parametrize(
    "changed",
    [
        *({"status": 400}, {"response": None}, {"ended": False}, {"code": 1006}, {"code": 1011}),
        *({"came": []}, {"came": [Frame(Opcode.TEXT, b"?")] * 3}, {"agreed": True}),
    ],
    ids=str,
)
def test_each_difference_counts(changed):
    case = Case("5.2", "a text", [text("a")], [text("a")], agreed=False)
    assert difference(played(case)) is None
    assert difference(played(case, **changed))


def test_a_refusal_that_names_no_version():
    case = next(case for case in CASES if case.section == "4.4")
    assert difference(played(case, status=426)) is None
    assert difference(played(case, status=426, version="8"))
    assert difference(played(case, status=101))


async def test_every_server_is_examined_in_quiet_and_nodes_where_it_is(monkeypatch, caplog):
    monkeypatch.setattr(node, "why_not", lambda: "Node is elsewhere")
    found = await examine({"theirs": websockets.asyncio.server.serve})
    assert list(found) == ["theirs"] and len(found["theirs"]) > 20
    assert not caplog.records


def test_a_square_for_each_row_and_a_cross_where_a_server_differs(monkeypatch):
    panels = []
    monkeypatch.setattr(grids, "Picture", lambda figure, alt: panels.extend(figure.axes) or alt)
    wrong = {CASES[0].name: "silence", CASES[-1].name: "1002"}
    alt = grids.grid({"one": {}, "two": wrong}, "A board")
    marks = [[line.get_marker() for line in panel.lines] for panel in panels]
    assert [len(each) for each in marks] == [len(CASES)] * 2
    assert set(marks[0]) == {"s"}
    assert [n for n, mark in enumerate(marks[1]) if mark == "X"] == [0, len(CASES) - 1]
    places = {(line.get_xdata()[0], line.get_ydata()[0]) for line in panels[0].lines}
    assert len(places) == len(CASES)
    assert alt.endswith("those that differ: one, 0; two, 2.")
