"""A row of the parity table, and what rows are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from nestling.envelope import serialise
from nestling.frames import Decoder, Frame, Opcode

from workbench.conformance.case import ask, text


class Do(Enum):
    """What a client does besides sending.

    SETTLE: wait until all that need not wait has been answered
    HEAR:   wait until the server has said something more
    END:    wait until the server ends the TCP connection; the conversation is over then
    DROP:   end the TCP connection without a word
    """

    SETTLE = auto()
    HEAR = auto()
    END = auto()
    DROP = auto()


@dataclass(frozen=True)
class Again:
    """Another connection, beside those before. From then on, it is the one that speaks."""

    request: bytes


Step = Frame | bytes | Do | Again


class Verdict(NamedTuple):
    """How an answer of ours compares with Nest's.

    kind:   equal, improvement, library or Python
    reason: for an improvement, why a user is better off
    """

    kind: str
    reason: str = ""


EQUAL = Verdict("equal")


def improvement(reason: str) -> Verdict:
    """Ours differs on purpose, and serves a user better."""
    return Verdict("improvement", reason)


def library(reason: str) -> Verdict:
    """The library `websockets` differs, and not what it carries."""
    return Verdict("library", reason)


def python(reason: str) -> Verdict:
    """Python cannot have it, or does not need it."""
    return Verdict("Python", reason)


@dataclass(frozen=True)
class Conversation:
    """A row.

    name:       what is special, in a few words; no two rows have the same
    steps:      what the client sends and does once the connection is open; unless the last
                is END, it waits in the end as SETTLE does
    request:    what it sends first
    ours:       the verdict on our gateway
    websockets: the same where `websockets` carries it, if that is another one
    port:       0 is the application's; 1 a gateway's own, 2 that of two gateways with a
                path, 3 that of an application that ends
    whole:      whether the answer's fields and its body count, too
    family:     the part of the table
    """

    name: str
    steps: tuple[Step, ...] = ()
    request: bytes = ask()
    ours: Verdict = EQUAL
    websockets: Verdict | None = None
    port: int = 0
    whole: bool = False
    family: str = "of the reader"

    @property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """What is expected on `websockets`, and on our own server."""
        return self.websockets or self.ours, self.ours


# Steps


def say(event: Any, *data: Any, **more: Any) -> tuple[Step, ...]:
    """A message: with data if there are any, and with what else is named."""
    return raw(serialise({"event": event, **dict(zip(["data"], data, strict=False)), **more}))


def raw(message: str | bytes) -> tuple[Step, ...]:
    """A text that need not be a message, or bytes as a binary one."""
    return (text(message) if isinstance(message, str) else Frame(Opcode.BINARY, message),)


def at(target: str, *lines: str) -> bytes:
    """A request for this target, with these lines besides the usual ones."""
    return ask(*lines, line=f"GET {target} HTTP/1.1")


# What stands in a report

LONGEST = 200  # characters of a line


def sent(conversation: Conversation) -> list[str]:
    """What the client sends and does, a line each."""
    first = [] if conversation.request == ask() else _opening(conversation.request)
    steps = [_step(step) for step in conversation.steps if step is not Do.END]
    return [short(line) for line in first + steps]


def _opening(request: bytes) -> list[str]:
    """What is not as usual in a request, in a line, and the frames behind it."""
    head, _, rest = request.partition(b"\r\n\r\n")
    usual, lines = ask().decode().split("\r\n"), head.decode("latin-1").split("\r\n")
    names = [line.partition(":")[0] for line in lines]
    missing = [name for name in (line.partition(":")[0] for line in usual[1:]) if name not in names]
    special = [f"without {name}" for name in missing if name]
    special += [line for line in lines if line not in usual]
    return [", ".join(special)] * bool(special) + [show(frame) for frame in Decoder().feed(rest)]


def _step(step: Step) -> str:
    if isinstance(step, Again):
        return f"(connects again) {', '.join(_opening(step.request))}".rstrip()
    if isinstance(step, Do):
        return "(ends TCP without a word)" if step is Do.DROP else "(waits)"
    return show(step) if isinstance(step, Frame) else f"bytes {step[:20].hex(' ')}"


def show(frame: Frame) -> str:
    """A frame in a line."""
    name = frame.opcode.name.lower() + ("" if frame.fin else ", not the last")
    if frame.opcode is Opcode.CLOSE and len(frame.payload) >= 2:
        code = int.from_bytes(frame.payload[:2], "big")
        return f"{name} {code} {frame.payload[2:].decode(errors='replace')}".rstrip()
    readable = frame.payload.decode(errors="backslashreplace")
    return f"{name} {readable}".rstrip()


def short(line: str) -> str:
    """The line, cut where it is long."""
    cut = len(line) - LONGEST
    return line if cut <= 0 else f"{line[:LONGEST]}… ({cut:,} more)"
