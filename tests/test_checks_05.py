"""The checks of chapter 05: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from conftest import assert_hint
from nestling.client import GatewayClient
from nestling.gateway import WsException
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK


def polite(reply=lambda reply: reply, sorry=lambda error: f"sorry: {error}"):
    """A polite question, with one thing wrong."""

    async def ask_politely(client, event, data):
        try:
            return reply(await client.request(event, data))
        except WsException as error:
            return sorry(error)

    return ask_politely


whole_frame = polite(lambda reply: {"event": "identity", "data": reply})
never_none = polite(lambda reply: "no reply" if reply is None else reply)
without_sorry = polite(sorry=str)
with_quotes = polite(sorry=lambda error: f"sorry: {error!r}")


async def impolite(client, event, data):
    return await client.request(event, data)


async def silent_sorry(client, event, data):
    try:
        return await client.request(event, data)
    except WsException as error:
        print(f"sorry: {error}")


async def without_reply(client, event, data):
    return await client.emit(event, data)


async def offended(client, event, data):
    """It does not talk any more with whom has refused it once."""
    if getattr(client, "refused", False):
        return None
    try:
        return await client.request(event, data)
    except WsException as error:
        client.refused = True
        return f"sorry: {error}"


async def for_good(client, event, data):
    try:
        return await client.request(event, data)
    except WsException as error:
        await client.close()
        return f"sorry: {error}"


async def whatever_happens(client, event, data):
    try:
        return await client.request(event, data)
    except Exception as error:
        return f"sorry: {error}"


def plain(client, event, data):
    return client.request(event, data)


def tallied(enough=lambda sum, votes: sum >= votes, give=lambda tally: tally, gone=None):
    """A tally, with one thing wrong."""

    async def tally_of(url, votes):
        last = None
        try:
            async with GatewayClient(url) as client:
                async for tally in client.stream("tally"):
                    last = tally
                    if enough(sum(tally["votes"]), votes):
                        return give(tally)
        except ConnectionClosed:
            return gone and gone(last)

    return tally_of


any_tally = tallied(lambda sum, votes: True)
more_votes = tallied(lambda sum, votes: sum > votes)
just_as_many = tallied(lambda sum, votes: sum == votes)
votes_alone = tallied(give=lambda tally: tally["votes"])
the_last = tallied(gone=lambda last: last)


async def unprepared(url, votes):
    async with GatewayClient(url) as client:
        async for tally in client.stream("tally"):
            if sum(tally["votes"]) >= votes:
                return tally


async def asking_again(url, votes):
    async with GatewayClient(url) as client:
        while True:
            tally = await client.request("tally")
            if sum(tally["votes"]) >= votes:
                return tally


async def impatient(url, votes):
    async with GatewayClient(url) as client:
        try:
            async for tally in client.stream("tally", timeout=0.2):
                if sum(tally["votes"]) >= votes:
                    return tally
        except TimeoutError:
            return None


async def catching_all(url, votes):
    try:
        return await unprepared(url, votes)
    except Exception:
        return None


async def until_silence(connection, questions):
    """Whatever has come when nothing comes for half a second."""
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
    replies = [None] * len(questions)
    with suppress(TimeoutError):
        while True:
            reply = json.loads(await asyncio.wait_for(connection.recv(), 0.5))
            number = reply.get("id") if isinstance(reply, dict) else None
            if number in range(len(questions)) and reply.get("event") != "exception":
                replies[number] = replies[number] or reply.get("data")
    return replies


async def only_goodbye(url, votes):
    try:
        return await unprepared(url, votes)
    except ConnectionClosedOK:
        return None


kept = []


async def left_open(url, votes):
    client = await GatewayClient(url).__aenter__()
    kept.append(stream := client.stream("tally"))
    try:
        async for tally in stream:
            if sum(tally["votes"]) >= votes:
                return tally
    except ConnectionClosed:
        return None


def matched(numbered=True, ordered=True, wary=True, excepted=True, keep=True, until_data=False):
    """Replies matched by hand, with one thing wrong."""

    async def ask_all(connection, questions):
        for number, (event, data) in enumerate(questions):
            message = {"event": event, "data": data} | ({"id": number} if numbered else {})
            await connection.send(json.dumps(message))
        replies, missing = {}, set(range(len(questions)))
        while missing:
            reply = json.loads(await connection.recv())
            if wary and not (isinstance(reply, dict) and reply.get("id") in missing):
                continue
            number = reply["id"]
            is_exception = reply.get("event") == "exception" and excepted
            data = None if is_exception else reply.get("data")
            if not (keep and number in replies):
                replies[number] = data
            if data is not None if until_data else reply.get("done"):
                missing.discard(number)
        return [replies[number] for number in (sorted(replies) if ordered else replies)]

    return ask_all


without_ids = matched(numbered=False)
as_they_come = matched(ordered=False)
trusting = matched(wary=False)
with_exceptions = matched(excepted=False)
the_last_frame = matched(keep=False)
data_or_nothing = matched(until_data=True)


async def reply_to(number, connection):
    while True:
        reply = json.loads(await connection.recv())
        if isinstance(reply, dict) and reply.get("id") == number:
            return reply


async def one_by_one(connection, questions):
    replies = []
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
        replies.append((await reply_to(number, connection)).get("data"))
    return replies


async def with_one_id(connection, questions):
    for event, data in questions:
        await connection.send(json.dumps({"id": 1, "event": event, "data": data}))
    frames = [await reply_to(1, connection) for _ in questions]
    return [frame.get("data") for frame in frames if frame.get("event") != "exception"]


async def as_many_frames(connection, questions):
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
    return [json.loads(await connection.recv()).get("data") for _ in questions]


async def glued(client, event, data):
    try:
        return await client.request(event, data)
    except WsException as error:
        return "sorry: " + error


async def subscripting(client, event, data):
    return (await client.request(event, data))["data"]


async def without_arguments(client):
    return await client.request("identity", 5)


without_key = tallied(lambda sum, votes: True, give=lambda tally: sum(tally))


async def another_key(url, votes):
    async with GatewayClient(url) as client:
        async for tally in client.stream("tally"):
            if tally["count"] >= votes:
                return tally


async def awaiting_the_stream(url, votes):
    async with GatewayClient(url) as client:
        for tally in await client.stream("tally"):
            return tally


async def numbers_are_dicts(connection, questions):
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
    replies = {}
    while len(replies) < len(questions):
        reply = json.loads(await connection.recv())
        if "id" in reply and reply["id"] in range(len(questions)):
            replies[reply["id"]] = reply.get("data")
    return [replies[number] for number in range(len(questions))]


async def getting_ids(connection, questions):
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
    replies = {}
    while len(replies) < len(questions):
        reply = json.loads(await connection.recv())
        replies[reply.get("id")] = reply.get("data")
    return list(replies.values())


async def the_number_too(connection, questions):
    """What is no dict is taken for a reply."""
    for number, (event, data) in enumerate(questions):
        await connection.send(json.dumps({"id": number, "event": event, "data": data}))
    replies = []
    while len(replies) < len(questions):
        reply = json.loads(await connection.recv())
        if not isinstance(reply, dict):
            replies.append(reply)
    return replies


async def nothing_returned(connection, questions):
    await matched()(connection, questions)


async def as_a_tuple(connection, questions):
    return tuple(await matched()(connection, questions))


async def always_one(connection, questions):
    return (await matched()(connection, questions)) or [None]


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("05.1", whole_frame, r"return what client\.request gives"),
        ("05.1", without_reply, r"return what client\.request gives"),
        ("05.1", never_none, "no reply is None"),
        ("05.1", without_sorry, r"str\(error\) is its text"),
        ("05.1", with_quotes, r"str\(error\) is its text"),
        ("05.1", impolite, "catch WsException"),
        ("05.1", silent_sorry, "catch WsException"),
        ("05.1", offended, "goes on after an exception"),
        (
            "05.1",
            for_good,
            "goes on after an exception(?s:.*)sent +.'identity', 6.(?s:.*)ConnectionClosed",
        ),
        ("05.1", whatever_happens, "catch WsException alone"),
        ("05.1", plain, "async def"),
        ("05.2", any_tally, "at least that many in all"),
        ("05.2", more_votes, "at least that many in all"),
        ("05.2", votes_alone, "whole"),
        ("05.2", just_as_many, "with that many votes or more had come"),
        ("05.2", asking_again, "with that many votes or more had come"),
        ("05.2", left_open, "leave the block"),
        ("05.2", unprepared, "ConnectionClosed is both"),
        ("05.2", the_last, "None, and not the last tally"),
        ("05.2", only_goodbye, "with or without goodbye"),
        ("05.2", impatient, "it did not wait"),
        ("05.2", catching_all, "which is not a lost server"),
        ("05.3", until_silence, "a reply may take a second"),
        ("05.3", one_by_one, "send them all before you read"),
        ("05.3", without_ids, "each with an id of its own"),
        ("05.3", with_one_id, "each with an id of its own"),
        ("05.3", as_many_frames, "one question, one reply"),
        ("05.3", as_they_come, "in the order of the questions"),
        (
            "05.3",
            trusting,
            r"a dict with an id of yours(?s:.*)sent +\[\('identity', 1\)\](?s:.*)KeyError",
        ),
        ("05.1", glued, r"str\(error\) is its text(?s:.*)sent(?s:.*)TypeError\('can only"),
        (
            "05.1",
            subscripting,
            r"return what client\.request gives(?s:.*)TypeError\(\"'int' object",
        ),
        ("05.1", without_arguments, r"return what client\.request gives(?s:.*)TypeError\("),
        ("05.2", without_key, r"sum its votes(?s:.*)sent +'votes=1'(?s:.*)TypeError"),
        ("05.2", another_key, r"sum its votes(?s:.*)KeyError\('count'\)"),
        ("05.2", awaiting_the_stream, r"sum its votes|whole(?s:.*)TypeError"),
        ("05.3", numbers_are_dicts, r"the bare number 5(?s:.*)sent(?s:.*)TypeError"),
        ("05.3", getting_ids, r"carries the id(?s:.*)received +.'nobody has asked"),
        (
            "05.3",
            the_number_too,
            "one question, one reply(?s:.*)expected +\\[1\\](?s:.*)received +\\[5\\]",
        ),
        ("05.3", nothing_returned, "return a list(?s:.*)received +None"),
        ("05.3", with_exceptions, "None in the place of a question"),
        ("05.3", the_last_frame, "before the frame that says done"),
        ("05.3", data_or_nothing, "the gateway has replied to everything"),
        ("05.3", as_a_tuple, "return a list"),
        ("05.3", always_one, "no questions, no replies"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)
    kept.clear()
