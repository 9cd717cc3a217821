"""A class over cables that fail: every vote is counted once, and every last tally is right."""

from __future__ import annotations

from collections import Counter

import pytest
from workbench import survival
from workbench.survival import Learner, Survival, lanes, survive


@pytest.mark.parametrize("seed", range(3))
async def test_every_vote_is_counted_once_and_every_last_tally_is_right(seed, nothing_left):
    outcome = await survive(learners=30, seconds=3, seed=seed)
    assert outcome.votes == outcome.cast and sum(outcome.cast) == 30
    assert outcome.right == 30
    assert outcome.reconnects >= 30
    assert set(outcome.failures) == {"cut", "black hole", "one way"}
    assert all(learner.counted is not None for learner in outcome.learners)


async def test_without_keys_and_sessions_votes_are_doubled(nothing_left):
    doubled = 0
    for seed in range(5):
        outcome = await survive(learners=30, seconds=3, seed=seed, keyed=False)
        assert all(got >= cast for got, cast in zip(outcome.votes, outcome.cast, strict=True))
        doubled += sum(outcome.votes) - sum(outcome.cast)
        if doubled:
            return
    pytest.fail("no vote was doubled in 150 lives")


def learner(choice=0, **changes):
    fine = {"open": [(0.0, 1.0), (1.5, 4.0)], "tried": [0.9, 1.6], "counted": 1.7, "tally": [1, 1]}
    return Learner(choice, **fine | changes)


OUTCOME = Survival(
    4.0, [learner(), learner(1, open=[(0.0, 4.0)], tally=[1, 0])], [1, 1], Counter(cut=2)
)


def test_the_words():
    assert repr(OUTCOME).splitlines() == [
        "failures:   cut 2",
        "reconnects: 1",
        "votes:      2 cast in 4 tries, [1, 1]",
        "counted:    2, [1, 1]",
        "right:      the last tally of 1 of 2",
    ]


def test_a_lane_is_dark_while_connected_and_has_the_marks_of_the_vote(monkeypatch):
    figures = []
    monkeypatch.setattr(survival, "Picture", lambda figure, alt: figures.append((figure, alt)))
    lanes(OUTCOME, "A claim")
    [(figure, alt)] = figures
    assert alt.startswith("A claim. A lane for each learner.") and "cut 2" in alt
    [axes] = figure.axes
    spans = [[(box.x0, box.x1) for box in boxes(lane)] for lane in axes.collections]
    assert spans == [[(0.0, 1.0), (1.5, 4.0)], [(0.0, 4.0)]]
    marks = [(line.get_marker(), [*line.get_xdata()], {*line.get_ydata()}) for line in axes.lines]
    assert ("x", [0.9, 1.6], {0}) in marks and ("o", [1.7], {1}) in marks
    assert axes.yaxis_inverted()


def boxes(lane):
    return [path.get_extents() for path in lane.get_paths()]
