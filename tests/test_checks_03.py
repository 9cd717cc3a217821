"""The checks of chapter 03: wrong answers, and the hint that each must get."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import ceil, floor

import pytest
from conftest import assert_hint


def with_the_request(interval, delay):
    return interval / 2 + 2 * delay, interval + 2 * delay


def whole_interval(interval, delay):
    return interval + delay, interval + delay


def worst_only(interval, delay):
    return interval + delay


async def waits(interval, delay):
    return interval / 2 + delay, interval + delay


def schedule(first=True, delayed=True, ordered=False, rounding=ceil):
    """The latencies of events, with one thing wrong."""

    def latencies(events, interval, phase, delay):
        found = []
        for event in sorted(events) if ordered else events:
            polls = rounding((event - phase) / interval)
            if first:
                polls = max(0, polls)
            found.append(phase + polls * interval + (delay if delayed else 0) - event)
        return found

    return latencies


def only_ten(events, interval, phase, delay):
    polls = [phase + n * interval for n in range(10)]
    return [min(p for p in polls if p >= e) + delay - e for e in events]


def follower(again=True, forgets=False, counts=False, deaf=False):
    """A long-polling client, with one thing wrong."""

    async def follow(fetch, deliver):
        nonlocal deaf
        since = 0
        while True:
            try:
                numbers = await fetch(since)
            except (TimeoutError, ConnectionError):
                if not again:
                    return
                since = 0 if forgets else since
                continue
            except asyncio.CancelledError:
                if deaf:
                    deaf = False
                    continue
                raise
            for number in numbers:
                deliver(number)
            since = since + 1 if counts else numbers[-1]

    return follow


async def unguarded(fetch, deliver):
    since = 0
    while True:
        for number in await fetch(since):
            deliver(number)
            since = number


async def hurried(fetch, deliver):
    since = 0
    while True:
        asking = asyncio.ensure_future(fetch(since))
        await asyncio.wait([asking], timeout=0.02)
        if asking.done() and not asking.exception():
            for since in asking.result():
                deliver(since)


def handing_over(hand_over):
    """A long-polling client that is right, but for how it hands an answer over."""

    async def follow(fetch, deliver):
        since = 0
        while True:
            with suppress(TimeoutError, ConnectionError):
                numbers = await fetch(since)
                result = hand_over(numbers, deliver)
                if result is not None:
                    await result
                since = numbers[-1]

    return follow


async def wait_for(numbers, deliver):
    for number in numbers:
        await deliver(number)


skipping = handing_over(lambda numbers, deliver: deliver(numbers[-1]))
lists = handing_over(lambda numbers, deliver: deliver(numbers))
awaiting = handing_over(wait_for)
backwards = handing_over(lambda numbers, deliver: [deliver(n) for n in numbers[::-1]] and None)
mistaken = handing_over(lambda numbers, deliver: nothing)  # noqa: F821


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("03.1", with_the_request, "the request was on its way before the event"),
        ("03.1", whole_interval, "half an interval on average"),
        ("03.1", worst_only, "half an interval on average"),
        ("03.1", waits, "def without async"),
        ("03.2", schedule(first=False, rounding=floor), "an interval later|at the phase"),
        ("03.2", schedule(delayed=False), "travels for one delay"),
        ("03.2", schedule(ordered=True), "in the order of the events"),
        ("03.2", only_ten, "ValueError"),
        ("03.3", follower(again=False), "it returned.*\n.*raised ConnectionError"),
        ("03.3", follower(forgets=True), r"came twice.*\n.*fetch\(0\) gave \[1\]; fetch\(1\)"),
        ("03.3", follower(counts=True), "came twice"),
        ("03.3", follower(deaf=True), "a client that is cancelled ends.*\n.*was cancelled"),
        ("03.3", unguarded, "it asks again.*\n.*raised ConnectionError(.*\n)*.*ConnectionError"),
        ("03.3", hurried, "questions at once|an event came twice"),
        ("03.3", skipping, "an event was lost(.*\n)*.*expected *\\[1, 2, 3"),
        ("03.3", lists, r"call it for each(.*\n)*.*received *\[\[1\]"),
        ("03.3", awaiting, "deliver is a plain function(.*\n)*.*TypeError"),
        ("03.3", backwards, "each number once and in order(.*\n)*.*received"),
        ("03.3", mistaken, "your code raised an error(.*\n)*.*NameError"),
        ("03.3", schedule(), "made with async def"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)
