"""The exercises' checks: `await check("00.1", my_answer)`.

A check talks to the answer through a real socket wherever one is involved. It never
raises and never hangs: it gives a Verdict that says what was sent, expected and
received, with a hint that fits the mistake.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import signal
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from workbench import kernel

SECONDS = 10.0
BLOCKED_AFTER = 2.0


class Wrong(Exception):
    """The answer does something else than the exercise asks; the text says what."""

    @classmethod
    def comparing(cls, hint: str, sent: object, expected: object, received: object) -> Wrong:
        rows = {"sent": sent, "expected": expected, "received": received}
        return cls("\n    ".join([hint, *(f"{name:10}{value!r}" for name, value in rows.items())]))


class Words(str):
    """What happened, where there is no value to show: a verdict has it without quotes."""

    __repr__ = str.__str__


class Blocked(Exception):
    """The answer kept the event loop from running for `BLOCKED_AFTER` seconds."""


@dataclass(frozen=True)
class Verdict:
    """What a check found. `passed` is None as long as there is no attempt."""

    exercise: str
    passed: bool | None
    text: str

    def __repr__(self) -> str:
        return f"{self.exercise} {self.text}"


async def check(exercise: str, answer: Any) -> Verdict:
    """Try `answer` out against an exercise, such as "00.1"."""
    probe = _find(exercise)
    if probe is None:
        return Verdict(str(exercise), None, "is no exercise: take the number from the text")
    never_awaited: list[str] = []
    try:
        with _watchdog(), _noting(never_awaited):
            async with asyncio.timeout(SECONDS):
                await probe(answer)
    except NotImplementedError as error:
        where = f", in {_function_of(error)}" if inspect.isclass(answer) else ""
        text = f"not attempted yet: raise NotImplementedError is still there{where}"
        return Verdict(exercise, None, text)
    except Wrong as found:
        text = "\n    ".join([f"not yet: {found}", *dict.fromkeys(never_awaited)])
        return Verdict(exercise, False, text)
    except Blocked:
        hint = f"your code stopped the whole kernel for {BLOCKED_AFTER:g} s: wait with await"
        return Verdict(exercise, False, f"not yet: {hint}")
    except TimeoutError:
        return Verdict(exercise, False, f"not yet: it was not done after {SECONDS:g} s")
    except Exception as error:
        raised = f"your code raised {type(error).__name__}: {error}"
        return Verdict(exercise, False, f"not yet: {raised}")
    # A probe's docstring is what it tries.
    _, _, tried = inspect.getdoc(probe).partition(": ")
    return Verdict(exercise, True, f"right: {tried}")


@asynccontextmanager
async def serving(handler: kernel.Handler) -> AsyncIterator[kernel.Server]:
    """The handler behind a real socket; if it raised, that is what the block raises."""
    require_coroutine_function(handler)
    server = await kernel.start("the check", handler)
    try:
        yield server
    except Exception as error:
        raise (server.errors or [error])[0] from None
    finally:
        await kernel.stop("the check", grace=0.1)


def require_coroutine_function(answer: object) -> None:
    """Raise Wrong, with what is wrong, if the answer is no `async def` function."""
    if inspect.isasyncgenfunction(answer):
        raise Wrong("yield makes the function a generator: await connection.send(...) sends")
    if not inspect.iscoroutinefunction(answer):
        raise Wrong("the answer is the function itself, made with async def")


def require_plain_function(answer: object) -> None:
    """Raise Wrong if the answer is not a `def` function that returns its result."""
    waits = inspect.iscoroutinefunction(answer)
    if waits or inspect.isgeneratorfunction(answer) or inspect.isasyncgenfunction(answer):
        raise Wrong("nothing waits here: def without async, and return without yield")
    if not callable(answer):
        raise Wrong("the answer is the function itself, without calling it")


def _find(exercise: str) -> Callable[[Any], Awaitable[None]] | None:
    try:
        chapter, number = exercise.split(".")
        return importlib.import_module(f"{__name__}.chapter_{chapter}").PROBES[number]
    except (AttributeError, ImportError, KeyError, ValueError):
        return None


def _function_of(error: BaseException) -> str:
    """The name of the function that has raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_name


@contextmanager
def _noting(never_awaited: list[str]) -> Iterator[None]:
    """Keep what Python says of coroutines that nobody awaits, in place of showing it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        show = warnings.showwarning

        def note(message: Warning | str, *rest: Any) -> None:
            if "never awaited" in str(message):
                never_awaited.append(f"await is missing: {message}")
            else:
                show(message, *rest)

        warnings.showwarning = note
        yield


@contextmanager
def _watchdog() -> Iterator[None]:
    """Raise Blocked in the middle of code that does not let the loop turn.

    Works in the main thread of systems with interval timers; elsewhere, code that
    blocks runs to its end.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (in_main_thread and hasattr(signal, "setitimer")):
        yield
        return
    every = 0.25
    standing_still = 0

    async def note_turns() -> None:
        nonlocal standing_still
        while True:
            standing_still = 0
            await asyncio.sleep(every / 5)

    def look(*_: object) -> None:
        # Counted in looks, not read from a clock: after a suspended machine wakes,
        # one look is late but the loop is free, and must not be raised into.
        nonlocal standing_still
        standing_still += 1
        if standing_still > BLOCKED_AFTER / every:
            raise Blocked

    turns = asyncio.ensure_future(note_turns())
    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        turns.cancel()
