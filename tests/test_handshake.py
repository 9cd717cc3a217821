"""The opening handshake: the RFC's example, every refusal, and the other implementations."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from http.client import HTTPResponse
from pathlib import Path

import pytest
from conftest import node_program, read_head
from hypothesis import example, given
from hypothesis import strategies as st
from nestling import handshake
from nestling.handshake import (
    MAX_HEAD,
    HandshakeError,
    Headers,
    HeadTooLong,
    Refusal,
    Request,
    Response,
    accept,
    accept_key,
    build_request,
    check_request,
    check_response,
    new_key,
    origin_form,
    parse_request,
    parse_response,
    parse_subprotocols,
    path_of,
    refuse,
)
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

TIMEOUT = 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

REQUEST = [
    "GET /chat HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Origin: http://example.com",
    "Sec-WebSocket-Protocol: chat, superchat",
    "Sec-WebSocket-Version: 13",
]
RESPONSE = [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Accept: {ACCEPT}",
    "Sec-WebSocket-Protocol: chat",
]


def head(lines: Sequence[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def changed(lines: Sequence[str], **fields: str | None) -> bytes:
    """The head with whole lines in place of a field's line; None leaves the line out."""
    replaced = []
    for line in lines:
        name = line.partition(":")[0].lower().replace("-", "_")
        by = fields.pop(name, line)
        replaced += [] if by is None else [by]
    assert not fields, f"no line to replace: {fields}"
    return head(replaced)


def requested(line: str) -> bytes:
    return head([line, *REQUEST[1:]])


def responded(line: str) -> bytes:
    return head([line, *RESPONSE[1:]])


def served(data: bytes, paths: Collection[str] | None = None) -> bytes | None:
    """What a server answers to `data`; None while it waits for more."""
    try:
        if (parsed := parse_request(data)) is None:
            return None
        check_request(parsed[0], paths)
        return accept(parsed[0])
    except Refusal as refusal:
        return refuse(refusal)


def opened(data: bytes, subprotocols: Sequence[str] = ("chat", "superchat")) -> str | None:
    """What a client that sent REQUEST makes of the answer `data`."""
    parsed = parse_response(data)
    assert parsed is not None
    return check_response(parsed[0], KEY, subprotocols)


def read_by_the_standard_library(answer: bytes) -> tuple[HTTPResponse, str]:
    """An HTTP answer and its body, and that nothing is behind it."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return stream

    stream = io.BytesIO(answer)
    response = HTTPResponse(Socket())  # type: ignore[arg-type]
    response.begin()
    body = response.read(int(response.headers["Content-Length"])).decode()
    assert len(answer) - len(answer.partition(b"\r\n\r\n")[0]) - 4 == len(body.encode())
    return response, body


# The RFC's example


def test_the_key_of_the_rfc_gives_the_accept_of_the_rfc():
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_request_of_the_rfc_is_accepted():
    parsed = parse_request(head(REQUEST))
    assert parsed is not None
    request, rest = parsed
    assert (request.method, request.path, rest) == ("GET", "/chat", b"")
    assert request.headers.get("origin") == "http://example.com"
    check_request(request, {"/chat"})
    assert accept(request, "chat") == head(RESPONSE)


def test_the_response_of_the_rfc_opens_the_connection():
    parsed = parse_response(head(RESPONSE))
    assert parsed is not None
    assert (parsed[0].status, parsed[0].reason) == (101, "Switching Protocols")
    assert check_response(parsed[0], KEY, ["chat", "superchat"]) == "chat"


# Both sides together


def test_a_key_is_fresh_and_has_16_bytes():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


@given(
    host=st.from_regex(r"[a-z]{1,9}(:[0-9]{1,5})?", fullmatch=True),
    path=st.from_regex(r"/[!-~]{0,30}", fullmatch=True),
    offered=st.lists(st.from_regex(r"[a-z.0-9]{1,9}", fullmatch=True), unique=True, max_size=4),
    value=st.from_regex(r"([!-~é]([ -~é]{0,30}[!-~é])?)?", fullmatch=True),
    behind=st.binary(max_size=20),
    data=st.data(),
)
def test_what_one_side_builds_the_other_accepts(host, path, offered, value, behind, data):
    key = new_key()
    sent = build_request(
        host, path, key=key, subprotocols=offered, headers=[("X-Vote", value), ("x-vote", "2")]
    )
    parsed = parse_request(sent + behind)
    assert parsed is not None
    request, rest = parsed
    assert (request.method, request.path, rest) == ("GET", path, behind)
    assert request.headers.get("Host") == host
    assert request.headers.get_all("X-VOTE") == [value, "2"]
    assert request.headers.tokens("Sec-WebSocket-Protocol") == offered
    check_request(request)

    chosen = data.draw(st.sampled_from([None, *offered]))
    answered = parse_response(accept(request, chosen, [("X-Served-By", value)]) + behind)
    assert answered is not None
    response, rest = answered
    assert rest == behind
    assert response.headers.get("X-Served-By") == value
    assert check_response(response, key, offered) == chosen


@given(text=st.text(st.characters(max_codepoint=0x17F), max_size=12))
@example("")
@example("a b")
@example("a:b")
@example("a\r\nb")
def test_a_path_or_a_name_is_read_back_as_it_was_or_is_a_value_error(text):
    for path, name in (("/" + text, "X"), (text, "X"), ("/", text)):
        try:
            sent = build_request("h", path, key=KEY, headers=[(name, "1")])
        except ValueError:
            continue
        parsed = parse_request(sent)
        assert parsed is not None
        assert (parsed[0].path, parsed[0].headers[-1]) == (path, (name, "1"))


@pytest.mark.parametrize("offered", [["a,b"], ["a b"], [""], ["a", "b", "a"]])
def test_a_subprotocol_that_is_no_token_or_stands_twice_is_not_sent(offered):
    with pytest.raises(ValueError, match="subprotocol"):
        build_request("h", key=KEY, subprotocols=offered)


@pytest.mark.parametrize(("lines", "parse"), [(REQUEST, parse_request), (RESPONSE, parse_response)])
def test_a_head_is_none_until_its_last_byte(lines, parse):
    data = head(lines)
    assert [parse(data[:size]) for size in range(len(data))] == [None] * len(data)
    whole = parse(data)
    assert whole is not None
    for behind in (b"\x81", b"\x81\x05Hello", b"\r\n\r\n", b"\n\r", bytes(100_000)):
        assert parse(data + behind) == (whole[0], behind)


def test_names_of_fields_are_compared_without_regard_to_case():
    headers = Headers([("Connection", "keep-alive,, \tUpgrade"), ("CONNECTION", " ,x")])
    assert headers.get("connection") == "keep-alive,, \tUpgrade"
    assert headers.get_all("cOnNeCtIoN") == ["keep-alive,, \tUpgrade", " ,x"]
    assert headers.tokens("connection") == ["keep-alive", "Upgrade", "x"]
    assert (headers.get("Upgrade"), headers.get("Upgrade", "none")) == (None, "none")
    assert headers.tokens("Upgrade") == headers.get_all("Upgrade") == []


# What a server refuses

REFUSALS = [
    # The start line
    (requested("GET /chat"), 400, "not a request line: 'GET /chat'"),
    (requested("GET  /chat HTTP/1.1"), 400, "not a request line"),
    (requested("GET /a b HTTP/1.1"), 400, "not a request line"),
    (requested("GET /chat HTTP/1.1 "), 400, "not a request line"),
    (requested("G(T /chat HTTP/1.1"), 400, "not a request line"),
    (requested("GET /chat http/1.1"), 400, "not a request line"),
    (requested("GET /chat HTTP/11"), 400, "not a request line"),
    (requested(""), 400, "not a request line: ''"),
    (requested("GET /chat HTTP/1.0"), 505, "HTTP/1.1 is required, not "),
    (requested("GET /chat HTTP/2.0"), 505, "HTTP/1.1 is required, not "),
    (requested("GET chat HTTP/1.1"), 400, "a path begins with a slash: 'chat'"),
    (requested("GET /other?x=/chat HTTP/1.1"), 404, "nothing here at /other?x=/chat; there is "),
    (requested("GET /chat/ HTTP/1.1"), 404, "there is /chat"),
    (requested("POST /chat HTTP/1.1"), 405, "POST cannot open a WebSocket"),
    (requested("get /chat HTTP/1.1"), 405, "get cannot open a WebSocket"),
    # Lines and fields
    (head(REQUEST).replace(b"\r\n", b"\n"), 400, "a line ends in CR LF"),
    (head(REQUEST).replace(b"\r\nUpgrade", b"\nUpgrade"), 400, "a line ends in CR LF"),
    (head(REQUEST).replace(b"\r\nUpgrade", b"\rUpgrade"), 400, "a line ends in CR LF"),
    (head(REQUEST).replace(b"\r\nUpgrade", b"\r\r\nUpgrade"), 400, "a line ends in CR LF"),
    (changed(REQUEST, host="Host: a\r\n b"), 400, "over a second line: ' b'"),
    (changed(REQUEST, host="Host: a\r\n\tb: c"), 400, "over a second line"),
    (changed(REQUEST, host=" Host: a"), 400, "over a second line"),
    (changed(REQUEST, host="Host : a"), 400, "not a header field: 'Host : a'"),
    (changed(REQUEST, host="Host\t: a"), 400, "not a header field"),
    (changed(REQUEST, host="Host"), 400, "not a header field: 'Host'"),
    (changed(REQUEST, host=": a"), 400, "not a header field"),
    (changed(REQUEST, host="Ho(st: a"), 400, "not a header field"),
    (changed(REQUEST, host="H\xf6st: a"), 400, "not a header field"),
    (changed(REQUEST, host="Host: a\0b"), 400, "a control character in Host"),
    (changed(REQUEST, origin="Origin: \x1b[31m"), 400, "a control character in Origin"),
    (changed(REQUEST, origin="Origin: a\x7f"), 400, "a control character in Origin"),
    # Host, Key, Version
    (changed(REQUEST, host=None), 400, "no Host"),
    (changed(REQUEST, host="Host: a\r\nhost: a"), 400, "more than one Host"),
    (changed(REQUEST, sec_websocket_key=None), 400, "no Sec-WebSocket-Key"),
    (
        changed(REQUEST, sec_websocket_key=f"Sec-WebSocket-Key: {KEY}\r\nsec-websocket-key: {KEY}"),
        400,
        "more than one Sec-WebSocket-Key",
    ),
    (
        changed(REQUEST, sec_websocket_version="Sec-WebSocket-Version: 13\r\n" * 2 + "X: 1"),
        400,
        "more than one Sec-WebSocket-Version",
    ),
    *(
        (changed(REQUEST, sec_websocket_key=f"Sec-WebSocket-Key: {key}"), 400, why)
        for key, why in [
            ("", "Sec-WebSocket-Key has 0 bytes instead of 16"),
            (base64.b64encode(bytes(15)).decode(), "has 15 bytes instead of 16"),
            (base64.b64encode(bytes(17)).decode(), "has 17 bytes instead of 16"),
            (KEY[:-1], "Sec-WebSocket-Key is not base64"),
            (KEY[:-2], "Sec-WebSocket-Key is not base64"),
            (KEY[:9] + "-" + KEY[10:], "Sec-WebSocket-Key is not base64"),
            (KEY[:9] + " " + KEY[9:], "Sec-WebSocket-Key is not base64"),
            (KEY + "!", "Sec-WebSocket-Key is not base64"),
            (KEY[:9] + "\xe9" + KEY[10:], "Sec-WebSocket-Key is not base64"),
        ]
    ),
    # Upgrade
    (changed(REQUEST, connection=None), 426, "Connection does not list Upgrade"),
    (changed(REQUEST, connection="Connection: keep-alive"), 426, "Connection does not list"),
    (changed(REQUEST, connection="Connection: xUpgrade"), 426, "Connection does not list"),
    (changed(REQUEST, upgrade=None), 426, "Upgrade: websocket is missing"),
    (changed(REQUEST, upgrade="Upgrade: h2c"), 426, "Upgrade: websocket is missing"),
    (changed(REQUEST, upgrade="Upgrade: websockets"), 426, "Upgrade: websocket is missing"),
    (changed(REQUEST, sec_websocket_version=None), 426, "is missing, and must be 13"),
    *(
        (
            changed(REQUEST, sec_websocket_version=f"Sec-WebSocket-Version: {version}"),
            426,
            f"Sec-WebSocket-Version is {version}, and must be 13",
        )
        for version in ("8", "013", "13, 8", "thirteen")
    ),
    # Size
    (changed(REQUEST, origin="Origin: " + "a" * MAX_HEAD), 431, f"longer than {MAX_HEAD} bytes"),
    (head(REQUEST * MAX_HEAD), 431, f"longer than {MAX_HEAD} bytes"),
    (b"a" * (MAX_HEAD + 10), 431, f"longer than {MAX_HEAD} bytes"),
]
REQUIRED_HEADERS = {
    405: {"Allow": "GET"},
    426: {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Connection": "close, Upgrade"},
}


@pytest.mark.parametrize(("data", "status", "why"), REFUSALS)
def test_a_refusal_says_what_was_wrong(data, status, why):
    answer = served(data, {"/chat"})
    assert answer is not None
    response, body = read_by_the_standard_library(answer)
    assert response.status == status
    assert why in body
    required = {"Connection": "close"} | REQUIRED_HEADERS.get(status, {})
    assert {name: response.headers[name] for name in required} == required
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_every_status_of_a_refusal_has_its_example():
    assert {status for _, status, _ in REFUSALS} == {400, 404, 405, 426, 431, 505}


def test_only_spaces_and_tabs_around_a_value_are_no_part_of_it():
    parsed = parse_request(changed(REQUEST, origin="Origin:\t \xa0a\x85 \t"))
    assert parsed is not None
    assert parsed[0].headers.get("Origin") == "\xa0a\x85"
    answer = served(changed(REQUEST, connection="Connection: \xa0Upgrade"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize(
    "fields",
    [
        {"connection": "connection: keep-alive, UPGRADE"},
        {"connection": "CONNECTION:upgrade,keep-alive"},
        {"connection": "Connection: keep-alive\r\nConnection: \tUpgrade ,"},
        {"upgrade": "UPGRADE: WebSocket"},
        {"upgrade": "Upgrade: h2c, websocket"},
        {"host": "host:\t a \t"},
        {"host": "Host:"},
        {"origin": "Origin: a\tb \xe9"},
    ],
)
def test_what_http_allows_is_no_reason_to_refuse(fields):
    answer = served(changed(REQUEST, **fields), {"/chat"})
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 101 ")


def test_the_query_is_not_compared_and_without_paths_every_path_is_served():
    with_query = requested("GET /chat?room=1&x=/ HTTP/1.1")
    assert served(with_query, ["/chat"]).startswith(b"HTTP/1.1 101 ")
    assert served(requested("GET /anything HTTP/1.1")).startswith(b"HTTP/1.1 101 ")
    assert served(with_query, ["/"]).startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize("path", ["/\0", "/\x1b[31m", "/\x7f", "/a\x08b"])
def test_a_control_character_in_the_path_is_refused(path):
    answer = served(requested(f"GET {path} HTTP/1.1"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("line", [b"HTTP/1.1 101 OK", b"HTTP/1.1 101 "])
@pytest.mark.parametrize("broken", [b"\r", b"\0", b"\x1b[31m"])
def test_a_control_character_in_the_reason_is_refused(line, broken):
    with pytest.raises(HandshakeError):
        parse_response(line + broken + b"\r\n\r\n")


def of_size(lines: Sequence[str], size: int) -> bytes:
    """A head of exactly `size` bytes, the empty line included."""
    return head([*lines, "X: " + "a" * (size - len(head([*lines, "X: "])))])


def outcome(parse: Callable, data: bytes) -> object:
    try:
        return parse(data)
    except HandshakeError as error:
        return type(error), getattr(error, "status", None)


@pytest.mark.parametrize("size", range(MAX_HEAD - 2, MAX_HEAD + 8))
@pytest.mark.parametrize(("lines", "parse"), [(REQUEST, parse_request), (RESPONSE, parse_response)])
def test_a_long_head_has_the_same_outcome_in_one_piece_and_in_single_bytes(lines, parse, size):
    data = of_size(lines, size)
    assert len(data) == size
    grown = (outcome(parse, data[:end]) for end in range(size - 20, size + 1))
    assert next(filter(None, grown)) == outcome(parse, data)


def test_a_head_of_the_limit_is_read_and_one_well_over_it_is_too_long():
    assert parse_request(of_size(REQUEST, MAX_HEAD)) is not None
    assert parse_response(of_size(RESPONSE, MAX_HEAD)) is not None
    with pytest.raises(HeadTooLong, match=f"longer than {MAX_HEAD} bytes"):
        parse_response(of_size(RESPONSE, MAX_HEAD + 5))
    with pytest.raises(Refusal) as caught:
        parse_request(of_size(REQUEST, MAX_HEAD + 5))
    assert caught.value.status == 431


@pytest.mark.parametrize("line", [b"a", b"A: b\r\n", b"A: b\r", b"\xff"])
@pytest.mark.parametrize("parse", [parse_request, parse_response])
def test_a_head_that_grows_without_end_is_refused_at_the_limit(parse, line):
    start = b"GET / HTTP/1.1\r\n" if parse is parse_request else b"HTTP/1.1 101 \r\n"
    data = start + line * (2 * MAX_HEAD)
    for size in range(0, len(data), 97):
        try:
            assert parse(data[:size]) is None
        except HandshakeError:
            break
    assert size <= MAX_HEAD + 100


# Anything at all

LINES = st.sampled_from([*REQUEST, *RESPONSE, "", " a", "A : b", "A:\tb", "GET / HTTP/1.0", "\0"])


@st.composite
def nearly_heads(draw: st.DrawFn) -> bytes:
    """A head of more or less fitting lines, with bytes put in and cut out here and there."""
    lines = draw(st.sampled_from([REQUEST, RESPONSE]) | st.lists(LINES, max_size=9))
    data = bytearray(head(lines))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 2))
        put = st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"\0"]) | st.binary(max_size=3)
        data[at : at + length] = draw(put)
    return bytes(data) + draw(st.binary(max_size=5))


ANYTHING = nearly_heads() | st.binary(max_size=100)


@given(ANYTHING)
def test_any_bytes_are_no_request_yet_a_request_or_a_refusal(data):
    answer = served(data, {"/chat"})
    if answer is None:
        assert b"\r\n\r\n" not in data
    elif answer.startswith(b"HTTP/1.1 101 "):
        assert len(answer.split(b"\r\n")) == 6
    else:
        response, body = read_by_the_standard_library(answer)
        assert response.status in {400, 404, 405, 426, 431, 505}
        assert len(body) > 5


@given(ANYTHING)
def test_any_bytes_are_no_response_yet_a_response_or_an_error(data):
    try:
        if (parsed := parse_response(data)) is None:
            assert b"\r\n\r\n" not in data
            return
        response, rest = parsed
        assert isinstance(response, Response)
        assert data.endswith(b"\r\n\r\n" + rest)
        assert check_response(response, KEY, ["chat"]) in {None, "chat"}
    except HandshakeError as error:
        assert len(str(error)) > 5


@given(ANYTHING)
@example(b"HTTP/1.1 101 OK\r\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nA: b\r\n\n\r\n\r\n")
def test_the_outcome_does_not_depend_on_the_pieces(data):
    for parse in (parse_request, parse_response):
        for size in range(len(data) + 1):
            if grown := outcome(parse, data[:size]):
                break
        if grown and isinstance(grown[0], Request | Response):
            grown = (grown[0], data[size:])
        assert outcome(parse, data) == grown


# What is never sent


@pytest.mark.parametrize("broken", ["a\r\nX: 1", "a\nb", "a\rb", "a\0", "\x1b[31m", "\x7f", "\x85"])
def test_a_control_character_is_never_sent(broken):
    [request, _] = parse_request(head(REQUEST))
    for call in (
        lambda: build_request(broken, key=KEY),
        lambda: build_request("h", "/" + broken, key=KEY),
        lambda: build_request("h", key=broken),
        lambda: build_request("h", key=KEY, subprotocols=["chat", broken]),
        lambda: build_request("h", key=KEY, headers=[("X", broken)]),
        lambda: build_request("h", key=KEY, headers=[(broken, "1")]),
        lambda: accept(request, None, [("X", broken)]),
        lambda: accept(request, None, [(broken, "1")]),
        lambda: refuse(Refusal(400, "no", [("X", broken)])),
    ):
        with pytest.raises(ValueError):
            call()


def test_a_character_outside_latin_1_is_a_value_error():
    with pytest.raises(ValueError):
        build_request("h", "/\N{EURO SIGN}", key=KEY)


def test_a_body_may_hold_any_text_and_its_length_counts_bytes():
    response, body = read_by_the_standard_library(refuse(Refusal(404, "no caf\xe9 at \u20ac")))
    assert (response.status, body) == (404, "no caf\xe9 at \u20ac\n")


@pytest.mark.parametrize("chosen", ["news", "CHAT", "", "chat, superchat"])
def test_a_server_cannot_choose_a_subprotocol_that_was_not_offered(chosen):
    [request, _] = parse_request(head(REQUEST))
    with pytest.raises(ValueError, match="did not offer the subprotocol"):
        accept(request, chosen)


# What a client refuses


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (responded("HTTP/1.1 200 OK"), "the server refused: 200 OK"),
        (responded("HTTP/1.1 404 Not Found"), "the server refused: 404 Not Found"),
        (responded("HTTP/1.0 101 Switching Protocols"), "not the status line"),
        (responded("HTTP/1.1 1O1 Switching Protocols"), "not the status line"),
        (responded("HTTP/1.1 1011 Switching Protocols"), "not the status line"),
        (responded("HTTP/1.1 600 No"), "not the status line"),
        (responded("GET / HTTP/1.1"), "not the status line"),
        (changed(RESPONSE, upgrade=None), "does not upgrade to websocket"),
        (changed(RESPONSE, upgrade="Upgrade: h2c"), "does not upgrade to websocket"),
        (changed(RESPONSE, upgrade="Upgrade: h2c, websocket"), "does not upgrade to websocket"),
        (changed(RESPONSE, connection=None), "Connection does not list Upgrade"),
        (changed(RESPONSE, connection="Connection: close"), "Connection does not list Upgrade"),
        (changed(RESPONSE, connection="Connection : Upgrade"), "not a header field"),
        (changed(RESPONSE, sec_websocket_accept=None), "Accept does not match the key"),
        (
            changed(RESPONSE, sec_websocket_accept=f"Sec-WebSocket-Accept: {ACCEPT.lower()}"),
            "Accept does not match the key",
        ),
        (
            changed(RESPONSE, sec_websocket_accept=f"Sec-WebSocket-Accept: {accept_key('x')}"),
            "Accept does not match the key",
        ),
        (
            changed(
                RESPONSE, sec_websocket_accept=f"Sec-WebSocket-Accept: {ACCEPT}\r\n" * 2 + "X:"
            ),
            "Accept does not match the key",
        ),
        (
            changed(RESPONSE, sec_websocket_protocol="Sec-WebSocket-Protocol: news"),
            "the subprotocol news was not offered",
        ),
        (
            changed(RESPONSE, sec_websocket_protocol="Sec-WebSocket-Protocol: Chat"),
            "the subprotocol Chat was not offered",
        ),
        (
            changed(RESPONSE, sec_websocket_protocol="Sec-WebSocket-Extensions: x-extension"),
            "an extension that was not offered",
        ),
        (of_size(RESPONSE, 2 * MAX_HEAD), f"longer than {MAX_HEAD} bytes"),
    ],
)
def test_a_client_says_what_is_wrong_with_the_answer(data, why):
    with pytest.raises(HandshakeError) as caught:
        opened(data)
    assert why in str(caught.value)
    assert not isinstance(caught.value, Refusal)


@pytest.mark.parametrize("two", ["chat, superchat", "chat\r\nSec-WebSocket-Protocol: chat"])
def test_a_server_may_not_choose_two_subprotocols(two):
    data = changed(RESPONSE, sec_websocket_protocol=f"Sec-WebSocket-Protocol: {two}")
    with pytest.raises(HandshakeError) as caught:
        opened(data)
    assert "subprotocol" in str(caught.value)
    assert "not offered" not in str(caught.value), "both were offered; two is what is wrong"


def test_without_an_offer_no_subprotocol_may_be_chosen():
    assert opened(changed(RESPONSE, sec_websocket_protocol=None)) is None
    assert opened(changed(RESPONSE, sec_websocket_protocol=None), []) is None
    with pytest.raises(HandshakeError, match="the subprotocol chat was not offered"):
        opened(head(RESPONSE), [])


@pytest.mark.parametrize(
    "fields",
    [
        {"upgrade": "upgrade: WebSocket"},
        {"connection": "connection: keep-alive, UPGRADE"},
        {"connection": "Connection: x\r\nConnection: upgrade"},
        {"sec_websocket_accept": f"sec-websocket-accept: \t{ACCEPT} "},
    ],
)
def test_a_client_reads_names_and_tokens_in_any_case(fields):
    assert opened(changed(RESPONSE, **fields)) == "chat"


@pytest.mark.parametrize("line", ["HTTP/1.1 101", "HTTP/1.1 101 ", "HTTP/1.1 101 Sw\xe9 itching"])
def test_the_reason_of_a_status_is_free_and_may_be_missing(line):
    assert opened(responded(line)) == "chat"


# The other implementations, on real sockets

HELLO = b"\x81\x05hello"


async def open_with_our_bytes(port: int, offered: Sequence[str]) -> tuple[str | None, bytes]:
    """Shake hands with a server that says hello. Gives the subprotocol and the hello."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            key = new_key()
            host = f"127.0.0.1:{port}"
            writer.write(build_request(host, "/chat", key=key, subprotocols=offered))
            response, behind = await read_head(reader, parse_response)
            chosen = check_response(response, key, offered)
            if len(behind) < len(HELLO):
                behind += await reader.readexactly(len(HELLO) - len(behind))
        finally:
            writer.close()
    return chosen, behind[: len(HELLO)]


@asynccontextmanager
async def our_server(broken: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server of nothing but a handshake: serves /chat, and chooses superchat if it can.

    Gives its port, and a list of the first two bytes each client sends after it.
    """
    received: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                request, rest = await read_head(reader, parse_request)
                check_request(request, {"/chat"})
                offered = request.headers.tokens("Sec-WebSocket-Protocol")
                answer = accept(request, "superchat" if "superchat" in offered else None)
                key = request.headers.get("Sec-WebSocket-Key")
                right = accept_key(key).encode()
                writer.write(answer.replace(right, ACCEPT.encode()) if broken else answer)
                writer.write(HELLO)
                received.append((rest or await reader.read(100))[:2])
        except Refusal as refusal:
            writer.write(refuse(refusal))
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


@pytest.mark.parametrize(
    ("offered", "chosen"), [([], None), (["superchat", "chat"], "superchat"), (["news"], None)]
)
async def test_our_request_opens_a_connection_to_the_websockets_library(offered, chosen):
    paths = []

    async def hello(websocket: ServerConnection) -> None:
        paths.append(websocket.request.path)
        await websocket.send("hello")

    def select(websocket: ServerConnection, subprotocols: Sequence[Subprotocol]) -> str | None:
        return "superchat" if "superchat" in subprotocols else None

    async with serve(hello, "127.0.0.1", 0, select_subprotocol=select) as server:
        port = server.sockets[0].getsockname()[1]
        assert await open_with_our_bytes(port, offered) == (chosen, HELLO)
    assert paths == ["/chat"]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(None, None), (["chat", "superchat"], "superchat"), (["chat"], None)]
)
async def test_the_client_of_the_websockets_library_accepts_our_response(offered, chosen):
    async with our_server() as (port, received), asyncio.timeout(TIMEOUT):
        uri = f"ws://127.0.0.1:{port}/chat?a=1"
        websocket = await connect(uri, subprotocols=offered, proxy=None, close_timeout=0.1)
        assert websocket.subprotocol == chosen
        assert await websocket.recv() == "hello"
        await websocket.send("hello")
        await websocket.close()
    assert received == [b"\x81\x85"]


async def test_the_client_of_the_websockets_library_reads_our_refusal():
    async with our_server() as (port, _), asyncio.timeout(TIMEOUT):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{port}/other", proxy=None)
    assert caught.value.response.status_code == 404
    assert b"nothing here at /other; there is /chat" in caught.value.response.body


async def test_the_client_of_the_websockets_library_sees_a_wrong_accept():
    async with our_server(broken=True) as (port, _), asyncio.timeout(TIMEOUT):
        with pytest.raises(InvalidHandshake, match=r"invalid Sec-WebSocket-Accept"):
            await connect(f"ws://127.0.0.1:{port}/chat", proxy=None)


WS_SERVER = """
const { WebSocketServer } = require("ws");
const handleProtocols = (offered) => offered.has("superchat") ? "superchat" : false;
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, handleProtocols });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => socket.send("hello"));
"""
WS_CLIENT = """
const { WebSocket } = require("ws");
const socket = new WebSocket(process.argv[1], process.argv.slice(2));
const tell = (what) => console.log(JSON.stringify(what));
socket.on("open", () => socket.send("hello"));
socket.on("message", (data) => {
  tell({ protocol: socket.protocol, said: data.toString() });
  socket.terminate();
});
socket.on("error", (error) => tell({ error: error.message }));
"""


async def test_our_request_opens_a_connection_to_the_ws_package():
    async with node_program(WS_SERVER) as output, asyncio.timeout(TIMEOUT):
        port = int(await output.readline())
        assert await open_with_our_bytes(port, []) == (None, HELLO)
        assert await open_with_our_bytes(port, ["chat", "superchat"]) == ("superchat", HELLO)
        assert await open_with_our_bytes(port, ["chat"]) == (None, HELLO)


@pytest.mark.parametrize(
    ("broken", "path", "offered", "told"),
    [
        (False, "/chat", [], {"protocol": "", "said": "hello"}),
        (False, "/chat", ["chat", "superchat"], {"protocol": "superchat", "said": "hello"}),
        (False, "/other", [], {"error": "Unexpected server response: 404"}),
        (True, "/chat", [], {"error": "Invalid Sec-WebSocket-Accept header"}),
    ],
)
async def test_the_client_of_the_ws_package_reads_our_response(broken, path, offered, told):
    async with our_server(broken) as (port, received), asyncio.timeout(TIMEOUT):
        async with node_program(WS_CLIENT, f"ws://127.0.0.1:{port}{path}", *offered) as output:
            assert json.loads(await output.readline()) == told
        if "said" in told:
            assert received == [b"\x81\x85"]


def test_the_module_imports_nothing_but_the_standard_library():
    tree = ast.parse(Path(handshake.__file__).read_text(encoding="utf-8"))
    modules = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "hashlib" in modules
    assert {module.partition(".")[0] for module in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://server.example.com/chat?a=b", "/chat?a=b"),
        ("HTTPS://server.example.com/", "/"),
        ("http://server.example.com", "/"),
        ("http://server.example.com?a=b", "/?a=b"),
        ("/http://x", "/http://x"),
    ],
)
def test_a_target_that_names_scheme_and_host_is_read_as_its_path(target, path):
    parsed = parse_request(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert parsed is not None
    assert parsed[0].path == path


@pytest.mark.parametrize("field", [("Content-Length", "5"), ("Transfer-Encoding", "chunked")])
def test_a_request_with_a_body_is_refused(field):
    parsed = parse_request(build_request("h", key=KEY, headers=[field]))
    assert parsed is not None
    with pytest.raises(Refusal, match="a request with a body") as caught:
        check_request(parsed[0])
    assert caught.value.status == 400


# What a client offers, and where it wants to go

OFFERS = {
    "one": (["chat"], ["chat"]),
    "a list": (["chat, superchat ,\tnews"], ["chat", "superchat", "news"]),
    "over two fields": (["a, b", "c"], ["a", "b", "c"]),
    "every character of a token": (["!#$%&'*+-.^_`|~09azAZ"], ["!#$%&'*+-.^_`|~09azAZ"]),
    "empty": ([""], None),
    "an empty item": (["a,,b"], None),
    "a comma at the end": (["a,"], None),
    "twice": (["a, a"], None),
    "twice, over two fields": (["a", "a"], None),
    "a character of Latin-1": (["\x85"], None),
    "a space inside": (["a b"], None),
    "a quoted string": (['"a"'], None),
}


@pytest.mark.parametrize("fields, offered", OFFERS.values(), ids=OFFERS)
def test_what_passes_as_an_offer_can_be_accepted(fields, offered):
    """And nothing else passes: no value from the network makes `accept` raise."""
    head = request_head(Sec_WebSocket_Protocol=fields)
    request, _ = parse_request(head)
    if offered is None:
        with pytest.raises(Refusal) as caught:
            check_request(request)
        assert caught.value.status == 400
    else:
        check_request(request)
        assert parse_subprotocols(fields) == offered
        for subprotocol in offered:
            assert f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() in accept(
                request, subprotocol
            )


def request_head(**fields: list[str]) -> bytes:
    lines = [("Host", "h"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
    lines += [("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13")]
    for name, values in fields.items():
        lines += [(name.replace("_", "-"), value) for value in values]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"GET / HTTP/1.1\r\n{head}\r\n".encode("latin-1")


@pytest.mark.parametrize(
    "target, origin, path",
    [
        ("/", "/", "/"),
        ("/poll?a=1", "/poll?a=1", "/poll"),
        ("/?/poll", "/?/poll", "/"),
        ("http://host/poll?a", "/poll?a", "/poll"),
        ("HTTPS://host:80", "/", "/"),
        ("http://host?a", "/?a", "/"),
        ("//poll", "//poll", "//poll"),
        ("/a/../poll", "/a/../poll", "/a/../poll"),
        ("/%70oll", "/%70oll", "/%70oll"),
    ],
)
def test_one_function_says_what_the_path_is(target, origin, path):
    assert (origin_form(target), path_of(target)) == (origin, path)
    [head, rest] = request_head().split(b" / ", 1)
    request, _ = parse_request(head + f" {target} ".encode() + rest)
    assert request.path == origin
    check_request(request, paths={path})
