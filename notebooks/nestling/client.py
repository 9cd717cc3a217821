"""A client of a gateway, which knows which reply belongs to which message.

::

    async with GatewayClient("ws://127.0.0.1:3000/poll") as client:
        await client.emit("vote", 2)                    # no reply expected
        number = await client.request("identity", 5)    # the reply
        async for tally in client.stream("tally"): ...  # every reply
        async for message in client: ...                # what nobody has asked for
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from nestling.envelope import MAX_SIZE, Message, WsException, parse, serialise
from nestling.states import State, States

if TYPE_CHECKING:
    from nestling.reconnect import Reconnect

# Items of a stream, or messages that nobody asked for, that may wait for their reader.
BACKLOG = 1000


class _Missing:
    """Stands for data that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "no data"


MISSING: Final = _Missing()


class Question:
    """A message whose replies are waited for.

    wants_one:   whether its first reply is all that is wanted
    is_answered: whether its last reply has come
    is_over:     whether that has been taken, or the connection is lost: nothing is to be cancelled
    text, place: for a client that connects again, what was sent, and as which message of all
    """

    text = ""
    place: int | None = None

    def __init__(self, wants_one: bool) -> None:
        self.wants_one = wants_one
        self.is_answered = self.is_over = False
        self._replies: asyncio.Queue[Message | Exception] = asyncio.Queue()

    def put(self, reply: Message) -> None:
        """A reply has come; one too many is replaced by a BufferError, the next are dropped."""
        self.is_answered = reply.get("done") is True
        waiting = self._replies.qsize()
        if waiting < BACKLOG or not _is_named(reply):
            self._replies.put_nowait(reply)
        elif waiting == BACKLOG:
            self.fail(BufferError(f"the loop over a stream is more than {BACKLOG} items behind"))

    def fail(self, error: Exception) -> None:
        """Raise an error in whoever waits, after the replies that came before."""
        self._replies.put_nowait(error)

    async def items(self, timeout: float | None) -> AsyncIterator[Any]:
        """The data of each reply, up to the last; `timeout` is in seconds, for each.

        Raises WsException for an exception frame, TimeoutError, and what `fail` was given.
        """
        while not self.is_over:
            try:
                async with asyncio.timeout(timeout):
                    reply = await self._replies.get()
            except TimeoutError:
                raise TimeoutError(f"nothing more came for {timeout:g} s") from None
            if isinstance(reply, Exception):
                self.is_over = isinstance(reply, ConnectionClosed)
                raise reply
            self.is_over = reply.get("done") is True
            if _is_named(reply):
                if reply["event"] == "exception":
                    raise _exception(reply["data"])
                yield reply["data"]


class Unasked:
    """The messages that nobody has asked for, until somebody loops over them.

    dropped: how many were, the oldest first, because BACKLOG of them were waiting
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, message: Any) -> None:
        """A message has come, or the ConnectionClosed after the last."""
        if self._messages.qsize() >= BACKLOG and not isinstance(message, ConnectionClosed):
            self._messages.get_nowait()
            self.dropped += 1
        self._messages.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            message = await self._messages.get()
            if isinstance(message, ConnectionClosed):
                self._messages.put_nowait(message)  # for whoever asks next
                if isinstance(message, ConnectionClosedOK):
                    return
                raise message
            yield message


class Matching:
    """Gives each message that arrives to whoever waits for it; one task reads them all.

    questions: those that wait for a reply, by their ids
    gaps:      how often messages may have been lost between two connections
    """

    gaps = 0

    def __init__(self, connection: ClientConnection, correlate: bool, timeout: float) -> None:
        self.connection = connection
        self.questions: dict[int, Question] = {}
        self.unasked = Unasked()
        self._correlate = correlate
        self._timeout = timeout
        self._asked = 0  # the id of the latest question
        self._turn: AbstractAsyncContextManager[None] = (
            nullcontext() if correlate else asyncio.Lock()
        )
        self._reading = asyncio.create_task(self._read())

    def watch(self, states: States) -> None:
        """Keep the state up to date."""
        states.set(State.OPEN)
        self._reading.add_done_callback(lambda _: states.set(State.CLOSED))

    async def _read(self) -> None:
        """Deliver each message, and in the end the news that it is the end."""
        try:
            while True:
                self._deliver(await self.connection.recv())
        except ConnectionClosed as closed:
            self.unasked.put(closed)
            for question in self.questions.values():
                question.fail(closed)

    def _deliver(self, raw: str | bytes) -> None:
        try:
            message = parse(raw)
        except (ValueError, RecursionError):
            message = raw
        if (number := self._whose(message)) is None:
            self.unasked.put(message)
        elif question := self.questions.get(number):  # else it was given up: the reply is late
            question.put(message if self._correlate else _as_reply(message, question.wants_one))

    def _whose(self, message: Any) -> int | None:
        """The id of the question that a message replies to, None if nobody has asked for it."""
        if not self._correlate:
            waiting = (each for each in self.questions if not self.questions[each].is_answered)
            return next(waiting, None)
        number = message.get("id") if isinstance(message, dict) else None
        if type(number) is not int or not 0 < number <= self._asked:
            return None
        return number if _is_named(message) or message.get("done") is True else None

    async def ask(
        self, event: str, data: Any, *, wants_one: bool = False, timeout: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Send a message and give the data of each reply; leaving the loop cancels the rest."""
        self._asked = number = self._asked + 1
        correlation = {"id": number} if self._correlate else {}
        text = serialise(correlation | _message(event, data))
        async with self._turn:
            question = self.questions[number] = Question(wants_one)
            try:
                await self.send(text, number)
                async for item in question.items(timeout):
                    yield item
            finally:
                del self.questions[number]
                if not question.is_over:
                    await self._give_up(number)

    async def _give_up(self, number: int) -> None:
        """Want no more replies. Without ids, the next one could not be told from a late one."""
        if not self._correlate:
            await self.close(1000, "a reply is not waited for")
            return
        try:
            async with asyncio.timeout(0):  # written at once, whether or not it is read
                await self.connection.send(serialise({"id": number, "cancel": True}))
        except (ConnectionClosed, TimeoutError):
            pass

    async def send(self, text: str, number: int | None = None) -> None:
        """Send a message; `number` is the id of a question, whose replies are waited for."""
        try:
            async with asyncio.timeout(self._timeout):
                await self.connection.send(text)
        except TimeoutError:
            raise TimeoutError(f"the server has not read for {self._timeout:g} s") from None

    async def close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self.connection.close(code, reason)
        except TimeoutError:
            self.connection.transport.abort()
        await asyncio.wait([self._reading])


class GatewayClient:
    """A connection to a gateway: an asynchronous context manager.

    url:       where, such as ws://127.0.0.1:3000/poll
    correlate: whether messages carry ids. False is for a gateway that ignores them, such as
               Nest's: then one question is asked at a time, and the next message is its reply
    timeout:   seconds to wait for the connection, for a reply, and for the server to read
    reconnect: a `reconnect.Reconnect` connects again, and says what becomes of what is under way;
               None does not
    options:   for `websockets.asyncio.client.connect`, such as additional_headers

    Every call raises `websockets.exceptions.ConnectionClosed` when the connection ends before
    it is done, and RuntimeError outside of the `async with` block.
    """

    def __init__(
        self,
        url: str,
        *,
        correlate: bool = True,
        timeout: float = 10.0,
        reconnect: Reconnect | None = None,
        **options: Any,
    ) -> None:
        self.url = url
        self.correlate = correlate
        self.timeout = timeout
        ours: dict[str, Any] = {"compression": None, "max_size": MAX_SIZE, "open_timeout": timeout}
        self._options = ours | options
        self._reconnect = reconnect
        self._states = States()
        self._matching: Matching | None = None
        self._is_left = False

    async def __aenter__(self) -> GatewayClient:
        if self._matching is not None:
            raise RuntimeError("this client is connected already: make another one")
        if self._reconnect is None:
            self._matching = Matching(await self._dial(self.url), self.correlate, self.timeout)
            self._matching.watch(self._states)
        else:
            self._matching = await self._reconnect.begin(
                self.url, self._dial, self._states, correlate=self.correlate, timeout=self.timeout
            )
        return self

    def _dial(self, url: str) -> Awaitable[ClientConnection]:
        return connect(url, **self._options)

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
        self._is_left = True

    @property
    def close_code(self) -> int | None:
        """Why the connection has ended, 1006 if nobody said why; None while it is open."""
        return self._connected().connection.close_code

    @property
    def state(self) -> State:
        """What has become of the connection, CONNECTING before there is one."""
        return self._states.now

    def states(self) -> AsyncIterator[State]:
        """The state, and each that follows, up to CLOSED; a loop that is slow misses some."""
        return aiter(self._states)

    @property
    def gaps(self) -> int:
        """How often it has connected again without its session: what it was sent meanwhile is lost.

        Whoever follows the messages that nobody has asked for begins anew: with a snapshot.
        """
        return self._matching.gaps if self._matching else 0

    @property
    def dropped(self) -> int:
        """How many messages that nobody had asked for were dropped, as BACKLOG were waiting."""
        return self._matching.unasked.dropped if self._matching else 0

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection with a close code and a reason of up to 123 bytes."""
        await self._connected().close(code, reason)

    async def emit(self, event: str, data: Any = MISSING) -> None:
        """Send a message that wants no reply.

        If one comes all the same, such as an exception frame, it is a message that nobody has
        asked for. Raises what `serialise` raises, and TimeoutError if the server does not read.
        """
        await self._connected().send(serialise(_message(event, data)))

    async def request(
        self, event: str, data: Any = MISSING, *, timeout: float | None = None
    ) -> Any:
        """Send a message and give the data of its reply, None if there is none.

        Of several replies it is the first, and the rest is cancelled. Raises WsException for
        an exception frame and TimeoutError after `timeout` seconds, or the client's.
        """
        limit = self.timeout if timeout is None else timeout
        question = self._connected().ask(event, data, wants_one=True)
        try:
            async with asyncio.timeout(limit) as waiting, aclosing(question) as items:
                return await anext(items, None)
        except TimeoutError:
            if not waiting.expired():
                raise
            raise TimeoutError(f"no reply to {event!r} within {limit:g} s") from None

    async def stream(
        self, event: str, data: Any = MISSING, *, timeout: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Send a message and give the data of each reply; leaving the loop cancels the rest.

        Raises WsException for an exception frame, BufferError if more than BACKLOG replies
        wait for the loop, and TimeoutError if none comes for `timeout` seconds. By default it
        waits as long as the connection lasts.
        """
        async with aclosing(self._connected().ask(event, data, timeout=timeout)) as items:
            async for item in items:
                yield item

    def __aiter__(self) -> AsyncIterator[Any]:
        """The messages that nobody has asked for, until the connection is closed.

        They are parsed; what is no JSON comes as it is. Raises ConnectionClosedError where
        the end was no goodbye: neither 1000 nor 1001 nor a close without a code (1005).
        """
        return aiter(self._connected().unasked)

    def _connected(self) -> Matching:
        if self._matching is None or self._is_left:
            raise RuntimeError("not connected: async with GatewayClient(url) as client: ...")
        return self._matching


def _message(event: str, data: Any) -> Message:
    return {"event": event} if data is MISSING else {"event": event, "data": data}


def _is_named(reply: Any) -> bool:
    """Whether a reply says its event and its data, as an exception frame does."""
    return isinstance(reply, dict) and "event" in reply and "data" in reply


def _as_reply(message: Any, is_last: bool) -> Message:
    """A message without an id as the reply that it is."""
    reply = message if _is_named(message) else {"event": "", "data": message}
    return {**reply, "done": is_last or reply["event"] == "exception"}


def _exception(data: Any) -> WsException:
    """What the server's handler has raised, from the data of an exception frame."""
    match data:
        case {"status": "error", "message": message}:
            return WsException(message)
    return WsException(data)
