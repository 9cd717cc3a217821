"""Damaged frames for a `Protocol`: it never raises, says what it documents, and does not grow.

    python tests/fuzz_protocol.py [1000000] [--seed 0]

Valid conversations, with and without compression, for a server and for a client, are damaged:
bits flipped, bytes cut out, put in, said twice, and the end cut off. They come in pieces of
any size. Printed is what came of so many frames, and the most memory that the process had
after a tenth of them and after all, which is to be the same. A failure names the seed of its
conversation.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from nestling import deflate
from nestling.frames import Decoder, Frame, Opcode, close_payload, encode, parse_close
from nestling.protocol import Close, Event, Message, Ping, Pong, Protocol, State

FRAMES = 1_000_000
GROWTH = 4 * 2**20  # bytes that the process may grow by from a tenth of the frames to all
LIMITS = {"max_size": 2_000, "max_fragments": 8}
SIZES = (0, 1, 10, 125, 126, 600, 1_999, 2_000)
TOO_BIG = (2_001, 70_000)
LENGTHS = (1, 20, 200)  # messages of a conversation
DAMAGES = (0, 0.02, 0.3)  # of them so many are damaged
# Codes with which our side may end what breaks a rule.
FAILED = {1002, 1007, 1008, 1009}


class Conversation:
    """What one side of a connection is sent, and whether it does as documented.

    Everything about it comes from its seed, so that it can be had again.

    outcomes: how many frames it was sent, and what came of them
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.outcomes: Counter[str] = Counter()
        self._is_client = self._in(2)
        self._extension = deflate if self._in(2) else None
        client = Protocol(is_client=True, extension=self._extension, **LIMITS)
        server = Protocol(extension=self._extension, **LIMITS)
        server.receive(client.connect("localhost"))
        client.receive(server.accept())
        self._side, other = (client, server) if self._is_client else (server, client)
        self._codec = other._codec

    def run(self) -> Counter[str]:
        """Say it all, until the connection is closed. Raises AssertionError."""
        rate = self.random.choice(DAMAGES)
        if self._in(10):
            self._side.send_close(4000, "bye")
        for frame in self._frames():
            self.outcomes["frames"] += 1
            data = self._damaged(frame) if self.random.random() < rate else frame
            for piece in self._pieces(data):
                self._receive(piece)
            if self._side.state is State.CLOSED:
                break
        else:
            self._check(self._side.receive_eof())
        assert self._side.state is State.CLOSED
        assert self._side.receive(b"\x81\x00") == self._side.receive_eof() == []
        assert self._side.take_answers() == b""
        return self.outcomes

    def _receive(self, data: bytes) -> None:
        before = self._side.state
        self._check(self._side.receive(data))
        self._check_answers(self._side.take_answers(), before)

    def _check(self, events: list[Event]) -> None:
        """Events are within their limits, and just the last of a connection is a close."""
        for number, event in enumerate(events, 1):
            self.outcomes[type(event).__name__] += 1
            match event:
                case Message(data):
                    size = len(data.encode() if isinstance(data, str) else data)
                    assert size <= LIMITS["max_size"]
                case Ping(payload) | Pong(payload):
                    assert len(payload) <= 125
                case Close(code):
                    assert number == len(events) and self._side.state is State.CLOSED
                    assert code == 1006 or self._side.received == event
                case _:
                    raise AssertionError(event)

    def _check_answers(self, answers: bytes, before: State) -> None:
        """There are whole pongs, and one close as the last if our side ends what was open."""
        decoder = Decoder(masked=self._is_client)
        frames = list(decoder.feed(answers))
        assert decoder.pending == 0
        if before is State.OPEN and self._side.state is State.CLOSED:
            close = frames.pop()
            assert close.opcode is Opcode.CLOSE
            code, _ = parse_close(close.payload)
            assert code == self._side.received.code if self._side.received else code in FAILED
            self.outcomes[f"closed with {int(code)}"] += 1
        assert {frame.opcode for frame in frames} <= {Opcode.PONG}

    # What is sent

    def _frames(self) -> Iterator[bytes]:
        """Valid messages in up to three frames, control frames between, perhaps a close."""
        for _ in range(self.random.choice(LENGTHS)):
            opcode = self.random.choice((Opcode.TEXT, Opcode.BINARY))
            payload, rsv = self._payload(opcode), 0
            if self._codec and self._in(2):
                payload, rsv = self._codec.compress(payload), 4
            ends = sorted(self.random.randrange(len(payload) + 1) for _ in range(self._below(3)))
            for begin, end in zip([0, *ends], [*ends, None], strict=True):
                yield self._encode(opcode, payload[begin:end], end is None, rsv)
                opcode, rsv = Opcode.CONTINUATION, 0
                if self._in(5):
                    control = self.random.choice((Opcode.PING, Opcode.PONG))
                    yield self._encode(control, self.random.randbytes(self._below(126)))
        if self._in(2):
            codes = close_payload(1000, "bye"), close_payload(4999), b""
            yield self._encode(Opcode.CLOSE, self.random.choice(codes))

    def _payload(self, opcode: Opcode) -> bytes:
        size = self.random.choice(TOO_BIG if self._in(100) else SIZES)
        if opcode is Opcode.BINARY:
            return self.random.randbytes(size)
        return ("h\u00e9llo \U0001f600 " * (size // 12)).encode().ljust(size)

    def _encode(self, opcode: Opcode, payload: bytes, fin: bool = True, rsv: int = 0) -> bytes:
        mask = None if self._is_client else self.random.randbytes(4)
        return encode(Frame(opcode, payload, fin, rsv, mask))

    def _damaged(self, frame: bytes) -> bytes:
        """The same with one to three mistakes, more often than not in its header."""
        data = bytearray(frame)
        for _ in range(1 + self._below(3)):
            at = self._below(min(len(data), self.random.choice((2, 14, 4_000))) or 1)
            size = 1 + self._below(8)
            match self._below(6):
                case 0:
                    del data[at : at + size]
                case 1:
                    data[at:at] = self.random.randbytes(size)
                case 2:
                    data += data[at:]
                case 3:
                    del data[at:]
                case _ if data:
                    data[at] ^= 1 << self._below(8)
        return bytes(data)

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._in(2):
            return [data]
        first, second = sorted(self.random.randrange(len(data) + 1) for _ in range(2))
        return [data[:first], data[first:second], data[second:]]

    def _below(self, number: int) -> int:
        return self.random.randrange(number)

    def _in(self, number: int) -> bool:
        """Once in so many times."""
        return self.random.randrange(number) == 0


def memory() -> int:
    """The most bytes that this process has had in memory."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def fuzz(frames: int, seed: int = 0) -> tuple[Counter[str], list[int]]:
    """What came of so many frames, or a few more, and the memory after a tenth and after all.

    Raises AssertionError, which names the seed of a conversation in which anything was wrong.
    """
    outcomes: Counter[str] = Counter()
    most: list[int] = []
    for share in (frames // 10, frames):
        while outcomes["frames"] < share:
            try:
                outcomes += Conversation(seed).run()
            except Exception as error:
                raise AssertionError(f"the conversation of seed {seed}") from error
            seed += 1
        most.append(memory())
    return outcomes, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", nargs="?", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = monotonic()
    outcomes, (early, late) = fuzz(arguments.frames, arguments.seed)
    for name, number in sorted(outcomes.items()):
        print(f"{number:9} {name}")
    grown = f"{early / 2**20:.1f} MiB after a tenth, {late / 2**20:.1f} MiB at the end"
    print(f"{grown}, {monotonic() - begin:.0f} s")
    if late - early > GROWTH:
        sys.exit("the memory grows")


if __name__ == "__main__":
    main()
