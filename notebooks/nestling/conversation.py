"""One client: its messages, and a task for each handler that answers one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from websockets.exceptions import ConnectionClosed

from nestling.answers import Call, Client, Handler, StreamClosed, Task, is_cancelled
from nestling.dispatch import Dispatcher
from nestling.envelope import MAX_SIZE, Id, WsException
from nestling.transport import Connection

# Messages of one client whose handlers are under way, and the characters in them, above
# which the next one is refused.
IN_FLIGHT = 256
HELD = 4 * MAX_SIZE

# Messages that are read in a row before others have their turn.
IN_A_ROW = 64


class Calls:
    """The messages of one client that are being answered.

    in_flight: those whose handlers are under way
    live:      those with an id, by it, until their last frame is sent
    """

    def __init__(self) -> None:
        self.in_flight: set[Call] = set()
        self.live: dict[Id | None, Call] = {}
        self._held = 0  # characters in those in flight

    @property
    def is_full(self) -> bool:
        return len(self.in_flight) >= IN_FLIGHT or self._held > HELD

    def add(self, call: Call) -> None:
        self.in_flight.add(call)
        self._held += call.size
        if call.id is not None:
            self.live[call.id] = call

    def land(self, call: Call) -> None:
        """A handler has ended; after the last of a message, it is no longer in flight."""
        call.running -= 1
        if not call.running:
            self.in_flight.discard(call)
            self._held -= call.size

    def end(self, call: Call) -> None:
        """An answer has ended; after the last frame of a message, its id is free."""
        if not call.unsaid:
            self.live.pop(call.id, None)


class Conversation:
    """The messages of one client: one task reads them, and each handler answers in its own."""

    def __init__(self, client: Client, connection: Connection, gateways: Dispatcher) -> None:
        self.client = client
        self._connection = connection
        self._gateways = gateways
        self._create_task = asyncio.get_running_loop().create_task
        self._settled = asyncio.Event()  # handlers wait until then
        self._is_open = False
        self._calls = Calls()

    def open(self) -> None:
        """Let handlers begin."""
        self._is_open = True
        self._settled.set()

    def close(self, but: Task | None = None) -> None:
        """Close the streams, that of the task `but` apart; who waits to begin never does."""
        self._settled.set()
        for call in self._calls.in_flight:
            call.cancel(but, silently=True)

    async def read(self) -> None:
        """Begin the answer to each message, until the client has gone."""
        try:
            for number in count(1):
                raw = await self._connection.recv()
                if self.client.is_behind:
                    await self.client.room()
                if number % IN_A_ROW == 0 or self._calls.is_full:
                    await asyncio.sleep(0)  # what need not wait ends, and others have their turn
                if (refused := self._begin(raw)) is not None:
                    await refused[0].fail(refused[1])
        except ConnectionClosed:
            pass

    def _begin(self, raw: str | bytes) -> tuple[Call, WsException] | None:
        """Start the handlers of a message; or give that it is refused, and why."""
        message, why_not = self._gateways.understand(raw)
        if message is None:
            return None
        handlers = self._gateways.handlers(message)
        call = Call(self.client, message, len(raw), len(handlers) or 1)
        if call.id in self._calls.live:
            why_not = "This id is still in use"
        elif not handlers:
            why_not = why_not or "There is no such event"
        elif self._calls.is_full:
            why_not = why_not or "Too much is in flight"
        if why_not is None:
            self._start(call, handlers)
        elif call.id is None and not handlers:
            self._gateways.ignore(why_not, raw)
        elif "event" not in message and message.get("cancel") is True:
            if call.id in self._calls.live:
                self._calls.live[call.id].cancel()
        else:
            return call, WsException(why_not)
        return None

    def _start(self, call: Call, handlers: Sequence[Handler]) -> None:
        self._calls.add(call)
        for handler in handlers:
            task = self._create_task(self._answer(call, handler))
            if not task.done():  # as it is where tasks start eagerly
                self._gateways.tasks.add(task)

    async def _answer(self, call: Call, handler: Handler) -> None:
        """Call a handler, and send what it gives, or that it failed."""
        try:
            if not self._is_open:
                await self._settled.wait()
                if not self._is_open:
                    return
            if self.client.is_behind:
                await self.client.room()
            try:
                value = handler(self.client, call.message.get("data"))
                if hasattr(value, "__await__") or hasattr(value, "__aiter__"):
                    value = await call.result(value)
            finally:
                self._calls.land(call)
            await call.reply(value)
        except BaseException as error:
            if isinstance(error, StreamClosed) or is_cancelled(error):
                return
            if not isinstance(error, WsException):
                what = f"the handler of {call.message['event']!r} failed"
                self._gateways.report(what, error)
            await call.fail(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            self._gateways.tasks.discard(asyncio.current_task())
            self._calls.end(call)
