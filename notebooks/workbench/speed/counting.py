"""What a message is made of: how often Python's servers do what for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import process_time

from nestling.envelope import parse, serialise

from workbench.speed.figures import IN_FLIGHT
from workbench.speed.processes import MESSAGE, ON_NODE, SERVERS, started


@dataclass(frozen=True, repr=False)
class Steps:
    """How often Python's servers do what, for a message.

    counts: by the server and the number in flight, then by the kind of step, a message
    """

    counts: Mapping[tuple[str, int], Mapping[str, float]]

    def __repr__(self) -> str:
        lines = []
        for in_flight in IN_FLIGHT:
            of = {name: steps for (name, n), steps in self.counts.items() if n == in_flight}
            lines += ["", f"{in_flight:>2} in flight: times a message"]
            lines += [f"{'':24}" + "".join(f"{name:>23}" for name in of)]
            for kind in next(iter(of.values())):
                lines.append(
                    f"  {kind:22}" + "".join(f"{each[kind]:23.2f}" for each in of.values())
                )
        return "\n".join(lines[1:])


_CALLS = {
    "reads": ["socket.recv", "socket.recv_into"],
    "writes": ["socket.send", "socket.sendmsg"],
    "turns in the loop": ["asyncio.events:Handle._run"],
    "tasks begun": ["asyncio.base_events:BaseEventLoop.create_task"],
}
_PACKAGES = ("websockets", "nestling", "asyncio", "json")


async def steps(rounds: int = 20) -> Steps:
    """Count what Python's servers call while each connection has `rounds` of questions answered.

    Counts are exact, where a profiler's times are not: it makes what is called often look dear.
    Raises what `measure` does.
    """
    counts = {}
    for name in SERVERS:
        if name not in ON_NODE:
            async with started(name) as server:
                for in_flight in IN_FLIGHT:
                    await server.load(in_flight, questions=in_flight)
                    await server.ask("count")
                    turn = await server.load(in_flight, questions=in_flight * rounds)
                    calls = json.loads(await server.ask("count"))
                    counts[name, in_flight] = _steps(calls, turn.answers)
    return Steps(counts)


def _steps(calls: Mapping[str, int], messages: int) -> dict[str, float]:
    found = {kind: sum(calls.get(name, 0) for name in names) for kind, names in _CALLS.items()}
    for package in _PACKAGES:
        own = (n for name, n in calls.items() if re.match(rf"{package}\b.*:", name))
        found[f"calls in {package}"] = sum(own)
    found["calls of C functions"] = sum(n for name, n in calls.items() if ":" not in name)
    return {kind: count / messages for kind, count in found.items()}


def json_alone(messages: int = 5_000) -> float:
    """Microseconds of this process to read MESSAGE as JSON and to write it again, alone."""
    begin = process_time()
    for _ in range(messages):
        serialise(parse(MESSAGE))
    return 1e6 * (process_time() - begin) / messages
