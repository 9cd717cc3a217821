"""All servers under the same load, in turns."""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import perf_counter

from workbench.speed.figures import IN_FLIGHT, Figures, Turn
from workbench.speed.processes import ON_NODE, SERVERS, on_core, started, why_not


async def measure(seconds: float = 18.0, moment: float = 0.2) -> Figures:
    """Load each server for a `moment`, in seconds, in turns: as many as fit, but one at least.

    `seconds` are for all of it, and each server is warmed up for three moments first: Node
    compiles what is called often. Where Node is missing, Python's servers are measured alone, and
    `why_not` says how to get it. Raises RuntimeError for a server that does not start,
    TimeoutError for one that stops answering, ConnectionError for one that goes, ValueError
    for one that answers wrong, and leaves no process behind.
    """
    begin, longest = perf_counter(), 0.0
    turns: list[dict[tuple[str, int], Turn]] = []
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(started(name))
            for name in SERVERS
            if name not in ON_NODE or why_not() is None
        }
        stack.enter_context(on_core(0))
        for server in servers.values():
            for in_flight in IN_FLIGHT:
                await server.load(in_flight, 3 * moment)
        while not turns or perf_counter() - begin + longest < seconds:
            since = perf_counter()
            turns.append(
                {
                    (name, in_flight): await server.load(in_flight, moment)
                    for name, server in servers.items()
                    for in_flight in IN_FLIGHT
                }
            )
            longest = max(longest, perf_counter() - since)
    return Figures(turns)
