"""Conversations as text and as HTML: what was sent, what each server said, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from workbench.parity.conversation import EQUAL, sent, short

if TYPE_CHECKING:
    from workbench.parity.compared import Compared, Found


def differences(found: Found) -> Report:
    """The rows that are not equal, by their verdict."""
    rows = [row for row in found.rows if any(v != EQUAL for v in row.verdicts.values())]
    return Report(rows, found.recorded)


FEW = 5


class Report:
    """Rows by their verdict, and what was said, if they are not more than FEW.

    As HTML, more are folded: a verdict opens to its rows, and a row to what was said.
    """

    def __init__(self, rows: Sequence[Compared], recorded: bool) -> None:
        self._recorded = recorded
        self.groups: dict[str, list[Compared]] = {}
        for row in sorted(rows, key=_weight):
            self.groups.setdefault(_group(row), []).append(row)
        self._is_short = len(rows) <= FEW

    def _said(self, row: Compared) -> list[tuple[str, list[str]]]:
        """What was sent, and what was said, each by those who said it."""
        by_words: dict[tuple[str, ...], list[str]] = {}
        for server, said in row.said.items():
            named = "Nest (recorded)" if server == "Nest" and self._recorded else server
            by_words.setdefault(tuple(said), []).append(named)
        heard = [(" and ".join(who), [*map(short, said)]) for said, who in by_words.items()]
        return [("sent", sent(row.conversation) or ["the usual request"]), *heard]

    def __repr__(self) -> str:
        lines = []
        for group, rows in self.groups.items():
            lines.append(f"{group}: {len(rows)}")
            for row in rows:
                lines += [f"  {row.conversation.family}: {row.conversation.name}", *_reasons(row)]
                for who, said in self._said(row) if self._is_short else ():
                    lines += [f"    {who}:", *(f"      {line}" for line in said)]
        return "\n".join(lines) or "no difference"

    def _repr_html_(self) -> str:
        parts = []
        for group, rows in self.groups.items():
            parts.append(
                f"<details{' open' * self._is_short} style='text-align:left'>"
                f"<summary><b>{escape(group)}</b>: {len(rows)}</summary>"
                f"{''.join(map(self._row, rows))}</details>"
            )
        return "".join(parts) or "<p>no difference</p>"

    def _row(self, row: Compared) -> str:
        said = "".join(
            f"{escape(who)}<pre style='margin:0 0 .4em 1.5em;white-space:pre-wrap'>"
            f"{escape(chr(10).join(lines))}</pre>"
            for who, lines in self._said(row)
        )
        why = "".join(f"<br>{escape(line.strip())}" for line in _reasons(row))
        name = f"{escape(row.conversation.family)}: <b>{escape(row.conversation.name)}</b>"
        return (
            f"<details{' open' * self._is_short} style='margin-left:1em'>"
            f"<summary>{name}{why}</summary>"
            f"<div style='margin:.4em 0 .8em 1.5em'>{said}</div></details>"
        )


_KINDS = ["unlisted", "stale", "improvement", "library", "Python", "unknown", "equal"]


def _weight(row: Compared) -> list[int]:
    return [_KINDS.index(verdict.kind) for verdict in row.verdicts.values()]


def _group(row: Compared) -> str:
    kinds = {verdict.kind for verdict in row.verdicts.values()}
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(f"{verdict.kind} {server}" for server, verdict in row.verdicts.items())


def _reasons(row: Compared) -> list[str]:
    """Why each server of ours differs, once where the reason is the same."""
    reasons: dict[str, list[str]] = {}
    for server, verdict in row.verdicts.items():
        reasons.setdefault(verdict.reason, []).append(server)
    alone = len(reasons) == 1
    named = ((why, "" if alone else f"{', '.join(who)}: ") for why, who in reasons.items() if why)
    return [f"    {who}{why}" for why, who in named]
