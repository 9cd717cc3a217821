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
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from nestling.envelope import MAX_SIZE, WsException, parse, serialise

# Items of a stream, or messages that nobody asked for, that may wait for their reader.
BACKLOG = 1000


class _Missing:
    """Stands for data that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "no data"


MISSING: Final = _Missing()


class GatewayClient:
    """A connection to a gateway: an asynchronous context manager.

    url:       where, such as ws://127.0.0.1:3000/poll
    correlate: whether messages carry ids. False is for a gateway that ignores them, such as
               Nest's: then one question is asked at a time, and the next message that
               comes is its reply
    timeout:   seconds to wait for the connection, for a reply, and for the server to read
    options:   for `websockets.asyncio.client.connect`, such as additional_headers
    dropped:   how many messages that nobody had asked for were dropped, the oldest first,
               because BACKLOG of them were waiting

    Every call raises `websockets.exceptions.ConnectionClosed` when the connection ends before
    it is done, and RuntimeError outside of the `async with` block.
    """

    def __init__(
        self, url: str, *, correlate: bool = True, timeout: float = 10.0, **options: Any
    ) -> None:
        self.url = url
        self.correlate = correlate
        self.timeout = timeout
        self.dropped = 0
        self._options = {
            "compression": None,
            "max_size": MAX_SIZE,
            "open_timeout": timeout,
        } | options
        self._connection: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked = 0
        self._questions: dict[int, _Question] = {}
        self._turn: AbstractAsyncContextManager[None] = (
            nullcontext() if correlate else asyncio.Lock()
        )
        self._unasked: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> GatewayClient:
        if self._reading is not None:
            raise RuntimeError("this client is connected already: make another one")
        self._connection = await connect(self.url, **self._options)
        self._reading = asyncio.create_task(self._read(self._connection))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
        self._connection = None

    @property
    def close_code(self) -> int | None:
        """Why the connection has ended, 1006 if nobody said why; None while it is open."""
        return self._connected().close_code

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection with a close code and a reason of up to 123 bytes."""
        connection = self._connected()
        try:
            async with asyncio.timeout(self.timeout):
                await connection.close(code, reason)
        except TimeoutError:
            connection.transport.abort()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def emit(self, event: str, data: Any = MISSING) -> None:
        """Send a message that wants no reply.

        If one comes all the same, such as an exception frame, it is a message that nobody has
        asked for. Raises what `serialise` raises, and TimeoutError if the server does not read.
        """
        await self._send(serialise(_message(event, data)))

    async def request(
        self, event: str, data: Any = MISSING, *, timeout: float | None = None
    ) -> Any:
        """Send a message and give the data of its reply, None if there is none.

        Of several replies it is the first, and the rest is cancelled. Raises WsException for
        an exception frame and TimeoutError after `timeout` seconds, or the client's.
        """
        limit = self.timeout if timeout is None else timeout
        try:
            async with (
                asyncio.timeout(limit) as waiting,
                aclosing(self._ask(event, data, one=True)) as items,
            ):
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
        async with aclosing(self._ask(event, data, timeout)) as items:
            async for item in items:
                yield item

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The messages that nobody has asked for, until the connection is closed.

        They are parsed; what is no JSON comes as it is. Raises ConnectionClosedError where
        the end was no goodbye.
        """
        self._connected()
        while True:
            message = await self._unasked.get()
            if isinstance(message, ConnectionClosed):
                self._unasked.put_nowait(message)  # for whoever asks next
                if isinstance(message, ConnectionClosedOK):
                    return
                raise message
            yield message

    # Questions

    async def _ask(
        self, event: str, data: Any, timeout: float | None = None, one: bool = False
    ) -> AsyncGenerator[Any, None]:
        """The data of each reply to a message."""
        self._asked = number = self._asked + 1
        correlation = {"id": number} if self.correlate else {}
        text = serialise(correlation | _message(event, data))
        async with self._turn:
            question = self._questions[number] = _Question(self.correlate, one)
            try:
                await self._send(text)
                async for item in question.items(timeout):
                    yield item
            finally:
                del self._questions[number]
                if not question.done:
                    await self._abandon(number)

    async def _abandon(self, number: int) -> None:
        """Want no more replies. Without ids, the next one could not be told from a late one."""
        if self._connection is None:
            return
        if not self.correlate:
            await self.close(1000, "a reply is not waited for")
            return
        try:
            async with asyncio.timeout(0):  # written at once, whether or not it is read
                await self._connection.send(serialise({"id": number, "cancel": True}))
        except (ConnectionClosed, TimeoutError):
            pass

    # The connection

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            raise RuntimeError("not connected: async with GatewayClient(url) as client: ...")
        return self._connection

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await self._connected().send(text)
        except TimeoutError:
            raise TimeoutError(f"the server has not read for {self.timeout:g} s") from None

    async def _read(self, connection: ClientConnection) -> None:
        """Give each message to whom it belongs, and in the end the news that it is the end."""
        try:
            while True:
                self._deliver(await connection.recv())
        except ConnectionClosed as closed:
            self._unasked.put_nowait(closed)
            for question in self._questions.values():
                question.put(closed)

    def _deliver(self, raw: str | bytes) -> None:
        try:
            message = parse(raw)
        except (ValueError, RecursionError):
            message = raw
        question = None if self.correlate else next(iter(self._questions.values()), None)
        if question is not None and not question.answered:
            question.put(message)
        elif (number := self._number(message)) is not None:
            # One that is not known any more has been given up: its reply comes late.
            if number in self._questions:
                self._questions[number].put(message)
        else:
            if self._unasked.qsize() >= BACKLOG:
                self._unasked.get_nowait()
                self.dropped += 1
            self._unasked.put_nowait(message)

    def _number(self, message: Any) -> int | None:
        """Which of this client's messages this one replies to."""
        if not self.correlate or not isinstance(message, dict):
            return None
        number = message.get("id")
        is_reply = _is_named(message) or message.get("done") is True
        is_ours = type(number) is int and 0 < number <= self._asked
        return number if is_reply and is_ours else None


class _Question:
    """A message whose replies are waited for."""

    def __init__(self, correlated: bool, one: bool) -> None:
        self.done = False
        self.answered = False
        self._correlated = correlated
        self._one = one
        self._replies: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, reply: Any) -> None:
        """A reply has come, or the error that ends it all."""
        failed = _is_named(reply) and reply["event"] == "exception"
        self.answered = not self._correlated and (self._one or failed)
        waiting = self._replies.qsize()
        is_item = not isinstance(reply, Exception) and (not self._correlated or "data" in reply)
        if waiting < BACKLOG or not is_item:
            self._replies.put_nowait(reply)
        elif waiting == BACKLOG:
            why = f"the loop over a stream is more than {BACKLOG} items behind"
            self._replies.put_nowait(BufferError(why))

    async def items(self, timeout: float | None) -> AsyncIterator[Any]:
        while not self.done:
            try:
                async with asyncio.timeout(timeout):
                    reply = await self._replies.get()
            except TimeoutError:
                raise TimeoutError(f"nothing more came for {timeout:g} s") from None
            if isinstance(reply, Exception):
                self.done = isinstance(reply, ConnectionClosed)
                raise reply
            self.done = reply.get("done") is True if self._correlated else self._one
            named = _is_named(reply)
            if named and reply["event"] == "exception":
                self.done = self.done or not self._correlated
                raise _exception(reply["data"])
            if named:
                yield reply["data"]
            elif not self._correlated:
                yield reply


def _is_named(reply: Any) -> bool:
    """Whether a reply says its event and its data, as an exception frame does."""
    return isinstance(reply, dict) and "event" in reply and "data" in reply


def _exception(data: Any) -> WsException:
    """What the server's handler has raised, from the data of an exception frame."""
    match data:
        case {"status": "error", "message": message}:
            return WsException(message)
    return WsException(data)


def _message(event: str, data: Any) -> dict[str, Any]:
    return {"event": event} if data is MISSING else {"event": event, "data": data}
