"""Source code as a cell's output."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, ClassVar

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.style import Style
from pygments.token import Comment, Keyword, Literal, Operator


class _Marks(Style):
    """A few marks, in tones that can be read on white and on black."""

    styles: ClassVar = {
        Keyword: "bold #2E8B57",
        Operator.Word: "bold #2E8B57",
        Literal.String: "#B5622A",
        Comment: "italic #7A7A7A",
    }


class Source:
    """The source of some functions and classes; a cell shows it highlighted."""

    def __init__(self, code: str, language: str = "python") -> None:
        self.code = code
        self.language = language

    def __repr__(self) -> str:
        return self.code

    def _repr_html_(self) -> str:
        # The styles stand at each mark, since not every page has a sheet for them.
        fixed = "font-family: monospace; line-height: 1.3"
        look = HtmlFormatter(noclasses=True, style=_Marks, nobackground=True, prestyles=fixed)
        return highlight(self.code, get_lexer_by_name(self.language), look)


def show(*definitions: Any) -> Source:
    """The source of functions, methods and classes, one below the other, as in their files."""
    sources = [textwrap.dedent(inspect.getsource(each)).rstrip() for each in definitions]
    return Source("\n\n".join(sources))
