"""The gateway of the article."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from nestling.gateway import Client, subscribe_message, websocket_gateway


@websocket_gateway()
class EventsGateway:
    """Two events: `events` gets a list whatever is sent, `identity` what was sent."""

    @subscribe_message("events")
    async def events(self, client: Client, data: Any) -> AsyncIterator[Any]:
        """A stream of one item, as `of([1, 2, 3])` is in the article."""
        yield {"event": "events", "data": [1, 2, 3]}

    @subscribe_message("identity")
    async def identity(self, client: Client, data: Any) -> Any:
        """The data itself; None is no reply."""
        return data
