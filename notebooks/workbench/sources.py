"""Source code as a cell's output."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any


class Source:
    """The source of some functions and classes; a cell shows it highlighted."""

    def __init__(self, code: str, language: str = "python") -> None:
        self.code = code
        self.language = language

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```{self.language}\n{self.code}\n```"


def show(*definitions: Any) -> Source:
    """The source of functions, methods and classes, one below the other, as in their files."""
    sources = [textwrap.dedent(inspect.getsource(each)).rstrip() for each in definitions]
    return Source("\n\n".join(sources))
