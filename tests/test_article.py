"""The boxes *Was the article right?*: what each chapter judges and where, and all in one table."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import series
from test_chapters import anchors, text_cells
from workbench import article

# Who writes a standard is told, not shown.
WITHOUT_CODE = {3}

each_chapter = pytest.mark.parametrize(
    "path", series.chapters(), ids=[path.stem for path in series.chapters()]
)


def sections(notebook):
    """For each heading of level 2, whether there is a code cell below it, up to the next."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found |= dict.fromkeys(re.findall(r"^## (.+)$", cell.source, re.MULTILINE), False)
        elif found:
            found[[*found][-1]] = True
    return found


@each_chapter
def test_each_row_names_claims_and_points_to_a_heading_above(path):
    above = "\n".join(c.source for c in text_cells(series.read(path))).partition(article.TITLE)[0]
    assert article.judgements(path), "no box"
    for row in article.judgements(path):
        assert set(row.claims) <= set(article.CLAIMS)
        assert f"\n## {row.heading}\n" in above or row.heading == "In practice", row.heading


@each_chapter
def test_below_the_heading_that_a_row_points_to_there_is_code(path):
    executed = sections(series.read(path))
    for row in article.judgements(path):
        assert executed[row.heading] or set(row.claims) <= WITHOUT_CODE, row.heading


@each_chapter
def test_a_box_stands_before_the_exercises(path):
    chapter = "\n".join(cell.source for cell in text_cells(series.read(path)))
    what, box, exercises = (
        chapter.index(part) for part in ("\n## What you built\n", article.TITLE, "\n## Exercises\n")
    )
    assert what < box < exercises


def test_the_chapters_are_those_of_the_series():
    assert article.chapters() == series.chapters()


def test_every_claim_is_judged():
    table = article.checked()
    assert list(table) == list(range(1, 43))
    assert table.open == set()


# The table


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and its links."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.links = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_data(self, data):
        self.rows[-1][-1] += data


def test_the_table_has_a_row_for_each_judgement_and_its_links_resolve():
    table = article.checked()
    shown = Cells(table._repr_html_())
    named = [row for row in shown.rows[1:] if len(row) == 4]
    assert [(int(number), says) for number, says, *_ in named] == list(article.CLAIMS.items())
    assert len(shown.rows) - 1 == sum(len(found) or 1 for found in table.values())
    assert len(shown.links) == sum(map(len, table.values()))
    for link in shown.links:
        file, _, fragment = unquote(link).partition("#")
        assert fragment in anchors(series.NOTEBOOKS / file)


def test_the_text_says_the_same():
    text = repr(article.checked())
    judged = article.checked()[13]
    assert f"13  {article.CLAIMS[13]}\n      {judged[0].verdict}  [02, " in text
    assert len(text.splitlines()) == 42 + sum(map(len, article.checked().values()))


def box(*rows):
    """A notebook with a box of these rows."""
    lines = [article.TITLE + "", "| it says | verdict | where |", "|---|---|---|", *rows]
    cell = {"cell_type": "markdown", "source": "\n".join(lines)}
    return json.dumps({"cells": [{"cell_type": "code", "source": "1"}, cell]})


def test_a_new_chapter_s_box_is_in_the_table(tmp_path):
    row = "| `<b>` is *it* <!-- 24 25 --> | yes: `a < b`, *so* | *With Nest* |"
    (tmp_path / "07_the_original.ipynb").write_text(box(row))
    (tmp_path / "07_the_original_solutions.ipynb").write_text(box(row, row))
    (tmp_path / "08_without.ipynb").write_text(json.dumps({"cells": []}))
    table = article.checked(tmp_path)
    [found] = table[24]
    assert table[25] == [found]
    assert table.open == set(article.CLAIMS) - {24, 25}
    assert (found.says, found.heading) == ("`<b>` is *it*", "With Nest")
    assert found.link == "07_the_original.ipynb#With-Nest"
    html = table._repr_html_()
    assert "yes: <code>a &lt; b</code>, <em>so</em>" in html
    assert "not judged yet" in html
    assert "yes: a < b, so  [07, With Nest]" in repr(table)


def test_a_claim_that_two_rows_judge_is_named_once_beside_both(tmp_path):
    rows = [f"| it <!-- 7 --> | {verdict} | *Here* |" for verdict in ("yes", "no")]
    (tmp_path / "07_x.ipynb").write_text(box(*rows))
    html = article.checked(tmp_path)._repr_html_()
    assert html.count('rowspan="2"') == 2
    assert len(Cells(html).rows) == 1 + 42 + 1


def test_a_chapter_has_one_box_and_it_is_a_table_of_three_columns(tmp_path):
    row = "| it <!-- 7 --> | yes | *Here* |"
    (path := tmp_path / "07_x.ipynb").write_text(box(row).replace("it says", "we say"))
    with pytest.raises(ValueError, match="begins with"):
        article.judgements(path)
    cells = 2 * json.loads(box(row))["cells"]
    path.write_text(json.dumps({"cells": cells}))
    with pytest.raises(ValueError, match="2 boxes"):
        article.judgements(path)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["| a | b | *c* |"], "no row of a box"),
        (["| a <!-- 1 --> | b | c |"], "no row of a box"),
        (["| a <!-- x --> | b | *c* |"], "no row of a box"),
    ],
)
def test_a_row_that_is_not_like_the_others_is_an_error(tmp_path, rows, what):
    (path := tmp_path / "07_x.ipynb").write_text(box(*rows))
    with pytest.raises(ValueError, match=what):
        article.judgements(path)
