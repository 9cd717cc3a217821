"""What was measured: servers under load, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

IN_FLIGHT = (1, 16)  # messages that wait for their answers, on each connection
BASE = "websockets, bare"  # to which others are compared
RECORDED = Path(__file__).with_name("recorded.json")


@dataclass(frozen=True)
class Turn:
    """A server under load for a moment.

    answers: how many it gave
    seconds: how long that took by the clock
    cpu:     seconds of the processor that it used
    client:  seconds that the client used; where that is all the time, the client sets the pace
    """

    answers: int
    seconds: float
    cpu: float
    client: float


class Spread(NamedTuple):
    """The median of the turns, and the least and the most of them."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, repr=False)
class Figures:
    """What was measured: in each turn, each server once with each number in flight.

    turns:    by the server's name and the number of messages in flight on a connection
    recorded: whether on another machine, whose ratios alone say something here
    """

    turns: Sequence[dict[tuple[str, int], Turn]]
    recorded: bool = False

    @property
    def servers(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.turns[0]))

    def cpu(self, server: str, in_flight: int) -> Spread:
        """Microseconds of the processor that a message costs the server."""
        return self._spread(lambda turn: _microseconds(turn[server, in_flight]))

    def rate(self, server: str, in_flight: int) -> Spread:
        """Answers that the client gets in a second."""
        return self._spread(lambda turn: _rate(turn[server, in_flight]))

    def ratio(self, server: str, other: str, in_flight: int) -> Spread:
        """How many times as much of the processor as the other's a message costs, turn by turn."""
        return self._spread(
            lambda turn: (
                _microseconds(turn[server, in_flight]) / _microseconds(turn[other, in_flight])
            )
        )

    def client(self, server: str, in_flight: int) -> Spread:
        """The share of the time in which the client was busy: near 1, the rate is the client's."""
        return self._spread(
            lambda turn: turn[server, in_flight].client / turn[server, in_flight].seconds
        )

    def _spread(self, value: Callable[[dict[tuple[str, int], Turn]], float]) -> Spread:
        values = [value(turn) for turn in self.turns]
        return Spread(median(values), min(values), max(values))

    def __repr__(self) -> str:
        head = f"the median of {len(self.turns)} turns, and their range"
        if self.recorded:
            head = f"recorded on another machine, whose times are its own: {head}"
        lines = [head]
        for in_flight in IN_FLIGHT:
            lines += ["", f"{in_flight:>2} in flight on each connection", self._titles()]
            lines += [self._row(name, in_flight) for name in self.servers]
        return "\n".join(lines)

    def _titles(self) -> str:
        titles = f"{'':24}{f'CPU: {BASE} = 1':>26}"
        if not self.recorded:
            titles += f"{'CPU, µs a message':>22}{'answers/s':>10}{'client':>8}"
        return titles

    def _row(self, name: str, in_flight: int) -> str:
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*self.ratio(name, BASE, in_flight))
        if self.recorded:
            return f"  {name:22}{ratio:>26}"
        cpu = "{:.1f} ({:.1f} to {:.1f})".format(*self.cpu(name, in_flight))
        rate, busy = self.rate(name, in_flight).median, self.client(name, in_flight).median
        return f"  {name:22}{ratio:>26}{cpu:>22}{rate:>10,.0f}{busy:>8.0%}"


def _microseconds(turn: Turn) -> float:
    return 1e6 * turn.cpu / turn.answers


def _rate(turn: Turn) -> float:
    return turn.answers / turn.seconds


# A recording, for readers without Node


def record(figures: Figures) -> None:
    """Write figures down."""
    turns = [
        [[*key, *(round(n, 6) for n in astuple(found))] for key, found in turn.items()]
        for turn in figures.turns
    ]
    RECORDED.write_text(json.dumps(turns) + "\n")


def recorded() -> Figures:
    """What tests/benchmark_nest.py recorded, Node's servers among it."""
    turns = json.loads(RECORDED.read_text())
    return Figures([{(row[0], row[1]): Turn(*row[2:]) for row in turn} for turn in turns], True)
