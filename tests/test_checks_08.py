"""The checks of chapter 08: stubs, right answers, and wrong ones with the hint for each."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from secrets import token_urlsafe
from typing import ClassVar

import pytest
from conftest import assert_hint
from nestling.client import GatewayClient
from nestling.gateway import WsException
from nestling.reconnect import Reconnect
from websockets.exceptions import WebSocketException
from workbench import kernel
from workbench.checks import check

# 08.1


def wait(attempt, dice):
    return min(30, 0.5 * 2 ** min(attempt, 10)) * dice()


async def waits_itself(attempt, dice):
    return wait(attempt, dice)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda attempt, dice: min(30, 0.5 * 2 ** min(attempt, 9)), "all wait alike"),
        (lambda attempt, dice: wait(attempt, random.random), "all wait alike"),
        (lambda attempt, dice: wait(attempt + 1, dice), "attempt is 0 before the first try"),
        (lambda attempt, dice: 0.5 * 2 ** min(attempt, 9) * dice(), "never more than 30 seconds"),
        (lambda attempt, dice: min(30, 0.5 * 2**attempt) * dice(), "2 \\*\\* 5000 is no float"),
        (
            lambda attempt, dice: min(30, 0.5 * 2 ** min(attempt, 9) * dice()),
            "min\\(30, …\\) first, then the dice",
        ),
        (lambda attempt, dice: wait(attempt, lambda: 0.5 + dice() / 2), "any wait from 0"),
        (lambda attempt, dice: 0.5 * (attempt + 1) * dice(), "twice as much with each try"),
        (lambda attempt, dice: None, "return the seconds"),
        (lambda attempt, dice: dice() > 2, "return the seconds"),
        (waits_itself, "def without async"),
    ],
)
async def test_a_wrong_wait(answer, hint):
    await assert_hint("08.1", answer, hint)


async def test_a_right_wait():
    assert (await check("08.1", wait)).passed
    assert (await check("08.1", lambda n, dice: dice() * (30 if n > 5 else 2**n / 2))).passed


# 08.2


class Window:
    """A right one, of which others change a part."""

    def __init__(self, most):
        self.messages = deque(maxlen=most)
        self.count = 0

    def add(self, message):
        self.messages.append(message)
        self.count += 1
        return self.count

    def since(self, last):
        first = self.count - len(self.messages)
        if type(last) is not int or not first <= last <= self.count:
            return None
        return list(self.messages)[last - first :]


class KeepsAll(Window):
    def __init__(self, most):
        super().__init__(None)
        self.most = most

    def since(self, last):
        if type(last) is not int or not max(0, self.count - self.most) <= last <= self.count:
            return None
        return list(self.messages)[last:]


class OneTooFew(Window):
    def since(self, last):
        return None if last == self.count - len(self.messages) else super().since(last)


class WithAHole(Window):
    def since(self, last):
        first = self.count - len(self.messages)
        return super().since(max(first, last) if type(last) is int else last)


class NothingIsNone(Window):
    def since(self, last):
        return super().since(last) or None


class FromNought(Window):
    def add(self, message):
        return super().add(message) - 1


class CountsItsLength(Window):
    def add(self, message):
        super().add(message)
        return len(self.messages)


class Removes(Window):
    def since(self, last):
        found = super().since(last)
        self.messages.clear()
        return found


class Believes(Window):
    def since(self, last):
        with suppress(TypeError):
            return [] if last > self.count else super().since(last)


class TakesTrue(Window):
    def since(self, last):
        return super().since(int(last) if last is True else last)


class Fails(Window):
    def since(self, last):
        return None if last < 0 else super().since(last)


class Shared(Window):
    messages: ClassVar = deque(maxlen=3)
    count = 0

    def __init__(self, most):
        pass

    def add(self, message):
        Shared.count += 1
        self.messages.append(message)
        return Shared.count


class GivesItsOwn(Window):
    def __init__(self, most):
        self.messages, self.most, self.count = [], most, 0

    def add(self, message):
        number = super().add(message)
        del self.messages[: -self.most]
        return number

    def since(self, last):
        found = super().since(last)
        return self.messages if found == self.messages else found


class GivesADeque(Window):
    def since(self, last):
        found = super().since(last)
        return found if found is None else deque(found)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (Window(3), "the class itself"),
        (KeepsAll, "is to be forgotten"),
        (OneTooFew, "an empty list, not None"),
        (WithAHole, "B is gone"),
        (NothingIsNone, "an empty list, not None"),
        (FromNought, "1 for the first"),
        (CountsItsLength, "1 for the first"),
        (Removes, "what came after the number last"),
        (Believes, "no such number was ever given"),
        (TakesTrue, "True is no number"),
        (Fails, "no such number was ever given"),
        (Shared, "each window has its own"),
        (GivesItsOwn, "a list of its own"),
        (GivesADeque, "since gives a list"),
    ],
)
async def test_a_wrong_window(answer, hint):
    await assert_hint("08.2", answer, hint)


async def test_a_right_window():
    assert (await check("08.2", Window)).passed


# 08.3


def casts(
    again=(OSError, WebSocketException),
    key=lambda: token_urlsafe(),
    each_time=False,
    pause=0.2,
    timeout=0.5,
    keyed=True,
    leaves=True,
    tries=100,
):
    """Votes as it should be done, with one thing wrong."""

    async def cast(url, choice, question):
        vote = {"choice": choice, "key": key(), "question": question}
        for left in reversed(range(tries)):
            try:
                client = await GatewayClient(url, timeout=timeout).__aenter__()
                try:
                    vote = vote | {"key": key()} if each_time else vote
                    return await client.request("vote", vote if keyed else choice)
                finally:
                    if leaves:
                        await client.close()
            except again:
                if not left:
                    raise
                await asyncio.sleep(pause)

    return cast


async def with_reconnect(url, choice, question):
    vote = {"choice": choice, "key": token_urlsafe(), "question": question}
    again = Reconnect(first=0.1, most=0.3)
    while True:
        try:
            async with GatewayClient(url, timeout=0.5, reconnect=again) as client:
                return await client.request("vote", vote)
        except (OSError, WebSocketException):
            await asyncio.sleep(0.1)


async def without_an_answer(url, choice, question):
    vote = {"choice": choice, "key": token_urlsafe(), "question": question}
    async with GatewayClient(url) as client:
        await client.emit("vote", vote)


async def in_silence(url, choice, question):
    with suppress(WsException):
        await casts()(url, choice, question)


@pytest.mark.parametrize("answer", [casts(), with_reconnect])
async def test_a_right_vote(answer, nothing_left):
    verdict = await check("08.3", answer)
    assert verdict.passed, verdict.text
    assert kernel.status() == "nothing is running"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (casts(tries=1), "nobody has heard it"),
        (casts(again=WebSocketException), "OSError or WebSocketException|try again all the same"),
        (casts(keyed=False), "the key and the question together"),
        (casts(each_time=True), "the same with each try"),
        (casts(key=lambda: "mine"), "a key of its own"),
        (casts(key=lambda: "k" * 65), "send the vote with its key"),
        (casts(timeout=30), "Do you leave the block in time"),
        (casts(timeout=0.2), "an answer may take up to half a second"),
        (casts(key=lambda: str(random.random())[:8]), "that nobody can guess"),
        (casts(tries=16, pause=0.05), "OSError or WebSocketException"),
        (casts(again=Exception), "let WsException through"),
        (casts(pause=0, tries=10**6), "wait a moment before each try"),
        (casts(leaves=False), "leave no connection open"),
        (without_an_answer, "wait for the answer"),
        (in_silence, "let WsException through"),
        (lambda url, choice, question: None, "async def"),
    ],
)
async def test_a_wrong_vote(answer, hint):
    await assert_hint("08.3", answer, hint)


# The stubs


def stub(*arguments):
    raise NotImplementedError


async def waiting_stub(*arguments):
    raise NotImplementedError


class Stub:
    def __init__(self, most):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("exercise", "answer"), [("08.1", stub), ("08.2", Stub), ("08.3", waiting_stub)]
)
async def test_a_stub_is_not_attempted_yet(exercise, answer):
    verdict = await check(exercise, answer)
    assert verdict.passed is None and verdict.text.startswith("not attempted yet")
