"""What came of an attempt to compile a program, to run it, to ask it: results that show themselves.

Each may be a recording, and says so. Where there is none, it says what to do.
"""

from __future__ import annotations

from asyncio.subprocess import Process
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench import nest
from workbench.errors import masked

RECORDED = "(recorded, since Nest is missing here)"


def unknown() -> str:
    """What is said of a program that nobody has recorded, where it cannot run."""
    return f"nobody has recorded this program, and it cannot run here: {nest.why_not()}"


def noted(note: str, lines: list[str]) -> str:
    """The lines below a note that they are recorded, or the note that nothing is."""
    return "\n".join([note, *lines] if note == RECORDED else [note] if note else lines)


@dataclass(frozen=True)
class Diagnostic:
    """One error of the compiler: its number, where it is, from line 1 on, and what it says."""

    code: int
    file: str
    line: int
    message: str

    def __repr__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file else "the options"
        return f"TS{self.code}  {where}  {self.message}"


class Compiled(list[Diagnostic]):
    """The errors that the compiler has found, in its order.

    note: where it has not run: that this is a recording, or that there is none
    """

    note = ""

    @classmethod
    def recorded(cls, found: list[dict[str, Any]] | None) -> Compiled:
        compiled = cls(Diagnostic(**one) for one in found or [])
        compiled.note = unknown() if found is None else RECORDED
        return compiled

    @property
    def codes(self) -> list[str]:
        """Their numbers, as in TS2307."""
        return [f"TS{one.code}" for one in self]

    def __repr__(self) -> str:
        errors = [repr(one) for one in self] or ["the compiler finds no error"]
        return noted(self.note, errors)


@dataclass
class Outcome:
    """What came of a program that was started.

    port:    where it listens; None if it has ended, or is a recording
    listens: whether it has come to listen, or did when it was recorded
    ended:   whether it has ended by itself
    error:   the first telling line of what it said when it ended, "" if it said nothing
    log:     what it printed until it listened or ended, a line each
    later:   what it has printed since; grows
    note:    where it has not run: that this is a recording, or that there is none
    """

    port: int | None = None
    listens: bool = False
    ended: bool = False
    error: str = ""
    log: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    note: str = ""

    @classmethod
    def recorded(cls, found: dict[str, Any] | None) -> Outcome:
        return cls(**found, note=RECORDED) if found else cls(note=unknown())

    def plain(self) -> dict[str, Any]:
        """What can be recorded of it."""
        return {k: v for k, v in asdict(self).items() if k not in ("port", "later", "note")}

    async def follow(self, process: Process) -> None:
        """Take down what a program prints, until it listens, or ends."""
        while data := await process.stdout.readline():
            line = data.decode(errors="replace").rstrip()
            if line.startswith("\0") and not self.listens:
                self.port, self.listens = int(line[1:]), True
                return
            if not line.startswith("\0"):
                (self.later if self.listens else self.log).append(nest.logged(line))
        said = (await process.stderr.read()).decode(errors="replace")
        self.port, self.ended, self.error = None, True, masked(nest.telling(said))

    def __repr__(self) -> str:
        ends = [self.error or "it ends"] if self.ended or self.error else []
        listens = ["it listens"] if self.listens else []
        return noted(self.note, [*self.log, *listens, *ends])


@dataclass(frozen=True)
class Answer:
    """What a client got for its message.

    text:    the message that came back, None if none did
    refused: why there was no connection, such as HTTP 404
    note:    where nobody was asked: that this is a recording, or that there is none
    """

    text: str | None = None
    refused: str = ""
    note: str = ""

    @classmethod
    def recorded(cls, found: dict[str, Any] | None) -> Answer:
        return cls(**found, note=RECORDED) if found else cls(note=unknown())

    def plain(self) -> dict[str, Any]:
        """What can be recorded of it."""
        return {"text": self.text, "refused": self.refused}

    def __repr__(self) -> str:
        return noted(self.note, [self.refused or ("no answer" if self.text is None else self.text)])
