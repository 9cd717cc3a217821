"""The sessions of a server: who may have one, who comes back to one, and when it is over.

::

    await app.listen(3000, serve=Sessions())

For a gateway, its hooks and `server.clients`, a client is there as long as its session is.
`session` says what goes over the wire.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed

from nestling.envelope import Message, id_of, parse
from nestling.session import ANNOUNCEMENT, TAKEN_OVER, Handler, Session
from nestling.transport import Connection, Listener, Serve
from nestling.transport import serve as serve_with_websockets

NOT_ASKED = 1008, "the first message has to ask for a session"

# Seconds for a client to ask for its session, and for a connection that is taken over to end.
PATIENCE = 10.0
MOMENT = 1.0


class Sessions:
    """A `transport.Serve` whose clients may have sessions.

    lifetime: seconds that a session waits for its client
    frames:   messages in the window of a session, at most
    size:     bytes of memory in the window of a session, at most
    total:    the same for all windows together: above it, the session that has waited longest
              for its client ends; if none waits, who sends drops its oldest messages
    most:     sessions that may wait for their clients, at most; the longest waiting ends first
    serve:    what listens
    held:     bytes in all windows
    live:     the sessions, by their secrets
    waiting:  those whose clients have gone, with the timers that end them
    asking:   connections that have not asked for their session yet
    tasks:    those that serve the sessions
    """

    def __init__(
        self,
        *,
        lifetime: float = 60.0,
        frames: int = 1000,
        size: int = 2**20,
        total: int = 2**26,
        most: int = 1000,
        serve: Serve = serve_with_websockets,
    ) -> None:
        self.lifetime, self.frames, self.size = lifetime, frames, size
        self.held = 0
        self._total, self._most, self._serve = total, most, serve
        self.live: dict[str, Session] = {}
        self.waiting: dict[Session, asyncio.TimerHandle] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.asking: set[Connection] = set()

    async def __call__(self, handler: Handler, host: str, port: int, **options: Any) -> Listener:
        async def accept(connection: Connection) -> None:
            if ANNOUNCEMENT in urlsplit(connection.request.path).query.split("&"):
                await self._welcome(handler, connection)
            else:
                await handler(connection)

        return _Listener(await self._serve(accept, host, port, **options), self)

    def make_room(self, session: Session) -> None:
        """See to it that all windows together are within their bound, as this one has grown."""
        while self.held > self._total and session.size:
            if self.waiting:
                next(iter(self.waiting)).end(1006)
            else:
                session.forget()

    def wait_for(self, session: Session) -> None:
        """The client of a session has gone without a goodbye."""
        later = asyncio.get_running_loop().call_later
        self.waiting[session] = later(self.lifetime, session.end, 1006)
        if len(self.waiting) > self._most:
            next(iter(self.waiting)).end(1006)

    def wait_no_more(self, session: Session) -> None:
        if session in self.waiting:
            self.waiting.pop(session).cancel()

    def remove(self, session: Session) -> None:
        """A session is over."""
        self.wait_no_more(session)
        self.live.pop(session.secret, None)

    async def _welcome(self, handler: Handler, connection: Connection) -> None:
        """Begin a session or go on with one, until the connection has ended or is taken over."""
        asked = await self._asked(connection)
        if asked is None:
            await connection.close(*NOT_ASKED)
            return
        secret: Any = asked["session"]
        last: Any = asked.get("last")
        session = self.live.get(secret) if isinstance(secret, str) else None
        if session is not None and session.may_go_on(handler, connection, last):
            self.wait_no_more(session)
            answer = {"session": secret, "heard": session.heard}
        else:
            if session is not None:
                session.end(*TAKEN_OVER)
            session, last = self._begin(handler, connection), 0
            answer = {"session": session.secret, "lifetime": self.lifetime}
            answer |= {} if secret is None else {"lost": True}
        if (number := id_of(asked)) is not None:
            answer = {"id": number, **answer, "done": True}
        farewell = await session.resume(connection, last, answer)
        is_over = session.close_code is not None
        try:
            async with asyncio.timeout(None if is_over else MOMENT):
                await connection.close(*farewell)
        except TimeoutError:
            connection.transport.abort()

    async def _asked(self, connection: Connection) -> Message | None:
        """The first message of a connection, if it asks for a session."""
        self.asking.add(connection)
        try:
            async with asyncio.timeout(PATIENCE):
                message = parse(await connection.recv())
        except (TimeoutError, ConnectionClosed, ValueError, RecursionError):
            return None
        finally:
            self.asking.discard(connection)
        return message if isinstance(message, dict) and "session" in message else None

    def _begin(self, handler: Handler, connection: Connection) -> Session:
        session = Session(self, handler, connection)
        self.live[session.secret] = session
        task = asyncio.create_task(self._run(session))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return session

    async def _run(self, session: Session) -> None:
        try:
            await session.handler(session)
        finally:
            session.end(1000)


class _Listener:
    """A listener that ends, with itself, what waits for a client that cannot come any more."""

    def __init__(self, listener: Listener, sessions: Sessions) -> None:
        self._listener = listener
        self._sessions = sessions

    @property
    def sockets(self) -> Any:
        return self._listener.sockets

    def close(self, close_connections: bool = True) -> None:
        self._listener.close(close_connections)
        for connection in self._sessions.asking:
            connection.transport.abort()
        for session in list(self._sessions.waiting):
            session.end(1001)

    async def wait_closed(self) -> None:
        await self._listener.wait_closed()
        if self._sessions.tasks:
            await asyncio.wait(self._sessions.tasks)
