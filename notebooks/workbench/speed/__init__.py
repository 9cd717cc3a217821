"""What a message costs five servers, side by side: Node's `ws` and a Nest on it, `websockets`,
and our gateway on that and on our own server.

::

    figures = await speed.measure(seconds=18)
    figures.cpu("Nest", in_flight=1)      # median, least and most of the turns
    await speed.steps()                   # what Python's servers do for a message

Each is a process of its own, and all get the same load from the same client: 10 connections,
on each of which one message of 60 bytes is in flight, or sixteen that come in one piece.
"""

from workbench.speed.counting import Steps, json_alone, steps
from workbench.speed.figures import BASE, IN_FLIGHT, Figures, Spread, Turn, record, recorded
from workbench.speed.measuring import measure
from workbench.speed.processes import ON_NODE, SERVERS, why_not

__all__ = [
    "BASE",
    "IN_FLIGHT",
    "ON_NODE",
    "SERVERS",
    "Figures",
    "Spread",
    "Steps",
    "Turn",
    "json_alone",
    "measure",
    "record",
    "recorded",
    "steps",
    "why_not",
]
