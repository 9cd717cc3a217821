"""workbench.checks: what a verdict says, whatever the exercise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from workbench.checks import Wrong, chapter_00, check

Pose = Callable[[Callable[[object], Awaitable[None]]], None]


@pytest.fixture
def pose(monkeypatch: pytest.MonkeyPatch) -> Pose:
    """Makes a probe that of exercise 00.9."""
    return lambda probe: monkeypatch.setitem(chapter_00.PROBES, "9", probe)


async def test_a_wrong_answer_gets_a_hint_and_sees_what_was_sent_expected_and_received(pose):
    async def double(answer: Callable[[str], str]) -> None:
        """00.9: a text, and none."""
        for sent, expected in [("ab", "abab"), ("", "")]:
            if (received := answer(sent)) != expected:
                raise Wrong.comparing("twice the text", sent, expected, received)

    pose(double)
    verdict = await check("00.9", lambda text: text + "!")
    assert (verdict.exercise, verdict.passed) == ("00.9", False)
    first, *rows = verdict.text.splitlines()
    assert first == "not yet: twice the text"
    assert [row.split() for row in rows] == [
        ["sent", "'ab'"],
        ["expected", "'abab'"],
        ["received", "'ab!'"],
    ]
    assert repr(verdict) == f"00.9 {verdict.text}"
    verdict = await check("00.9", lambda text: 2 * text)
    assert verdict.passed and verdict.text == "right: a text, and none."
