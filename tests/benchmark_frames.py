"""How fast frames.py encodes and decodes beside the websockets library without its C extension.

    python tests/benchmark_frames.py [--quick]

Both work in turns in the same run; what is shown are medians of the turns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from time import perf_counter

import websockets.frames
import websockets.utils
from websockets.streams import StreamReader

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from nestling.frames import Decoder, Frame, Opcode, encode, new_mask

PAIRS = 9
# Bytes of a payload, and how many frames make a turn.
CASES = [(65_536, 400), (60, 20_000)]


def ours_encode(payload: bytes, count: int) -> list[bytes]:
    return [encode(Frame(Opcode.BINARY, payload, mask=new_mask())) for _ in range(count)]


def ours_decode(sent: list[bytes]) -> list[Frame]:
    decoder = Decoder(masked=True)
    return [frame for data in sent for frame in decoder.feed(data)]


def library_encode(payload: bytes, count: int) -> list[bytes]:
    binary = websockets.frames.Opcode.BINARY
    return [
        websockets.frames.Frame(binary, payload).serialize(mask=True, extensions=[])
        for _ in range(count)
    ]


def library_decode(sent: list[bytes]) -> list[websockets.frames.Frame]:
    """As in its `Protocol`: one generator for a connection, resumed for every piece of data."""
    reader, frames = StreamReader(), []

    def parse() -> Generator[None]:
        while True:
            parsing = websockets.frames.Frame.parse(
                reader.read_exact, mask=True, max_size=2**20, extensions=[]
            )
            frames.append((yield from parsing))

    parser = parse()
    for data in sent:
        reader.feed_data(data)
        next(parser)
    return frames


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def measure(size: int, count: int, pairs: int) -> dict[str, tuple[float, float, float]]:
    """For each step: the medians of our time a frame, of the library's, and of their ratio."""
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    sent = ours_encode(payload, count)
    assert all(frame.payload == payload for frame in ours_decode(sent))
    assert all(frame.data == payload for frame in library_decode(sent))
    steps = {
        "encode": (lambda: ours_encode(payload, count), lambda: library_encode(payload, count)),
        "decode": (lambda: ours_decode(sent), lambda: library_decode(sent)),
    }
    times: dict[str, list[tuple[float, float]]] = {step: [] for step in steps}
    for turn in range(pairs):
        for step, (ours, library) in steps.items():
            if turn % 2:
                theirs, our = seconds(library), seconds(ours)
            else:
                our, theirs = seconds(ours), seconds(library)
            times[step].append((our / count, theirs / count))
    times["both"] = [
        (ours[0] + ours[1], library[0] + library[1])
        for ours, library in (
            tuple(zip(*pair, strict=True))
            for pair in zip(times["encode"], times["decode"], strict=True)
        )
    ]
    return {
        step: (
            median(ours for ours, _ in pairs_of_step),
            median(library for _, library in pairs_of_step),
            median(ours / library for ours, library in pairs_of_step),
        )
        for step, pairs_of_step in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the frames")
    share = 20 if parser.parse_args().quick else 1

    # The library takes the C function if it can; this is the one it takes otherwise.
    websockets.frames.apply_mask = websockets.utils.apply_mask

    print("masked frames   step     ours, µs   library, µs   ours / library (target: at most 1.0)")
    for size, count in CASES:
        for step, figures in measure(size, count // share, PAIRS).items():
            ours, library, ratio = figures
            times = f"{ours * 1e6:>9.2f}   {library * 1e6:>11.2f}"
            print(f"{size:>7,} bytes   {step:<6}  {times}   {ratio:>14.2f}")


if __name__ == "__main__":
    main()
