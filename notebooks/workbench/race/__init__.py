"""A race: the same events by polling, long polling, SSE and WebSocket, all at once.

::

    events = schedule(rate=4, seconds=20, seed=1)
    found = await race([ShortPolling(1), LongPolling(), WebSocket()], events, delay=0.05)
    found.results["WebSocket"].latencies

Each arm has a server, a client and a cable (`workbench.relay`) of its own; all share one
event loop and one clock, `time.perf_counter`. Times are in seconds. An arm of your own is
any object with the three members of `Arm`.
"""

from workbench.race.arms import Arm, LongPolling, ServerSentEvents, ShortPolling, WebSocket
from workbench.race.events import Event, Inbox, Source, schedule
from workbench.race.http import http_server
from workbench.race.results import Race, Result
from workbench.race.running import Plan, RaceError, careful, judging, race, side_by_side

__all__ = [
    "Arm",
    "Event",
    "Inbox",
    "LongPolling",
    "Plan",
    "Race",
    "RaceError",
    "Result",
    "ServerSentEvents",
    "ShortPolling",
    "Source",
    "WebSocket",
    "careful",
    "http_server",
    "judging",
    "race",
    "schedule",
    "side_by_side",
]
