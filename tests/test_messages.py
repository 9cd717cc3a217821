"""The pictures of messages say what is in the messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from matplotlib.colors import to_rgba
from matplotlib.text import Annotation
from nestling.frames import Frame, Opcode
from websockets.asyncio.server import serve
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


def test_a_message_goes_to_the_row_of_its_event_and_its_replies_stand_at_the_end(monkeypatch):
    def vote(): ...

    def tally(): ...

    monkeypatch.setattr(messages, "Picture", lambda figure, alt: (figure.axes[0], alt))
    message = {"event": "tally", "data": None}
    table = {"vote": vote, "tally": tally, "open": vote}
    axes, alt = messages.dispatched(message, table, ["[0]", "[1]"], "Its way")
    assert alt == (
        "Its way. Of vote, tally, open, tally() stands there for 'tally'; replies: ['[0]', '[1]']."
    )
    rows = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert rows[json.dumps(message)] == rows['"tally"'] == rows["tally()"] == 1.4
    assert (rows["[0]"], rows["[1]"]) == (0.4, 1.4)
    filled = [box.get_xy() for box in axes.patches if to_rgba(box.get_facecolor())[3] > 0]
    assert filled == [(0, 1), (3.9, 1), (5.4, 1), (7.9, 0), (7.9, 1)]
    [to_table, to_replies] = [each for each in axes.texts if isinstance(each, Annotation)]
    assert [to_table.xyann, to_table.xy] == [(3.1, 1.4), (3.9, 1.4)]
    assert [to_replies.xyann, to_replies.xy] == [(7.1, 1.4), (7.9, 0.4)]


async def test_questions_are_asked_at_once_and_their_answers_come_in_any_order():
    async def answer(connection):
        asked = [json.loads(await connection.recv()) for _ in range(3)]
        for message in reversed(asked):
            assert message["event"] == "later"
            await asyncio.sleep(0.02)
            await connection.send(json.dumps(message["data"]))

    async with serve(answer, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        seconds = await messages.answered(url, "later", {"A": 0.3, "B": None, "C": [1]})
    assert list(seconds) == ["C", "B", "A"]
    assert 0.02 <= seconds["C"] < seconds["B"] < seconds["A"]
