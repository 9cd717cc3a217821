"""A client over one connection after the other, in one session if the server has them.

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
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from nestling.client import Matching
from nestling.envelope import Message, id_of, parse, serialise
from nestling.outbox import Outbox
from nestling.session import ANNOUNCEMENT
from nestling.states import State

if TYPE_CHECKING:
    from nestling.reconnect import Dialer

# The id of the messages about the session; questions count from 1.
SESSION = 0


class NotSent(ConnectionClosedError):
    """There is no connection now, and no more room to keep what is to be sent on the next."""

    def __str__(self) -> str:
        return "there is no connection now: this is not sent"


class Resuming(Matching):
    """A `Matching` over one connection after the other.

    queue: how many messages to emit are kept while there is none
    """

    def __init__(self, dialer: Dialer, correlate: bool, timeout: float, queue: int) -> None:
        self._dialer, self._queue = dialer, queue
        self._begun = asyncio.get_running_loop().create_future()  # there has been a connection
        self._closed: ConnectionClosed = ConnectionClosedError(None, None)
        self._is_left = False
        # Of the session: its secret, None without one; how many messages have come in it; how
        # many the server has heard, None if it is a new one; whether it has yet to say so.
        self._secret: str | None = None
        self._came = 0
        self._heard: int | None = None
        self._is_asking = False
        super().__init__(None, correlate, timeout)  # type: ignore[arg-type]
        self._outbox = Outbox(self.questions)

    async def begun(self) -> None:
        """Wait for the first connection, `timeout` seconds at most. Raises why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._begun)
        except BaseException as error:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            why = self._dialer.why
            if isinstance(error, TimeoutError) and not isinstance(why, ConnectionClosed):
                raise why from None
            raise

    # One connection after the other

    async def _read(self) -> None:
        """Connect, and deliver what comes, again and again while that is worth it."""
        try:
            while True:
                await self._dialer.connect(self._prepare)
                if not self._begun.done():
                    self._begun.set_result(None)
                closed = await self._receive()
                if self._secret is None:
                    self._outbox.start_over(closed)
                if self._is_left:
                    raise closed
                await self._dialer.pause(closed)
        except Exception as error:
            self._dialer.why = error
        finally:
            self._end()

    async def _receive(self) -> ConnectionClosed:
        """Deliver each message, until the connection is lost."""
        try:
            while True:
                self._take(await self.connection.recv())
        except ConnectionClosed as closed:
            return closed

    async def _prepare(self, connection: ClientConnection) -> None:
        """Ask for the session on a new connection, and send what the server has not heard."""
        self.connection, self._heard = connection, None
        try:
            async with asyncio.timeout(self._timeout):
                if self._correlate:
                    await self._ask_for_session()
                if self._heard is None:
                    self.gaps += self._begun.done()
                    self._outbox.start_over(self._dialer.why)
                else:
                    self._outbox.go_on(self._heard)
                while self._outbox.dropped or self._outbox.waiting:
                    if self._outbox.dropped:
                        await self._cancel(self._outbox.dropped.pop())
                    else:
                        await self._put(*self._outbox.waiting.popleft())
        except BaseException:
            connection.transport.abort()
            raise

    async def _ask_for_session(self) -> None:
        """Ask for a new session; or to go on with one, and wait for the answer."""
        secret = self._secret
        last = {} if secret is None else {"last": self._came}
        self._is_asking = True
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

    def _end(self) -> None:
        """Tell everybody that no more will come."""
        why = self._dialer.why
        if isinstance(why, ConnectionClosed):
            self._closed = why
        else:
            self._closed.__cause__ = why
        self._outbox.start_over(self._closed)
        for question in self.questions.values():
            question.fail(self._closed)
        self.unasked.put(self._closed)
        self._dialer.states.set(State.CLOSED)
        if not self._begun.done():
            self._begun.set_exception(why)
            self._begun.exception()  # nobody may be left to hear of it

    # What is sent

    @property
    def _is_open(self) -> bool:
        return self._dialer.states.now is State.OPEN and self.connection.close_code is None

    async def send(self, text: str, number: int | None = None) -> None:
        if self._is_open:
            await self._put(text, number)
        elif self._dialer.states.now is State.CLOSED:
            raise self._closed
        elif number is None and self._outbox.emits >= self._queue:
            raise NotSent(None, None)
        else:
            self._outbox.waiting.append((text, number))

    async def _put(self, text: str, number: int | None) -> None:
        self._outbox.ask(text, number)
        try:
            await super().send(text)
        except ConnectionClosed:
            if number is None:  # of a question, it will be known what has become
                raise

    async def _cancel(self, number: int) -> None:
        self._outbox.cancel(number)
        await super()._give_up(number)

    async def _give_up(self, number: int) -> None:
        """Want no more replies: the server is told, now or when it is there again."""
        if self._outbox.take_back(number):
            return
        if not self._correlate:  # the next reply could not be told from a late one
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self.connection.close(1001, "a reply is not waited for")
            self.connection.transport.abort()
        elif self._is_open:
            await self._cancel(number)
        else:
            self._outbox.dropped.append(number)

    async def close(self, code: int, reason: str) -> None:
        self._is_left = True
        if self._is_open:
            await super().close(code, reason)
        else:
            self._dialer.why = ConnectionClosedOK(None, None)
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
