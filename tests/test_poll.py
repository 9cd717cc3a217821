"""Votes with a key: once for each key, whatever connection they come on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateways import TIMEOUT, serving
from nestling.client import GatewayClient
from nestling.gateway import WsException
from nestling.poll import KEY, PollGateway

pytestmark = pytest.mark.usefixtures("nothing_left")

TEA = {"question": "Tea?", "choices": ["yes", "no"]}


@asynccontextmanager
async def polling(learners: int = 1) -> AsyncIterator[Any]:
    """A client that has opened a question, and clients of learners."""
    async with asyncio.timeout(TIMEOUT), serving(PollGateway()) as app:
        url = f"ws://127.0.0.1:{app.ports[0]}/poll"
        clients = [GatewayClient(url) for _ in range(learners + 1)]
        for client in clients:
            await client.__aenter__()
        await clients[0].request("open", TEA)
        yield clients
        for client in clients:
            await client.__aexit__()


def keyed(choice: Any, key: Any = "k", question: Any = "Tea?") -> dict[str, Any]:
    return {"choice": choice, "key": key, "question": question}


async def votes(client: GatewayClient) -> list[int]:
    return (await client.request("tally"))["votes"]


async def refused(client: GatewayClient, data: Any, why: str) -> None:
    with pytest.raises(WsException, match=why):
        await client.request("vote", data)


async def test_the_same_vote_again_counts_once_on_any_connection():
    async with polling(2) as (teacher, eva, again):
        for client in (eva, eva, again, again):
            assert await client.request("vote", keyed(1)) is None
        assert await votes(teacher) == [0, 1]


async def test_another_choice_with_the_same_key_is_no_repetition():
    async with polling(2) as (teacher, eva, again):
        await eva.request("vote", keyed(1))
        for client in (eva, again):
            await refused(client, keyed(0), "You have voted")
        assert await votes(teacher) == [0, 1]


async def test_a_connection_votes_once_with_whatever_keys():
    async with polling(2) as (teacher, eva, ben):
        await eva.request("vote", keyed(1))
        await refused(eva, keyed(1, "another"), "You have voted")
        await refused(eva, 1, "You have voted")
        await ben.request("vote", 0)
        await refused(ben, keyed(0, "a third"), "You have voted")
        assert await votes(teacher) == [1, 1]


async def test_two_keys_are_two_voters():
    async with polling(2) as (teacher, eva, ben):
        await eva.request("vote", keyed(1, "x" * KEY))
        await ben.request("vote", keyed(1, "x"))
        assert await votes(teacher) == [0, 2]


async def test_a_vote_that_is_repeated_after_its_question_is_over_counts_nowhere():
    async with polling() as (teacher, eva):
        await eva.request("vote", keyed(1))
        await teacher.request("open", TEA | {"question": "Milk?"})
        await refused(eva, keyed(1), "This question is not open")
        await eva.request("vote", keyed(1, question="Milk?"))
        assert await votes(teacher) == [0, 1]


@pytest.mark.parametrize(
    "data",
    [
        *[keyed(choice) for choice in (-1, 2, True, 1.0, "1", None, [1])],
        *[keyed(1, key) for key in ("", "x" * (KEY + 1), None, 5, ["k"])],
        {"choice": 1, "key": "k"},
        {"choice": 1, "question": "Tea?"},
        {"key": "k", "question": "Tea?"},
    ],
)
async def test_what_is_no_vote(data):
    async with polling() as (teacher, eva):
        await refused(eva, data, "There is no such choice")
        assert await votes(teacher) == [0, 0]
