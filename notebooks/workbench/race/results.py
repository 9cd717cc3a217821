"""What a race finds, and how it is counted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.race.events import Event
from workbench.relay import Tap

_REQUEST_LINE = re.compile(rb"(?m)^[A-Z]+ \S+ HTTP/1\.1\r$")


@dataclass(frozen=True)
class Result:
    """What one arm did. The moments are of time.perf_counter.

    waits:   when each event that arrived was due, and when it arrived, in seconds after begin
    missing: the numbers of events that never arrived
    doubled: the number of an event for each time it arrived again
    begin:   the moment the clock started
    end:     the moment the arm had all events, or of the race's end if any is missing

    Between begin and end:

    requests:    HTTP requests that were answered, at least in part; so a stream is one, and
                 under TLS, where nothing can be read, there is none
    empty:       answers without an event
    connections: TCP connections that carried anything
    bytes_up:    bytes that the client sent, headers of TCP and IP apart
    bytes_down:  bytes that the server sent

    setup_bytes: what both sent before begin
    taps:        every piece of bytes that crossed the cable, whenever
    """

    arm: str
    waits: list[tuple[float, float]]
    missing: list[int]
    doubled: list[int]
    begin: float
    end: float
    requests: int
    empty: int
    connections: int
    bytes_up: int
    bytes_down: int
    setup_bytes: int
    taps: list[Tap]

    @property
    def latencies(self) -> list[float]:
        """Of the events that arrived, in their order, from the time they were due."""
        return [arrived - due for due, arrived in self.waits]

    @property
    def bytes_per_event(self) -> float:
        """Bytes in both directions for each event that arrived; not a number if none did."""
        arrived = len(self.waits)
        return (self.bytes_up + self.bytes_down) / arrived if arrived else math.nan


@dataclass(frozen=True)
class Race:
    """What a race found.

    delay:   one way
    events:  what was to be delivered
    results: a Result for the name of each arm
    lag:     by how many seconds the event loop was late, every 10 ms
    """

    delay: float
    events: Sequence[Event]
    results: dict[str, Result]
    lag: list[float]

    @property
    def lag_p99(self) -> float:
        """The 99th percentile of lag, 0 if the race was too short to have any."""
        return sorted(self.lag)[math.ceil(0.99 * len(self.lag)) - 1] if self.lag else 0.0

    @property
    def is_late(self) -> bool:
        """Whether the lag is too much to judge by what was measured.

        That is a lag_p99 above a tenth of the delay, or above 2 ms if that is more: timers
        are no more exact.
        """
        return self.lag_p99 > max(self.delay / 10, 0.002)


def waits(
    events: Sequence[Event], arrived: Mapping[int, float], begin: float
) -> list[tuple[float, float]]:
    """`Result.waits`, from the moment at which each event's number arrived."""
    return [(event.at, arrived[event.id] - begin) for event in events if event.id in arrived]


def requests_answered(taps: Sequence[Tap], begin: float, end: float) -> int:
    """How many requests the server answered between two moments, at least in part."""
    answered = 0
    asked: dict[int, int] = {}
    for tap in taps:
        if tap.sender == "client" and (heads := len(_REQUEST_LINE.findall(tap.data))):
            asked[tap.connection] = heads
        elif tap.sender == "server" and tap.data and begin <= tap.sent <= end:
            answered += asked.pop(tap.connection, 0)
    return answered
