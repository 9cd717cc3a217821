"""A heartbeat for those that cannot ping: a page has no way to, and so asks the gateway."""

from __future__ import annotations

from typing import Any

from nestling.gateway import Client, subscribe_message


class AnswersPings:
    """What a gateway that inherits it does besides: it answers {"event": "ping"}.

    The answer is {"event": "pong", "data": ...}, with the data that has come. It is a message
    like any other, so it carries the id of one that has an id, and works in Nest just so.
    """

    @subscribe_message("ping")
    def ping(self, client: Client, data: Any) -> dict[str, Any]:
        return {"event": "pong", "data": data}
