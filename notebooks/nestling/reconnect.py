"""A client that connects again, and goes on where it was if the server has sessions.

What becomes of the things that a program has under way when the connection breaks:

    a request, a stream   waits. Once its session goes on, what the server had heard is answered
                          as if nothing had been, and what it had not heard is sent again: that
                          has not run. If there is no session, or it is lost, it fails with
                          `MayHaveRun`. What is asked meanwhile is sent on the next connection.
    emit                  is sent once: on a line that has just broken it is lost, and nobody is
                          told. Meanwhile it is kept, up to `queue` messages, or raises `NotSent`.
    the loop over it      goes on. `gaps` counts how often messages have been lost in between.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)

from nestling.backoff import Backoff
from nestling.client import BACKLOG, Matching
from nestling.envelope import Message, id_of, parse, serialise
from nestling.session import ANNOUNCEMENT
from nestling.states import State, States

# Close codes after which another try may go better: going away, no goodbye, an error of the
# server's, a restart, try again later. Every other one is final.
AGAIN = frozenset({1001, 1006, 1011, 1012, 1013})

Dial = Callable[[str], Awaitable[ClientConnection]]

# The id of the messages about the session; questions count from 1.
SESSION = 0


class MayHaveRun(ConnectionClosedError):
    """The connection was lost between a question and its last reply, and its session, too."""

    def __str__(self) -> str:
        return "the connection was lost before the last reply came: it may have run"


class NotSent(ConnectionClosedError):
    """There is no connection now, and no more room to keep what is to be sent on the next."""

    def __str__(self) -> str:
        return "there is no connection now: this is not sent"


@dataclass(frozen=True)
class Reconnect:
    """When a client connects again, and how it waits before.

    first, most, well: seconds, as `Backoff` has them
    again: the close codes after which it does
    queue: how many messages to `emit` it keeps while there is no connection
    dice:  gives a number from 0 to 1

    A handshake that fails is tried again if nobody was there or the status is 5xx.
    """

    first: float = 0.5
    most: float = 30.0
    well: float = 10.0
    again: Set[int] = AGAIN
    queue: int = 0
    dice: Callable[[], float] = random.random

    def is_for(self, error: Exception) -> bool:
        """Whether another try may go better, after a connection that has ended or failed so."""
        if isinstance(error, ConnectionClosed):
            return (error.rcvd.code if error.rcvd else 1006) in self.again
        if isinstance(error, InvalidStatus):
            return error.response.status_code >= 500
        return isinstance(error, OSError | InvalidMessage)  # TimeoutError is an OSError

    async def begin(
        self, url: str, dial: Dial, states: States, *, correlate: bool, timeout: float
    ) -> Reconnecting:
        """Connect to a URL. Raises why that is not possible, after `timeout` seconds at most."""
        where = announced(url) if correlate else url
        matching = Reconnecting(partial(dial, where), self, states, correlate, timeout)
        await matching.begun()
        return matching


class Reconnecting(Matching):
    """A `Matching` over one connection after the other.

    dial:  makes a connection, or raises why there is none
    gaps:  how often it has come back to find that what the server had sent meanwhile is lost
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[ClientConnection]],
        rules: Reconnect,
        states: States,
        correlate: bool,
        timeout: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.gaps = 0
        self._dial, self._rules, self._states = dial, rules, states
        self._backoff = Backoff(
            rules.first, rules.most, rules.well, dice=rules.dice, clock=loop.time
        )
        self._begun: asyncio.Future[None] = loop.create_future()  # there has been a connection
        self._why: Exception = ConnectionClosedError(None, None)  # there is none now
        self._is_left = False
        # Of the session: its secret, None without one; how many messages have come in it, and
        # gone; how many of these the server has heard, None if this is a new one; whether the
        # server has still to say so; and the ids given up, with the numbers of their cancels.
        self._secret: str | None = None
        self._came = self._gone = 0
        self._heard: int | None = None
        self._is_asking = False
        self._cancels: dict[int, float] = {}
        self._outbox: deque[tuple[str, int | None]] = deque()  # with the id of a question
        super().__init__(None, correlate, timeout)  # type: ignore[arg-type]

    async def begun(self) -> None:
        """Wait for the first connection, `timeout` seconds at most. Raises why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._begun)
        except BaseException as error:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            if isinstance(error, TimeoutError) and not isinstance(self._why, ConnectionClosed):
                raise self._why from None
            raise

    # One connection after the other

    async def _read(self) -> None:
        """Connect, and deliver what comes, again and again while that is worth it."""
        try:
            await self._connect()
            while not self._is_left:
                self._why = closed = await self._receive()
                if self._is_left or not self._rules.is_for(closed):
                    break
                if self._secret is None:
                    self._fail(closed)
                await self._pause()
                await self._connect()
        except Exception as error:
            self._why = error
        finally:
            self._end()

    async def _receive(self) -> ConnectionClosed:
        """Deliver each message, until the connection is lost."""
        try:
            while True:
                self._take(await self.connection.recv())
        except ConnectionClosed as closed:
            return closed

    async def _pause(self) -> None:
        self._states.set(State.WAITING)
        await asyncio.sleep(self._backoff.delay())

    async def _connect(self) -> None:
        """Have a connection, however long that takes. Raises what is not worth another try."""
        while True:
            self._states.set(State.CONNECTING)
            try:
                await self._open(await self._dial())
                return
            except (OSError, WebSocketException) as error:
                if not self._rules.is_for(error):
                    raise
                self._why = error
            await self._pause()

    async def _open(self, connection: ClientConnection) -> None:
        """Ask for the session, and send what the server has not heard."""
        self.connection = connection
        try:
            async with asyncio.timeout(self._timeout):
                if self._correlate:
                    await self._ask_for_session()
                if self._heard is None:
                    self.gaps += self._begun.done()
                    self._fail(self._why)
                await self._catch_up(self._heard or 0)
        except BaseException:
            connection.transport.abort()
            raise
        self._backoff.opened()
        self._states.set(State.OPEN)
        if not self._begun.done():
            self._begun.set_result(None)

    def _end(self) -> None:
        """Tell everybody that no more will come."""
        closed: Any = self._why
        if self._is_left and not isinstance(closed, ConnectionClosedOK):
            closed = ConnectionClosedOK(None, None)
        elif not isinstance(closed, ConnectionClosed):
            closed = ConnectionClosedError(None, None)
            closed.__cause__ = self._why
        self._closed = closed
        self._fail(closed)
        self._outbox.clear()
        for question in self.questions.values():
            question.fail(closed)
        self.unasked.put(closed)
        self._states.set(State.CLOSED)
        if not self._begun.done():
            self._begun.set_exception(self._why)
            self._begun.exception()  # nobody may be left to hear of it

    def _fail(self, why: Exception) -> None:
        """No reply will come to what has been asked."""
        self._cancels.clear()
        for question in self.questions.values():
            if question.place is not None:
                question.place = None
                error = MayHaveRun(None, None)
                error.__cause__ = why
                question.fail(error)

    # The session

    async def _ask_for_session(self) -> None:
        """Ask for a new session; or to go on with one, and wait for the answer."""
        secret = self._secret
        last = {} if secret is None else {"last": self._came}
        self._heard, self._is_asking = None, True
        await self.connection.send(serialise({"id": SESSION, "session": secret, **last}))
        while secret is not None and self._is_asking:
            self._take(await self.connection.recv())

    def _take(self, raw: str | bytes) -> None:
        """Count and deliver a message, unless it is the answer that is waited for."""
        if self._is_asking and (answer := _answer(raw)) is not None:
            self._is_asking = False
            self._heard = answer.get("heard")
            if self._heard is None:
                self._secret, self._came = answer.get("session"), 0
        else:
            self._came += 1
            self._deliver(raw)

    async def _catch_up(self, heard: int) -> None:
        """Send what the server has not heard, of which it has heard so many messages."""
        unheard = [each for each in self.questions.items() if (each[1].place or 0) > heard]
        for number, question in sorted(unheard, key=lambda each: -each[1].place):
            question.place = None
            self._outbox.appendleft((question.text, number))
        self._cancels = {n: math.inf for n, place in self._cancels.items() if place > heard}
        self._gone = heard
        for number in self._cancels:
            await self._cancel(number)
        while self._outbox:
            await self._put(*self._outbox.popleft())

    # What is sent

    @property
    def _is_open(self) -> bool:
        return self._states.now is State.OPEN and self.connection.close_code is None

    async def send(self, text: str, number: int | None = None) -> None:
        if self._is_open:
            await self._put(text, number)
        elif self._states.now is State.CLOSED:
            raise self._closed
        elif number is None and sum(n is None for _, n in self._outbox) >= self._rules.queue:
            raise NotSent(None, None)
        else:
            self._outbox.append((text, number))

    async def _put(self, text: str, number: int | None) -> None:
        """Send a message now, the next one of the session."""
        self._gone += 1
        if number is not None and (question := self.questions.get(number)):
            question.text, question.place = text, self._gone
        try:
            await super().send(text)
        except ConnectionClosed:
            if number is None:
                raise

    async def _cancel(self, number: int) -> None:
        self._gone += 1
        self._cancels[number] = self._gone
        if len(self._cancels) > BACKLOG:
            del self._cancels[next(iter(self._cancels))]
        await super()._give_up(number)

    async def _give_up(self, number: int) -> None:
        """Want no more replies: the server is told, now or when it is there again."""
        waiting = [each for each in self._outbox if each[1] == number]
        if waiting:
            self._outbox.remove(waiting[0])
        elif self._is_open and self._correlate:
            await self._cancel(number)
        elif self._is_open:  # the next reply could not be told from a late one
            await self._leave()
        elif self._secret is not None:
            self._cancels[number] = math.inf

    async def _leave(self) -> None:
        """End this connection, to have another one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self.connection.close(1001, "a reply is not waited for")
                return
        self.connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        self._is_left = True
        if self._is_open:
            await super().close(code, reason)
        else:
            self._reading.cancel()
            await asyncio.wait([self._reading])


def announced(url: str) -> str:
    """The URL with the announcement that a session will be asked for."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, ANNOUNCEMENT]))))


def _answer(raw: str | bytes) -> Message | None:
    """What a message says about the session, None if it is about something else."""
    try:
        message = parse(raw)
    except (ValueError, RecursionError):
        return None
    is_answer = isinstance(message, dict) and id_of(message) == SESSION
    return message if is_answer else None
