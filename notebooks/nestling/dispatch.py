"""What becomes of a message: which methods it is for, or why it gets no answer."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nestling.answers import Handler, Task
from nestling.envelope import Message, TooDeep, id_of

log = logging.getLogger("nestling.gateway")

Parser = Callable[[str | bytes], Any]


class Dispatcher:
    """The gateways of one path, as the messages of their clients find them.

    ignored: how many messages were answered with silence, not being understood; the
             logger nestling.gateway says why, at level INFO
    errors:  what handlers, hooks and the parser have raised by mistake, the latest last
    tasks:   those that answer
    closing: whether no more messages are taken
    """

    def __init__(
        self, gateways: Sequence[Any], parse: Parser, errors: deque[BaseException]
    ) -> None:
        self.ignored = 0
        self.errors = errors
        self.tasks: set[Task] = set()
        self.closing = False
        self._parse = parse
        self._handlers: dict[str, list[Handler]] = {}
        for gateway in gateways:
            for event, handler in _handlers(gateway).items():
                self._handlers.setdefault(event, []).append(handler)

    def understand(self, raw: str | bytes) -> tuple[Message | None, str | None]:
        """The object that a message says, None if it says none; and why it is refused."""
        if self.closing:
            return None, None
        try:
            message = self._parse(raw)
        except TooDeep as error:
            if id_of(error.message) is not None:
                return error.message, "This is nested too deep"
            self.ignore(str(error), raw)
        except (ValueError, RecursionError) as error:
            self.ignore(f"no JSON: {error}", raw)
        except Exception as error:
            self.report(f"the parser failed with {_short(raw)}", error)
        else:
            if isinstance(message, dict):
                return message, None
            self.ignore("no object", raw)
        return None, None

    def handlers(self, message: Message) -> Sequence[Handler]:
        """The handlers of a message's event, over all gateways of the path."""
        event = message.get("event")
        return self._handlers.get(event, ()) if isinstance(event, str) else ()

    def ignore(self, why: str, raw: str | bytes) -> None:
        """Count and log a message that is answered with silence."""
        self.ignored += 1
        log.info("ignored: %s: %s", why, _short(raw))

    def report(self, what: str, error: BaseException) -> None:
        """Log and keep an error whose text is no client's business."""
        log.error(what, exc_info=error)
        self.errors.append(error)


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


def _short(raw: str | bytes) -> str:
    """A message in a line of the log: what is long is cut before it becomes text."""
    return repr(raw) if len(raw) <= 80 else f"{raw[:70]!r}... ({len(raw)} in all)"
