"""permessage-deflate: the RFC's examples, every negotiation, bombs, two other implementations."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import tracemalloc
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from conftest import missing
from hypothesis import given
from hypothesis import strategies as st
from nestling.deflate import MAX_FINAL, SERVER, TAIL, Deflate, Parameters, accept, check, offer
from nestling.frames import CloseCode, FrameError
from nestling.handshake import HandshakeError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from workbench import node

MIB = 2**20
NAME = "permessage-deflate"
RESETS = "server_no_context_takeover", "client_no_context_takeover"
SERVER_BITS, CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"

TEXTS = [b"", b"Hello", b"Hello", bytes(3000), b'{"event":"vote","data":2}' * 20, b"", b"Hello"]
NOISE = random.Random(7692).randbytes(600)
MESSAGES = [*TEXTS, NOISE, NOISE * 3]


def every(bits: Sequence[int]) -> Iterable[Parameters]:
    """Every choice of the four parameters, with these window bits; None leaves one out."""
    for chosen in itertools.product([None, 0], [None, 0], [None, *bits], [None, 0, *bits]):
        named = zip([*RESETS, SERVER_BITS, CLIENT_BITS], chosen, strict=True)
        yield {name: value for name, value in named if value is not None}


EVERY = list(every([8, 9, 12, 15]))


def receive(deflate: Deflate, *pieces: bytes, room: int = MIB) -> bytes:
    """A message that came in these pieces."""
    whole = b""
    for number, piece in enumerate(pieces, 1):
        whole += deflate.decompress(piece, number == len(pieces), room - len(whole))
    return whole


def fresh(**agreed: int) -> Deflate:
    return Deflate(agreed, server=True)


def blocks(*payloads: bytes, end: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Each payload with a compressor of its own, flushed by `end`."""
    streams = ((zlib.compressobj(wbits=-15), payload) for payload in payloads)
    return b"".join(stream.compress(payload) + stream.flush(end) for stream, payload in streams)


def assert_fails(code: CloseCode, *pieces: bytes, room: int = MIB, deflate: Deflate | None = None):
    with pytest.raises(FrameError) as raised:
        receive(deflate or fresh(), *pieces, room=room)
    assert raised.value.code is code
    assert len(str(raised.value)) <= 123  # so that a close frame has room for it


# The RFC's examples (section 7.2.3)


def test_one_block():
    assert fresh().compress(b"Hello") == bytes.fromhex("f248cdc9c90700")
    assert receive(fresh(), bytes.fromhex("f248cdc9c90700")) == b"Hello"
    assert receive(fresh(), bytes.fromhex("f248cd"), bytes.fromhex("c9c90700")) == b"Hello"


def test_the_window_is_shared():
    ours, theirs = fresh(), fresh()
    sent = [ours.compress(b"Hello") for _ in range(2)]
    assert sent == [bytes.fromhex("f248cdc9c90700"), bytes.fromhex("f200110000")]
    assert [receive(theirs, data) for data in sent] == [b"Hello"] * 2


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_window_is_forgotten(side):
    own = Deflate({f"{side}_no_context_takeover": 0}, server=side == "server")
    peer = Deflate({f"{side}_no_context_takeover": 0}, server=side != "server")
    sent = [own.compress(b"Hello") for _ in range(2)]
    assert sent == [bytes.fromhex("f248cdc9c90700")] * 2
    assert [receive(peer, data) for data in sent] == [b"Hello"] * 2
    assert peer.compress(b"Hello") != peer.compress(b"Hello")  # the other direction remembers
    assert_fails(CloseCode.INVALID_PAYLOAD_DATA, bytes.fromhex("f200110000"), deflate=peer)


def test_a_block_without_compression():
    assert receive(fresh(), bytes.fromhex("000500faff48656c6c6f00")) == b"Hello"


def test_a_final_block():
    assert receive(fresh(), bytes.fromhex("f348cdc9c9070000")) == b"Hello"


def test_two_blocks_in_a_message():
    assert receive(fresh(), bytes.fromhex("f248050000 00ffff cac9c90700")) == b"Hello"


def test_an_empty_message_or_fragment():
    deflate = fresh()
    assert [deflate.compress(b"") for _ in range(3)] == [b"\x00"] * 3
    assert receive(fresh(), b"\x00") == b""
    assert receive(fresh(), bytes.fromhex("f248cdc9c907 000000ffff"), b"\x00") == b"Hello"
    assert receive(fresh(), b"", bytes.fromhex("f248cdc9c9"), b"", b"\x07\x00") == b"Hello"


# Final blocks


def test_what_comes_after_a_final_block():
    deflate = fresh()
    final = blocks(b"Hello", b", ", b"world", end=zlib.Z_FINISH) + b"\x00"
    assert receive(deflate, final) == b"Hello, world"
    assert receive(deflate, blocks(b"again")[:-4]) == b"again"
    for cut in range(len(final)):
        assert receive(deflate, final[:cut], final[cut:]) == b"Hello, world"
    assert receive(deflate, *(bytes([byte]) for byte in final)) == b"Hello, world"


def test_a_final_block_without_the_byte_that_it_needs():
    assert_fails(CloseCode.INVALID_PAYLOAD_DATA, blocks(b"Hello", end=zlib.Z_FINISH))


def test_final_blocks_without_end():
    """Two bytes each: what is behind them may not be copied for each of them."""
    empty = bytes.fromhex("0300")
    assert receive(fresh(), empty * MAX_FINAL + b"\x00") == b""
    assert receive(fresh(), *[empty * MAX_FINAL] * 5, b"\x00") == b""
    assert_fails(CloseCode.POLICY_VIOLATION, empty * (MAX_FINAL + 1) + b"\x00")
    assert_fails(CloseCode.MESSAGE_TOO_BIG, blocks(b"12345", b"67", end=zlib.Z_FINISH), room=6)


# Limits


@pytest.mark.parametrize("room", [0, 1, 4, 5, 6])
def test_as_much_as_there_is_room_for(room):
    data = fresh().compress(b"Hello")
    if room >= 5:
        assert receive(fresh(), data, room=room) == b"Hello"
    else:
        assert_fails(CloseCode.MESSAGE_TOO_BIG, data, room=room)
        assert_fails(CloseCode.MESSAGE_TOO_BIG, data[:-1], data[-1:], room=room)
    assert receive(fresh(), b"\x00", room=room) == b""


def test_a_bomb_stops_at_the_limit():
    bomb = fresh().compress(bytes(10 * MIB))
    assert len(bomb) < 12_000
    for pieces in ([bomb], [bomb[:5000], bomb[5000:]], [bomb[k : k + 1] for k in range(len(bomb))]):
        tracemalloc.start()
        try:
            assert_fails(CloseCode.MESSAGE_TOO_BIG, *pieces, room=100_000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MIB


def test_a_bomb_behind_a_final_block():
    """Only what is left of the room is decompressed, not as much again."""
    bomb = blocks(bytes(MIB), end=zlib.Z_FINISH) + blocks(bytes(10 * MIB))
    tracemalloc.start()
    try:
        assert_fails(CloseCode.MESSAGE_TOO_BIG, bomb)
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_for_who_forgets():
    """What a connection holds between two messages that are sent and received."""
    forgetful, other = (
        fresh(**dict.fromkeys(RESETS, 0)),
        Deflate(dict.fromkeys(RESETS, 0), server=0),
    )
    other.decompress(forgetful.compress(b"Hello"), True, MIB)
    forgetful.decompress(other.compress(b"Hello"), True, MIB)
    assert forgetful._compressor is forgetful._decompressor is None


# What is no DEFLATE


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"Hello", b"\xff", b"\x06", b"\x07", bytes(100)),
        *(bytes.fromhex("000500ffff48656c6c6f00"), bytes.fromhex("f200110000")),
    ],
)
def test_corrupt(data):
    assert_fails(CloseCode.INVALID_PAYLOAD_DATA, data)
    assert_fails(CloseCode.INVALID_PAYLOAD_DATA, *(bytes([byte]) for byte in data), b"")


@pytest.mark.parametrize("level", [0, 1, 6])
def test_truncated(level):
    """Nothing shorter passes, except where the tail makes a stored block whole, or an empty one."""
    payload = b"Hello, hello, hello"
    stream = zlib.compressobj(level, wbits=-15)
    data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
    for size in range(len(data) - len(TAIL)):
        try:
            passed = receive(fresh(), data[:size])
            assert passed == payload[:-4] + TAIL or data[:size] == b"\x00"
        except FrameError as error:
            assert error.code is CloseCode.INVALID_PAYLOAD_DATA


def test_a_window_that_looks_back_too_far():
    payload = NOISE + bytes(20) + NOISE
    data = Deflate({}, server=False).compress(payload)
    steps = [data[k : k + 1] for k in range(len(data))]
    assert receive(fresh(), *steps) == payload
    assert_fails(CloseCode.INVALID_PAYLOAD_DATA, *steps, deflate=fresh(client_max_window_bits=9))


@pytest.mark.parametrize("bits", range(8, 16))
def test_the_window_is_as_small_as_agreed(bits):
    """A decompressor with just this window, which gives a byte at a time, finds all it needs."""
    deflate = fresh(server_max_window_bits=bits)
    rng = random.Random(bits)
    payload = b"".join(rng.choice([b"vote", b"Hello", bytes(300)]) for _ in range(3_000))
    payload += b"".join(NOISE[:distance] * 2 for distance in range(100, 600))
    data = deflate.compress(payload)
    strict, whole = zlib.decompressobj(-bits), bytearray()
    for byte in data:
        rest = bytes([byte])
        while piece := strict.decompress(rest, 1):
            whole += piece
            rest = strict.unconsumed_tail
    assert whole == payload


def test_the_memory_of_a_connection(monkeypatch):
    """In bytes, when both sides have filled their windows: what the module says of its defaults."""

    def taken(wish: Parameters) -> int:
        server, client = accept([offer()], wish)[0], Deflate(wish, server=False)
        data = client.compress(NOISE * 100)
        tracemalloc.start()
        try:
            server.compress(NOISE * 100)
            receive(server, data)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert 45_000 < taken(SERVER) < 55_000
    monkeypatch.setattr("nestling.deflate.MEMORY_LEVEL", 8)
    assert taken({}) > 300_000


# Any message, in any pieces


@given(
    st.lists(st.binary() | st.text().map(str.encode) | st.binary().map(lambda b: b * 99)),
    st.sampled_from(EVERY),
    st.booleans(),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_any_message_in_any_pieces(payloads, agreed, server, sizes):
    sender, receiver = Deflate(agreed, server=server), Deflate(agreed, server=not server)
    for payload in payloads:
        data = sender.compress(payload)
        steps = itertools.cycle(sizes)
        pieces = []
        while data:
            size = next(steps)
            pieces.append(data[:size])
            data = data[size:]
        assert receive(receiver, *pieces, room=len(payload)) == payload


@given(st.lists(st.binary(), min_size=1), st.integers(0, 1000))
def test_any_bytes_give_bytes_or_our_error(pieces, room):
    try:
        assert len(receive(fresh(), *pieces, room=room)) <= room
    except FrameError as error:
        assert error.code in (1007, 1008, 1009)


# Negotiation


@pytest.mark.parametrize(
    "offers, answer",
    [
        ([NAME], f"{NAME}; server_max_window_bits=12"),
        ([offer()], f"{NAME}; client_max_window_bits=12; server_max_window_bits=12"),
        ([f"{NAME};client_max_window_bits=10"], f"{NAME}; client_max_window_bits=10; "),
        ([f"{NAME};server_max_window_bits=15"], f"{NAME}; server_max_window_bits=12"),
        ([f"{NAME};server_max_window_bits=8"], f"{NAME}; server_max_window_bits=8"),
        ([f'{NAME} ; server_max_window_bits="9"'], f"{NAME}; server_max_window_bits=9"),
        ([f"{NAME}; {RESETS[0]}"], f"{NAME}; {RESETS[0]}; "),
        ([f"{NAME}; {RESETS[1]}"], f"{NAME}; {RESETS[1]}; "),
        (
            ["x-other; a=1", f"{NAME}; server_max_window_bits=9"],
            f"{NAME}; server_max_window_bits=9",
        ),
        ([f"{NAME}; what, {NAME}; server_max_window_bits=9"], f"{NAME}; server_max_window_bits=9"),
        ([f"{NAME}; {RESETS[0]}, {NAME}"], f"{NAME}; {RESETS[0]}; "),
        (["", " , ", f",{NAME} , "], f"{NAME}; server_max_window_bits=12"),
    ],
)
def test_accepted(offers, answer):
    deflate, value = accept(offers)
    assert value.startswith(answer)
    assert offer(deflate.agreed) == value


DECLINED = [
    *("", "x-webkit-deflate-frame", "PERMESSAGE-DEFLATE", f"{NAME}; ", f"{NAME};;"),
    *(f"{NAME}; unknown", f"{NAME}; {RESETS[0]}=1", f'{NAME}; {RESETS[1]}=""', f"x;{NAME}"),
    *(f"{NAME}; {RESETS[0]}; {RESETS[0]}", f"{NAME}; {CLIENT_BITS}; {CLIENT_BITS}=9"),
    *(f"{NAME}; {SERVER_BITS}", f"{NAME}; {SERVER_BITS}=", f"{NAME}; {CLIENT_BITS}="),
    *(f"{NAME}; {SERVER_BITS}={bad}" for bad in (*"07x٩", "16", "08", "012", "1e1", "-9", "9 9")),
    *(f"{NAME}; {CLIENT_BITS}={bad}" for bad in (0, 7, 16, '"9', '9"', "'9'", '"9,"')),
    *(f'{NAME}; "{RESETS[0]}"', f"{NAME} {RESETS[0]}", f"{NAME}\xa0; {RESETS[0]}"),
]


@pytest.mark.parametrize("declined", DECLINED)
def test_declined(declined):
    assert accept([declined]) is None
    assert accept([f"{declined}, {NAME}"])[0].agreed == accept([NAME])[0].agreed


@pytest.mark.parametrize("asked", EVERY, ids=offer)
def test_every_offer_with_every_wish(asked):
    """Our server answers what our client may accept, and both do what the RFC says follows."""
    for wish in (wish for wish in EVERY if wish.get(CLIENT_BITS) != 0):
        server, answer = accept([offer(asked)], wish)
        client = check([answer], asked)
        for name in RESETS:
            assert (name in server.agreed) == (name in asked or name in wish)
        bits = min(asked.get(SERVER_BITS, 15), wish.get(SERVER_BITS, 15))
        assert server.agreed.get(SERVER_BITS, 15) == bits
        assert (SERVER_BITS in server.agreed) == (SERVER_BITS in asked or SERVER_BITS in wish)
        bits = min(asked.get(CLIENT_BITS) or 15, wish.get(CLIENT_BITS) or 15)
        assert server.agreed.get(CLIENT_BITS, 15) == (bits if CLIENT_BITS in asked else 15)
        assert (CLIENT_BITS in server.agreed) == (CLIENT_BITS in asked)
        assert client.agreed == server.agreed


@pytest.mark.parametrize(
    "offered, answer, wrong",
    [
        ({}, "x-other", "x-other"),
        ({}, f"{NAME}, {NAME}", f"{NAME}, {NAME}"),
        ({}, f"{NAME}, x-other", "x-other"),
        ({}, f"{NAME}; {RESETS[0]}=1", RESETS[0]),
        ({}, f"{NAME}; {SERVER_BITS}=7", f"{SERVER_BITS}=7"),
        ({}, f"{NAME}; {CLIENT_BITS}=15", CLIENT_BITS),
        ({CLIENT_BITS: 0}, f"{NAME}; {CLIENT_BITS}", CLIENT_BITS),
        ({CLIENT_BITS: 10}, f"{NAME}; {CLIENT_BITS}=11", CLIENT_BITS),
        ({SERVER_BITS: 10}, f"{NAME}; {SERVER_BITS}=11", SERVER_BITS),
        ({SERVER_BITS: 10}, NAME, SERVER_BITS),
        ({SERVER_BITS: 15}, NAME, SERVER_BITS),
        ({RESETS[0]: 0}, NAME, RESETS[0]),
    ],
)
def test_answers_that_a_client_refuses(offered, answer, wrong):
    with pytest.raises(HandshakeError, match=wrong):
        check([answer], offered)


@pytest.mark.parametrize(
    "offered, answer, agreed",
    [
        ({}, NAME, {}),
        ({}, f"{NAME}; {RESETS[0]}; {RESETS[1]}", dict.fromkeys(RESETS, 0)),
        ({}, f"{NAME}; {SERVER_BITS}=15", {SERVER_BITS: 15}),
        ({RESETS[1]: 0, CLIENT_BITS: 9}, NAME, {RESETS[1]: 0, CLIENT_BITS: 9}),
        ({CLIENT_BITS: 9}, f'{NAME}; {CLIENT_BITS}="8"', {CLIENT_BITS: 8}),
        ({SERVER_BITS: 9}, f"{NAME};{SERVER_BITS}=8", {SERVER_BITS: 8}),
    ],
)
def test_answers_that_a_client_takes(offered, answer, agreed):
    assert check([answer], offered).agreed == agreed


def test_a_server_that_does_not_compress():
    assert check([]) is check([""]) is check([" , ", ""]) is None


# The websockets library


def library_receives(extension: PerMessageDeflate, data: bytes) -> bytes:
    half = len(data) // 2
    first = extension.decode(Frame(Opcode.BINARY, data[:half], fin=False, rsv1=True))
    rest = extension.decode(Frame(Opcode.CONT, data[half:]))
    return bytes(first.data) + bytes(rest.data)


def assert_they_talk(ours: Deflate, library: PerMessageDeflate) -> None:
    for message in MESSAGES:
        assert library_receives(library, ours.compress(message)) == message
        data = bytes(library.encode(Frame(Opcode.BINARY, message)).data)
        assert receive(ours, data[:5], data[5:]) == message


@pytest.mark.parametrize("asked", [e for e in EVERY if e.get(SERVER_BITS) != 8], ids=offer)
def test_with_the_server_of_websockets(asked):
    [(_, parameters)] = parse_extension(offer(asked))
    answer, library = ServerPerMessageDeflateFactory().process_request_params(parameters, [])
    assert_they_talk(check([build_extension([(NAME, answer)])], asked), library)


@pytest.mark.parametrize("asked", [e for e in EVERY if e.get(CLIENT_BITS) != 8], ids=offer)
def test_with_the_client_of_websockets(asked):
    factory = ClientPerMessageDeflateFactory(
        *(name in asked for name in RESETS),
        asked.get(SERVER_BITS),
        asked[CLIENT_BITS] or True if CLIENT_BITS in asked else None,
    )
    deflate, answer = accept([build_extension([(NAME, factory.get_request_params())])], {})
    [(_, parameters)] = parse_extension(answer)
    assert_they_talk(deflate, factory.process_response_params(parameters, []))


# Node's ws

NODE = """
    import { PerMessageDeflate, extension } from 'ws';
    import { text } from 'node:stream/consumers';
    const done = [];
    for (const { isServer, header, messages } of JSON.parse(await text(process.stdin))) {
        const deflate = new PerMessageDeflate({ isServer, threshold: 0 });
        const agreed = deflate.accept(extension.parse(header)['permessage-deflate']);
        const answer = extension.format({ 'permessage-deflate': [agreed] });
        const heard = [], said = [];
        const run = (name, data) => new Promise((resolve, reject) =>
            deflate[name](data, true, (error, got) => error ? reject(error) : resolve(got)));
        for (const message of messages) {
            const data = await run('decompress', Buffer.from(message, 'base64'));
            heard.push(data.toString('base64'));
            said.push((await run('compress', data)).toString('base64'));
        }
        deflate.cleanup();
        done.push({ answer, heard, said });
    }
    console.log(JSON.stringify(done));
"""


async def in_node(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if why := node.why_not():
        missing(why)
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "-e", NODE),
        cwd=node.FOLDER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            printed, errors = await process.communicate(json.dumps(jobs).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors.decode()) == (0, "")
    return json.loads(printed)


async def assert_node_talks(sides: list[Deflate], headers: list[str], node_serves: bool) -> None:
    jobs = [
        {
            "isServer": node_serves,
            "header": header,
            "messages": [base64.b64encode(side.compress(m)).decode() for m in MESSAGES],
        }
        for side, header in zip(sides, headers, strict=True)
    ]
    for side, job in zip(sides, await in_node(jobs), strict=True):
        assert [base64.b64decode(data) for data in job["heard"]] == MESSAGES
        assert [receive(side, base64.b64decode(data)) for data in job["said"]] == MESSAGES


async def test_with_the_client_of_node():
    accepted = [accept([offer(asked)], {}) for asked in EVERY]
    await assert_node_talks(
        [side for side, _ in accepted], [answer for _, answer in accepted], False
    )


async def test_with_the_server_of_node():
    offers = [offer(asked) for asked in EVERY]
    answers = await in_node([{"isServer": True, "header": o, "messages": []} for o in offers])
    sides = [check([a["answer"]], asked) for a, asked in zip(answers, EVERY, strict=True)]
    await assert_node_talks(sides, offers, True)
