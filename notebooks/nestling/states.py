"""What has become of a connection, for whoever wants to watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum


class State(Enum):
    """CONNECTING and OPEN; WAITING before another try; CLOSED for good."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


class States:
    """A state, and the news of it.

    now: the state
    """

    def __init__(self) -> None:
        self.now = State.CONNECTING
        self._changed = asyncio.Event()

    def set(self, state: State) -> None:
        """Change it, and wake who watches; the next change has an event of its own."""
        if state is not self.now:
            self.now = state
            self._changed.set()
            self._changed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[State]:
        """The state, and then each other one, up to CLOSED; who is slow misses some."""
        while True:
            state, changed = self.now, self._changed
            yield state
            if state is State.CLOSED:
                return
            await changed.wait()
