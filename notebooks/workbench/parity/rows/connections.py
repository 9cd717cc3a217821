"""Rows on errors and hooks, paths and ports, and all that is not a message."""

from __future__ import annotations

from collections.abc import Iterator

from nestling.frames import Frame, Opcode, encode

from workbench.conformance.case import KEY, MASK, ask, close, fragments, text
from workbench.parity.conversation import (
    EQUAL,
    Again,
    Conversation,
    Do,
    at,
    improvement,
    library,
    python,
    raw,
    say,
)

END = (Do.END,)


def errors() -> Iterator[Conversation]:
    """What a client is told of errors."""
    for when in ("", " later", " in a stream"):
        yield Conversation(f"a WsException{when}", say(f"refuse{when}", "no"))
        yield Conversation(f"a WsException of an object{when}", say(f"refuse{when}", {"why": [1]}))
        yield Conversation(f"an error{when}", say(f"fail{when}", [1]))
    yield Conversation("an error without data", say("fail"))
    yield Conversation("an error with data that are null", say("fail", None))
    yield Conversation("an error, and then an answer", say("fail", 1) + say("identity", 1))
    yield Conversation("a guard that says no", say("guarded", 1))
    yield Conversation("a pipe that lets in", say("number", "5"))
    yield Conversation("a pipe that does not", say("number", "five"))
    yield Conversation("a pipe, and the next message", say("number", "five") + say("number", "5"))


def _happened(name: str, count: int) -> tuple:
    """What happened to the client of this name, once it is so much."""
    return (Again(at("/hooks")), *say("happened", [f"/hooks?{name}", count]), Do.HEAR)


def hooks() -> Iterator[Conversation]:
    """What a gateway learns of its clients."""
    for name, steps in {
        "1000": (close(1000, b"bye"), Do.END),
        "4000": (close(4000), Do.END),
        "none": (Frame(Opcode.CLOSE), Do.END),
        "lost": (Do.DROP,),
    }.items():
        asked, told = at(f"/hooks?{name}"), _happened(name, 2)
        row = f"the disconnect hook's code: {name}"
        yield Conversation(row, (Do.SETTLE, *steps, *told), asked)
    yield Conversation("after_init is called once", say("inits"), at("/hooks"))
    endless = (*say("endless"), Do.SETTLE, close(1000), Do.END, *_happened("endless", 3))
    yield Conversation("an endless stream and its client's end", endless, at("/hooks?endless"))
    outlive = (*say("outlive"), Do.SETTLE, close(1000), Do.END, *_happened("outlive", 3))
    yield Conversation("a handler and its client's end", outlive, at("/hooks?outlive"))
    first = "a handler may rely on what the connect hook has found out, such as who it is"
    early = at("/greeting") + _message("identity", "early")
    name = "a message before the connect hook ends"
    yield Conversation(name, (), early, improvement(first))
    crowd = (Again(at("/crowd")), *say("tell all", "hello"))
    yield Conversation("the server knows its clients", crowd, at("/crowd"))


FOUND = improvement("404, and which paths there are: a typing error is seen at once")
NO_HTTP = python("there is no HTTP application beside the gateways; 426 says what is missing")
STRICT = improvement("a request that RFC 6455 forbids is refused, and says why")


def paths() -> Iterator[Conversation]:
    """Which gateway a client comes to."""
    where = say("where")
    yield Conversation("a path", where, at("/inner"))
    yield Conversation("a path and a query", where, at("/inner?a=/other"))
    yield Conversation("an absolute target", where, at("http://127.0.0.1/inner"))
    for target in ("/unknown", "/inner/", "/Inner", "/inner/more", "/%69nner"):
        yield Conversation(f"the path {target}", (), at(target), FOUND)
    slashes = improvement("the mistake is seen; Nest takes //inner for the path / of a host inner")
    yield Conversation("a path with two slashes", (), at("//inner"), slashes)
    dots = python("a path is compared as it is sent: nothing in it is decoded or resolved")
    yield Conversation("a path with two dots", where, at("/x/../inner"), dots)
    yield Conversation("what 404 says", (), at("/unknown"), FOUND, whole=True)
    yield Conversation("two gateways on one path", say("ask", 1), at("/pair"))
    yield Conversation("an event of one of two gateways", say("only first", 1), at("/pair"))
    yield Conversation("a port of its own", where, port=1)
    alone = improvement("a gateway is where it says it is, and nowhere else")
    yield Conversation("a port of its own, another path", where, at("/x"), alone, port=1)
    yield Conversation("a port and a path of its own", where, at("/one"), port=2)
    yield Conversation("the other path of that port", where, at("/two"), port=2)
    yield Conversation("that port without the path", (), at("/"), FOUND, port=2)
    plain = ask(without="Upgrade Connection")
    asks = improvement("426 names the version of WebSocket that the server speaks")
    yield Conversation("a plain GET on that port", (), plain, asks, websockets=EQUAL, port=1)


DATE = library("it adds a Date, which a browser does not look at")
REFUSED = {
    "no key": ask(without="Sec-WebSocket-Key"),
    "a key that is too short": ask("Sec-WebSocket-Key: abc", without="Sec-WebSocket-Key"),
    "a subprotocol that is no token": ask("Sec-WebSocket-Protocol: a b"),
    "POST": ask(line="POST / HTTP/1.1"),
}


def handshake() -> Iterator[Conversation]:
    """The request and its answer."""
    yield Conversation("the fields of the 101", (), whole=True, websockets=DATE)
    yield Conversation("field names in lower case", (), LOWER)
    yield Conversation("an Origin from elsewhere", (), ask("Origin: http://elsewhere.test"))
    yield Conversation("one subprotocol", (), ask("Sec-WebSocket-Protocol: chat"))
    yield Conversation("of two subprotocols", (), ask("Sec-WebSocket-Protocol: b, a"))
    twice = ask("Sec-WebSocket-Protocol: a, a")
    yield Conversation("a subprotocol twice", (), twice)
    deflate = ask("Sec-WebSocket-Extensions: permessage-deflate")
    yield Conversation("deflate is offered", (), deflate)
    yield Conversation("a frame in the request's segment", (), ask() + _message("identity", 5))
    for name, request in REFUSED.items():
        yield Conversation(name, (), request)
    old = python("version 8 was a draft's, which no browser has spoken since 2011")
    status = improvement("426 says what has to change, where 400 could be anything")
    for version, verdict in {"": status, "12": status, "8": status}.items():
        asked = [f"Sec-WebSocket-Version: {version}"] if version else []
        request = ask(*asked, without="Sec-WebSocket-Version")
        yield Conversation(f"version {version or 'missing'}", (), request, verdict, old)
    yield Conversation("HTTP/1.0", (), ask(line="GET / HTTP/1.0"), STRICT)
    h2c = ask("Upgrade: h2c", without="Upgrade")
    yield Conversation("Upgrade: h2c", (), h2c, STRICT)
    plain = ask(without="Upgrade Connection")
    yield Conversation("a plain GET", (), plain, NO_HTTP)


LOWER = ask(
    *("host: h", "upgrade: websocket", "connection: upgrade", f"sec-websocket-key: {KEY}"),
    "sec-websocket-version: 13",
    without="Host Upgrade Connection Sec-WebSocket-Key Sec-WebSocket-Version",
)


def _message(*said: str | int) -> bytes:
    (frame,) = say(*said)
    return encode(frame._replace(mask=MASK))


PING, PONG, CLOSE, TEXT = Opcode.PING, Opcode.PONG, Opcode.CLOSE, Opcode.TEXT


def control() -> Iterator[Conversation]:
    """Pings and pongs."""
    yield Conversation("a ping", (Frame(PING, b"payload"),))
    yield Conversation("a ping without payload", (Frame(PING),))
    yield Conversation("a ping of 125 bytes", (Frame(PING, b"*" * 125),))
    yield Conversation("three pings", tuple(Frame(PING, b"%d" % n) for n in range(3)))
    yield Conversation("a pong that nobody asked for", (Frame(PONG, b"payload"),))
    begin, end = fragments(TEXT, b'{"event":"ident', b'ity","data":1}')
    yield Conversation("a ping between fragments", (begin, Frame(PING, b"!"), end))
    yield Conversation("a ping while a handler waits", (*say("wait", "A"), Frame(PING, b"!")))


SAID = improvement("the close has a reason: which rule was broken, for the client's developer")
BROKEN = {
    "a frame without a mask": encode(text("{}")),
    "a reserved opcode": b"\x83\x80" + MASK,
    "a reserved bit": b"\xc1\x80" + MASK,
    "a ping in fragments": encode(Frame(PING, fin=False, mask=MASK)),
    "a ping of 126 bytes": encode(Frame(PING, b"*" * 126, mask=MASK)),
    "a continuation of nothing": encode(Frame(Opcode.CONTINUATION, b"a", mask=MASK)),
    "a text within a text": encode(Frame(TEXT, b"a", False, mask=MASK)) * 2,
    "a text that is no UTF-8": encode(Frame(TEXT, b"\xff\xfe", mask=MASK)),
    "a close of one byte": encode(Frame(CLOSE, b"\x03", mask=MASK)),
    "a close with code 1005": encode(close(1005)._replace(mask=MASK)),
    "a close whose reason is no UTF-8": encode(close(1000, b"\xff")._replace(mask=MASK)),
    "a frame of 101 MiB": b"\x82\xff" + (101 * 2**20).to_bytes(8, "big") + MASK,
}


def limits() -> Iterator[Conversation]:
    """What is too much, or broken."""
    for name, data in BROKEN.items():
        yield Conversation(name, (data, *END), ours=SAID)
    yield Conversation("a message of 1 MB", say("length", "*" * 1_000_000))
    small = improvement("nobody fills the memory: as Python's objects, 100 MiB would be over 2 GB")
    yield Conversation("a message of more than 1 MiB", say("length", "*" * 2**20), ours=small)
    many = sum((say("wait", str(number)) for number in range(257)), ())
    bound = improvement("a client that asks without end is told so, and costs the others nothing")
    yield Conversation("257 messages in flight", many, ours=bound)


def closing() -> Iterator[Conversation]:
    """The end of a connection."""
    yield Conversation("a close with a code", (close(1000), *END))
    yield Conversation("a close with code and reason", (close(4000, b"bye"), *END))
    yield Conversation("a close without a code", (Frame(CLOSE), *END))
    yield Conversation("a close, and what comes after", (close(1000), *say("identity", 1), *END))
    yield Conversation("a message, and then a close", (*say("identity", 1), close(1000), *END))
    late = (*say("wait", "A"), *say("open", "A"), close(1000), *END)
    yield Conversation("a reply after the close", late)
    yield Conversation("the server closes", (*say("close", [4000, "bye"]), *END))
    plain = python("1000 is written out, which says the same: the work is done")
    yield Conversation("the server closes without a code", (*say("close", []), *END), ours=plain)
    going = improvement("1001: a client knows that the server left, and may come back later")
    yield Conversation("the application closes", (*say("end"), *END), ours=going, port=3)
    yield Conversation("silence does not close", raw("hello") + raw("") + raw("null"))
