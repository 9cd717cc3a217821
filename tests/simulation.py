"""A simulated world: a loop whose clock jumps to the next timer, and a network in memory.

A line delays what is sent, keeps its order, and breaks: then what is on its way is lost, and
each end learns of it in its own time. Until then, what it sends goes nowhere.
"""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close

STEP = 1e-6  # seconds between two arrivals, so that they keep their order
CLOSE_TIMEOUT = 10.0


class Loop(asyncio.SelectorEventLoop):
    """Simulated seconds take no time. Where everybody waits and no timer runs, it raises."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self._scheduled if not timer.cancelled()]


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody, for ever")
        self._loop.now += max(0.0, timeout)
        return []


def simulated(test: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """A test that is a coroutine, run in a simulated loop."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> Any:
        return simulate(test(*arguments, **named))

    return run


def simulate(main: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives. In the end, no task and no timer may be left."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_alone(main))


async def _alone(main: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.get_running_loop()
    noise: list[Any] = []
    loop.set_exception_handler(lambda _, context: noise.append(context))
    result = await main
    await asyncio.sleep(STEP)
    assert noise == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert loop.timers() == []
    return result


class Network:
    """What listens, who connects, and the lines between them."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.lines: list[Line] = []
        self.made = 0  # lines, in all
        self._handler: Callable[[Any], Awaitable[None]] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, handler: Any, host: str, port: int, **options: Any) -> Network:
        assert self._handler is None
        self._handler = handler
        return self

    @property
    def sockets(self) -> Any:
        return [SimpleNamespace(getsockname=lambda: ("simulated", 1))]

    def close(self, close_connections: bool = True) -> None:
        assert not close_connections
        self._handler = None

    async def wait_closed(self) -> None:
        if self._serving:
            await asyncio.wait(self._serving)

    async def connect(self, url: str, **options: Any) -> End:
        await asyncio.sleep(self.dice.uniform(0.001, 0.2))
        if self._handler is None:
            raise ConnectionRefusedError("nobody listens")
        line = Line(self, "/" + url.split("/", 3)[3])
        self.lines.append(line)
        self.made += 1
        task = asyncio.create_task(self._serve(self._handler, line.server))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await asyncio.sleep(self.dice.uniform(0.001, 0.2))
        return line.client

    async def _serve(self, handler: Any, end: End) -> None:
        await handler(end)
        await end.close()

    def break_all(self, notice: Callable[[], float]) -> None:
        """Break every line; each end learns of it after so many seconds."""
        for line in self.lines:
            line.cut(notice(), notice())
        self.lines.clear()


class Line:
    def __init__(self, network: Network, path: str) -> None:
        self.is_broken = False
        self.network = network
        self.client, self.server = End(self, path), End(self, path)
        self.client.peer, self.server.peer = self.server, self.client

    def cut(self, client: float, server: float) -> None:
        self.is_broken = True
        for end, seconds in (self.client, client), (self.server, server):
            if end.close_code is None:
                end.learning = asyncio.get_running_loop().call_later(seconds, end.abort)


class End:
    """One end of a line: a connection, and its transport."""

    peer: End

    def __init__(self, line: Line, path: str) -> None:
        self.request = SimpleNamespace(path=path, headers={})
        self.close_code: int | None = None
        self.closed = asyncio.Event()
        self.learning: asyncio.TimerHandle | None = None
        self._line = line
        self._inbox: deque[str] = deque()
        self._news = asyncio.Event()
        self._arrives = 0.0
        self._received: Close | None = None
        self._is_closing = False

    @property
    def transport(self) -> End:
        return self

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self._end(None)
        if not self._line.is_broken:
            self._line.cut(0, 0)

    async def recv(self) -> str:
        while not self._inbox:
            if self.close_code is not None:
                raise self._error()
            self._news.clear()
            await self._news.wait()
        return self._inbox.popleft()

    async def send(self, message: str) -> None:
        if self.close_code is not None or self._is_closing:
            raise self._error()
        self._write(message)
        if self._line.network.dice.random() < 0.1:  # its reader takes its time
            await asyncio.sleep(self._line.network.dice.uniform(0, 0.5))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        assert code != 1006
        if self.close_code is None:
            if not self._is_closing:
                self._is_closing = True
                self._write(Close(code, reason))
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.closed.wait()
            except TimeoutError:
                self.abort()

    def _write(self, item: str | Close) -> None:
        if not self._line.is_broken:
            loop = asyncio.get_running_loop()
            delay = self._line.network.dice.uniform(0, 0.3)
            self._arrives = max(self._arrives + STEP, loop.time() + delay)
            loop.call_at(self._arrives, self.peer._take, item)

    def _take(self, item: str | Close) -> None:
        if self._line.is_broken or self.close_code is not None:
            return
        if isinstance(item, Close):
            if not self._is_closing:
                self._write(item)
            self._end(item)
        else:
            self._inbox.append(item)
            self._news.set()

    def _end(self, received: Close | None) -> None:
        if self.close_code is None:
            self._received = received
            self.close_code = received.code if received else 1006
            self.closed.set()
            self._news.set()
        if self.learning is not None:
            self.learning.cancel()

    def _error(self) -> Exception:
        is_ok = self._received and self._received.code in (1000, 1001)
        return (ConnectionClosedOK if is_ok else ConnectionClosedError)(self._received, None)
