"""What a message costs a gateway beside a real Nest that does the same: chapter 07, at length.

    npm ci --prefix notebooks/node/nest && npm run build --prefix notebooks/node/nest
    python tests/benchmark_nest.py [--quick | --record]

The median of all turns and their range, over servers that are started anew several times,
since no two processes are equally fast; then how often Python's servers do what. Where Node
or Nest is missing, only Python's are measured. `--record` keeps the figures for the
chapter's readers who have no Node.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))

from workbench import speed

STARTS = 6
SECONDS, MOMENT = 30.0, 0.5  # for each start; for a server's turn


async def main(starts: int, seconds: float, moment: float, is_recorded: bool) -> None:
    why = speed.why_not()
    if why:
        print(f"no Nest here: {why}")
    turns = []
    for _ in range(starts):
        turns += (await speed.measure(seconds, moment)).turns
    figures = speed.Figures(turns)
    print(figures)
    print(f"\n{await speed.steps()}")
    print(f"\nJSON alone: {speed.json_alone():.1f} µs a message")
    if is_recorded and not why:
        speed.record(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="one start, short turns")
    how.add_argument("--record", action="store_true", help="keep the figures for chapter 07")
    arguments = parser.parse_args()
    size = (1, 1.0, 0.02) if arguments.quick else (STARTS, SECONDS, MOMENT)
    asyncio.run(main(*size, arguments.record))
