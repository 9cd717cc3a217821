"""The pictures of messages say what is in the messages."""

from __future__ import annotations

import json
from typing import Any

from nestling.frames import Frame, Opcode
from workbench import messages
from workbench.trace import Item, Trace

KEY = b"\1\2\3\4"


def crossed(*items: tuple[int, str, float, Any]) -> Trace:
    """Connection, sender, seconds and message of each item."""
    return Trace(
        Item(connection, sender, sent, b"", Frame(Opcode.TEXT, json.dumps(said).encode()))
        for connection, sender, sent, said in items
    )


def test_what_is_nested_in_a_frame():
    frame = Frame(Opcode.TEXT, b'{"event": "vote", "data": 2}', mask=KEY)
    alt = messages.nested(frame, "A vote").alt
    for part in (
        "type TEXT, 6 bytes of header",
        'payload, 28 bytes: {"event": "vote", "data": 2}',
        'event: "vote"',
        "data: 2.",
    ):
        assert part in alt


def test_questions_wait_for_their_own_last_reply():
    trace = crossed(
        (1, "client", 0.0, {"id": 1, "event": "count", "data": "A"}),
        (1, "client", 0.0, {"id": 2, "event": "count", "data": "B"}),
        (1, "server", 0.1, {"event": "news", "data": 0}),
        (1, "server", 0.2, {"id": 1, "event": "count", "data": 1}),
        (1, "server", 0.3, {"id": 2, "event": "count", "data": 10, "done": True}),
        (1, "server", 0.4, {"id": 1, "event": "count", "data": 30, "done": True}),
    )
    assert messages.waits(trace, "Waiting").alt.endswith("order of the ids [2, 1].")


def test_votes_are_told_apart_by_their_choice():
    trace = crossed(
        (1, "client", 0.0, {"id": 1, "event": "tally"}),
        (1, "server", 0.1, {"id": 1, "event": "tally", "data": {"votes": [0, 0]}}),
        (1, "client", 0.2, {"id": 2, "event": "vote", "data": 0}),
        (2, "client", 0.3, {"event": "vote", "data": 1}),
        (3, "client", 0.4, {"id": 1, "event": "vote", "data": 1}),
        (3, "client", 0.5, {"id": 1, "event": "other", "data": 1}),
    )
    alt = messages.votes(trace, ["yes", "no"], "Votes").alt
    assert alt.endswith(
        "3 lanes, 1 asks for the tally, 1 from the server, 1 votes yes, 2 votes no."
    )
