"""The envelope: what a message says, and what its replies look like. No network here.

A message is one JSON object. It may carry an id, a string or an integer, which Nest does not
have: then its replies carry it, too, and the last of them says "done".

    the client                        the server
    {"event", "data"}                 the handler's value, bare; {"event", "data"} as it is
    {"id", "event", "data"}           {"id", "event", "data"}, ..., the last with "done": true
    {"id", "cancel": true}            {"id", "done": true}, once its streams are closed

An error is {"event": "exception", "data": ...}, with or without an id.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

# The largest message, in bytes, unless asked otherwise. Nest takes 100 MiB, of which Python
# would make more than 2 GB of objects.
MAX_SIZE = 2**20

Id = str | int
Message = dict[str, Any]


class WsException(Exception):
    """An error that the other side is told: raise it in a handler or a hook.

    error: a text, or a dict or a list that is then the whole data of the exception frame
    """

    def __init__(self, error: Any) -> None:
        super().__init__(error)
        self.error = error


class TooDeep(ValueError):
    """JSON of more levels than Python reads; `message` has what comes before the second."""

    def __init__(self, message: Message) -> None:
        super().__init__("nested too deep")
        self.message = message


def parse(message: str | bytes) -> Any:
    """What a message says, text or binary alike, as JSON.parse has it.

    Raises ValueError for what is not strict JSON (NaN, comments, a byte order mark) or has
    a number of more than 4,300 digits; TooDeep is one.
    """
    text = message if isinstance(message, str) else message.decode(errors="replace")
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise TooDeep(_beginning(text)) from None


def serialise(value: Any) -> str:
    """A value as JSON.stringify spells it: compact, lone surrogates escaped, NaN as null.

    Raises TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    try:
        text = _encoder.encode(value)
    except ValueError as error:
        if "Circular" in str(error):
            raise
        text = _encoder.encode(_finite(value))
    return text if text.isascii() else _SURROGATE.sub(lambda at: f"\\u{ord(at[0]):04x}", text)


def id_of(message: Message) -> Id | None:
    """The id of a message, None for one that has none or no valid one."""
    found = message.get("id")
    return found if type(found) in (str, int) else None


def correlated(message: Message, value: Any, done: bool) -> Any:
    """The frame for what a handler gives to a message with an id, None for no frame.

    done: whether it is the last
    """
    number, end = message["id"], {"done": True} if done else {}
    if value is None:
        return {"id": number, **end} if done else None
    if not (type(value) is dict and value.keys() == _NAMED and isinstance(value["event"], str)):
        value = {"event": message.get("event"), "data": value}
    return {"id": number, **value, **end}


def exception(error: BaseException, message: Message | None = None) -> Message:
    """The exception frame for an error, as Nest words it, caused by a message if by any.

    Where JSON cannot say the error or the message's data, neither is in it.
    """
    told = error.error if isinstance(error, WsException) else _INTERNAL
    data = {"status": "error", "message": told}
    if message is not None:
        cause = {"data": message["data"]} if "data" in message else {}
        data["cause"] = {"pattern": message.get("event")} | cause
    frame = {"event": "exception", "data": told if isinstance(told, dict | list) else data}
    try:
        serialise(frame)
    except (TypeError, ValueError, RecursionError):
        event = None if message is None else message.get("event")
        cause = {"cause": {"pattern": event}} if isinstance(event, str) else {}
        frame["data"] = {"status": "error", "message": _INTERNAL} | cause
    return frame


def _finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _beginning(text: str) -> Message:
    """The members of an object before the first that is nested."""
    found = _MEMBERS.match(text)
    try:
        return dict(_decoder.decode(found[0].rstrip(" ,") + "}")) if found else {}
    except ValueError:
        return {}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_INTERNAL = "Internal server error"
_NAMED = {"event", "data"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING = r'"(?:[^"\\]|\\.)*+"'
_MEMBERS = re.compile(rf'\s*\{{(?:\s*{_STRING}\s*:\s*(?:{_STRING}|[^\s"\[\]{{}},:]+)\s*,)*+')
