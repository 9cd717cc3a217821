"""A session: a client that has lost its connection comes back and misses nothing.

A session stands between a gateway and a client's connections: for the gateway, it is a
connection that lasts. Both sides count the messages of a session; none of them is changed.
A client asks for one with ANNOUNCEMENT in the query of its URL and a first message:

    the client                                  the server
    {"session": null}                           {"session": <a secret>, "lifetime": <seconds>}
    {"session": <the secret>, "last": 17}       {"session": <the secret>, "heard": 5},
                                                and then its 18th message and all that follow
                                                {"session": <another>, "lifetime", "lost": true}

`last` is how many messages of the session the client has got, `heard` how many the server has.
"lost" says that it cannot go on: it is unknown, or too much is gone. An `id` in the message
is in the answer, too, with "done". A client that announces nothing has a plain connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from secrets import token_urlsafe
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from nestling.envelope import Message, serialise
from nestling.transport import Connection, Transport

if TYPE_CHECKING:
    from nestling.sessions import Sessions

# What a client that wants a session has in the query of its URL. The secret is not there:
# proxies write URLs down.
ANNOUNCEMENT = "nestling-session"

# Closes after which a client does not come back: 1000, 1001 (the page is left), none said.
GOODBYES = {1000, 1001, 1005}

ENDED = 1001, ""  # said to nobody, as the connection has ended
TAKEN_OVER = 4001, "this session goes on in another connection"
OVERFLOW = 1013, "too much is unread"

Farewell = tuple[int, str]  # a close code and a reason
Handler = Callable[[Any], Awaitable[None]]


class Session:
    """A `transport.Connection`, and `Transport`, that outlives the connections beneath it.

    What is sent goes to the client if it is there, and stays in a window until the client says
    that it has got it, or newer messages push it out. One that is pushed out before it was
    written ends the session.

    request:    of its first connection
    close_code: None until it is over
    size:       bytes in the window
    """

    def __init__(self, sessions: Sessions, handler: Handler, connection: Connection) -> None:
        self.secret = token_urlsafe()
        self.handler = handler
        self.request = connection.request
        self.close_code: int | None = None
        self.size = self.heard = 0
        self._sessions = sessions
        self._window: deque[str] = deque()
        self._last = self._written = 0  # numbers of the latest message, and of that on the wire
        self._connection: Connection | None = None
        self._left: asyncio.Future[Farewell] | None = None  # its farewell
        self._news = asyncio.Event()  # set while there is a connection, and in the end

    @property
    def transport(self) -> Transport:
        return self

    def get_write_buffer_size(self) -> int:
        return self._connection.transport.get_write_buffer_size() if self._connection else 0

    def is_reading(self) -> bool:
        return self._connection is None or self._connection.transport.is_reading()

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.transport.abort()
            self._detach(ENDED)
        self.end(1006)

    async def recv(self) -> str | bytes:
        """The next message, whichever connection brings it."""
        while True:
            await self._news.wait()
            if (connection := self._connection) is None:
                raise ConnectionClosedError(None, None)
            try:
                message = await connection.recv()
            except ConnectionClosed:
                self._lose(connection)
                continue
            if connection is self._connection:  # else the client has been told: not heard
                self.heard += 1
                return message

    async def send(self, message: str) -> None:
        if self.close_code is not None:
            raise ConnectionClosedError(None, None)
        connection = self._connection if self._written == self._last else None
        self._window.append(message)
        self._last += 1
        self._written += connection is not None
        self._count(getsizeof(message))
        while len(self._window) > self._sessions.frames or self.size > self._sessions.size:
            self.forget()
        self._sessions.make_room(self)
        await (self._write(connection, message) if connection else self._catch_up())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        connection = self._connection
        self.end(code, reason)
        if connection is not None:
            await connection.close(code, reason)

    def end(self, code: int, reason: str = "") -> None:
        """It is over, and its connection is to be closed."""
        if self.close_code is None:
            self.close_code = code
            self._detach((code, reason))
            self._news.set()
            self._window.clear()
            self._count(-self.size)
            self._sessions.remove(self)

    def forget(self) -> None:
        """Drop the oldest message of the window; it is over if that was never written."""
        if self._last - len(self._window) >= self._written:
            self.end(*OVERFLOW)
        else:
            self._count(-getsizeof(self._window.popleft()))

    def may_go_on(self, handler: Handler, connection: Connection, last: object) -> bool:
        """Whether a client that has got `last` messages can be given the next ones here."""
        is_here = self.handler == handler and self.request.path == connection.request.path
        first = self._last - len(self._window)
        return is_here and type(last) is int and first <= last <= self._last

    async def resume(self, connection: Connection, last: int, answer: Message) -> Farewell:
        """Go on with a connection, whose client has got `last` messages, until it is done.

        Gives how to close it.
        """
        self._detach(TAKEN_OVER)
        while self._last - len(self._window) < last:
            self._count(-getsizeof(self._window.popleft()))
        self._connection, self._written = connection, last
        left: asyncio.Future[Farewell] = asyncio.get_running_loop().create_future()
        self._left = left
        self._news.set()
        await self._write(connection, serialise(answer))
        await self._catch_up()
        return await left

    async def _catch_up(self) -> None:
        """Send what is not on the wire yet: each message is, before the loop waits."""
        connection = self._connection
        while connection and connection is self._connection and self._written < self._last:
            self._written += 1
            await self._write(connection, self._window[self._written - self._last - 1])

    async def _write(self, connection: Connection, message: str) -> None:
        try:
            await connection.send(message)
        except ConnectionClosed:
            pass  # recv will notice

    def _lose(self, connection: Connection) -> None:
        if connection is self._connection:
            self._detach(ENDED)
            if connection.close_code in GOODBYES:
                self.end(connection.close_code)
            else:
                self._news.clear()
                self._sessions.wait_for(self)

    def _detach(self, farewell: Farewell) -> None:
        self._connection = None
        if self._left is not None and not self._left.done():
            self._left.set_result(farewell)

    def _count(self, size: int) -> None:
        self.size += size
        self._sessions.held += size
