"""When a client connects again: `GatewayClient(url, reconnect=Reconnect())`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from functools import partial

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)

from nestling.backoff import Backoff
from nestling.outbox import MayHaveRun
from nestling.resume import NotSent, Resuming, announced
from nestling.states import State, States

__all__ = ["AGAIN", "MayHaveRun", "NotSent", "Reconnect"]

# Close codes after which another try may go better: going away, no goodbye, an error of the
# server's, a restart, try again later. Every other one is final.
AGAIN = frozenset({1001, 1006, 1011, 1012, 1013})


@dataclass(frozen=True)
class Reconnect:
    """When a client connects again, and how it waits before; `resume` says what it then does.

    first, most, well: seconds, as `Backoff` has them
    again: the close codes after which it does
    queue: how many messages to `emit` it keeps while there is no connection
    dice:  gives a number from 0 to 1

    A handshake that fails is tried again if nobody was there or the status is 5xx.
    """

    first: float = 0.5
    most: float = 30.0
    well: float = 10.0
    again: Set[int] = AGAIN
    queue: int = 0
    dice: Callable[[], float] = random.random

    def is_for(self, error: Exception) -> bool:
        """Whether another try may go better, after a connection that has ended or failed so."""
        if isinstance(error, ConnectionClosed):
            return (error.rcvd.code if error.rcvd else 1006) in self.again
        if isinstance(error, InvalidStatus):
            return error.response.status_code >= 500
        return isinstance(error, OSError | InvalidMessage)  # TimeoutError is an OSError

    async def begin(
        self,
        url: str,
        dial: Callable[[str], Awaitable[ClientConnection]],
        states: States,
        *,
        correlate: bool,
        timeout: float,
    ) -> Resuming:
        """Connect to a URL. Raises why that is not possible, after `timeout` seconds at most."""
        where = announced(url) if correlate else url
        dialer = Dialer(partial(dial, where), self, states)
        resuming = Resuming(dialer, correlate, timeout, self.queue)
        await resuming.begun()
        return resuming


class Dialer:
    """Connects, again and again while that is worth it.

    dial: makes a connection, or raises why there is none
    why:  why there is none now
    """

    def __init__(
        self, dial: Callable[[], Awaitable[ClientConnection]], rules: Reconnect, states: States
    ) -> None:
        self.states = states
        self.why: Exception = ConnectionClosedError(None, None)
        self._dial, self._rules = dial, rules
        clock = asyncio.get_running_loop().time
        self._backoff = Backoff(rules.first, rules.most, rules.well, dice=rules.dice, clock=clock)

    async def connect(self, prepare: Callable[[ClientConnection], Awaitable[None]]) -> None:
        """Have a connection that is open and prepared, however long that takes.

        Raises what is not worth another try.
        """
        while True:
            self.states.set(State.CONNECTING)
            try:
                await prepare(await self._dial())
                break
            except (OSError, WebSocketException) as error:
                await self.pause(error)
        self._backoff.opened()
        self.states.set(State.OPEN)

    async def pause(self, why: Exception) -> None:
        """Wait before another try. Raises the error if that is not worth it."""
        self.why = why
        if not self._rules.is_for(why):
            raise why
        self.states.set(State.WAITING)
        await asyncio.sleep(self._backoff.delay())
