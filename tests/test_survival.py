"""workbench.survival: a class poll over cables that fail at random."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from workbench import survival
from workbench.drawings import DATA, TROUBLE
from workbench.survival import FAILURES, Failure, Learner, Survival, Vote, survive

alone = pytest.mark.usefixtures("nothing_left")

# For a minute of the first test, by hand: survive(seconds=60, questions=20).


@alone
async def test_every_vote_is_counted_once_and_every_last_tally_is_right():
    outcome = await survive(learners=30, seconds=2, questions=2, seed=1)
    assert (outcome.cast, outcome.counted) == (60, 60)
    assert (outcome.doubled, outcome.lost, outcome.right) == (0, 0, 30)
    assert outcome.tally["votes"] == [1] * 30
    assert {failure.kind for failure in outcome.failures} == set(FAILURES)
    assert outcome.reconnects == outcome.resumed > 20
    assert {(vote.learner, vote.question) for vote in outcome.votes} == {
        (learner, question) for learner in range(30) for question in range(2)
    }
    assert all(vote.tried <= vote.counted[0] for vote in outcome.votes)
    for learner in outcome.learners:
        times = [time for span in learner.open for time in span]
        assert times == sorted(times)
    for number in range(30):
        mine = [failure for failure in outcome.failures if failure.learner == number]
        assert all(one.end < next.begin for one, next in pairwise(mine))


@alone
async def test_either_sessions_or_keys_are_enough():
    """Sessions, as long as none is lost; keys, always."""
    for_short = {"lifetime": 0.02}
    options = [{"keyed": False}, {"resume": False}, for_short]
    runs = (survive(learners=15, seconds=1.5, questions=2, **each) for each in options)
    sessions, keys, lost_sessions = await asyncio.gather(*runs)
    for outcome in (sessions, keys, lost_sessions):
        assert (outcome.counted, outcome.doubled, outcome.lost, outcome.right) == (30, 0, 0, 15)
    assert sessions.resumed == sessions.reconnects > keys.resumed == 0
    assert lost_sessions.resumed < lost_sessions.reconnects


@alone
async def test_with_neither_votes_are_doubled_or_else_lost():
    neither = {"seconds": 2.5, "questions": 5, "keyed": False, "resume": False}
    at_least_once, at_most_once = await asyncio.gather(
        survive(**neither), survive(**neither, again=False)
    )
    assert at_least_once.doubled > 0 == at_least_once.lost
    assert at_most_once.lost > 0 == at_most_once.doubled
    assert at_least_once.counted > at_least_once.cast == 150 > at_most_once.counted
    assert at_least_once.right == at_most_once.right == 30, "a wrong tally, but the same for all"


@alone
async def test_a_seed_fails_in_the_same_order_each_time():
    runs = (survive(learners=4, seconds=1.5, seed=seed) for seed in (7, 7, 8))
    outcomes = await asyncio.gather(*runs)
    one, same, other = ([_kinds(outcome, n) for n in range(4)] for outcome in outcomes)
    for mine, theirs in zip(one, same, strict=True):
        shorter = min(len(mine), len(theirs))
        assert mine[:shorter] == theirs[:shorter] and shorter > 0
    assert one != other and len(set(map(tuple, one))) > 1


@alone
async def test_where_nothing_fails_nothing_happens():
    outcome = await survive(learners=5, seconds=0)
    assert outcome.failures == [] and outcome.reconnects == 0
    assert outcome.counted == outcome.right == 5
    assert [len(learner.open) for learner in outcome.learners] == [1] * 5


def _kinds(outcome: Survival, learner: int) -> list[str]:
    return [failure.kind for failure in outcome.failures if failure.learner == learner]


# What is said of it

TALLY = {"question": "?", "choices": ["a", "b", "c"], "votes": [2, 0, 1]}
OUTCOME = Survival(
    votes=[Vote(0, 0, 0.1, [0.3, 0.9]), Vote(1, 0, 0.2), Vote(2, 0, 0.5, [0.6])],
    learners=[
        Learner([(0.0, 0.2), (0.5, 0.7), (0.8, 1.0)], gaps=1, tally=TALLY),
        Learner([(0.0, 1.0)], tally=TALLY | {"votes": [1, 0, 1]}),
        Learner([(0.0, 1.0)]),
    ],
    failures=[Failure(0, "cut", 0.2, 0.2), Failure(0, "slow", 0.6, 0.8)],
    tally=TALLY,
)


def test_a_table_without_times():
    assert repr(OUTCOME) == (
        "failures:   2 (cut 1, black hole 0, one way 0, hang-up 0, slow 1)\n"
        "reconnects: 2, 1 of them with their session\n"
        "votes:      3 cast, 3 counted\n"
        "doubled:    1\n"
        "lost:       1\n"
        "right:      the last tally of 1 of 3"
    )


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> Axes:
    monkeypatch.setattr(survival, "Picture", lambda figure, alt: figure.axes[0])
    return survival.lanes(OUTCOME, "Lanes")


def test_a_lane_is_grey_where_there_was_a_connection(axes):
    lanes = [
        [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in lane.get_paths()]
        for lane in axes.collections
    ]
    for spans, learner in zip(lanes, OUTCOME.learners, strict=True):
        assert np.array(spans) == pytest.approx(np.array(learner.open))
    heights = [lane.get_paths()[0].vertices[:, 1].mean() for lane in axes.collections]
    assert [round(height) for height in heights] == [0, 1, 2] and axes.yaxis_inverted()


def test_a_vote_has_a_cross_where_it_was_sent_and_a_dot_for_each_time_it_counted(axes):
    marks = Counter(
        (line.get_marker(), line.get_color(), x, row)
        for line in axes.lines
        for x, row in line.get_xydata()
    )
    crosses = [("x", TROUBLE, 0.1, 0), ("x", TROUBLE, 0.2, 1), ("x", TROUBLE, 0.5, 2)]
    dots = [("o", DATA, 0.3, 0), ("o", DATA, 0.9, 0), ("o", DATA, 0.6, 2)]
    assert marks == Counter(crosses + dots)


def test_the_words_are_those_of_the_table():
    alt = survival.lanes(OUTCOME, "Lanes").alt
    assert alt.startswith("Lanes. A lane for each learner.") and alt.endswith(repr(OUTCOME))
    assert not re.search(r"\d\.\d", alt)
