"""The checks of chapter 07: what is right is what a real Nest said.

Each exercise has its program in node/nest/src/. The frames that are expected here were
recorded there; a test starts the three programs and plays the same conversations to them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from typing import Any, NamedTuple

from nestling.application import create
from nestling.dispatch import log
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from workbench import kernel
from workbench.checks import Blocked, Words, Wrong, require_plain_function

# Seconds to wait for a frame that is to come, for one that is not, and after somebody has gone.
PATIENCE = 1.0
QUIET = 0.05
FAREWELL = 0.1


class Does(Enum):
    COMES = "(comes)"
    GOES = "(goes)"


class Step(NamedTuple):
    """A moment of a conversation.

    who:   the name of a client
    does:  what it does, or the messages that it sends at once
    hears: the frames that each client then gets, by its name; all others get none
    """

    who: str
    does: Does | list[Any]
    hears: Mapping[str, list[Any]]
    hint: str


def _event(event: str, data: Any) -> dict[str, Any]:
    return {"event": event, "data": data}


def _exception(text: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """The frame with which Nest 12 tells a client of an error."""
    cause = {"pattern": message["event"]} | {k: v for k, v in message.items() if k == "data"}
    return _event("exception", {"status": "error", "message": text, "cause": cause})


# 07.1


def _enters(message: dict[str, Any], frame: dict[str, Any], hint: str) -> Step:
    return Step("you", [message], {"you": [frame]}, hint)


def _doors() -> list[Step]:
    """Who enters which floor, and who does not."""
    plain = "the reply is the event 'entered', and its data the floor as a number"
    steps = [Step("you", Does.COMES, {}, "nobody is greeted here")]
    for floor, number in (("2", 2), (-1, -1), ("-12", -12)):
        message = _event("enter", {"word": "sesame", "floor": floor})
        steps.append(_enters(message, _event("entered", number), plain))
    no = 'a guard that says no is raise WsException("Forbidden resource")'
    anything = "data may be anything, also nothing: ?. asks for the word where there is one"
    for message, hint in (
        (_event("enter", {"word": "please", "floor": "2"}), no),
        (_event("enter", {"floor": "x"}), "guards come before pipes, which are not asked then"),
        (_event("enter", {"word": "sesame!", "floor": "2"}), "=== is the whole word, no more"),
        (_event("enter", None), anything),
        (_event("enter", "sesame"), anything),
        (_event("enter", ["word"]), anything),
        ({"event": "enter"}, anything),
    ):
        steps.append(_enters(message, _exception("Forbidden resource", message), hint))
    takes_less = (
        "int() takes more than Nest's pipe does: only an int, or a text of digits with or "
        "without a minus, is a number here, and True and 2.5 are none"
    )
    for data in ("x", "", "2.5", 2.5, True, " 3 ", "1_0", "+3", [2], None):
        message = _event("enter", {"word": "sesame", "floor": data})
        frame = _exception("Validation failed (numeric string is expected)", message)
        text = "what is no number is a WsException with the text that Nest's pipe has"
        steps.append(_enters(message, frame, text if data == "x" else takes_less))
    message = _event("enter", {"word": "sesame"})
    frame = _exception("Validation failed (numeric string is expected)", message)
    return [*steps, _enters(message, frame, "a floor that is missing is no number either")]


DOORS = _doors()


async def doors(gateway: type) -> None:
    """07.1: three floors, seven without the word, and eleven floors that are no number."""
    async with serving(gateway) as url:
        await play(url, DOORS)


# 07.2


class Question(NamedTuple):
    """A message for the gateway of replies.ts, and the frames that Nest answers with."""

    text: str
    frames: list[Any]
    hint: str


QUESTIONS = {
    "A": Question('{"event": "same", "data": 5}', [5], "a value comes bare: no event is added"),
    "B": Question('{"event": "same"}', [], "undefined is no reply: no frame"),
    "C": Question('{"event": "same", "data": 0}', [0], "0 is a value like any other, in Nest 12"),
    "D": Question('{"event": "Same", "data": 5}', [], "the case counts; unknown is silence"),
    "E": Question("same", [], "what is no JSON is answered with silence"),
    "F": Question('[{"event": "same", "data": 5}]', [], "a list has no event: silence"),
    "G": Question('{"event": "same", "data": 5, "id": 7}', [5], "Nest knows no ids"),
    "H": Question(
        '{"event": "of", "event": "same", "data": 9}',
        [9],
        "of two keys that are equal, JSON.parse takes the last",
    ),
    "I": Question(
        '{"event": "named", "data": "x"}',
        [{"event": "news", "data": "x"}],
        "an object that says event and data comes as it is",
    ),
    "J": Question('{"event": "of"}', [[1, 2, 3]], "of() has one argument here: one item, a list"),
    "K": Question('{"event": "from"}', [1, 2, 3], "from() has a list: a frame for each item of it"),
    "L": Question(
        '{"event": "breaks"}',
        [1, 2, _exception("no more", {"event": "breaks"})],
        "what came before the error is sent, and then the exception",
    ),
}


async def predictions(function: Callable[[], dict[str, list[Any]]]) -> None:
    """07.2: twelve messages, from a bare value to a stream that breaks, as Nest 12 answers them."""
    require_plain_function(function)
    predicted = function()
    if not isinstance(predicted, dict):
        raise Wrong("return a dictionary with a list of frames for each letter")
    for letter, question in QUESTIONS.items():
        frames = predicted.get(letter, ...)
        if frames is ...:
            raise Wrong(f"{letter} is still open: put the list of its frames in place of the ...")
        hint = question.hint
        if not isinstance(frames, list):
            hint = "a list of frames, also for one: [5]; and silence is the empty list, []"
        expected = [_shortened(frame) for frame in question.frames]
        if _as_json(frames) not in (_as_json(question.frames), _as_json(expected)):
            raise Wrong.comparing(f"{letter}: {hint}", Words(question.text), expected, frames)


def _shortened(frame: Any) -> Any:
    """The frame, or, where it tells of an error, a word for it."""
    is_exception = isinstance(frame, dict) and frame["event"] == "exception"
    return "exception" if is_exception else frame


def _as_json(value: Any) -> str | None:
    """The value spelled as JSON, in which true is not 1; None for what has no such spelling."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None


# 07.3


def _bid(*amounts: Any) -> list[Any]:
    return [_event("bid", amount) for amount in amounts]


def _accepted(*amounts: int) -> list[Any]:
    return [_event("accepted", amount) for amount in amounts]


def _highest(*amounts: int) -> list[Any]:
    return [_event("highest", amount) for amount in amounts]


def _bids(amounts: list[int], watchers: list[str], hint: str) -> Step:
    """Ann bids these at once, and who watches hears of each."""
    hears = {name: _highest(*amounts) for name in watchers}
    return Step("Ann", _bid(*amounts), hears | {"Ann": _accepted(*amounts)}, hint)


def _refused(amount: Any, text: str, hint: str) -> Step:
    [message] = _bid(amount)
    return Step("Ann", [message], {"Ann": [_exception(text, message)]}, hint)


def _watching(number: int, hint: str) -> Step:
    return Step("Ann", [{"event": "watching"}], {"Ann": [_event("watching", number)]}, hint)


_GREET = "who comes is sent the highest bid: handle_connection(self, client, request), client.send"
_FIRST = "a BehaviorSubject says what is when you subscribe: the first item comes at once"
_EVERY = "a bid that is accepted is an item for each who watches"
_FILTER = "the filter makes of a TooLow what the client is told: WsException, with its text"
_OTHER = "an error that no filter catches is an Internal server error, and changes nothing"
_ROW = "three bids in a row are three items, none left out: a queue for each who watches keeps them"
_GONE = "a stream is closed when its client goes, and finally is where to count down"
_TWICE = "one client may watch twice: count streams, not clients"

_WATCH: list[Any] = [{"event": "watch"}]

AUCTION = [
    Step("Ann", Does.COMES, {"Ann": [_event("welcome", 0)]}, _GREET),
    _bids([10], [], "the reply is the event 'accepted'"),
    Step("Bob", Does.COMES, {"Bob": [_event("welcome", 10)]}, _GREET),
    Step("Bob", _WATCH, {"Bob": _highest(10)}, _FIRST),
    _bids([20], ["Bob"], _EVERY),
    _refused(20, "bid more than 20", _FILTER),
    _refused(-5, "bid more than 20", _FILTER),
    _refused("much", "Internal server error", _OTHER),
    _refused(None, "Internal server error", _OTHER),
    _bids([30, 40, 50], ["Bob"], _ROW),
    _watching(1, "count the streams that are under way"),
    Step("Carol", Does.COMES, {"Carol": [_event("welcome", 50)]}, _GREET),
    Step("Carol", _WATCH, {"Carol": _highest(50)}, _FIRST),
    _bids([60], ["Bob", "Carol"], _EVERY),
    _watching(2, "count the streams that are under way, of all clients"),
    Step("Carol", Does.GOES, {}, "nobody is told that somebody goes"),
    _watching(1, _GONE),
    Step("Bob", _WATCH, {"Bob": _highest(60)}, _TWICE),
    Step("Ann", _bid(70), {"Ann": _accepted(70), "Bob": _highest(70, 70)}, _TWICE),
    _watching(2, _TWICE),
    Step("Bob", Does.GOES, {}, "nobody is told that somebody goes"),
    _watching(0, _GONE),
]


async def auction(gateway: type) -> None:
    """07.3: three people bid, watch and leave, some too low, some at once, one twice."""
    async with serving(gateway) as url:
        await play(url, AUCTION)


# Conversations


async def play(url: str, steps: Sequence[Step]) -> None:
    """Play a conversation to the gateway at a URL; raise Wrong where it hears something else."""
    async with AsyncExitStack() as stack:
        clients: dict[str, ClientConnection] = {}
        for step in steps:
            if step.does is Does.COMES:
                connecting = connect(url, compression=None, max_queue=None)
                clients[step.who] = await stack.enter_async_context(connecting)
            elif step.does is Does.GOES:
                await clients.pop(step.who).close()
                await asyncio.sleep(FAREWELL)
            else:
                await _send(clients[step.who], step.does)
            hears = [hear(clients[name], len(step.hears.get(name, []))) for name in clients]
            for name, frames in zip(clients, await asyncio.gather(*hears), strict=True):
                _compare(step, name, frames)


async def _send(connection: ClientConnection, messages: Sequence[Any]) -> None:
    try:
        for message in messages:
            await connection.send(json.dumps(message))
    except ConnectionClosed:
        pass  # which is what it hears


async def hear(connection: ClientConnection, number: int) -> list[Any]:
    """The next frames, which are to be so many; the one too many, if there is one; or the end."""
    frames: list[Any] = []
    try:
        while len(frames) <= number:
            wait = PATIENCE if len(frames) < number else QUIET
            frames.append(json.loads(await asyncio.wait_for(connection.recv(), wait)))
    except TimeoutError:
        pass
    except ConnectionClosed as closed:
        frames.append(Words(f"(the connection was closed: {closed})"))
    return frames


class NotTold(Wrong):
    """The client was told of an error that is none in Nest."""


def _compare(step: Step, name: str, received: list[Any]) -> None:
    expected = step.hears.get(name, [])
    if received == expected:
        return
    sent = Words(f"{step.who}: {step.does.value if isinstance(step.does, Does) else step.does}")
    hint, kind = step.hint, Wrong
    if not received and step.who == name:
        hint = f"no frame came; {hint}"
    elif any(isinstance(frame, str) and frame[:1] == "{" for frame in received):
        hint = "it is JSON twice over: client.send makes JSON of a value, give it the value"
    elif "Internal server error" in str(received) and "Internal" not in str(expected):
        kind = NotTold
    elif len(received) > len(expected) and received[: len(expected)] == expected:
        hint = f"one frame too many for {name}; {hint}"
    raise kind.comparing(hint, sent, expected, received)


@asynccontextmanager
async def serving(gateway: Any) -> AsyncIterator[str]:
    """The gateway behind a real socket, its URL; what it raises by mistake is in the verdict."""
    if not isinstance(gateway, type):
        raise Wrong("the answer is the class itself, without parentheses")
    try:
        app = create(gateway())
    except TypeError as error:
        raise Wrong(str(error)) from None
    before = log.handlers, log.propagate
    log.handlers, log.propagate = [logging.NullHandler()], False
    try:
        yield (await kernel.start("the check", app)).url
    except Wrong as wrong:
        for error in app.errors:
            if isinstance(error, NotImplementedError | Blocked):
                raise error from None
        if isinstance(wrong, NotTold) and app.errors:
            raise Wrong(f"{wrong}\n    {'raised':10}{app.errors[-1]!r}") from None
        raise
    finally:
        await kernel.stop("the check", grace=0.1)
        log.handlers, log.propagate = before


PROBES = {"1": doors, "2": predictions, "3": auction}
