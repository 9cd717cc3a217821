"""Rows on the opening handshake (RFC 6455, section 4)."""

from __future__ import annotations

from collections.abc import Iterator

from nestling.frames import encode

from workbench.conformance.case import KEY, MASK, Case, ask, text

REFUSED = "(4..|5..)?"  # with a status, or by the end of TCP

OPENED = {
    "all that is needed": ask(),
    "field names in lower case": ask(
        *("host: h", "upgrade: websocket", "connection: upgrade", f"sec-websocket-key: {KEY}"),
        "sec-websocket-version: 13",
        without="Host Upgrade Connection Sec-WebSocket-Key Sec-WebSocket-Version",
    ),
    "Upgrade: WEBSOCKET": ask("Upgrade: WEBSOCKET", without="Upgrade"),
    "Connection: uPGRADE": ask("Connection: uPGRADE", without="Connection"),
    "Connection: keep-alive, Upgrade": ask("Connection: keep-alive, Upgrade", without="Connection"),
    "Connection in two fields": ask("Connection: keep-alive"),
    "Connection with empty items": ask("Connection: , ,Upgrade ,", without="Connection"),
    "no space after the colon": ask(f"Sec-WebSocket-Key:{KEY}", without="Sec-WebSocket-Key"),
    "spaces and tabs around a value": ask("Upgrade: \t websocket \t", without="Upgrade"),
    "fields that nobody knows": ask("X-Other: 1", "Cookie: a=b", "Origin: http://elsewhere.test"),
    "bytes above 127 in a value": ask("X-Other: \xe4\xf6"),
    "a query": ask(line="GET /?a=b&c=%20 HTTP/1.1"),
    "an absolute target": ask(line="GET http://127.0.0.1/ HTTP/1.1"),
    "an extension that nobody knows": ask("Sec-WebSocket-Extensions: x-other; a=1"),
    "a subprotocol that is not chosen": ask("Sec-WebSocket-Protocol: x-other"),
    "a frame in the same segment": ask() + encode(text("Hello")._replace(mask=MASK)),
}
TURNED_AWAY = {
    **{f"the method {m}": ask(line=f"{m} / HTTP/1.1") for m in ("POST", "PUT", "HEAD", "get", "X")},
    **{v or "no version": ask(line=f"GET / {v}") for v in ("HTTP/1.0", "HTTP/0.9", "http/1.1", "")},
    "a space in the target": ask(line="GET /a b HTTP/1.1"),
    "a target without a slash": ask(line="GET chat HTTP/1.1"),
    "no Host": ask(without="Host"),
    "two Hosts": ask("Host: elsewhere.test"),
    "no Upgrade": ask(without="Upgrade"),
    "Upgrade: h2c": ask("Upgrade: h2c", without="Upgrade"),
    "Upgrade: websockets": ask("Upgrade: websockets", without="Upgrade"),
    "no Connection": ask(without="Connection"),
    "Connection: close": ask("Connection: close", without="Connection"),
    "Connection: Upgraded": ask("Connection: Upgraded", without="Connection"),
    "no key": ask(without="Sec-WebSocket-Key"),
    "two keys": ask(f"Sec-WebSocket-Key: {KEY}"),
    **{
        f"the key {key or 'empty'}": ask(f"Sec-WebSocket-Key: {key}", without="Sec-WebSocket-Key")
        for key in ("", "abc", "!" * 24, KEY[:-4], "AAAAAAAAAAAAAAAAAAAA", "A" * 24, KEY * 2)
    },
    "no key, no version": ask(without="Sec-WebSocket-Key Sec-WebSocket-Version"),
    "two versions": ask("Sec-WebSocket-Version: 13"),
    "a field on two lines": ask("X-Other: a", " b"),
    "a space before the colon": ask("X-Other : a"),
    "a field without a name": ask(": a"),
    "a line without a colon": ask("X-Other"),
    "NUL in a value": ask("X-Other: \x00"),
    "CR in a value": ask("X-Other: a\rb"),
    "LF in a value": ask("X-Other: a\nb"),
    "lines that end in LF alone": ask(end="\n"),
    "a head without end": ask("X-Other: " + "*" * 300_000),
    "bytes that are no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 2,
}


def handshake() -> Iterator[Case]:
    """Requests that open a connection, and those that do not."""
    for name, request in OPENED.items():
        hello = [text("Hello")]
        sent = [] if "same segment" in name else hello
        yield Case("4.2.1", name, sent, hello, request=request)
    yield Case("4.2.1", "a request, a byte at a time", hello, hello, cut=1)
    for name, request in TURNED_AWAY.items():
        yield Case("4.2.1", name, request=request, status=REFUSED)
    for version in ("0", "8", "12", "14", "013", "13.0", "255", ""):
        request = ask(f"Sec-WebSocket-Version: {version}", without="Sec-WebSocket-Version")
        name = f"version {version or 'empty'}: the answer names 13"
        yield Case("4.4", name, request=request, status="4..")
