"""The article, checked: its 42 claims, and what the chapters' boxes say of them.

Each chapter has a box *Was the article right?* A row of it names the claims that it judges in
a comment at the end of its first cell, such as `<!-- 7 9 -->`, which readers do not see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1]

TITLE = "**Was the article right?**\n"

# In the order of the article, in few words; what is quoted stands in quotation marks.
CLAIMS = dict(
    enumerate(
        [
            "both directions at once over a single TCP connection",
            "standardised in 2011",
            'the browsers\' API "is being standardized by the W3C"',
            "made for browsers and servers, of use to any program",
            "makes live pages and games possible; the way to push",
            "two-way, over a connection that is kept open",
            "open until the client or the server closes it",
            "an HTTP connection is closed after each request",
            "begins with an HTTP request that has an Upgrade header",
            "the server agrees with an Upgrade header",
            "then both sides may send",
            "data are messages with a type and a payload",
            "there are four types of message",
            "Text is UTF-8",
            "Binary is raw bytes",
            "Close: the connection is closed",
            "Ping: the client asks, the server answers",
            "in HTTP, a client must wait for the response",
            "in HTTP, a server cannot send without a request",
            "polling works around that, and is inefficient",
            "polling is late since a client waits for each response",
            "polling is not real-time",
            "a WebSocket sends both ways without waiting",
            'Nest is a Node framework that "uses TypeScript"',
            "@nestjs/websockets provides WebSocket",
            "that package is the one to install",
            'main.ts creates a server "like this"',
            "the adapter is passed to useWebSocketAdapter",
            '"use the WebSocket protocol instead of HTTP"',
            '"create a controller"',
            "Controller is imported from @nestjs/websockets",
            "@OnGatewayConnection() and @OnGatewayDisconnect() are decorators",
            "Observable, of and map are imported from rxjs",
            "of([1, 2, 3]).pipe(map(…)) answers events",
            "methods are subscribed to a topic",
            "identity sends the data back",
            "two methods are called on connect and on disconnect",
            "there are many clients; npm install ws",
            "the client's code",
            "its message has \"a type of 'events'\" and a payload of 'hello world'",
            'the client prints "the data that was received"',
            "with this, real-time applications can be built",
        ],
        start=1,
    )
)


@dataclass(frozen=True)
class Judgement:
    """A row of a box.

    chapter: the file of its notebook
    claims:  the numbers of the claims that it judges
    says:    what the article says, in Markdown
    verdict: what is to be said of it, in Markdown
    heading: where in the chapter that is shown
    """

    chapter: str
    claims: tuple[int, ...]
    says: str
    verdict: str
    heading: str

    @property
    def link(self) -> str:
        """A link to the heading, relative to the notebooks."""
        return f"{self.chapter}#{self.heading.replace(' ', '-')}"


def chapters(folder: Path = NOTEBOOKS) -> list[Path]:
    """The chapters' notebooks, in order."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    return [path for path in found if not path.stem.endswith("_solutions")]


def judgements(path: Path) -> list[Judgement]:
    """The rows of a chapter's box; none if it has no box.

    Raises ValueError for a chapter with two boxes, and for a row that is not like the others.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    boxes = [text.partition(TITLE)[2].strip() for text in texts if TITLE in text]
    if len(boxes) > 1:
        raise ValueError(f"{path.name} has {len(boxes)} boxes")
    return [_judgement(path.name, line) for box in boxes for line in _lines(path.name, box)]


def _lines(name: str, box: str) -> list[str]:
    head, _, *lines = box.splitlines()
    if head != "| it says | verdict | where |":
        raise ValueError(f"the box of {name} begins with {head!r}")
    return lines


def _judgement(chapter: str, line: str) -> Judgement:
    row = r"\|(.+)<!-- (\d+(?: \d+)*) --> \|(.+)\| \*(.+)\* \|"
    if (found := re.fullmatch(row, line.strip())) is None:
        raise ValueError(f"no row of a box, in {chapter}: {line}")
    says, numbers, verdict, heading = found.groups()
    claims = tuple(int(number) for number in numbers.split())
    return Judgement(chapter, claims, says.strip(), verdict.strip(), heading)


class Table(dict[int, list[Judgement]]):
    """The judgements of each claim, by its number. A cell shows it as a table with links."""

    @property
    def open(self) -> set[int]:
        """The claims that no chapter has judged."""
        return {claim for claim, found in self.items() if not found}

    def __repr__(self) -> str:
        lines = []
        for claim, found in self.items():
            lines.append(f"{claim:2}  {CLAIMS[claim]}")
            lines += [
                f"      {_plain(one.verdict)}  [{one.chapter[:2]}, {one.heading}]" for one in found
            ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "<th></th><th>the article says</th><th>verdict</th><th>shown in</th>"
        rows = "".join(_rows(claim, found) for claim, found in self.items())
        table = f"<table><tr>{head}</tr>{rows}</table>"
        return re.sub("<t([hd])", r'<t\1 style="text-align:left; vertical-align:top"', table)


def checked(folder: Path = NOTEBOOKS) -> Table:
    """What the chapters of a folder say of all claims."""
    found = [one for path in chapters(folder) for one in judgements(path)]
    return Table({claim: [one for one in found if claim in one.claims] for claim in CLAIMS})


def _rows(claim: int, found: list[Judgement]) -> str:
    """A row for each judgement; the claim is named beside the first."""
    span = f' rowspan="{len(found)}"' if len(found) > 1 else ""
    named = f"<td{span}>{claim}</td><td{span}>{escape(CLAIMS[claim])}</td>"
    cells = list(_cells(found)) or ["<td>not judged yet</td><td></td>"]
    return f"<tr>{named}" + "</tr><tr>".join(cells) + "</tr>"


def _cells(found: list[Judgement]) -> Iterator[str]:
    for one in found:
        link = f'<a href="{escape(one.link)}">{one.chapter[:2]}, {escape(one.heading)}</a>'
        yield f"<td>{_marked(one.verdict)}</td><td>{link}</td>"


def _plain(text: str) -> str:
    """Markdown without its marks, as far as boxes use them."""
    return re.sub(r"`([^`]+)`|\*([^*]+)\*", lambda at: at[1] or at[2], text)


def _marked(text: str) -> str:
    """The same as HTML."""
    code = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", code)
