"""Applications: gateways, and the function that serves them.

::

    app = create(EventsGateway(), PollGateway())
    await app.listen(3000)
    await app.close()

What stands between a gateway and the network is an argument, `serve=`, as Nest's adapter
is one. `transport.Serve` says what such a function takes and what it gives.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from nestling.answers import Task
from nestling.dispatch import Parser
from nestling.envelope import MAX_SIZE, parse
from nestling.frames import close_payload
from nestling.gateway import GatewayServer, check_port
from nestling.handshake import VERSION, Refusal, origin_form, parse_subprotocols, path_of
from nestling.origin import REFUSAL, is_foreign
from nestling.transport import Connection, Listener, Opening, Serve
from nestling.transport import serve as serve_with_websockets

# Seconds that a client has to answer the close, when the application closes.
GOODBYE = 1.0

# Errors of handlers and hooks that are kept; the log has all.
ERRORS = 20


class PortError(OSError):
    """A port is taken, or this user may not listen on it; `port` says which."""

    def __init__(self, port: int, error: OSError) -> None:
        why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not allowed for this user"}
        said = why.get(error.errno or 0, f"cannot be had ({error.strerror})")
        super().__init__(error.errno, f"port {port} {said}: choose another, or 0 for any free one")
        self.port = port


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
    errors: what handlers, hooks and the parser have raised by mistake, the last ERRORS
    """

    def __init__(self, gateways: Sequence[Any], parse: Parser) -> None:
        self.ports: list[int] = []
        self.errors: deque[BaseException] = deque(maxlen=ERRORS)
        self._gateways = gateways
        self._make_server = partial(GatewayServer, parse=parse, errors=self.errors)
        self._listening: list[_Port] = []

    async def listen(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        serve: Serve = serve_with_websockets,
        check_origin: bool = False,
        **options: Any,
    ) -> None:
        """Let clients in, on `port` and on the gateways' own; 0 is any free port.

        `check_origin` keeps out pages of other sites, which Nest does not; `options` go to `serve`.
        Raises ValueError if the port is none, PortError if it cannot be had, RuntimeError if the
        application listens, and what `after_init` raises; none of them leaves a port open.
        """
        check_port(port)
        if self._listening:
            raise RuntimeError("the application listens already: await app.close() first")
        listening = self._listening = self._plan(port, check_origin)
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

    async def close(self, grace: float = 1.0, code: int = 1001) -> None:
        """Let no more clients in, and close the connections with a code.

        1001 says that the server goes away, 1012 that it is only restarted (the registry of
        RFC 6455, section 11.7).

        First, running handlers get `grace` seconds; then they are cancelled. A client
        that has not answered the close a second later is cut. Does nothing if nothing listens.
        Raises ValueError for a code that may not be sent, and then closes nothing.
        """
        close_payload(code)
        listening, self._listening, self.ports = self._listening, [], []
        asker = asyncio.current_task()
        await asyncio.gather(*(each.close(grace, code, asker) for each in listening))

    def _plan(self, number: int, check_origin: bool) -> list[_Port]:
        """Which gateways are behind which port and path."""
        make = partial(_Port, make_server=self._make_server, check_origin=check_origin)
        plan: dict[object, _Port] = {number: (shared := make(number))}
        for gateway in self._gateways:
            path, own = gateway.__gateway__
            # Every gateway that asks for any free port gets another one.
            key = ("any free", id(gateway)) if own == 0 else own
            port = shared if own is None else plan.setdefault(key, make(own))
            port.gateways.setdefault(path, []).append(gateway)
        return list(plan.values())


class _Port:
    """One port, and the gateways behind it by their path."""

    def __init__(
        self, number: int, make_server: Callable[..., GatewayServer], check_origin: bool
    ) -> None:
        self.number = number
        self.gateways: dict[str, list[Any]] = {}
        self._make_server = make_server
        self._check_origin = check_origin
        self._servers: dict[str, GatewayServer] = {}
        self._listener: Listener | None = None
        self._handling: dict[Task, Connection] = {}

    async def init(self) -> None:
        for path, gateways in self.gateways.items():
            self._servers[path] = self._make_server(path, gateways)
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

    async def close(self, grace: float, code: int, asker: Task | None) -> None:
        if self._listener is None:
            return
        self._listener.close(close_connections=False)
        finishing = [server.finish(grace, asker) for server in self._servers.values()]
        await asyncio.gather(*finishing)
        closing = [asyncio.ensure_future(c.close(code)) for c in self._handling.values()]
        await _wait([*self._others(asker), *closing], GOODBYE)
        for task in self._others(asker):
            self._handling[task].transport.abort()
            task.cancel()
        ended = self._listener.wait_closed()
        await _wait([*self._others(asker), *closing, ended], GOODBYE)

    def _others(self, asker: Task | None) -> set[Task]:
        """The tasks of all connections, but for a hook's that closes the application itself."""
        return self._handling.keys() - {asker}

    def _refuse(self, opening: Opening, request: Any) -> Any:
        """The response to a request that finds no gateway, or is none for a WebSocket of ours."""
        if self._check_origin and is_foreign(request.headers, self.number):
            return opening.respond(HTTPStatus.FORBIDDEN, REFUSAL)
        if (path := origin_form(request.path)) != request.path:
            request.path = path
        headers = request.headers
        versions = headers.get_all("Sec-WebSocket-Version")
        offers = headers.get_all("Sec-WebSocket-Protocol")
        if (path := path_of(path)) not in self._servers:
            known = ", ".join(self._servers) or "none"
            path = path.encode(errors="backslashreplace").decode()
            text = f"There is no gateway at {path}. Gateways on this port: {known}\n"
            return opening.respond(HTTPStatus.NOT_FOUND, text)
        if "Upgrade" in headers and versions != [VERSION]:
            said = ", ".join(versions) or "missing"
            text = f"Sec-WebSocket-Version is {said}, and has to be {VERSION}\n"
            response = opening.respond(HTTPStatus.BAD_REQUEST, text)
            response.headers["Sec-WebSocket-Version"] = VERSION
            return response
        try:
            if offers:
                parse_subprotocols(offers)
        except Refusal as refusal:
            return opening.respond(refusal.status, f"{refusal}\n")
        return None

    async def _handle(self, connection: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handling[task] = connection
        try:
            await self._servers[path_of(connection.request.path)].serve(connection)
        finally:
            del self._handling[task]


async def _wait(awaitables: Sequence[Awaitable[Any]], timeout: float) -> None:
    """Wait for all of them, whatever becomes of them, for `timeout` seconds at most."""
    if awaitables:
        await asyncio.wait([asyncio.ensure_future(each) for each in awaitables], timeout=timeout)
