"""The boxes *Was the article right?*: which of the article's claims each chapter judges, and where.

A row of a box names the claims it judges in a comment at the end of its first cell, such as
`<!-- 7 9 -->`: readers do not see it. The numbers are those of the list of 42 claims that the
article makes, in its order.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import series
from test_chapters import headings, text_cells

CLAIMS = set(range(1, 43))

# Their witness is a real Nest application: chapter 07.
LEFT_FOR_07 = {24, 25, 27, 28, 31, 32, 33}

TITLE = "**Was the article right?**\n"


def rows(path: Path) -> list[tuple[set[int], str]]:
    """For each row of a chapter's box, the claims it judges and the heading it points to."""
    boxes = [c.source for c in text_cells(series.read(path)) if TITLE in c.source]
    [box] = boxes
    head, rule, *lines = box.partition(TITLE)[2].strip().splitlines()
    assert head == "| it says | verdict | where |" and set(rule) == {"|", "-"}
    found = []
    for line in lines:
        says, _, above = (cell.strip() for cell in line.strip("|").split("|"))
        numbers = re.search(r"<!-- (\d+(?: \d+)*) -->$", says)
        assert numbers, f"which claims? {line}"
        found.append(({int(number) for number in numbers[1].split()}, above))
    return found


each_chapter = pytest.mark.parametrize(
    "path", series.chapters(), ids=[path.stem for path in series.chapters()]
)


@each_chapter
def test_each_row_names_claims_and_points_to_a_heading_above(path):
    chapter = "\n".join(cell.source for cell in text_cells(series.read(path)))
    above = chapter.partition(TITLE)[0]
    assert rows(path), "no box"
    for claims, heading in rows(path):
        assert claims <= CLAIMS
        name = re.fullmatch(r"\*(.+)\*", heading)[1]
        elsewhere = name == "In practice" and name in headings(series.read(path), 2)
        assert f"\n## {name}\n" in above or elsewhere, heading


@each_chapter
def test_a_box_stands_before_the_exercises(path):
    chapter = "\n".join(cell.source for cell in text_cells(series.read(path)))
    what, box, exercises = (
        chapter.index(part) for part in ("\n## What you built\n", TITLE, "\n## Exercises\n")
    )
    assert what < box < exercises


def test_every_claim_is_judged_or_known_to_be_still_open():
    judged = {claim for path in series.chapters() for claims, _ in rows(path) for claim in claims}
    assert judged & LEFT_FOR_07 == set()
    assert judged | LEFT_FOR_07 == CLAIMS
