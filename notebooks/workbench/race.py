"""A race: the same events by polling, long polling, SSE and WebSocket, all at once.

::

    events = schedule(rate=4, seconds=20, seed=1)
    found = await race([ShortPolling(1), LongPolling(), WebSocket()], events, delay=0.05)
    found.results["WebSocket"].latencies

Each arm has a server, a client and a cable (`workbench.relay`) of its own; all share one
event loop and one clock, `time.perf_counter`. Times are in seconds. An arm of your own is
any object with the three members of `Arm`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import string
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from time import perf_counter
from typing import Any, Protocol

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed

from workbench.relay import HOST, Relay, Tap

# Nobody listens: what goes wrong is a RaceError, not a traceback in some cell.
_UNHEARD = logging.Logger("unheard", logging.CRITICAL + 1)

# Seconds, besides ten delays, in which every client has to be connected.
READY_WITHIN = 10.0

_REQUEST_LINE = re.compile(rb"(?m)^[A-Z]+ \S+ HTTP/1\.1\r$")


class RaceError(Exception):
    """An arm failed in the middle of a race; `__cause__` is its error, if it had one."""


# What happens


@dataclass(frozen=True)
class Event:
    """Event number `id`, from 1, due `at` seconds after the start."""

    id: int
    at: float
    text: str

    @property
    def message(self) -> dict[str, Any]:
        """What travels, as JSON."""
        return {"id": self.id, "text": self.text}


def schedule(
    rate: float, seconds: float, seed: int, *, size: int = 50, periodic: bool = False
) -> list[Event]:
    """Events at `rate` per second for some seconds, the same ones for the same seed.

    They come at random and independently of each other (Poisson), or evenly spaced if
    periodic. Each has a text of `size` ASCII characters. Raises ValueError if rate or
    seconds is not a positive number.
    """
    _check_positive("rate", rate)
    _check_positive("seconds", seconds)
    random, times = Random(seed), [0.0]
    while times[-1] <= seconds:
        times.append(len(times) / rate if periodic else times[-1] + random.expovariate(rate))
    letters = string.ascii_letters + string.digits
    due = enumerate(times[1:-1], 1)
    return [Event(n, at, "".join(random.choices(letters, k=size))) for n, at in due]


class Source:
    """Publishes each event at its time, whatever becomes of the earlier ones.

    begin: a future of the moment when the clock starts
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.published = 0
        self.begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._change = asyncio.Event()

    async def publish(self) -> None:
        """Start the clock now, and publish all."""
        self.begin.set_result(perf_counter())
        for event in self.events:
            await asyncio.sleep(self.begin.result() + event.at - perf_counter())
            self.published = event.id
            self._change.set()
            self._change = asyncio.Event()

    def since(self, n: int) -> Sequence[Event]:
        """What was published after the n-th event."""
        return self.events[n : self.published]

    async def changed(self) -> None:
        """Wait until an event is published."""
        await self._change.wait()

    async def after(self, n: int) -> Sequence[Event]:
        """What was published after the n-th event; waits if there is nothing yet."""
        while not (events := self.since(n)):
            await self.changed()
        return events


# The arms


class Inbox:
    """Where the client of an arm hands over what it receives.

    random: seeded, for what a client does at random
    """

    def __init__(self, random: Random, source: Source) -> None:
        self.random = random
        self.is_ready, self.is_full = asyncio.Event(), asyncio.Event()
        self.arrived: dict[int, float] = {}
        self.doubled: list[int] = []
        self.notes: list[tuple[float, str]] = []
        self._source = source

    def ready(self) -> asyncio.Future[float]:
        """Say that the client is connected. Gives a future of the moment the clock starts,
        which is when the clients of all arms are.
        """
        self.is_ready.set()
        return asyncio.shield(self._source.begin)

    def deliver(self, event_ids: Sequence[int]) -> None:
        """These events arrive now. Raises ValueError for one that was not published."""
        now = perf_counter()
        for number in event_ids:
            if not 1 <= number <= self._source.published:
                raise ValueError(f"event {number} was not published")
            if number in self.arrived:
                self.doubled.append(number)
            self.arrived.setdefault(number, now)
        if len(self.arrived) == len(self._source.events):
            self.is_full.set()

    def note(self, what: str) -> None:
        """Something happens now; "empty" is an answer without an event."""
        self.notes.append((perf_counter(), what))


class Arm(Protocol):
    """One way to bring events from a server to a client.

    An arm that lets events wait on purpose has an `interval` too, the longest time that
    they may: a race is so much more patient with it.
    """

    name: str

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        """Serve a source on any free port of 127.0.0.1 during a block; gives the port."""

    async def receive(self, port: int, inbox: Inbox) -> None:
        """Connect to a port of 127.0.0.1, say inbox.ready(), and receive until cancelled."""


@dataclass(frozen=True)
class ShortPolling:
    """Ask every `interval` seconds, from a random moment on.

    A poll that is due while the one before is under way is left out. Without keep_alive,
    each makes a connection of its own. Raises ValueError unless the interval is positive.
    """

    interval: float
    keep_alive: bool = True

    def __post_init__(self) -> None:
        _check_positive("interval", self.interval)

    @property
    def name(self) -> str:
        return f"short poll {self.interval:g} s" + ("" if self.keep_alive else ", no keep-alive")

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.Response:
            return _as_list(source.since(int(request.query["since"])))

        return _http_server(answer)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with _http_client(self.keep_alive) as http:
            seen = await _poll(http, port, inbox, 0)
            first = await inbox.ready() + inbox.random.uniform(0, self.interval)
            turn = 0
            while True:
                await asyncio.sleep(first + turn * self.interval - perf_counter())
                seen = await _poll(http, port, inbox, seen)
                turn = max(turn, math.floor((perf_counter() - first) / self.interval)) + 1


@dataclass(frozen=True)
class LongPolling:
    """Ask, and again after each answer; the server answers as soon as it has events."""

    name = "long poll"

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.Response:
            return _as_list(await source.after(int(request.query["since"])))

        return _http_server(answer)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with _http_client() as http:
            inbox.ready()
            seen = 0
            while True:
                seen = await _poll(http, port, inbox, seen)


@dataclass(frozen=True)
class ServerSentEvents:
    """One HTTP answer that never ends, with a line for each event."""

    name = "SSE"

    def serve(self, source: Source) -> AbstractAsyncContextManager[int]:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            seen = int(request.query["since"])
            while True:
                for event in await source.after(seen):
                    await response.write(f"data: {json.dumps(event.message)}\n\n".encode())
                    seen = event.id

        return _http_server(answer)

    async def receive(self, port: int, inbox: Inbox) -> None:
        async with _http_client() as http, http.get(_url(port, 0)) as response:
            inbox.ready()
            async for line in response.content:
                if line.startswith(b"data: "):
                    inbox.deliver([json.loads(line[6:])["id"]])


@dataclass(frozen=True)
class WebSocket:
    """One WebSocket with a message for each event, compressed if `deflate`."""

    deflate: bool = False

    @property
    def name(self) -> str:
        return "WebSocket, deflate" if self.deflate else "WebSocket"

    @property
    def _options(self) -> dict[str, Any]:
        compression = "deflate" if self.deflate else None
        return {"compression": compression, "ping_interval": None, "close_timeout": 1}

    @asynccontextmanager
    async def serve(self, source: Source) -> AsyncIterator[int]:
        async def send(connection: ServerConnection) -> None:
            seen = int(connection.request.path.partition("since=")[2])
            with suppress(ConnectionClosed):
                while True:
                    for event in await source.after(seen):
                        await connection.send(json.dumps(event.message))
                        seen = event.id

        async def handle(connection: ServerConnection) -> None:
            sending = asyncio.create_task(send(connection))
            try:
                await connection.wait_closed()
            finally:
                sending.cancel()

        async with serve_websocket(handle, HOST, 0, logger=_UNHEARD, **self._options) as server:
            yield server.sockets[0].getsockname()[1]

    async def receive(self, port: int, inbox: Inbox) -> None:
        url = _url(port, 0).replace("http", "ws")
        async with connect(url, proxy=None, **self._options) as connection:
            inbox.ready()
            async for message in connection:
                inbox.deliver([json.loads(message)["id"]])


def _check_positive(name: str, value: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name} is a positive number, not {value!r}")


def _url(port: int, since: int) -> str:
    return f"http://{HOST}:{port}/?since={since}"


@asynccontextmanager
async def _http_server(answer: Callable[[web.BaseRequest], Awaitable[Any]]) -> AsyncIterator[int]:
    server = web.Server(answer, handler_cancellation=True, access_log=None, logger=_UNHEARD)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    try:
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _http_client(keep_alive: bool = True) -> ClientSession:
    connector = TCPConnector(force_close=not keep_alive)
    timeout = ClientTimeout(total=None)
    return ClientSession(connector=connector, timeout=timeout, raise_for_status=True)


def _as_list(events: Sequence[Event]) -> web.Response:
    return web.json_response([event.message for event in events])


async def _poll(http: ClientSession, port: int, inbox: Inbox, seen: int) -> int:
    """Ask once for what came after event number `seen`; gives the newest number now."""
    async with http.get(_url(port, seen)) as response:
        ids = [message["id"] for message in await response.json()]
    if not ids:
        inbox.note("empty")
        return seen
    inbox.deliver(ids)
    return ids[-1]


# What a race finds


@dataclass(frozen=True)
class Result:
    """What one arm did. The moments are of time.perf_counter.

    latencies: of the events that arrived, in their order, from the time they were due
    missing:   the numbers of events that never arrived
    doubled:   the number of an event for each time it arrived again
    begin:     the moment the clock started
    end:       the moment the arm had all events, or of the race's end if any is missing

    Between begin and end:

    requests:    HTTP requests that were answered, at least in part; so a stream is one
    empty:       answers without an event
    connections: TCP connections that carried anything
    bytes_up:    bytes that the client sent, headers of TCP and IP apart
    bytes_down:  bytes that the server sent

    setup_bytes: what both sent before begin
    taps:        every piece of bytes that crossed the cable, whenever
    """

    arm: str
    latencies: list[float]
    missing: list[int]
    doubled: list[int]
    begin: float
    end: float
    requests: int
    empty: int
    connections: int
    bytes_up: int
    bytes_down: int
    setup_bytes: int
    taps: list[Tap]

    @property
    def bytes_per_event(self) -> float:
        """Bytes in both directions for each event that arrived; not a number if none did."""
        arrived = len(self.latencies)
        return (self.bytes_up + self.bytes_down) / arrived if arrived else math.nan


@dataclass(frozen=True)
class Race:
    """What a race found.

    delay:   one way
    events:  what was to be delivered
    results: a Result for the name of each arm
    lag:     by how many seconds the event loop was late, every 10 ms
    """

    delay: float
    events: Sequence[Event]
    results: dict[str, Result]
    lag: list[float]

    @property
    def lag_p99(self) -> float:
        """The 99th percentile of lag, 0 if the race was too short to have any."""
        return sorted(self.lag)[math.ceil(0.99 * len(self.lag)) - 1] if self.lag else 0.0


async def race(
    arms: Sequence[Arm],
    events: Sequence[Event],
    delay: float,
    *,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Race:
    """Let all arms deliver the same events at once, through cables of `delay` one way.

    It ends when every arm has delivered all, or the longest interval, ten delays and a
    second after the last event. `seed` decides what clients do at random; `progress` is
    called about every second with a short text.

    Raises RaceError if an arm fails or its client returns, and ValueError if there is no
    event, if their numbers are not 1, 2, … in the order of their times, if two arms have
    the same name or the delay is out of its range.
    """
    _check(arms, events, delay)
    source = Source(events)
    lag: list[float] = []
    tell = progress or (lambda text: None)
    lanes = [_Lane(arm, Inbox(Random(f"{seed} {arm.name}"), source)) for arm in arms]
    running = [lane.run(source, delay) for lane in lanes]
    running += [_watch(source, lag, tell), _conduct(lanes, source, delay)]
    tasks = [asyncio.create_task(each) for each in running]
    tell(f"{len(lanes)} arms connect")
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        end = perf_counter()
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results = {lane.arm.name: lane.result(source, end, delay) for lane in lanes}
    return Race(delay, events, results, lag)


async def careful(make_race: Callable[[], Awaitable[Race]], tries: int = 3) -> tuple[Race, int]:
    """Run a race again, up to `tries` times in all, while the event loop was too late.

    That is a lag_p99 above a tenth of the delay, or above 2 ms if that is more: timers are
    no more exact. Gives the race that was least late, and how many others were thrown away.
    """
    races: list[Race] = []
    while len(races) < max(tries, 1):
        races.append(await make_race())
        if races[-1].lag_p99 <= max(races[-1].delay / 10, 0.002):
            break
    return min(races, key=lambda each: each.lag_p99), len(races) - 1


class _Lane:
    """An arm in a race."""

    def __init__(self, arm: Arm, inbox: Inbox) -> None:
        self.arm = arm
        self.inbox = inbox
        self.taps: list[Tap] = []

    async def run(self, source: Source, delay: float) -> None:
        try:
            async with self.arm.serve(source) as port:
                try:
                    async with Relay(port, delay) as relay:
                        self.taps = relay.taps
                        await self.arm.receive(relay.port, self.inbox)
                finally:
                    # Once a timer has fired, the server has accepted what it had begun to;
                    # asyncio forgets a connection that is being accepted while it closes.
                    await asyncio.sleep(0.001)
        except Exception as error:
            raise RaceError(f"{self.arm.name}: {type(error).__name__}: {error}") from error
        raise RaceError(f"{self.arm.name}: its client returned in the middle of the race")

    def result(self, source: Source, end: float, delay: float) -> Result:
        begin, arrived = source.begin.result(), self.inbox.arrived
        end = max(arrived.values()) if self.inbox.is_full.is_set() else end
        counted = [tap for tap in self.taps if begin <= tap.sent <= end]
        # An empty answer is noted a delay after it was sent.
        answers = [what for at, what in self.inbox.notes if begin + delay <= at <= end]
        return Result(
            arm=self.arm.name,
            latencies=[arrived[e.id] - begin - e.at for e in source.events if e.id in arrived],
            missing=[e.id for e in source.events if e.id not in arrived],
            doubled=self.inbox.doubled,
            begin=begin,
            end=end,
            requests=_requests(self.taps, begin, end),
            empty=answers.count("empty"),
            connections=len({tap.connection for tap in counted}),
            bytes_up=sum(len(tap.data) for tap in counted if tap.sender == "client"),
            bytes_down=sum(len(tap.data) for tap in counted if tap.sender == "server"),
            setup_bytes=sum(len(tap.data) for tap in self.taps if tap.sent < begin),
            taps=self.taps,
        )


def _check(arms: Sequence[Arm], events: Sequence[Event], delay: float) -> None:
    Relay(1, delay)  # Raises ValueError for the delay. It is not started.
    if not events:
        raise ValueError("a race needs events, and there is none")
    in_order = all(a.at <= b.at and b.id == a.id + 1 for a, b in pairwise(events))
    if not in_order or events[0].id != 1:
        raise ValueError("events are numbered 1, 2, … in the order of their times")
    names = Counter(arm.name for arm in arms)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"two arms have the name {twice[0]!r}")


async def _conduct(lanes: Sequence[_Lane], source: Source, delay: float) -> None:
    """Wait for the clients, publish, and wait until all has arrived."""
    try:
        async with asyncio.timeout(READY_WITHIN + 10 * delay):
            for lane in lanes:
                await lane.inbox.is_ready.wait()
    except TimeoutError:
        raise RaceError(f"{lane.arm.name}: its client did not connect in time") from None
    await asyncio.sleep(4 * delay + 0.1)  # A first long poll reaches its server.
    await source.publish()
    interval = max((getattr(lane.arm, "interval", 0) for lane in lanes), default=0)
    with suppress(TimeoutError):
        async with asyncio.timeout(interval + 10 * delay + 1):
            for lane in lanes:
                await lane.inbox.is_full.wait()


async def _watch(source: Source, lag: list[float], tell: Callable[[str], object]) -> None:
    """Every 10 ms, note by how much the loop is late; every second, tell how far it is."""
    begin, tick = await asyncio.shield(source.begin), 1
    while True:
        await asyncio.sleep(begin + tick / 100 - perf_counter())
        # A stall counts at each of the moments that it covers, not once.
        while (late := perf_counter() - begin - tick / 100) >= 0:
            lag.append(late)
            tick += 1
            if tick % 100 == 0:
                tell(f"{source.published} of {len(source.events)} events published")


def _requests(taps: Sequence[Tap], begin: float, end: float) -> int:
    """How many requests the server answered between two moments, at least in part."""
    answered = 0
    asked: dict[int, int] = {}
    for tap in taps:
        if tap.sender == "client" and (heads := len(_REQUEST_LINE.findall(tap.data))):
            asked[tap.connection] = heads
        elif tap.sender == "server" and tap.data and begin <= tap.sent <= end:
            answered += asked.pop(tap.connection, 0)
    return answered
