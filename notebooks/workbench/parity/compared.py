"""Playing conversations with the three servers, and comparing what they say."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nestling.server
import nestling.transport

from workbench import nest
from workbench.parity import gateways
from workbench.parity.conversation import Conversation, Verdict
from workbench.parity.player import play
from workbench.parity.report import FEW, Report
from workbench.parity.table import CONVERSATIONS
from workbench.relay import HOST

NEST = "Nest"
OURS = {
    "on websockets": nestling.transport.serve,
    "on our own server": nestling.server.serve,
}
RECORDED = Path(__file__).with_name("recorded.json")
AT_ONCE = 20  # conversations with one server

# Some rows break the protocol, and libraries report that.
_unheard = logging.Logger("unheard", logging.CRITICAL)

Said = list[str]


@dataclass(frozen=True)
class Compared:
    """A conversation, and what each server said; Nest is not in it if nobody could ask."""

    conversation: Conversation
    said: dict[str, Said]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """By server of ours: the expected one where it holds, or else unlisted or stale."""
        expected = zip(OURS, self.conversation.verdicts, strict=True)
        return {server: self._verdict(server, verdict) for server, verdict in expected}

    def _verdict(self, server: str, expected: Verdict) -> Verdict:
        if NEST not in self.said:
            return Verdict("unknown", "Nest is not here, and was not recorded with this one")
        differs = self.said[server] != self.said[NEST]
        if differs == (expected.kind != "equal"):
            return expected
        if differs:
            return Verdict("unlisted", "it differs, and the row does not say why")
        return Verdict("stale", f"the row says {expected.kind}, and it is equal")


@dataclass(frozen=True)
class Found:
    """What `compare` gives.

    rows:     in the order of the conversations
    recorded: whether Nest's part is a recording, because Nest cannot run here
    """

    rows: Sequence[Compared]
    recorded: bool

    @property
    def problems(self) -> list[str]:
        """Differences that are not listed, and those that are listed and are none any more."""
        return [
            f"{row.conversation.name}, {server}: {verdict.reason}"
            for row in self.rows
            for server, verdict in row.verdicts.items()
            if verdict.kind in ("unlisted", "stale")
        ]

    def counts(self, server: str) -> Counter[str]:
        """How many rows have which kind of verdict, for a server of ours."""
        return Counter(row.verdicts[server].kind for row in self.rows)

    def __repr__(self) -> str:
        if len(self.rows) <= FEW:
            return repr(Report(self.rows, self.recorded))
        counts = (
            f"{server}: " + ", ".join(f"{n} {kind}" for kind, n in self.counts(server).items())
            for server in OURS
        )
        nest = "a recorded Nest" if self.recorded else "Nest"
        return "\n".join([f"{len(self.rows)} conversations, compared with {nest}", *counts])

    def _repr_html_(self) -> str | None:
        few = len(self.rows) <= FEW
        return Report(self.rows, self.recorded)._repr_html_() if few else None


async def compare(*conversations: Conversation) -> Found:
    """Play these conversations, or the whole table, with Nest and with ours.

    Where Nest cannot run, its part is what was recorded. Conversations run side by side.
    Raises TimeoutError if Nest does not start.
    """
    rows = conversations or CONVERSATIONS
    recorded = nest.why_not() is not None
    async with _servers(with_nest=not recorded) as ports:
        playing = (_play_all(rows, port) for port in ports.values())
        said = dict(zip(ports, await asyncio.gather(*playing), strict=True))
    each = [{server: said[server][n] for server in said} for n in range(len(rows))]
    if recorded:
        each = [_recording(row) | own for row, own in zip(rows, each, strict=True)]
    return Found([Compared(row, own) for row, own in zip(rows, each, strict=True)], recorded)


@asynccontextmanager
async def _servers(with_nest: bool) -> AsyncIterator[dict[str, int]]:
    """The servers while they run, and their ports."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_quiet(logging.getLogger("nestling.gateway")))
        ports = {}
        if with_nest:
            ports[NEST] = await stack.enter_async_context(nest.started("parity"))
        for name, serve in OURS.items():
            own = gateways.started(serve, logger=_unheard)
            ports[name] = await stack.enter_async_context(own)
        yield ports


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Log nothing for the moment: rows fail on purpose."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    log.addFilter(refuse)
    try:
        yield
    finally:
        log.removeFilter(refuse)


async def _play_all(rows: Sequence[Conversation], port: int) -> list[Said]:
    some = asyncio.Semaphore(AT_ONCE)

    async def one(row: Conversation) -> Said:
        async with some:
            return await play(row, HOST, port)

    return await asyncio.gather(*map(one, rows))


# Recordings


def _recording(row: Conversation) -> dict[str, Said]:
    """What Nest said to a row of the table when it was recorded; of another row, nothing."""
    if row not in CONVERSATIONS:
        return {}
    found = json.loads(RECORDED.read_text()).get(row.name, {})
    return {NEST: found[NEST]} if found else {}


def recordable(found: Found) -> dict[str, dict[str, Said]]:
    """By row: what Nest said, and ours where they said something else."""
    return {
        row.conversation.name: {
            server: said
            for server, said in row.said.items()
            if server == NEST or said != row.said[NEST]
        }
        for row in found.rows
    }


async def record() -> None:
    """Write down what the servers say to the table. Raises RuntimeError if Nest cannot run."""
    if why := nest.why_not():
        raise RuntimeError(why)
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in recordable(await compare()).items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
