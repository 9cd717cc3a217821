"""Rows on what goes in, what comes out, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

from nestling.frames import Opcode

from workbench.conformance.case import fragments
from workbench.parity.conversation import Conversation, Do, improvement, python, raw, say

SILENT = {
    "no JSON": "hello",
    "an empty text": "",
    "JSON that is cut off": '{"event":"identity","data":1',
    "two objects in a text": '{"event":"identity"}{"event":"identity"}',
    "NaN": '{"event":"identity","data":NaN}',
    "a comment": '{"event":"identity",/* one */"data":1}',
    "a comma too many": '{"event":"identity","data":[1,]}',
    "single quotes": "{'event':'identity','data':1}",
    "a newline in a string": '{"event":"identity","data":"a\nb"}',
    "a leading zero": '{"event":"identity","data":01}',
    "a byte order mark": '\ufeff{"event":"identity","data":1}',
    "UTF-16": '{"event":"identity","data":1}'.encode("utf-16-le"),
    "null": "null",
    "a number instead of an object": "5",
    "a string instead of an object": '"identity"',
    "an array instead of an object": '["identity",1]',
    "an object without an event": '{"data":1}',
    "an unknown event": '{"event":"idntity","data":1}',
    "an event in another case": '{"event":"Identity","data":1}',
    "an event that is null": '{"event":null,"data":1}',
    "an event that is a number": '{"event":1,"data":1}',
    "an event that is an array": '{"event":["identity"],"data":1}',
    "an event that is a word of the language": '{"event":"constructor","data":1}',
}
UNDERSTOOD = {
    "whitespace around": ' \t\r\n{ "event" : "identity" , "data" : 1 } \n',
    "a key twice": '{"event":"no","event":"identity","data":1,"data":2}',
    "escapes": '{"\\u0065vent":"\\u0069dentity","data":"\\ud83d\\ude00"}',
    "keys of no meaning": '{"event":"identity","data":1,"ack":true,"reply":"x"}',
    "a binary message": '{"event":"identity","data":"é"}'.encode(),
    "a binary message that is no UTF-8": b'{"event":"identity","data":"\xff"}',
}
MESSAGE = b'{"event":"identity","data":"in pieces"}'
DEEP = '{"event":"length","data":%s}' % ("[" * 100_000 + "]" * 100_000)


def envelope() -> Iterator[Conversation]:
    """What is a message, and whose."""
    for name, message in {**SILENT, **UNDERSTOOD}.items():
        yield Conversation(name, raw(message))
    pieces = MESSAGE[:9], MESSAGE[9:20], MESSAGE[20:]
    yield Conversation("a text in three fragments", (*fragments(Opcode.TEXT, *pieces),))
    yield Conversation("a binary message in fragments", (*fragments(Opcode.BINARY, *pieces),))
    yield Conversation("data that are missing", say("got"))
    yield Conversation("data that are null", say("got", None))
    yield Conversation("the event is empty", say(""))
    yield Conversation("the event is *", say("*"))
    yield Conversation("a handler learns its event", say("which", 1))
    yield Conversation("two methods of a class for one event", say("twice", 1))
    yield Conversation("silence, and then an answer", raw("hello") + say("identity", 1))
    deep = "Python reads some thousand levels, and logs it; Node reads all, and cannot echo them"
    yield Conversation("100,000 levels", raw(DEEP), ours=python(deep))
    digits = f'{{"event":"got","data":{"1" * 5000}}}'
    yield Conversation("5,000 digits", raw(digits), ours=DIGITS)


DIGITS = python("Python reads integers of 4,300 digits at most; JavaScript makes this one Infinity")


VALUES = {
    "a number": 5,
    "a fraction": 2.5,
    "zero": 0,
    "a text": "plain",
    "an empty text as a value": "",
    "true": True,
    "false": False,
    "an array": [1, 2, 3],
    "an empty array": [],
    "an object": {"a": {"b": None}},
    "event and data": {"event": "x", "data": 1},
    "keys that look like integers": {"b": 1, "10": 2, "2": 3},
    "umlauts and emoji": "Grüße ☃ \U0001f600",
    "a lone surrogate": "\ud83d",
}
UNDEFINED = python("Python has no undefined: a key is there, with None, or it is not")


def values() -> Iterator[Conversation]:
    """What becomes of what a handler gives."""
    for name, value in VALUES.items():
        yield Conversation(name, say("identity", value))
    yield Conversation("a value that comes later", say("later", {"a": 1}))
    yield Conversation("null as a value", say("identity", None))
    yield Conversation("nothing", say("nothing"))
    yield Conversation("nothing, later", say("later", None))
    yield Conversation("1.0 and 1e2", raw('{"event":"identity","data":[1.0,1e2]}'))
    yield Conversation("a number too large", raw('{"event":"identity","data":1e999}'))
    yield Conversation("numbers that are not finite", say("not finite"))
    kept = "a number that stands for somebody, such as an id, comes back as it was sent"
    yield Conversation("2^53 + 1", say("identity", 2**53 + 1), ours=improvement(kept))
    told = "the mistake is told and logged; JavaScript's JSON says {}, and the data are lost"
    yield Conversation("a set", say("set"), ours=improvement(told))
    dates = "JavaScript's dates know their JSON; Python's want .isoformat(), and say so in the log"
    yield Conversation("a date", say("date"), ours=python(dates))
    yield Conversation("undefined inside an object", say("undefined"), ours=UNDEFINED)
    yield Conversation("a handler that sends, and gives", say("send", "given"))


def streams() -> Iterator[Conversation]:
    """What becomes of Observables and async generators."""
    yield Conversation("one item that is an array", say("of"))
    yield Conversation("three items", say("from"))
    yield Conversation("a promise of a stream", say("later from"))
    yield Conversation("a stream without items", say("items", []))
    yield Conversation("items that are falsy", say("items", [0, "", False, None, []]))
    first = say("gated", "A")
    yield Conversation("an item as it comes", first)
    yield Conversation("an item as it comes, and the next", (*first, Do.SETTLE, *say("open", "A")))


def order() -> Iterator[Conversation]:
    """Which answer comes first."""
    slow = say("wait", "A") + say("wait", "B") + say("identity", "C")
    opened = (*say("open", "B"), Do.SETTLE, *say("open", "A"))
    yield Conversation("slow A, slow B, fast C", slow + opened)
    fast = sum((say("identity", number) for number in range(20)), ())
    yield Conversation("twenty that are fast", fast)
    later = sum((say("later", number) for number in range(5)), ())
    yield Conversation("five that take equally long", later)
    two = (*say("gated", "A"), *say("gated", "B"), Do.SETTLE)
    yield Conversation("two streams", two + opened)
    yield Conversation("a stream that waits, and a value", say("gated", "A") + say("identity", 1))


def ids() -> Iterator[Conversation]:
    """Messages with an id, which Nest ignores."""
    matched = improvement("a client knows which question is answered, and when it is")
    for name, steps in {
        "a value": say("identity", 5, id=7),
        "false": say("identity", False, id=7),
        "a value that comes later": say("later", "x", id="seven"),
        "event and data": say("identity", {"event": "x", "data": 1}, id=7),
        "a stream": say("from", 0, id=7),
        "a stream that waits": say("gated", "A", id=7),
    }.items():
        yield Conversation(f"with an id: {name}", steps, ours=matched)
    ended = improvement("a client need not wait for an answer that never comes")
    yield Conversation("with an id: nothing", say("nothing", 0, id=7), ours=ended)
    yield Conversation("with an id: a stream without items", say("items", [], id=7), ours=ended)
    unknown = improvement("a typing error is told, instead of being waited for")
    yield Conversation("with an id: an unknown event", say("idntity", 1, id=7), ours=unknown)
    whose = improvement("a client knows which of its questions has failed")
    yield Conversation("with an id: an error", say("fail", 1, id=7), ours=whose)
    yield Conversation("with an id: a WsException", say("refuse", "no", id=7), ours=whose)
    twice = say("wait", "A", id=7) + say("identity", 1, id=7)
    confused = improvement("two answers with one id could not be told apart")
    yield Conversation("an id that is still in use", twice, ours=confused)
    cancelled = (*say("gated", "A", id=7), Do.SETTLE, *raw('{"id":7,"cancel":true}'))
    stopped = improvement("a stream can be ended without ending the connection")
    yield Conversation("a stream that is cancelled", cancelled, ours=stopped)
    deep = raw('{"id":7,' + DEEP[1:])
    why = improvement("a client learns why, and need not wait")
    yield Conversation("with an id: 100,000 levels", deep, ours=why)
    for value in (None, True, 1.5, [7], {}):
        yield Conversation(f"an id that is {value!r}", say("identity", 1, id=value))
    yield Conversation("a cancel of nothing", raw('{"id":7,"cancel":true}'))
