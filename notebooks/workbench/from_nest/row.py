"""A row of the page: a thing of Nest's, and what stands for it in Python."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from workbench import sources
from workbench.from_nest.talk import Talk


@dataclass(frozen=True)
class Row:
    """One thing.

    name:       what Nest calls it
    nest:       what it is there
    typescript: how it is written there
    here:       what stands for it
    python:     the functions and classes that do, of which the page shows the source
    proof:      uses them, and has the talk say what came; raises an error if it is not right
    """

    name: str
    nest: str
    typescript: str
    here: str
    python: tuple[Any, ...]
    proof: Callable[[Talk], Awaitable[None]]

    @property
    def code(self) -> sources.Source:
        """The source of what the proof executes, as it stands in its file."""
        return sources.show(*self.python)
