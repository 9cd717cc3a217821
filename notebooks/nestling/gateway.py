"""Gateways in the manner of Nest: a class whose methods answer messages by their event.

::

    @websocket_gateway(path="/poll")
    class PollGateway:
        @subscribe_message("vote")
        async def vote(self, client, data): ...

What a handler gives is what the client gets, one text frame each: a value, what a coroutine
returns, every item of an async generator. None is no frame. A message that cannot be
understood is answered with silence, an error with an exception frame, and neither ends
the connection.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from nestling.answers import Client, Task, is_cancelled
from nestling.conversation import Conversation
from nestling.dispatch import Dispatcher, Parser
from nestling.envelope import WsException, exception, serialise
from nestling.transport import Connection

__all__ = ["Client", "GatewayServer", "WsException", "subscribe_message", "websocket_gateway"]

# Seconds for a hook to end when its client has gone, and for a handler that is cancelled.
MOMENT = 1.0

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


# Decorators


def websocket_gateway(
    cls: None = None, /, *, path: str = "/", port: int | None = None
) -> Callable[[Class], Class]:
    """Make a class a gateway for the clients that connect to `path`.

    port: None for the application's own; an integer listens on that one, 0 on any free one

    Methods named `after_init(server)`, `handle_connection(client, request)` and
    `handle_disconnect(client, code)` are its hooks, called where present, awaited where
    they are coroutines. `self.server` is its `GatewayServer`, from before `after_init`.

    Raises ValueError if the path does not begin with a slash or the port is no port.
    """
    if cls is not None:
        raise TypeError("write @websocket_gateway(), with parentheses")
    if not isinstance(path, str) or not re.fullmatch(r"/[^?#]*", path):
        raise ValueError(f"a gateway's path begins with / and has no ? or #: not {path!r}")
    if port is not None:
        check_port(port)

    def decorate(cls: Class) -> Class:
        cls.__gateway__ = (path, port)  # type: ignore[attr-defined]
        return cls

    return decorate


def subscribe_message(event: str) -> Callable[[Function], Function]:
    """Make a method the handler of the messages with this event.

    It is called with the `Client` and the message's data (None if there is none), and with
    `event=` if it has such a parameter. Plain methods, coroutines and async generators all
    have a task of their own. Written several times above one method, it subscribes it to each
    event, where Nest takes the topmost alone.

    Raises TypeError for an event that is no string, and for a method that cannot be called so.
    """
    if not isinstance(event, str):
        raise TypeError(f'an event is a string, as in @subscribe_message("vote"), not {event!r}')

    def decorate(method: Function) -> Function:
        _check_handler(method)
        method.__events__ = (*getattr(method, "__events__", ()), event)  # type: ignore[attr-defined]
        return method

    return decorate


def check_port(port: object) -> None:
    """Raise ValueError, naming it, if this is no TCP port."""
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"a port is an integer from 0 (any free one) to 65535, not {port!r}")


def _check_handler(method: Callable[..., Any]) -> None:
    name = getattr(method, "__name__", repr(method))
    if inspect.isgeneratorfunction(method):
        raise TypeError(f"{name} has a yield: a stream is an async generator, async def {name}")
    signature = inspect.signature(method)
    event = {"event": ""} if "event" in signature.parameters else {}
    try:
        signature.bind("self", "client", "data", **event)
    except TypeError:
        wanted = f"def {name}(self, client, data), and event after them if it is to know its event"
        raise TypeError(f"{name} cannot be called with a message: {wanted}") from None


# The server's side of a path


class GatewayServer(Dispatcher):
    """The gateways of one path, and their clients.

    path: the URL path that its clients connect to
    """

    def __init__(
        self, path: str, gateways: Sequence[Any], parse: Parser, errors: deque[BaseException]
    ) -> None:
        super().__init__(gateways, parse, errors)
        self.path = path
        self._gateways = gateways
        self._conversations: set[Conversation] = set()
        for gateway in gateways:
            gateway.server = self

    @property
    def clients(self) -> frozenset[Client]:
        """Those that are connected now; a loop over them may wait while they come and go."""
        return frozenset(conversation.client for conversation in self._conversations)

    async def init(self) -> None:
        """Call the hooks `after_init`. What they raise comes out."""
        for gateway in self._gateways:
            await _call_hook(gateway, "after_init", self)

    async def serve(self, connection: Connection) -> None:
        """Serve one client: the connect hooks, its messages, the disconnect hooks.

        Handlers wait until the connect hooks are done; in Nest they do not. Where one raises,
        the client gets an exception frame and close code 1008 for a `WsException`, 1011 for
        anything else, and no disconnect hook. One that waits when it has gone is cancelled.
        """
        client, greeted = Client(connection), []
        conversation = Conversation(client, connection, self)
        self._conversations.add(conversation)
        reading = asyncio.create_task(conversation.read())
        try:
            async with _limited_by(reading) as limit:
                for gateway in self._gateways:
                    await _call_hook(gateway, "handle_connection", client, client.request)
                    greeted.append(gateway)
            conversation.open()
            await reading
        except BaseException as error:
            conversation.close()
            if is_cancelled(error) or isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            if not limit.expired():
                await self._turn_away(client, error)
        finally:
            conversation.close()
            reading.cancel()
            self._conversations.discard(conversation)
            for gateway in greeted:
                await self._say_goodbye(gateway, client, connection.close_code or 1006)

    async def finish(self, grace: float, asker: Task | None = None) -> None:
        """Take no more messages, close the streams, and give handlers `grace` seconds to end.

        Then they are cancelled. The task that asks for it may be a handler's: it is not waited
        for, nor cancelled.
        """
        self.closing = True
        for conversation in self._conversations:
            conversation.close(but=asker)
        for patience in (grace, MOMENT):
            if running := self.tasks - {asker}:
                _, running = await asyncio.wait(running, timeout=patience)
            for task in running:
                task.cancel()

    async def _turn_away(self, client: Client, error: BaseException) -> None:
        """End the connection of a client for which a connect hook has raised."""
        if not isinstance(error, WsException):
            self.report("a client could not be served", error)
        code = 1008 if isinstance(error, WsException) else 1011
        await client.close(code, text=serialise(exception(error)))

    async def _say_goodbye(self, gateway: Any, client: Client, code: int) -> None:
        try:
            await _call_hook(gateway, "handle_disconnect", client, code)
        except Exception as error:
            self.report("a disconnect hook failed", error)


@asynccontextmanager
async def _limited_by(reading: Task) -> AsyncIterator[asyncio.Timeout]:
    """Cancel what is inside a moment after the client has gone, which ends the reading."""
    async with asyncio.timeout(None) as limit:
        loop = asyncio.get_running_loop()

        def hurry(_: object) -> None:
            limit.reschedule(loop.time() + MOMENT)

        reading.add_done_callback(hurry)
        try:
            yield limit
        finally:
            reading.remove_done_callback(hurry)


async def _call_hook(gateway: Any, name: str, *arguments: Any) -> None:
    hook = getattr(gateway, name, None)
    if hook is not None and inspect.isawaitable(result := hook(*arguments)):
        await result
