"""The class poll: a question, one vote for each learner, and the tally as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway

KEY = 64


@websocket_gateway(path="/poll")
class PollGateway:
    """Three events::

    open   {"question": <string>, "choices": [<string>, ...]} opens a question
    vote   <integer>, the index of a choice, from 0; once for each connection and question
           {"choice": <integer>, "key": <string>, "question": <string>}, the question as the
           tally says it; the same vote with the same key again counts once
    tally  a stream of {"question", "choices", "votes"}: as it is, and whenever it has changed

    A key is a voter's secret, of up to KEY characters, which outlives their connections: who
    does not know whether a vote has arrived sends it again.
    """

    def __init__(self) -> None:
        self._question: dict[str, Any] = {"question": None, "choices": []}
        self._votes: list[int] = []
        self._voters: WeakSet[Client] = WeakSet()  # who leaves drops out of it
        self._chosen: dict[str, int] = {}  # by key
        self._changed = asyncio.Event()

    @subscribe_message("open")
    def open(self, client: Client, data: Any) -> None:
        if not _is_question(data):
            raise WsException("A question has a text and at least two choices")
        self._question = {"question": data["question"], "choices": data["choices"]}
        self._votes = [0] * len(data["choices"])
        self._voters.clear()
        self._chosen.clear()
        self._announce()

    @subscribe_message("vote")
    def vote(self, client: Client, data: Any) -> None:
        choice, key, question = _parse_vote(data)
        if key is not None and question != self._question["question"]:
            raise WsException("This question is not open")
        if type(choice) is not int or not 0 <= choice < len(self._votes):
            raise WsException("There is no such choice")
        if key is not None and self._chosen.get(key) == choice:
            return
        if client in self._voters or key in self._chosen:
            raise WsException("You have voted")
        self._voters.add(client)
        if key is not None:
            self._chosen[key] = choice
        self._votes[choice] += 1
        self._announce()

    @subscribe_message("tally")
    async def tally(self, client: Client, data: Any) -> AsyncIterator[Any]:
        while True:
            changed = self._changed
            yield {"event": "tally", "data": {**self._question, "votes": [*self._votes]}}
            await changed.wait()

    def _announce(self) -> None:
        """Wake every stream; the next change has an event of its own."""
        self._changed.set()
        self._changed = asyncio.Event()


def _parse_vote(data: Any) -> tuple[Any, str | None, Any]:
    """The choice, the key or None for a vote without one, and the question."""
    match data:
        case {"choice": choice, "key": str(key), "question": question} if 0 < len(key) <= KEY:
            return choice, key, question
    return data, None, None


def _is_question(data: Any) -> bool:
    match data:
        case {"question": str(), "choices": [_, _, *_] as choices}:
            return all(isinstance(choice, str) for choice in choices)
    return False
