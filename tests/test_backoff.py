"""The waits between tries, with dice and a clock of the test's own."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.backoff import Backoff


class World:
    """The dice show `face`, and the clock `now`."""

    def __init__(self, face: float = 1.0) -> None:
        self.face, self.now = face, 0.0

    def backoff(self, first: float = 1, most: float = 30, well: float = 10) -> Backoff:
        return Backoff(first, most, well, dice=lambda: self.face, clock=lambda: self.now)


def test_the_bound_doubles_up_to_the_most():
    backoff = World().backoff()
    assert [backoff.delay() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_dice_say_which_part_of_the_bound():
    world = World(0.25)
    backoff = world.backoff()
    assert [backoff.delay() for _ in range(3)] == [0.25, 0.5, 1]
    world.face = 0
    assert backoff.delay() == 0


@pytest.mark.parametrize("lasted, bound", [(0, 8), (9.9, 8), (10, 1), (1e6, 1)])
def test_only_a_connection_that_was_well_begins_anew(lasted, bound):
    world = World()
    backoff = world.backoff()
    for _ in range(3):
        backoff.delay()
    backoff.opened()
    world.now += lasted
    assert [backoff.delay(), backoff.delay()] == [bound, 2 * bound]


def test_the_time_without_a_connection_is_none_that_it_was_well():
    world = World()
    backoff = world.backoff()
    backoff.opened()
    world.now += 1
    backoff.delay()
    world.now += 1_000
    assert backoff.delay() == 2


def test_ten_thousand_tries_are_no_overflow():
    backoff = World().backoff()
    assert {backoff.delay() for _ in range(10_000)} == {1, 2, 4, 8, 16, 30}


@given(
    st.floats(0.01, 10), st.floats(1, 100), st.lists(st.tuples(st.booleans(), st.floats(0, 100)))
)
def test_every_wait_is_within_the_bound(first, times, story):
    world = World()
    backoff, most = world.backoff(first, first * times, 5), first * times
    delays = []
    for is_open, lasted in story:
        if is_open:
            backoff.opened()
            world.now += lasted
        delays.append(backoff.delay())
    assert all(first <= delay <= most for delay in delays)
    assert all(after in (first, min(2 * before, most)) for before, after in pairwise(delays))


def test_full_jitter_fills_the_whole_range():
    dice = random.Random(1)
    backoff = Backoff(8, 8, 1, dice=dice.random, clock=lambda: 0)
    eighths = {int(backoff.delay()) for _ in range(200)}
    assert eighths == set(range(8))


@pytest.mark.parametrize("first, most, well", [(0, 1, 1), (-1, 1, 1), (2, 1, 1), (1, 2, -1)])
def test_what_makes_no_sense(first: Any, most: Any, well: Any):
    with pytest.raises(ValueError, match="0 < first <= most"):
        World().backoff(first, most, well)
