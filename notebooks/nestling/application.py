"""Applications: gateways, and the function that serves them.

::

    app = create(EventsGateway(), PollGateway())
    await app.listen(3000)
    await app.close()

What stands between a gateway and the network is an argument, `serve=`, as Nest's adapter
is one. `Serve` says what such a function takes and what it gives.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import websockets.asyncio.server

from nestling.gateway import Connection, GatewayServer, Parser, check_port, parse

# The largest message that Nest's adapter takes, in bytes.
MAX_SIZE = 100 * 2**20

# Seconds that a client has to answer the close, when the application closes.
GOODBYE = 1.0


class PortError(OSError):
    """A port is taken, or this user may not listen on it; `port` says which."""

    def __init__(self, port: int, error: OSError) -> None:
        why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not allowed for this user"}
        said = why.get(error.errno or 0, f"cannot be had ({error.strerror})")
        super().__init__(error.errno, f"port {port} {said}: choose another, or 0 for any free one")
        self.port = port


# The transport contract


class ServerConnection(Connection, Protocol):
    """A connection as `serve` hands it to the handler, and before the handshake to
    `process_request`.

    `respond` gives the HTTP response that `process_request` returns to refuse it, with
    `headers` that may be added to, and `transport.abort()` drops it without a word.
    """

    @property
    def transport(self) -> Any: ...
    def respond(self, status: Any, text: str) -> Any: ...


class Listener(Protocol):
    """A server that listens.

    `close(close_connections=False)` lets no more clients in, and `wait_closed` waits until
    those that are there have gone and their handlers have returned.
    """

    @property
    def sockets(self) -> Any: ...
    def close(self, close_connections: bool = True) -> None: ...
    async def wait_closed(self) -> None: ...


class Serve(Protocol):
    """What listens: `websockets.asyncio.server.serve`, or a function that does the same.

    It calls `handler` with each connection once its handshake is done, and closes the
    connection when the handler returns. The keywords are those of that function.
    """

    def __call__(
        self,
        handler: Callable[[Any], Awaitable[None]],
        host: str,
        port: int,
        *,
        process_request: Callable[[Any, Any], Any],
        select_subprotocol: Callable[[Any, Sequence[Any]], Any],
        compression: str | None,
        max_size: int,
        ping_interval: float | None,
        server_header: str | None,
        **options: Any,
    ) -> Awaitable[Listener]: ...


# Applications


def create(*gateways: object, parse: Parser = parse) -> Application:
    """An application of these gateways, instances of classes under @websocket_gateway.

    parse: makes a message's text or bytes the object that it says. ValueError means that
           it says none, which is ignored; anything else it raises is logged as an error.

    Raises TypeError for what is no gateway.
    """
    for gateway in gateways:
        if isinstance(gateway, type):
            raise TypeError(f"create() takes instances: {gateway.__name__}(), with parentheses")
        if not hasattr(gateway, "__gateway__"):
            name = type(gateway).__name__
            raise TypeError(f"{name} is no gateway: put @websocket_gateway() above its class")
    return Application(gateways, parse)


class Application:
    """Gateways that clients can connect to. `create` makes one.

    ports: the TCP ports it listens on, its own first, then those of gateways that have
           their own, in the order of the gateways; empty while it does not listen
    """

    def __init__(self, gateways: Sequence[Any], parse: Parser) -> None:
        self.ports: list[int] = []
        self._gateways = gateways
        self._parse = parse
        self._listening: list[_Port] = []

    async def listen(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        serve: Serve = websockets.asyncio.server.serve,
        **options: Any,
    ) -> None:
        """Let clients in, on `port` and on the gateways' own; 0 is any free port.

        `options` go to `serve`, over those that make it behave as Nest does, such as
        compression="deflate".

        Raises ValueError if the port is no port, PortError if one cannot be had, RuntimeError
        if it listens already, and what a gateway's `after_init` raises. None of them leaves a
        port open.
        """
        check_port(port)
        if self._listening:
            raise RuntimeError("the application listens already: await app.close() first")
        listening = self._listening = self._plan(port)
        try:
            for each in listening:
                await each.init()
            for each in listening:
                await each.open(host, serve, options)
            if self._listening is not listening:
                raise RuntimeError("the application was closed before it listened")
        except BaseException:
            self._listening = listening
            await self.close(grace=0)
            raise
        self.ports = [each.number for each in listening]

    async def close(self, grace: float = 1.0) -> None:
        """Let no more clients in, and close the connections with code 1001.

        First, running handlers get `grace` seconds; then they are cancelled. A client
        that has not answered the close a second later is cut. Does nothing if nothing listens.
        """
        listening, self._listening, self.ports = self._listening, [], []
        asker = asyncio.current_task()
        await asyncio.gather(*(each.close(grace, asker) for each in listening))

    def _plan(self, number: int) -> list[_Port]:
        """Which gateways are behind which port and path."""
        plan: dict[object, _Port] = {number: (shared := _Port(number, self._parse))}
        for gateway in self._gateways:
            path, own = gateway.__gateway__
            # Every gateway that asks for any free port gets another one.
            key = ("any free", id(gateway)) if own == 0 else own
            port = shared if own is None else plan.setdefault(key, _Port(own, self._parse))
            port.gateways.setdefault(path, []).append(gateway)
        return list(plan.values())


class _Port:
    """One port, and the gateways behind it by their path."""

    def __init__(self, number: int, parse: Parser) -> None:
        self.number = number
        self.gateways: dict[str, list[Any]] = {}
        self._parse = parse
        self._servers: dict[str, GatewayServer] = {}
        self._listener: Listener | None = None
        self._handling: dict[asyncio.Task[Any], ServerConnection] = {}

    async def init(self) -> None:
        for path, gateways in self.gateways.items():
            self._servers[path] = GatewayServer(path, gateways, self._parse)
            await self._servers[path].init()

    async def open(self, host: str, serve: Serve, options: dict[str, Any]) -> None:
        as_nest: dict[str, Any] = {
            "process_request": self._refuse,
            "select_subprotocol": lambda _, offered: next(iter(offered), None),
            "compression": None,
            "max_size": MAX_SIZE,
            "ping_interval": None,
            "server_header": None,
        }
        try:
            self._listener = await serve(self._handle, host, self.number, **as_nest | options)
        except OSError as error:
            raise PortError(self.number, error) from None
        self.number = self._listener.sockets[0].getsockname()[1]

    async def close(self, grace: float, asker: asyncio.Task[Any] | None) -> None:
        if self._listener is None:
            return
        self._listener.close(close_connections=False)
        finishing = [server.finish(grace, asker) for server in self._servers.values()]
        await asyncio.gather(*finishing)
        closing = [asyncio.ensure_future(c.close(1001)) for c in self._handling.values()]
        await _wait([*self._others(asker), *closing], GOODBYE)
        for task in self._others(asker):
            self._handling[task].transport.abort()
            task.cancel()
        ended = self._listener.wait_closed()
        await _wait([*self._others(asker), *closing, ended], GOODBYE)

    def _others(self, asker: asyncio.Task[Any] | None) -> set[asyncio.Task[Any]]:
        """The tasks of all connections, but for a hook's that closes the application itself."""
        return self._handling.keys() - {asker}

    def _refuse(self, connection: ServerConnection, request: Any) -> Any:
        """The response to a request that finds no gateway, or speaks another version."""
        if _path(request) not in self._servers:
            known = ", ".join(self._servers) or "none"
            text = f"There is no gateway at {_path(request)}. Gateways on this port: {known}\n"
            return connection.respond(HTTPStatus.NOT_FOUND, text)
        version = request.headers.get("Sec-WebSocket-Version", "13")
        if version.strip() != "13":
            text = f"Version {version} of the protocol is not spoken here, but 13 is.\n"
            response = connection.respond(HTTPStatus.BAD_REQUEST, text)
            response.headers["Sec-WebSocket-Version"] = "13"
            return response
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handling[task] = connection
        try:
            await self._servers[_path(connection.request)].serve(connection)
        finally:
            del self._handling[task]


def _path(request: Any) -> str:
    """The path that a request asks for, without its query."""
    path: str = request.path
    return path.partition("?")[0]


async def _wait(awaitables: Sequence[Awaitable[Any]], timeout: float) -> None:
    """Wait for all of them, whatever becomes of them, for `timeout` seconds at most."""
    if awaitables:
        await asyncio.wait([asyncio.ensure_future(each) for each in awaitables], timeout=timeout)
