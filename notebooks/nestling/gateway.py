"""Gateways in the manner of Nest: a class whose methods answer messages by their event.

A message is one JSON object, {"event": <string>, "data": <any>}::

    @websocket_gateway(path="/poll")
    class PollGateway:
        @subscribe_message("vote")
        async def vote(self, client, data): ...

What a handler gives is what the client gets, one text frame each: a value, what a coroutine
returns, every item of an async generator. None is no frame. A message that cannot be
understood is answered with silence, an error with an exception frame, and neither ends
the connection.

A message may carry an "id", which Nest does not have: its replies then carry it too, and
the last one says "done". See `_Call`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from websockets.exceptions import ConnectionClosed

log = logging.getLogger("nestling.gateway")

# Messages of one connection whose handlers are under way, above which it is read no further.
IN_FLIGHT = 64

Id = str | int
Handler = Callable[["Client", Any], Any]
Parser = Callable[[str | bytes], Any]
Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


class Connection(Protocol):
    """What a gateway needs of the connection to a client.

    Once it is closed, `recv` and `send` raise `websockets.exceptions.ConnectionClosed`.

    request:    its `path` and `headers`, as the client sent them
    close_code: None while it is open
    """

    @property
    def request(self) -> Any: ...
    @property
    def close_code(self) -> int | None: ...
    async def recv(self) -> str | bytes: ...
    async def send(self, message: str) -> None: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    async def wait_closed(self) -> None: ...


class WsException(Exception):
    """An error that the client is told: raise it in a handler or a hook.

    error: a text, sent as the message of an exception frame; or a dict or a list, which
           is then the frame's data, as it is
    """

    def __init__(self, error: Any) -> None:
        super().__init__(error)
        self.error = error


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
    `event=` if it has such a parameter. A plain method is answered before the next message
    is read; coroutines and async generators run side by side. Written several times above
    one method, it subscribes it to each event, where Nest takes the topmost alone.

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


def _handlers(gateway: object) -> dict[str, Handler]:
    """The methods of a gateway by their event; of several for one, the last."""
    names = {name: None for cls in reversed(type(gateway).__mro__) for name in vars(cls)}
    found: dict[str, Handler] = {}
    for name in names:
        method = inspect.getattr_static(gateway, name)
        for event in getattr(method, "__events__", ()):
            handler = getattr(gateway, name)
            wants_event = "event" in inspect.signature(handler).parameters
            found[event] = partial(handler, event=event) if wants_event else handler
    return found


# JSON, as JSON.parse and JSON.stringify have it


def parse(message: str | bytes) -> Any:
    """What a message says, text or binary alike.

    Raises ValueError for what is not strict JSON (NaN, comments, a byte order mark) or has
    a number of more than 4,300 digits, RecursionError for what is nested too deep.
    """
    text = message if isinstance(message, str) else message.decode(errors="replace")
    return _decoder.decode(text)


def serialise(value: Any) -> str:
    """A value as compact JSON: non-ASCII as it is, lone surrogates escaped, NaN as null.

    Raises TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    try:
        text = _encoder.encode(value)
    except ValueError as error:
        if "Circular" in str(error):
            raise
        text = _encoder.encode(_finite(value))
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def _finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def exception(error: BaseException, message: dict[str, Any] | None = None) -> dict[str, Any]:
    """The exception frame for an error, as Nest words it, caused by a message if by any."""
    if isinstance(error, WsException) and isinstance(error.error, dict | list):
        return {"event": "exception", "data": error.error}
    told = error.error if isinstance(error, WsException) else "Internal server error"
    data = {"status": "error", "message": told}
    if message is not None:
        cause = {"data": message["data"]} if "data" in message else {}
        data["cause"] = {"pattern": message.get("event"), **cause}
    return {"event": "exception", "data": data}


# Clients and their messages


class Client:
    """A client, as handlers and hooks get it.

    request: the path and the headers it connected with
    """

    def __init__(self, connection: Connection) -> None:
        self.request = connection.request
        self._connection = connection

    async def send(self, value: Any) -> None:
        """Send a JSON value, one text frame; it is dropped if the client has gone.

        Waits while the client does not read. Raises what `serialise` raises.
        """
        await self.send_text(serialise(value))

    async def send_text(self, text: str) -> None:
        """The same for a value that is serialised already, to send it to many."""
        try:
            await self._connection.send(text)
        except ConnectionClosed:
            await asyncio.sleep(0)  # a loop that does nothing but send lets others run

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection with a close code and a reason of up to 123 bytes."""
        await self._connection.close(code, reason)


class _Call:
    """One message, until every handler of its event has ended.

    Without an id, a reply is the handler's value, bare. With one, replies are
    {"id", "event", "data"}, and one frame, the last, has "done": true; where there is
    nothing more to say, it is {"id", "done"}. A returned {"event", "data"} keeps its event.
    """

    __slots__ = ("_client", "_left", "_streams", "cancelled", "id", "message", "tasks")

    def __init__(self, client: Client, message: dict[str, Any], handlers: int) -> None:
        self.message = message
        self.id = _id(message)
        self.cancelled = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._client = client
        self._left = handlers

    async def reply(self, value: Any, ends: bool = True) -> None:
        """Send what a handler gives, None being no frame; `ends` says that it has ended.

        Raises what `serialise` raises.
        """
        if self.id is not None:
            value = self._correlated(value, done=ends and self._left == 1)
        text = None if value is None else serialise(value)
        if ends:
            self._left -= 1  # before the send, which may wait while another handler ends
        if text is not None:
            await self._client.send_text(text)

    async def finish(self, value: Any) -> None:
        """A handler has ended: send its value, or that it cannot be sent."""
        try:
            await self.reply(value)
        except (TypeError, ValueError, RecursionError) as error:
            await self.fail(error)

    async def stream(self, items: Any) -> None:
        """Send each item, and close the async generator in any case."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if not self.cancelled:
                async for item in items:
                    await self.reply(item, ends=False)
        finally:
            self._streams.discard(task)
            if hasattr(items, "aclose"):
                await items.aclose()

    async def fail(self, error: BaseException) -> None:
        """A handler has ended with an error: send an exception frame."""
        event = self.message.get("event")
        if not isinstance(error, WsException):
            log.error("the handler of %s failed", _short(event), exc_info=error)
        try:
            await self.reply(exception(error, self.message))
        except (TypeError, ValueError, RecursionError):
            log.exception("an exception frame could not be serialised")
            cause = {"event": event if isinstance(event, str) else None}
            await self.reply(exception(RuntimeError(), cause))

    def cancel(self) -> None:
        """Close the streams, and those that a coroutine has yet to return."""
        if not self.cancelled:  # a generator that is being closed is left to its cleaning up
            self.cancelled = True
            for task in self._streams:
                task.cancel()

    def _correlated(self, reply: Any, done: bool) -> dict[str, Any] | None:
        """The reply with the message's id, None if there is nothing to say."""
        if reply is None:
            return {"id": self.id, "done": True} if done else None
        if not _is_named(reply):
            reply = {"event": self.message.get("event"), "data": reply}
        return {"id": self.id, **reply, "done": True} if done else {"id": self.id, **reply}


def _id(message: dict[str, Any]) -> Id | None:
    """The id of a message, if it has one."""
    found = message.get("id")
    return found if type(found) in (str, int) else None


def _is_named(value: Any) -> bool:
    """Whether a handler's value is {"event", "data"}, which Nest calls a WsResponse."""
    return type(value) is dict and value.keys() == _NAMED and isinstance(value["event"], str)


_NAMED = {"event", "data"}


def _short(value: object) -> str:
    """A value in a line of a log."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"


class _Conversation:
    """The messages of one client, and their answers.

    The task that has read a message answers it, and only where that has to wait does
    another task read on (the pattern Leader/Followers). So answers that need not wait keep
    their order and cost no task; the others run side by side.
    """

    def __init__(self, server: GatewayServer, client: Client, connection: Connection) -> None:
        self._server = server
        self._client = client
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._work = self._read()
        self._calls: set[_Call] = set()
        self._live: dict[Id | None, _Call] = {}
        self._vacancy: asyncio.Future[None] | None = None
        self._lead()

    async def run(self) -> None:
        """Answer messages until the client goes; then close its streams."""
        try:
            await self._over
        finally:
            self._leader.cancel()
            for call in self._calls:
                call.cancel()

    def _lead(self) -> None:
        # In a context of its own: what a handler sets there is not for the next message.
        self._leader = self._loop.create_task(self._answer_all(), context=self._context.copy())

    async def _answer_all(self) -> None:
        """Read and answer until an answer has had to wait, and another task leads."""
        try:
            async for call, handler in self._work:
                try:
                    result = handler(self._client, call.message.get("data"))
                except (Exception, asyncio.CancelledError) as error:
                    await call.fail(error)
                    continue
                if not _takes_time(result):
                    await call.finish(result)
                    continue
                await _Watched(self._follow(call, result), partial(self._hand_over, call))
                if asyncio.current_task() is not self._leader:
                    self._forget(call)
                    return
            self._over.set_result(None)
        except Exception as error:
            self._over.set_exception(error)

    async def _read(self) -> AsyncIterator[tuple[_Call, Handler]]:
        """Each message with each of its handlers, until the client goes."""
        while True:
            try:
                raw = await self._connection.recv()
            except ConnectionClosed:
                return
            message = self._server.understand(raw)
            if message is None:
                continue
            handlers = self._server.handlers(message)
            call = _Call(self._client, message, len(handlers) or 1)
            if not handlers or call.id in self._live:
                await self._refuse(call, raw)
            elif len(self._calls) < IN_FLIGHT or await self._room():
                for handler in handlers:
                    yield call, handler

    async def _refuse(self, call: _Call, raw: str | bytes) -> None:
        """Deal with a message that no handler gets."""
        if call.id is None:
            self._server.ignore("no handler for its event", raw)
        elif "event" not in call.message and call.message.get("cancel") is True:
            if call.id in self._live:
                self._live[call.id].cancel()
        elif call.id in self._live:
            await call.fail(WsException("This id is still in use"))
        else:
            await call.fail(WsException("There is no such event"))

    async def _follow(self, call: _Call, result: Any) -> None:
        """Send what a coroutine returns, or each item of an async generator."""
        try:
            if hasattr(result, "__await__"):
                result = await result
            if hasattr(result, "__aiter__"):
                await call.stream(result)
                result = None
            await call.finish(result)
        except Exception as error:
            await call.fail(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                await call.fail(error)  # nobody cancelled this task: the handler raised it
            elif call.cancelled:
                await call.reply(None)

    def _hand_over(self, call: _Call) -> None:
        """An answer has to wait: it is in flight, and another task reads on."""
        call.tasks.add(self._leader)
        self._server.tasks.add(self._leader)
        self._calls.add(call)
        if call.id is not None:
            self._live[call.id] = call
        self._lead()

    def _forget(self, call: _Call) -> None:
        """An answer that had to wait is done."""
        task = asyncio.current_task()
        self._server.tasks.discard(task)
        call.tasks.discard(task)
        if not call.tasks:
            self._calls.discard(call)
            self._live.pop(call.id, None)
        if self._vacancy is not None and not self._vacancy.done():
            self._vacancy.set_result(None)

    async def _room(self) -> bool:
        """Wait until less is in flight; False if the client goes first."""
        gone = asyncio.ensure_future(self._connection.wait_closed())
        try:
            while len(self._calls) >= IN_FLIGHT and not gone.done():
                self._vacancy = self._loop.create_future()
                await asyncio.wait({gone, self._vacancy}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        return len(self._calls) < IN_FLIGHT and not self._server.closing


def _takes_time(result: object) -> bool:
    """Whether a handler has given a coroutine or an async generator."""
    return hasattr(result, "__await__") or hasattr(result, "__aiter__")


class _Watched:
    """Awaits a coroutine, and calls `on_wait` when it first has to wait for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], on_wait: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, None, None]:
        steps = self._coroutine.__await__()
        try:
            future = next(steps)
        except StopIteration:
            return
        self._on_wait()
        while True:
            try:
                yield future
            except BaseException as error:
                try:
                    future = steps.throw(error)
                except StopIteration:
                    return
            else:
                yield from steps
                return


# The server's side of a path


class GatewayServer:
    """The gateways of one path, their clients, and what becomes of each message.

    path:    the URL path that its clients connect to
    ignored: how many messages were answered with silence, not being understood; the
             logger nestling.gateway says why, at level INFO
    """

    def __init__(self, path: str, gateways: Sequence[Any], parse: Parser = parse) -> None:
        self.path = path
        self.ignored = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.closing = False
        self._clients: set[Client] = set()
        self._gateways = gateways
        self._parse = parse
        self._handlers: dict[str, list[Handler]] = {}
        for gateway in gateways:
            gateway.server = self
            for event, handler in _handlers(gateway).items():
                self._handlers.setdefault(event, []).append(handler)

    @property
    def clients(self) -> frozenset[Client]:
        """Those that are connected now; a loop over them may wait while they come and go."""
        return frozenset(self._clients)

    async def init(self) -> None:
        """Call the hooks `after_init`. What they raise comes out."""
        for gateway in self._gateways:
            await _call_hook(gateway, "after_init", self)

    async def serve(self, connection: Connection) -> None:
        """Serve one client: the connect hooks, its messages, the disconnect hooks.

        Messages wait until the connect hooks are done; in Nest they do not. Where one
        raises, the client is told with an exception frame and close code 1011, and its
        gateway has no disconnect hook.
        """
        client = Client(connection)
        self._clients.add(client)
        greeted = []
        try:
            for gateway in self._gateways:
                await _call_hook(gateway, "handle_connection", client, client.request)
                greeted.append(gateway)
            await _Conversation(self, client, connection).run()
        except Exception as error:
            if not isinstance(error, WsException):
                log.exception("a client could not be served")
            await client.send_text(_last_words(error))
            await client.close(1011)
        finally:
            self._clients.discard(client)
            for gateway in greeted:
                await _say_goodbye(gateway, client, connection.close_code or 1006)

    async def finish(self, grace: float, asker: asyncio.Task[Any] | None = None) -> None:
        """Take no more messages, and cancel the handlers that still run after `grace` seconds.

        The task that asks for it may be a handler's: it is not waited for, nor cancelled.
        """
        self.closing = True
        for patience in (grace, 1.0):
            if running := self.tasks - {asker}:
                _, running = await asyncio.wait(running, timeout=patience)
            for task in running:
                task.cancel()

    def understand(self, raw: str | bytes) -> dict[str, Any] | None:
        """The object that a message says, None if it says none or the server is closing."""
        if self.closing:
            return None
        try:
            message = self._parse(raw)
        except (ValueError, RecursionError) as error:
            self.ignore(f"no JSON: {error}", raw)
        except Exception:
            log.exception("the parser failed with %s", _short(raw))
        else:
            if isinstance(message, dict):
                return message
            self.ignore("no object", raw)
        return None

    def handlers(self, message: dict[str, Any]) -> Sequence[Handler]:
        """The handlers of a message's event, over all gateways of the path."""
        event = message.get("event")
        return self._handlers.get(event, ()) if isinstance(event, str) else ()

    def ignore(self, why: str, raw: str | bytes) -> None:
        """Count and log a message that is answered with silence."""
        self.ignored += 1
        log.info("ignored: %s: %s", why, _short(raw))


async def _say_goodbye(gateway: Any, client: Client, code: int) -> None:
    try:
        await _call_hook(gateway, "handle_disconnect", client, code)
    except Exception:
        log.exception("a disconnect hook failed")


def _last_words(error: Exception) -> str:
    try:
        return serialise(exception(error))
    except (TypeError, ValueError, RecursionError):
        return serialise(exception(RuntimeError()))


async def _call_hook(gateway: Any, name: str, *arguments: Any) -> None:
    hook = getattr(gateway, name, None)
    if hook is not None and inspect.isawaitable(result := hook(*arguments)):
        await result
