"""The parity table: what ours says beside a real Nest, row by row, and nothing unlisted."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatch

import pytest
from conftest import missing
from nestling.frames import Frame, Opcode
from workbench import nest
from workbench.parity import (
    CONVERSATIONS,
    EQUAL,
    FAMILIES,
    Compared,
    Conversation,
    Do,
    Found,
    compare,
    differences,
    grid,
    improvement,
    library,
    raw,
    say,
)
from workbench.parity.compared import NEST, OURS, RECORDED, recordable
from workbench.parity.conversation import sent
from workbench.parity.player import canonical, play

HOST = "127.0.0.1"
LIBRARY, OWN = OURS


@pytest.fixture(scope="module")
def found() -> Found:
    """The whole table, with Nest."""
    if why := nest.why_not():
        missing(why)
    return asyncio.run(compare())


def test_every_difference_is_listed_and_every_listed_one_is_there(found):
    assert not found.recorded
    assert found.problems == []
    assert [row.conversation for row in found.rows] == CONVERSATIONS


def test_every_server_says_what_has_to_come(found):
    """No row waits in vain, and none breaks off: each kept its order, and its words are real."""
    said = [line for row in found.rows for each in row.said.values() for line in each]
    assert "silence" not in said
    assert not [line for line in said if "no server may say" in line or "(no JSON)" in line]
    assert all(len(row.said) == 3 for row in found.rows)


def test_the_recording_is_what_the_servers_say_now(found):
    """What ours says where it differs is in it, too: a listed difference stays the same one."""
    assert json.loads(RECORDED.read_text()) == recordable(found)
    assert RECORDED.stat().st_size < 100_000


def test_how_many_rows_have_which_verdict(found):
    """A verdict that changes its kind is a change of the chapter's words."""
    assert found.counts(LIBRARY) == {"equal": 138, "improvement": 43, "Python": 10, "library": 1}
    assert found.counts(OWN) == {"equal": 138, "improvement": 47, "Python": 7}


# The table


def test_the_table():
    assert len(CONVERSATIONS) >= 90
    names = Counter(row.name for row in CONVERSATIONS)
    assert max(names.values()) == 1, names.most_common(1)
    assert list(dict.fromkeys(row.family for row in CONVERSATIONS)) == FAMILIES


def test_verdicts_have_their_place_and_their_reason():
    for row in CONVERSATIONS:
        there, own = row.verdicts
        for verdict in row.verdicts:
            assert (len(verdict.reason) > 20) == (verdict != EQUAL), row.name
        assert own.kind != "library", "what is the library's disappears on our own server"
        assert there.kind != "library" or own != there


# What a Nest gateway does, as facts, and the rows that show it.
FACTS = {
    "strict JSON": ["NaN", "a comment", "a byte order mark", "no JSON"],
    "whitespace, duplicate keys": ["whitespace around", "a key twice"],
    "text or binary, fragmented or not": ["a binary message", "* fragments"],
    "silence, and the connection goes on": ["null", "an array instead*", "silence, and then*"],
    "missing, unknown or other event": ["an object without*", "an unknown event", "an event that*"],
    "exact and case-sensitive": ["an event in another case"],
    "'' and '*' are names": ["the event is empty", "the event is [*]"],
    "other keys are ignored": ["keys of no meaning"],
    "same event twice in one class": ["two methods of a class*"],
    "same event in several gateways": ["two gateways on one path"],
    "a handler learns its event": ["a handler learns its event"],
    "a value, a promise: bare": ["a number", "a text", "an array", "a value that comes later"],
    "{event, data}": ["event and data"],
    "nothing is no frame": ["nothing*", "null as a value"],
    "0, '' and false": ["zero", "an empty text as a value", "false", "items that are falsy"],
    "of and from": ["one item that is an array", "three items"],
    "a promise of a stream": ["a promise of a stream"],
    "endless, then unsubscribed": ["an endless stream*"],
    "surrogates, non-ASCII": ["a lone surrogate", "umlauts and emoji"],
    "numbers": ["1.0 and 1e2", "2^53 + 1", "numbers that are not finite", "keys that look like*"],
    "slow A, slow B, fast C": ["slow A, slow B, fast C"],
    "handlers that finish at once": ["twenty that are fast"],
    "two streams interleave": ["two streams"],
    "a reply after the close": ["a reply after the close", "a handler and its client's end"],
    "WsException of a text": ["a WsException", "a WsException later", "a WsException in a stream"],
    "WsException of an object": ["a WsException of an object*"],
    "anything else": ["an error", "an error later", "an error in a stream"],
    "cause.data is absent": ["an error without data"],
    "guards and pipes": ["a guard that says no", "a pipe that does not"],
    "101 and nothing more": ["the fields of the 101"],
    "unknown path": ["the path /unknown", "what 404 says"],
    "exact path, query ignored": ["the path /Inner", "the path /inner/", "a path and a query"],
    "targets": ["an absolute target", "a path with two dots", "a path with two slashes"],
    "key": ["no key", "a key that is too short"],
    "version": ["version missing", "version 12", "version 8"],
    "POST, GET": ["POST", "a plain GET", "a plain GET on that port"],
    "the library's first bytes": ["HTTP/1.0", "Upgrade: h2c", "a subprotocol twice"],
    "subprotocols": ["one subprotocol", "of two subprotocols"],
    "no deflate": ["deflate is offered"],
    "no check of Origin": ["an Origin from elsewhere"],
    "pongs": ["a ping", "a ping of 125 bytes", "a ping between fragments"],
    "1002, 1007, 1009": ["a reserved bit", "a text that is no UTF-8", "a frame of 101 MiB"],
    "the same code and reason": ["a close with code and reason", "a close without a code"],
    "client.close()": ["the server closes", "the server closes without a code"],
    "app.close()": ["the application closes"],
    "hooks": ["after_init is called once", "the disconnect hook's code: *"],
    "the server's clients": ["the server knows its clients"],
    "connect hooks hold messages back": ["a message before the connect hook ends"],
    "ports": ["a port of its own*", "a port and a path of its own", "the other path of that port"],
    "replies that cannot be serialised": ["a set", "a date"],
    "deep JSON": ["100,000 levels", "with an id: 100,000 levels"],
    "256 in flight": ["257 messages in flight"],
    "1 MiB": ["a message of 1 MB", "a message of more than 1 MiB"],
    "ids: one done": ["with an id: a value", "with an id: nothing", "with an id: a stream*"],
    "ids: event kept": ["with an id: event and data"],
    "ids: errors": ["with an id: an error", "with an id: an unknown event", "an id that is still*"],
    "ids: cancel": ["a stream that is cancelled", "a cancel of nothing"],
    "ids: what is none": ["an id that is 1.5", "an id that is None"],
    "a failing validation blocks nothing": ["a pipe, and the next message"],
    "a handler that throws tears nothing down": ["an error, and then an answer"],
}


@pytest.mark.parametrize("rows", FACTS.values(), ids=FACTS)
def test_each_fact_has_its_rows(rows):
    names = [row.name for row in CONVERSATIONS]
    assert [like for like in rows if not any(fnmatch(name, like) for name in names)] == []


# Verdicts


def compared(conversation: Conversation, there: str, own: str) -> Compared:
    return Compared(conversation, {NEST: ["5"], LIBRARY: [there], OWN: [own]})


IMPROVED = Conversation("row", ours=improvement("it is better"))
LIBRARYS = Conversation("row", websockets=library("it adds a Date"))


@pytest.mark.parametrize(
    "conversation, there, own, kinds",
    [
        (Conversation("row"), "5", "5", ["equal", "equal"]),
        (Conversation("row"), "6", "5", ["unlisted", "equal"]),
        (Conversation("row"), "5", "6", ["equal", "unlisted"]),
        (IMPROVED, "6", "6", ["improvement", "improvement"]),
        (IMPROVED, "5", "6", ["stale", "improvement"]),
        (IMPROVED, "6", "5", ["improvement", "stale"]),
        (LIBRARYS, "6", "5", ["library", "equal"]),
        (LIBRARYS, "5", "6", ["stale", "unlisted"]),
    ],
)
def test_a_verdict_holds_or_is_unlisted_or_stale(conversation, there, own, kinds):
    row = compared(conversation, there, own)
    assert [verdict.kind for verdict in row.verdicts.values()] == kinds
    wrong = sum(kind in ("unlisted", "stale") for kind in kinds)
    assert len(Found([row], recorded=False).problems) == wrong


def texts(*payloads: str) -> list[str]:
    return [canonical(Frame(Opcode.TEXT, payload.encode())) for payload in payloads]


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ('{"a":1,"b":2}', '{ "b": 2, "a": 1.0 }', True),
        ("1e2", "100", True),
        ("1", "true", False),
        ("1", '"1"', False),
        ("9007199254740993", "9007199254740992", False),
        ("hello", "hello", True),
        ("hello", '"hello"', False),
        ('"\\ud83d"', '"\\ud83c"', False),
        ('"é"', '"\\u00e9"', True),
    ],
)
def test_texts_are_compared_as_json(one, other, equal):
    first, second = texts(one, other)
    assert (first == second) == equal


def test_other_frames_are_compared_byte_by_byte():
    close = Frame(Opcode.CLOSE, b"\x03\xe8bye")
    assert canonical(close) == "close 1000 bye"
    assert canonical(Frame(Opcode.CLOSE)) == "close"
    assert canonical(Frame(Opcode.PONG, b"1.0")) == "pong 1.0"
    assert canonical(Frame(Opcode.TEXT, b"1", fin=False)) != canonical(Frame(Opcode.TEXT, b"1"))


async def test_a_server_that_says_nothing_is_silence():
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await play(Conversation("any"), HOST, port, timeout=0.2) == ["silence"]


async def test_a_server_that_hangs_up_has_ended_tcp():
    async def hang_up(reader, writer):
        await reader.read(1)
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await play(Conversation("any"), HOST, port) == ["the end of TCP"]


# A reader's own


async def test_a_conversation_of_ones_own_in_a_line(found):
    mine = await compare(Conversation("mine", say("identity", 5)))
    assert mine.problems == []
    assert repr(mine) == (
        "equal: 1\n"
        "  of the reader: mine\n"
        "    sent:\n"
        '      text {"event":"identity","data":5}\n'
        "    Nest and on websockets and on our own server:\n"
        "      HTTP 101\n"
        "      text 5"
    )
    assert "<details open" in mine._repr_html_()


async def test_a_conversation_of_ones_own_that_differs(found):
    mine = await compare(Conversation("mine", say("identity", 5, id=1)))
    assert len(mine.problems) == 2
    assert "unlisted: 1" in repr(mine)


async def test_without_node_nest_is_recorded(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = await compare()
    assert found.recorded and found.problems == []
    assert "a recorded Nest" in repr(found)
    assert "Nest (recorded)" in differences(found)._repr_html_()
    assert "a recorded Nest" in grid(found).alt


async def test_without_node_a_conversation_of_ones_own_has_no_nest(monkeypatch):
    """Not even where it has the name of a row that was recorded."""
    monkeypatch.setenv("PATH", "")
    known = CONVERSATIONS[0]
    mine = await compare(replace(known, steps=say("identity", 5)), known)
    other, same = mine.rows
    assert list(other.said) == [LIBRARY, OWN] and NEST in same.said
    assert {verdict.kind for verdict in other.verdicts.values()} == {"unknown"}
    assert mine.problems == []
    assert "Nest is not here" in repr(mine)


async def test_nothing_is_logged(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    fail = [row for row in CONVERSATIONS if row.family in ("errors", "limits")]
    await compare(*fail)
    assert [r for r in caplog.records if r.name != "asyncio"] == []


# What is shown


def test_the_grid_has_a_mark_for_each_row_in_each_panel(found, monkeypatch):
    panels = []
    monkeypatch.setattr(
        "workbench.parity.picture.Picture", lambda figure, alt: panels.extend(figure.axes) or alt
    )
    alt = grid(found)
    assert [panel.get_title(loc="left").partition(":")[0] for panel in panels] == list(OURS)
    for panel, server in zip(panels, OURS, strict=True):
        marks = Counter(line.get_marker() for line in panel.lines)
        kinds = found.counts(server)
        assert marks["s"] == kinds["equal"] and marks["^"] == kinds["improvement"]
        assert marks["D"] == kinds["library"] and marks["P"] == kinds["Python"]
        assert len(panel.lines) == len(CONVERSATIONS)
    assert "each for a reason" in alt and "47 improvement" in alt


def test_the_grid_is_a_picture_that_crosses_what_does_not_hold(monkeypatch):
    figures = []
    right, wrong = compared(IMPROVED, "6", "6"), compared(Conversation("other"), "6", "5")
    assert len(grid(Found([right, wrong], recorded=False)).png) < 100_000
    monkeypatch.setattr(
        "workbench.parity.picture.Picture", lambda figure, alt: figures.append(figure)
    )
    grid(Found([right, wrong], recorded=False))
    marks = [[line.get_marker() for line in panel.lines] for panel in figures[0].axes]
    assert marks == [["^", "X"], ["^", "s"]]
    assert "1 verdicts do not hold" in figures[0].get_suptitle()


def test_the_differences_open_to_what_was_said(found):
    shown = differences(found)
    assert next(iter(shown.groups)) == "improvement"
    rows = [row for group in shown.groups.values() for row in group]
    assert len(rows) == sum(set(row.verdicts.values()) != {EQUAL} for row in found.rows)
    html, text = shown._repr_html_(), repr(shown)
    assert html.count("<details") == len(shown.groups) + len(rows)
    assert "<details open" not in html
    assert "color" not in html
    for row in rows:
        assert row.conversation.name in text
    assert "404, and which paths there are" in html


def test_few_rows_are_open_to_what_was_said_and_more_are_folded():
    row = compared(Conversation("row", ours=improvement("it is better")), "6", "6")
    few, many = [differences(Found([row] * n, recorded=False)) for n in (5, 6)]
    assert few._repr_html_().count("<details open") == 1 + 5
    assert "      5\n" in repr(few)
    assert "<details open" not in many._repr_html_()
    assert "      5\n" not in repr(many)
    folded = r"(<details[^>]*><summary>(<b>improvement</b>: 6|of the reader: .*?)</summary>){2}"
    assert re.match(folded, many._repr_html_())


def test_rows_with_two_verdicts_are_under_both():
    shown = differences(Found([compared(LIBRARYS, "6", "5")], recorded=False))
    assert [*shown.groups] == ["library on websockets, equal on our own server"]


def test_what_is_shown_is_the_same_on_every_machine(found):
    shown = repr(differences(found))
    assert not re.search(r"127\.0\.0\.1:\d|port \d|/home|/tmp|20\d\d-", shown)
    assert max(map(len, shown.splitlines())) < 300


def test_html_is_escaped():
    row = compared(Conversation("<b>", raw("<i>")), "<u>", "5")
    shown = differences(Found([row], recorded=False))._repr_html_()
    assert not re.search("<b><b>|<i>|<u>", shown) and "&lt;i&gt;" in shown


def test_what_was_sent_is_readable():
    row = next(row for row in CONVERSATIONS if row.name == "an endless stream and its client's end")
    assert sent(row) == [
        "GET /hooks?endless HTTP/1.1",
        'text {"event":"endless"}',
        "(waits)",
        "close 1000",
        "(connects again) GET /hooks HTTP/1.1",
        'text {"event":"happened","data":["/hooks?endless",3]}',
        "(waits)",
    ]
    dropped = Conversation("dropped", (Do.DROP, b"\x83\x80"))
    assert sent(dropped) == ["(ends TCP without a word)", "bytes 83 80"]
