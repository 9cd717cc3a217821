"""The checks of chapter 01: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio
import re

import pytest
from conftest import assert_hint
from nestling.handshake import (
    HandshakeError,
    accept_key,
    build_request,
    check_response,
    new_key,
    parse_response,
)

KEY = new_key()


def first_item(connection):
    return connection.split(",")[1].strip().lower() == "upgrade" or connection == "Upgrade"


def exactly(connection):
    return connection == "Upgrade"


def anywhere(connection):
    return "upgrade" in connection.lower()


def case_matters(connection):
    return "Upgrade" in [item.strip() for item in connection.split(",")]


def spaces_matter(connection):
    return "upgrade" in connection.lower().split(", ")


async def waits(connection):
    return True


def servers_first(offered, supported):
    return next((name for name in supported if name in offered), None)


def first_offered(offered, supported):
    return offered[0] if offered else None


def fails_without_match(offered, supported):
    return next(name for name in offered if name in supported)


def fails_when_nothing_is_offered(offered, supported):
    first = offered[0]
    return next((name for name in offered if name in supported), None if first else "")


def empty_text(offered, supported):
    return next((name for name in offered if name in supported), "")


async def read_head(reader):
    data = b""
    while (parsed := parse_response(data)) is None:
        if not (received := await reader.read(1000)):
            raise HandshakeError("closed")
        data += received
    return parsed[0]


async def trusting(reader, writer, path):
    writer.write(build_request("127.0.0.1", path, key=new_key()))
    return await read_head(reader)


async def only_the_status(reader, writer, path):
    writer.write(build_request("127.0.0.1", path, key=new_key()))
    response = await read_head(reader)
    if response.status != 101:
        raise HandshakeError("refused")
    return response


async def one_key_for_all(reader, writer, path):
    return await as_in_the_chapter(reader, writer, path, KEY)


async def always_the_root(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", "/", key=key))
    response = await read_head(reader)
    check_response(response, key)
    return response


async def one_read(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    parsed = parse_response(await reader.read(1000))
    if parsed is None:
        raise HandshakeError("not a whole head")
    check_response(parsed[0], key)
    return parsed[0]


async def reads_for_ever(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    data = b""
    while (parsed := parse_response(data)) is None:
        data += await reader.read(1000)
        await asyncio.sleep(0)
    check_response(parsed[0], key)
    return parsed[0]


async def returns_nothing(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    check_response(await read_head(reader), key)


async def status_and_accept(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    response = await read_head(reader)
    if response.status != 101 or response.headers.get("Sec-WebSocket-Accept") != accept_key(key):
        raise HandshakeError("not believed")
    return response


async def as_in_the_chapter(reader, writer, path, key=None):
    key = key or new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    response = await read_head(reader)
    check_response(response, key)
    return response


async def only_401(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    response = await read_head(reader)
    if response.status == 401:
        raise PermissionError
    check_response(response, key)
    return response


async def until_the_end_of_the_head(reader, writer, path):
    key = new_key()
    writer.write(build_request("127.0.0.1", path, key=key))
    response, _ = parse_response(await reader.readuntil(b"\r\n\r\n"))
    check_response(response, key)
    return response


def alphabetical(offered, supported):
    return min(set(offered) & set(supported), default=None)


def parts_at_spaces(connection):
    return "upgrade" in connection.lower().replace(",", " ").split()


def gives_a_match(connection):
    return re.search("upgrade", connection.lower())


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("01.1", parts_at_spaces, "items are parted by commas"),
        ("01.1", gives_a_match, "return True or False"),
        ("01.2", alphabetical, "not the alphabet's"),
        ("01.2", waits, "def without async"),
        ("01.1", first_item, r"plainest case\n +sent +'Upgrade'(.|\n)*received +IndexError"),
        ("01.3", status_and_accept, "does not upgrade, and your function believed it"),
        (
            "01.3",
            until_the_end_of_the_head,
            r"raise HandshakeError\n +sent +the end of the stream(.|\n)*IncompleteReadError",
        ),
        ("01.3", as_in_the_chapter, r"look at the status before(.|\n)*sent +401 Unauthorized"),
        ("01.3", only_401, r"look at the status before(.|\n)*sent +403 Forbidden"),
        ("01.1", exactly, "the value is a list"),
        ("01.1", anywhere, "an item is compared as a whole"),
        ("01.1", case_matters, "case means nothing"),
        ("01.1", spaces_matter, "there need not be a space"),
        ("01.1", waits, "def without async"),
        ("01.2", servers_first, "the order is the client's"),
        ("01.2", first_offered, "the server does not support the first"),
        (
            "01.2",
            fails_without_match,
            r"none is supported: give None\n +sent +choose\(\['a'\], \['b'\]\)"
            r"\n +expected +None\n +received +StopIteration",
        ),
        (
            "01.2",
            fails_when_nothing_is_offered,
            r"nothing was offered: give None\n +sent +choose\(\[\], \['b'\]\)(.|\n)*IndexError",
        ),
        ("01.2", empty_text, "give None"),
        ("01.3", trusting, "101 without Sec-WebSocket-Accept, and your function believed it"),
        (
            "01.3",
            only_the_status,
            "101 without Sec-WebSocket-Accept, and your function believed it",
        ),
        ("01.3", one_key_for_all, "the same key was sent twice"),
        ("01.3", always_the_root, "another path was asked for"),
        ("01.3", one_read, "an answer came byte by byte"),
        ("01.3", reads_for_ever, "read gives b'' when the server has closed"),
        ("01.3", returns_nothing, "return the response"),
        ("01.3", exactly, "made with async def"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)
