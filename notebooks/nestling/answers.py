"""What one client is sent: frames, as fast as it reads them, and the answer to a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed

from nestling.envelope import Message, correlated, exception, id_of, serialise
from nestling.transport import UNREAD, Connection

# Sends that may wait for one client to read, before nothing more is begun for it.
SENDS = 64

# Seconds that a client has to answer a close, and a stream to end when it is cancelled.
PATIENCE = 10.0

Handler = Callable[["Client", Any], Any]
Task = asyncio.Task[Any]


class Client:
    """A client, as handlers and hooks get it.

    request: the path and the headers it connected with
    """

    def __init__(self, connection: Connection) -> None:
        self.request = connection.request
        self._connection = connection
        self._sending = 0  # sends that have not ended
        self._sent = asyncio.Event()  # set when one ends
        self._line = asyncio.Lock()  # those who wait for room, first come, first served

    async def send(self, value: Any) -> None:
        """Send a JSON value, one text frame; it is dropped if the client has gone.

        Waits while the client does not read. Raises what `serialise` raises.
        """
        await self.send_text(serialise(value))

    async def send_text(self, text: str) -> None:
        """The same for a value that is serialised already, to send it to many."""
        if self.is_behind:
            await self.room()
        await self.write(text)
        await asyncio.sleep(0)  # a loop that does nothing but send lets others run

    async def close(self, code: int = 1000, reason: str = "", *, text: str | None = None) -> None:
        """End the connection with a close code and a reason of up to 123 bytes.

        A text is sent before. A client that does not answer is cut after PATIENCE seconds.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                if text is not None:
                    await self.write(text)
                await self._connection.close(code, reason)
        except TimeoutError:
            self._connection.transport.abort()

    @property
    def is_behind(self) -> bool:
        """Whether the client leaves too much unread."""
        if not self._sending:
            return False
        unread = self._connection.transport.get_write_buffer_size()
        return self._sending >= SENDS or unread > UNREAD

    async def room(self) -> None:
        """Wait, in the order of asking, while the client is behind."""
        async with self._line:
            while self.is_behind:
                self._sent.clear()
                await self._sent.wait()

    async def write(self, text: str) -> None:
        """Send a text without waiting for room before."""
        self._sending += 1
        try:
            await self._connection.send(text)
        except ConnectionClosed:
            pass
        finally:
            self._sending -= 1
            self._sent.set()


class StreamClosed(Exception):
    """A stream was closed because the conversation ends: nothing more is to be said."""


class Call:
    """A message, until the last frame of its answer is sent.

    size:    the characters in it
    running: how many of its handlers have not ended
    unsaid:  how many of them have not had their last frame sent
    """

    def __init__(self, client: Client, message: Message, size: int, handlers: int) -> None:
        self.message = message
        self.id = id_of(message)
        self.size = size
        self.running = self.unsaid = handlers
        self._client = client
        self._is_cancelled = self._is_silent = False
        self._streams: set[Task] = set()
        self._again: asyncio.TimerHandle | None = None

    async def result(self, given: Any) -> Any:
        """What a handler has given, once it is there.

        The items of a stream are sent, and None is left to say.
        """
        if hasattr(given, "__await__"):
            given = await given
        return await self._stream(given) if hasattr(given, "__aiter__") else given

    async def reply(self, value: Any, ends: bool = True) -> None:
        """Send what a handler gives, None being no frame; `ends` says that it is the last.

        Raises what `serialise` raises.
        """
        if self._client.is_behind:
            await self._client.room()
        if self.id is not None:
            value = correlated(self.message, value, done=ends and self.unsaid == 1)
        text = None if value is None else serialise(value)
        self.unsaid -= ends  # before the send, which may wait while another handler ends
        if text is not None:
            await self._client.write(text)

    async def fail(self, error: BaseException) -> None:
        """Send the exception frame for an error, as the last of a handler."""
        await self.reply(exception(error, self.message))

    def cancel(self, but: Task | None = None, *, silently: bool = False) -> None:
        """Close the streams, that of the task `but` apart, and those yet to be returned.

        Their end is said, unless silently.
        """
        self._is_silent = self._is_silent or silently
        if not self._is_cancelled:  # a stream that is being closed is left to its cleaning up
            self._is_cancelled = True
            self._close_streams(but)

    def _close_streams(self, but: Task | None = None) -> None:
        for task in self._streams - {but}:
            task.cancel()
        if self._streams:
            again = asyncio.get_running_loop().call_later
            self._again = again(PATIENCE, self._close_streams)

    async def _stream(self, items: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if not self._is_cancelled:
                async for item in items:
                    if self._is_cancelled:  # and the generator has caught that, to go on
                        break
                    await self.reply(item, ends=False)
                    await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            if not (self._is_cancelled and is_cancelled(error)):
                raise
        finally:
            self._streams.discard(task)
            if self._again is not None and not self._streams:
                self._again.cancel()
            if hasattr(items, "aclose"):
                await items.aclose()
        if self._is_silent:
            raise StreamClosed


def is_cancelled(error: BaseException) -> bool:
    """Whether the error is that somebody has cancelled the task; a handler may raise it, too."""
    task = asyncio.current_task()
    asked = task is not None and task.cancelling() > 0
    return asked and isinstance(error, asyncio.CancelledError)
