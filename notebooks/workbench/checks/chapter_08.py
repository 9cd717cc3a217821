"""The checks of chapter 08."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import Client, WsException, subscribe_message, websocket_gateway
from nestling.poll import PollGateway

from workbench import kernel, trace
from workbench.checks import Words, Wrong, require_coroutine_function, require_plain_function
from workbench.relay import Relay

# 08.1

FIRST, MOST = 0.5, 30.0


async def waits(function: Callable[[int, Callable[[], float]], float]) -> None:
    """08.1: eight tries, and one after a night, with dice that show 0, a quarter, and 1."""
    require_plain_function(function)
    for attempt in (*range(8), 5000):
        bound = min(MOST, FIRST * 2 ** min(attempt, 10))
        for shown in (1.0, 0.25, 0.0):
            asked: list[float] = []

            def dice(shown: float = shown, asked: list[float] = asked) -> float:
                asked.append(shown)
                return shown

            try:
                received: Any = function(attempt, dice)
            except OverflowError as error:
                received = error
            hint = _flaw(received, bound, shown, len(asked))
            if hint:
                sent = Words(f"attempt {attempt}, and dice that show {shown:g}")
                raise Wrong.comparing(hint, sent, bound * shown, received)


def _flaw(received: Any, bound: float, shown: float, asked: int) -> str | None:
    """What is wrong with a wait, None if nothing is."""
    if isinstance(received, OverflowError):
        return "2 ** 5000 is no float any more: bound the attempt, too, not only the wait"
    if not isinstance(received, int | float) or isinstance(received, bool):
        return "return the seconds, a number; who waits is somebody else"
    if asked == 0:
        return "ask the dice that you are given, dice(): otherwise all wait alike"
    if abs(received - bound * shown) < 1e-9:
        return None
    if shown == 1.0:
        if abs(received - min(MOST, 2 * bound)) < 1e-9:
            return "attempt is 0 before the first try, and the bound half a second then"
        if received > MOST:
            return "the upper bound is never more than 30 seconds"
        return "dice that show 1 give the upper bound: 0.5 s, and twice as much with each try"
    if bound == MOST and received > MOST * shown:
        return "it is the bound that never exceeds 30: min(30, …) first, then the dice"
    return "full jitter is any wait from 0 to the upper bound: the dice times the bound"


# 08.2


class _Message(str):
    """A text of which one can see whether somebody still holds it."""

    __slots__ = ("__weakref__",)


async def window(make: Callable[[int], Any]) -> None:
    """08.2: windows of three and of one, ten messages, what is missed, and clients that lie."""
    if not inspect.isclass(make):
        raise Wrong("the answer is the class itself, without calling it")
    three, other = make(3), make(3)
    _expect(three, "nothing was added", [(0, [])], "nothing was missed: an empty list, not None")
    _add(three, "ABC", 1)
    held = [(3, []), (2, ["C"]), (1, ["B", "C"]), (0, ["A", "B", "C"])]
    _expect(three, "3 messages, A to C", held, "since(last) is what came after the number last")
    three.since(0).clear()
    _expect(three, "3 messages, A to C", held, "give a list of its own each time")
    _add(three, "DE", 4)
    held = [(5, []), (4, ["E"]), (2, ["C", "D", "E"])]
    _expect(three, "5 messages, A to E", held, "the latest 3 are kept, whatever was asked before")
    gone = "B is gone: say so with None. A list with a hole in it would be a lie"
    _expect(three, "5 messages, A to E", [(1, None), (0, None)], gone)
    never = "no such number was ever given: None"
    _expect(three, "5 messages, A to E", [(6, None), (-1, None), ("4", None), (None, None)], never)
    _expect(other, "nothing was added to this one", [(0, [])], "each window has its own messages")
    one = make(1)
    _add(one, "AB", 1)
    _expect(one, "2 messages, A and B", [(2, []), (1, ["B"]), (0, None)], "the latest 1 is kept")
    _forgets(make(3))
    lie = "True is no number, though Python counts with it: type(last) is int"
    _expect(one, "2 messages, A and B", [(True, None)], lie)


def _add(window: Any, names: str, first: int) -> None:
    for number, name in enumerate(names, first):
        received = window.add(_Message(name))
        if type(received) is not int or received != number:
            hint = "add gives the number of the message: 1 for the first, and so on, for ever"
            raise Wrong.comparing(hint, Words(f"add({name!r})"), number, received)


def _expect(window: Any, added: str, cases: list[tuple[Any, Any]], hint: str) -> None:
    for last, expected in cases:
        try:
            received = window.since(last)
        except (TypeError, IndexError, ValueError) as error:
            received = error
        if received != expected or (received is not None and not isinstance(received, list)):
            is_other = received is not None and type(received) is not list
            raise Wrong.comparing(
                "since gives a list, or None" if is_other and expected is not None else hint,
                Words(f"{added}; since({last!r})"),
                expected,
                received,
            )


def _forgets(window: Any) -> None:
    """Raise Wrong if what the window has dropped is still in memory."""
    seen = []
    for number in range(100):
        message = _Message(number)
        seen.append(weakref.ref(message))
        window.add(message)
    del message
    gc.collect()
    held = sum(reference() is not None for reference in seen)
    if held > 3:
        hint = "what the window has dropped is to be forgotten: a deque(maxlen=most) does that"
        raise Wrong.comparing(hint, Words("100 messages"), Words("3 in memory"), held)


# 08.3

DELAY = 0.03  # seconds one way, so that a vote and its answer can be caught on their way
OUTAGE = 1.4  # seconds in which nobody listens
SLOW = 0.35  # seconds that an answer takes where the cable holds
SHORT = 16  # characters of a key that can be guessed
SILENCE = 1.3  # seconds in which no answer arrives
LIMIT = 4.0  # for one vote, in seconds
KNOCKS = 60  # connections during OUTAGE that are still no flood

QUESTION = {"question": "Does it count?", "choices": ["yes", "no"]}

Function = Callable[[str, int, str], Awaitable[Any]]


@websocket_gateway(path="/poll")
class _Poll(PollGateway):
    """Keeps what came as a vote, and takes its time.

    votes:   what came
    seconds: how long a vote takes
    """

    def __init__(self) -> None:
        super().__init__()
        self.votes: list[Any] = []
        self.seconds = 0.0

    @subscribe_message("vote")
    async def vote(self, client: Client, data: Any) -> None:
        self.votes.append(data)
        super().vote(client, data)
        await asyncio.sleep(self.seconds)


class Room(NamedTuple):
    """A poll, the cable to it, and a client beside it that sees the tally."""

    gateway: _Poll
    relay: Relay
    teacher: GatewayClient

    async def votes(self) -> list[int]:
        return (await self.teacher.request("tally"))["votes"]

    def knocks(self) -> int:
        """How many connections were tried."""
        return len({tap.connection for tap in self.relay.taps})

    async def has_counted(self) -> None:
        """Wait until there is a vote."""
        async for tally in self.teacher.stream("tally"):
            if sum(tally["votes"]):
                return

    def has_sent(self) -> bool:
        """Whether a message of the learner's is on its way."""
        items = trace.decode(self.relay.taps)
        return any(each.sender == "client" and "TEXT" in each.label for each in items)


@asynccontextmanager
async def _room() -> AsyncIterator[Room]:
    gateway = _Poll()
    try:
        server = await kernel.start("the check", create(gateway))
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(Relay(server.port, delay=DELAY))
            teacher = await stack.enter_async_context(GatewayClient(f"{server.url}/poll"))
            await teacher.request("open", QUESTION)
            yield Room(gateway, relay, teacher)
    finally:
        await kernel.stop("the check", grace=0.1)


async def _whole(room: Room) -> None:
    room.gateway.seconds = SLOW


async def _lost(room: Room) -> None:
    for _ in range(round(LIMIT / 0.002)):
        if room.has_sent():
            break
        await asyncio.sleep(0.002)
    room.relay.cut()


async def _unanswered(room: Room) -> None:
    await room.has_counted()
    room.relay.cut()


async def _closed(room: Room) -> None:
    """Nobody listens for a while."""
    target, room.relay.target, room.relay.delay = room.relay.target, 1, 0.0
    await asyncio.sleep(OUTAGE)
    knocks = room.knocks()
    room.relay.target, room.relay.delay = target, DELAY
    if knocks > KNOCKS:
        hint = "wait a moment before each try, so that the server is not flooded"
        raise Wrong.comparing(hint, Words("nobody listens"), Words("a few tries"), knocks)


async def _silent(room: Room) -> None:
    """The answer is swallowed, and nobody is told."""
    await room.has_counted()
    room.relay.black_hole("server")
    await asyncio.sleep(SILENCE)
    knocks = room.knocks()
    room.relay.cut()
    room.relay.lift()
    if knocks < 2:
        hint = (
            "after half a second, connect again, and ask again. Do you leave the block in time? It "
            "waits for an answer to its goodbye: give the client a timeout, or a close_timeout"
        )
        expected, received = Words("another try"), Words(f"none within {SILENCE:g} s")
        raise Wrong.comparing(hint, Words(CABLES[-1][0]), expected, received)


# What the cable does, in words; how it does that; and what to say if no vote is counted, or the
# answer never comes.
CABLES = [
    ("the cable holds", _whole, "send the vote with its key, and wait for the answer"),
    ("the vote is lost", _lost, "nobody has heard it: connect again, and send it again"),
    ("the answer is lost", _unanswered, "connect again, and ask again, with the same key"),
    ("nobody listens for a moment", _closed, "OSError or WebSocketException: try again"),
    ("the answer vanishes, nobody is told", _silent, "after half a second, try again all the same"),
]


async def casting(function: Function) -> None:
    """08.3: a cable that holds, two learners, refused votes, and four cables that break."""
    require_coroutine_function(function)
    for name, happens, hint in CABLES:
        async with _room() as room:
            await _vote(function, room, name, happens, hint)
        if happens is _whole:
            await _two_learners(function)
            await _refused(function)


async def _vote(
    function: Function,
    room: Room,
    name: str,
    happens: Callable[[Room], Awaitable[None]],
    hint: str,
) -> None:
    casting = asyncio.ensure_future(_outcome(function, room, 0, QUESTION["question"]))
    breaking = asyncio.ensure_future(happens(room))
    try:
        await asyncio.wait([casting, breaking], return_when=asyncio.FIRST_COMPLETED)
        if breaking.done():
            await breaking
        received = await casting
    finally:
        for task in (casting, breaking):
            task.cancel()
        await asyncio.wait([casting, breaking])
    counted = await room.votes()
    if happens is _whole and len(room.gateway.votes) > 1:
        hint = f"an answer may take up to half a second; this one took {SLOW:g} s, and came"
        tries = Words(f"{len(room.gateway.votes)} tries")
        raise Wrong.comparing(hint, Words(name), Words("1 try"), tries)
    if counted[0] > 1:
        hint = "one key for the vote, made once, and the same with each try"
    if isinstance(received, Exception) or counted != [1, 0]:
        shown = received if isinstance(received, Exception) else Words(f"{sum(counted)} counted")
        raise Wrong.comparing(hint, Words(name), Words("1 counted"), shown)
    await _has_left(room, name)


async def _has_left(room: Room, name: str) -> None:
    """Raise Wrong if a connection of the learner's is still open."""
    await asyncio.sleep(4 * DELAY)
    if len(room.gateway.server.clients) > 1 and name != CABLES[-1][0]:
        hint = "leave no connection open: async with closes it"
        expected, received = Words("no connection left"), Words("one is still open")
        raise Wrong.comparing(hint, Words(name), expected, received)


async def _two_learners(function: Function) -> None:
    async with _room() as room:
        cast = [_outcome(function, room, choice, QUESTION["question"]) for choice in (1, 1)]
        received = await asyncio.gather(*cast)
        counted = await room.votes()
        keys = [vote["key"] for vote in room.gateway.votes if isinstance(vote, dict)]
    hint = "each vote has a key of its own, that nobody can guess: token_urlsafe()"
    if counted == [0, 2] and min(map(len, keys), default=SHORT) < SHORT:
        raise Wrong.comparing(hint, Words("two learners"), Words("long random keys"), keys)
    if counted != [0, 2]:
        shown = next((each for each in received if isinstance(each, Exception)), counted)
        raise Wrong.comparing(hint, Words("two learners, choice 1"), [0, 2], shown)


async def _refused(function: Function) -> None:
    for choice, question in ((0, "Another one?"), (7, QUESTION["question"])):
        async with _room() as room:
            received = await _outcome(function, room, choice, question)
            counted = sum(await room.votes())
        if counted or not isinstance(received, WsException):
            hint = "wait for the answer; an exception frame is one: let WsException through"
            if counted:
                hint = "send the choice, the key and the question together"
            sent = Words(f"choice {choice} of {question!r}")
            raise Wrong.comparing(hint, sent, Words("WsException is raised"), received)


async def _outcome(function: Function, room: Room, choice: int, question: str) -> Any:
    """What an answer returns, or the exception that it raises."""
    try:
        async with asyncio.timeout(LIMIT):
            return await function(f"{room.relay.url}/poll", choice, question)
    except NotImplementedError:
        raise
    except TimeoutError as error:
        return TimeoutError(str(error) or f"nothing: it did not return within {LIMIT:g} s")
    except Exception as error:
        return error


PROBES = {"1": waits, "2": window, "3": casting}
