"""The storm after a cut: what the server saw, and how that is drawn."""

from __future__ import annotations

from random import Random

import pytest
from matplotlib.colors import to_hex
from workbench import storm
from workbench.drawings import DATA, TROUBLE
from workbench.storm import CAPACITY, WITHIN, Storm, backoff, full_jitter, histograms, in_step


@pytest.mark.parametrize("wait", [in_step, backoff, full_jitter])
async def test_everybody_knocks_and_the_server_takes_no_more_than_it_can(wait, nothing_left):
    seen = await storm.storm(wait, clients=60, seconds=1.2)
    assert seen.clients == 60 and seen.watched == 1.2
    assert len(seen.taken) + len(seen.refused) >= 60
    assert seen.refused and len(seen.taken) <= 60
    for first in range(len(seen.taken) - CAPACITY):
        assert seen.taken[first + CAPACITY] - seen.taken[first] >= WITHIN


async def test_it_is_over_when_all_are_back(nothing_left):
    seen = await storm.storm(full_jitter, clients=CAPACITY, seconds=30)
    assert len(seen.taken) == CAPACITY and seen.refused == []
    assert max(seen.taken) < 30


@pytest.mark.measures
async def test_dice_keep_the_crowd_apart_and_bring_more_of_it_back():
    steps, doubled, diced = [await storm.storm(w) for w in (in_step, backoff, full_jitter)]
    assert diced.crowd < min(steps.crowd, doubled.crowd)
    assert len(diced.taken) > max(len(steps.taken), len(doubled.taken))


def test_the_waits():
    dice = Random(1).random
    assert [in_step(n, dice) for n in range(3)] == [0.25, 0.25, 0.25]
    assert [backoff(n, dice) for n in range(3)] == [0.25, 0.5, 1.0]
    waits = [full_jitter(2, dice) for _ in range(1000)]
    assert 0 <= min(waits) < 0.05 and 0.95 < max(waits) <= 1.0


def test_a_crowd_is_the_most_within_a_bin():
    assert Storm(9, 1.0, [0.0, 0.02, 0.5], [0.04, 0.06, 0.51]).crowd == 3
    assert Storm(9, 1.0, [], []).crowd == 0


def test_the_words_say_who_is_in():
    assert repr(Storm(3, 2.5, [0.1, 0.2], [0.1])) == (
        "3 attempts, up to 2 at a time; 2 of 3 are in after 2.5 s"
    )
    assert repr(Storm(2, 2.5, [0.1, 0.26], [])) == (
        "2 attempts, up to 1 at a time; all 2 are in after 0.3 s"
    )


def test_each_storm_is_a_histogram_of_what_was_taken_and_what_was_refused(monkeypatch):
    figures = []
    monkeypatch.setattr(storm, "Picture", lambda figure, alt: figures.append((figure, alt)))
    one, two = Storm(3, 0.2, [0.01], [0.02, 0.12]), Storm(3, 0.2, [0.01, 0.06, 0.07], [])
    histograms({"one": one, "two": two}, "A claim")
    [(figure, alt)] = figures
    assert alt == f"A claim. Attempts to connect after a cut, one: {one}; two: {two}."
    heights = {}
    for axes, name in zip(figure.axes, ("one", "two"), strict=True):
        assert axes.texts[0].get_text().startswith(f"{name}: ")
        for bar in axes.patches:
            colour = to_hex(bar.get_facecolor()).upper()
            heights.setdefault((name, colour), []).append(bar.get_height())
    assert heights["one", DATA] == [1, 0, 0, 0] and heights["one", TROUBLE] == [1, 0, 1, 0]
    assert heights["two", DATA] == [1, 2, 0, 0] and heights["two", TROUBLE] == [0, 0, 0, 0]
    assert figure.axes[0].get_title(loc="left") == "A claim"
