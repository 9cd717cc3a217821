"""Servers and tasks that live in the kernel, each under a name.

A cell ends, the kernel's event loop runs on, and with it whatever was started
here. Starting a name again replaces what ran under it, so a cell may be run any
number of times::

    server = await start("echo", echo)      # 127.0.0.1, any free port
    ...                                     # connect(server.url), in other cells
    print(status())                         # what runs, and what went wrong in it
    await stop_all()
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import inspect
import logging
import os
import signal
import urllib.request
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from nestling.application import Application
from nestling.origin import REFUSAL, is_foreign
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedOK
from websockets.http11 import Request, Response

HOST = "127.0.0.1"

T = TypeVar("T")

Handler = Callable[[ServerConnection], Awaitable[None]]


class PortError(OSError):
    """The port asked for is taken, or this user may not listen on it."""


class Server:
    """A WebSocket server in the kernel, as `start` returns it.

    name:   what it was started as
    port:   the TCP port it listens on
    url:    where a client finds it, `ws://127.0.0.1:port`
    errors: the exceptions its handlers raised, oldest first
    """

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self.port = 0
        self._errors: list[BaseException] = []
        self._handler = handler
        self._handling: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    @property
    def errors(self) -> list[BaseException]:
        return self._errors

    def __repr__(self) -> str:
        return f"{self.name}: a server"

    async def _listen(self, port: int, options: dict[str, Any]) -> None:
        if options.pop("check_origin", False):
            options = {"process_request": self._refuse} | options
        self._listener = await serve(self._handle, HOST, port, **options)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        if is_foreign(request.headers, self.port):
            return connection.respond(HTTPStatus.FORBIDDEN, REFUSAL)
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        task = asyncio.current_task()
        self._handling.add(task)
        try:
            await self._handler(connection)
        except ConnectionClosedOK:
            raise
        except Exception as error:
            self._errors.append(error)
            raise
        finally:
            self._handling.discard(task)

    async def _stop(self, grace: float) -> None:
        self._listener.close()
        closed = asyncio.ensure_future(self._listener.wait_closed())
        await asyncio.wait([closed], timeout=grace)
        for connection in self._listener.all_connections:
            connection.transport.abort()
        await _cancel(self.name, self._handling)
        # Bounded, because a TCP client that never sent its handshake is let go
        # only by the library's own timeout, some seconds later.
        await asyncio.wait([closed], timeout=1)


class ServedApplication(Server):
    """The same for an application of gateways.

    port:   the application's own; `app.ports` has those of gateways with their own, too
    errors: what its gateways' handlers and hooks raised, as far as `app.errors` keeps it
    """

    def __init__(self, name: str, app: Application) -> None:
        super().__init__(name, app)
        self._app = app

    @property
    def errors(self) -> list[BaseException]:
        return list(self._app.errors)

    def __repr__(self) -> str:
        return f"{self.name}: an application"

    async def _listen(self, port: int, options: dict[str, Any]) -> None:
        await self._app.listen(port, host=HOST, **options)
        self.port = self._app.ports[0]

    async def _stop(self, grace: float) -> None:
        await self._app.close(grace)


class Background:
    """A task in the kernel, as `background` returns it.

    name:   what it was started as
    errors: holds the exception that ended the task, if one did
    """

    def __init__(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.name = name
        self.errors: list[BaseException] = []
        self._task = _in_no_cell(name, coroutine)
        self._task.add_done_callback(self._keep_error)

    def __repr__(self) -> str:
        return f"{self.name}: a task, {'ended' if self._task.done() else 'running'}"

    def _keep_error(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    async def _stop(self, grace: float) -> None:
        await _cancel(self.name, {self._task})


class Records(logging.Handler):
    """What a logger said, line by line; `records` makes one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __repr__(self) -> str:
        return "\n".join(self.lines) or "(nothing was logged)"

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    async def until(self, text: str, timeout: float = 5.0) -> str:
        """Wait for a line that contains `text`, logged before or from now on.

        Gives that line. Raises TimeoutError, which shows what was logged instead,
        after `timeout` seconds.
        """
        # Looked at every 10 ms: a handler may log from another thread, where an
        # asyncio.Event cannot be set.
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if found := next((line for line in self.lines if text in line), None):
                return found
            await asyncio.sleep(0.01)
        raise TimeoutError(f"no line with {text!r} in {timeout:g} s; logged: {self!r}")


# What runs, by name; the locks of the names that are being started or stopped; and the
# name that the code at hand runs under. Kept when this module is reloaded.
_running: dict[str, Server | Background] = globals().get("_running", {})
_turns: WeakValueDictionary[str, asyncio.Lock] = globals().get("_turns", WeakValueDictionary())
_own_name: contextvars.ContextVar[str | None] = globals().get(
    "_own_name", contextvars.ContextVar("own_name", default=None)
)

# Where the library reports that a handler raised. Nobody listens: it would print
# the traceback into the cell that started the server. Server.errors has the error.
_unheard = logging.Logger("unheard", logging.CRITICAL)


async def start(
    name: str, handler: Handler | Application, *, port: int = 0, **options: Any
) -> Server:
    """Start a WebSocket server on 127.0.0.1 that outlives the cell.

    A server or task that runs under `name` is stopped first. `handler` is called
    with each connection, or is an application of gateways; `port` 0 takes any free
    port, and `options` go to `websockets.asyncio.server.serve`, all but `check_origin=True`,
    which keeps web pages of other sites out, as `nestling.origin` tells them.

    Raises PortError if the port cannot be had, ValueError if it is no port number,
    TypeError if `handler` cannot be called, and RuntimeError if what runs under `name`
    asks for this while it is being stopped itself; the last three stop nothing.
    """
    is_application = isinstance(handler, Application)
    if not is_application and not callable(handler):
        raise TypeError(
            f"a handler is a function of one connection, not {type(handler).__name__}: "
            f"start({name!r}, echo), without calling echo"
        )
    if type(port) is not int or not 0 <= port <= 65535:
        raise ValueError(f"a port is an integer from 0 (any free one) to 65535, not {port!r}")
    server = ServedApplication(name, handler) if is_application else Server(name, handler)
    async with _turn(name):
        await _stop(name)
        try:
            await _in_no_cell(name, server._listen(port, {"logger": _unheard} | options))
        except OSError as error:
            raise _explained(error, getattr(error, "port", port)) from None
        _running[name] = server
    return server


async def background(name: str, coroutine: Coroutine[Any, Any, Any]) -> Background:
    """Run a coroutine as a task that outlives the cell, and keep its error.

    A server or task that runs under `name` is stopped first. Raises TypeError for what is
    no coroutine, and RuntimeError as `start` does.
    """
    if not inspect.iscoroutine(coroutine):
        raise TypeError(
            f"background() takes a coroutine, not {type(coroutine).__name__}: "
            f"background({name!r}, tick()), with the function called"
        )
    async with _turn(name):
        await _stop(name)
        _running[name] = task = Background(name, coroutine)
    return task


async def hold(name: str, context: AbstractAsyncContextManager[T]) -> T:
    """Enter an asynchronous context manager that outlives the cell, until `name` is stopped.

    Gives what entering it gives, and raises what that raises. A server or task that runs under
    `name` is stopped first.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def until_stopped() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await asyncio.Event().wait()
        except Exception as error:
            if entered.done():
                raise
            entered.set_exception(error)
        finally:
            entered.cancel()

    await background(name, until_stopped())
    try:
        return await entered
    except BaseException:
        await stop(name)
        raise


async def stop(name: str, grace: float = 1.0) -> None:
    """Stop what runs under `name`; nothing happens if nothing does.

    A server takes no more clients and closes its connections with code 1001. After
    `grace` seconds, connections whose client has not answered the close are cut and
    handlers that have not returned are cancelled. A task is cancelled at once.

    What is being started or stopped already is waited for, unless it is what asks.
    """
    if not _is_reentrant(name):
        async with _turn(name):
            await _stop(name, grace)


async def stop_all(grace: float = 1.0) -> None:
    """Stop everything that was started here, side by side; see `stop`."""
    names, own = {*_running, *_turns}, _own_name.get()
    await asyncio.gather(*(stop(name, grace) for name in names - {own}))
    if own in names:  # In this very task, which would be cancelled by any other.
        await stop(own, grace)


def status() -> str:
    """What runs, a line each, and under each line the errors that happened in it."""
    lines = []
    for runner in _running.values():
        lines.append(repr(runner))
        lines += [f"    {type(error).__name__}: {error}" for error in runner.errors]
    return "\n".join(lines) or "nothing is running"


def records(logger: str) -> Records:
    """Collect what the logger of that name says, from level INFO up.

    Called again, it starts with an empty list.
    """
    found = logging.getLogger(logger)
    found.handlers = [kept := Records()]
    found.setLevel(logging.INFO)
    found.propagate = False
    return kept


@asynccontextmanager
async def _turn(name: str) -> AsyncIterator[None]:
    """Wait until nobody else starts or stops this name, and let nobody until the block ends."""
    if _is_reentrant(name):
        raise RuntimeError(f"{name!r} is being started or stopped, and waits for what asks here")
    # A lock is forgotten with the last block that holds it or waits for it.
    async with _turns.setdefault(name, asyncio.Lock()):
        yield


def _is_reentrant(name: str) -> bool:
    """Whether the code at hand runs under a name that is being started or stopped.

    Whoever does that may be waiting for this code, so it must not wait for them.
    """
    turn = _turns.get(name)
    return turn is not None and turn.locked() and _own_name.get() == name


async def _stop(name: str, grace: float = 1.0) -> None:
    """What `stop` does once it is its turn."""
    if runner := _running.get(name):
        await runner._stop(grace)
        del _running[name]


def _in_no_cell(name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task under a name, whose prints go to the cell that is running at that moment.

    ipykernel finds the cell through a context variable, which a task inherits
    from the cell that created it; so this one inherits nothing. The tasks that
    it creates, such as those of a server's handlers, inherit the name.
    """
    context = contextvars.Context()
    context.run(_own_name.set, name)
    return asyncio.get_running_loop().create_task(coroutine, context=context)


async def _cancel(name: str, tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, except the one that asks, and wait until they have ended."""
    left = {task for task in tasks if not task.done()} - {asyncio.current_task()}
    for _ in range(3):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=0.5)
    if left:
        warnings.warn(
            f"{name!r} holds on to a task that catches its own cancellation; "
            "it ends when the kernel is restarted",
            stacklevel=2,
        )


def _explained(error: OSError, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        mine = [s.name for s in _running.values() if isinstance(s, Server) and s.port == port]
        holder = (
            f"this kernel's own {mine[0]!r}: stop it with await kernel.stop({mine[0]!r})"
            if mine
            else "another program, or a server that an earlier cell started: stop that"
        )
        return PortError(f"port {port} is taken by {holder}, or leave out port= for any free one")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PortError(
            f"port {port} is not allowed for this user: "
            "take one above 1023, or leave out port= for any free one"
        )
    return error


def _let_stop_wake_the_loop() -> None:
    """Let Jupyter's Stop button end a cell that waits in an idle `await`.

    The button sends a signal, which asyncio notices only when something else wakes
    the loop, unless it watches for signals; handling any one makes it watch for all.
    """
    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, lambda: None)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        pass  # Windows, a thread other than the main one, or no loop: nothing to cure


def _reach_loopback_directly() -> None:
    """Keep clients of this kernel off an HTTP proxy that the environment names."""
    if urllib.request.getproxies_environment() and not urllib.request.proxy_bypass(HOST):
        spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        os.environ["no_proxy"] = f"{spared},{HOST}" if spared else HOST


_let_stop_wake_the_loop()
_reach_loopback_directly()
