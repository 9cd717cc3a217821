"""The checks of chapter 00."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from itertools import pairwise
from time import perf_counter

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from workbench.checks import Words, Wrong, require_coroutine_function, serving
from workbench.kernel import Handler


async def reverse(handler: Handler) -> None:
    """00.1: two messages over one connection, each back reversed and in one piece."""
    async with serving(handler) as server, connect(server.url) as client:
        for number, sent in enumerate(("abc", "a second message")):
            expected, received = sent[::-1], Words("nothing")
            try:
                await client.send(sent)
                async with asyncio.timeout(2):
                    pieces = [piece async for piece in client.recv_streaming()]
                received = pieces[0] if len(pieces) == 1 else Words(f"in pieces: {pieces}")
            except TimeoutError:
                hint = "nothing came back within 2 s: is every message answered, with await?"
            except ConnectionClosed:
                hint = "the connection was closed: that happens when the handler returns"
                if number:
                    hint += ". It answered one message: does it loop, and without a return?"
            else:
                hint = "something else came back: the last letter comes first, in a str"
                if len(pieces) > 1:
                    hint = "the letters came one by one: send takes what is no str for pieces"
            if received != expected:
                raise Wrong.comparing(hint, sent, expected, received)


async def countdown(handler: Handler) -> None:
    """00.2: 3 and 2 counted down, a tenth of a second apart, while others were served."""
    stamps: list[float] = []

    async def tick() -> None:
        while True:
            stamps.append(perf_counter())
            await asyncio.sleep(0.01)

    ticking = asyncio.ensure_future(tick())
    try:
        async with serving(handler) as server:
            arrivals = await _count(server.url, 3)
            await _count(server.url, 2)
    finally:
        ticking.cancel()
    frozen = sum(gap for gap in _gaps(stamps) if gap > 0.05)
    if frozen > 0.2:
        raise Wrong(
            f"the kernel stood still for {frozen:.1f} s while your handler waited: "
            "await asyncio.sleep(0.1) waits without stopping the others"
        )
    if min(_gaps(arrivals)) < 0.05:
        raise Wrong(
            "numbers came at once: await asyncio.sleep(0.1) after each (await is what waits)"
        )
    if sum(_gaps(arrivals)) > 1.5:
        raise Wrong("the numbers came slowly: a tenth of a second apart")


async def _count(url: str, number: int) -> list[float]:
    """Have a handler count down; when its messages came, which must be the right ones."""
    sent, expected = str(number), [str(n) for n in range(number, -1, -1)]
    received: list[str | bytes] = []
    arrivals = []
    async with connect(url) as client:
        try:
            await client.send(sent)
            while True:
                # After the last number, waits a little for what should not come.
                patience = 2 if len(received) < len(expected) else 0.3
                received.append(await asyncio.wait_for(client.recv(), patience))
                arrivals.append(perf_counter())
        except (TimeoutError, ConnectionClosed):
            pass
    if received != expected:
        hint = "other messages came back: from the number sent down to 0, a message each, as text"
        raise Wrong.comparing(hint, sent, expected, received)
    return arrivals


def _gaps(stamps: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(stamps)]


async def ask_all(function: Callable[[str, list[str]], Awaitable[list[str]]]) -> None:
    """00.3: four questions side by side, each over its own connection, answered in their order."""
    require_coroutine_function(function)
    questions = ["3", "1", "4", "2"]
    expected = [f"answer to {question}" for question in questions]
    connections = asking = most_asking = 0

    async def slow(connection: ServerConnection) -> None:
        nonlocal connections, asking, most_asking
        connections += 1
        async for question in connection:
            asking += 1
            most_asking = max(most_asking, asking)
            await asyncio.sleep(0.1 * int(question))
            await connection.send(f"answer to {question}")
            asking -= 1

    async with serving(slow) as server:
        received = await function(server.url, list(questions))
        waiting = received if isinstance(received, list) else [received]
        if any(inspect.isawaitable(item) for item in waiting):
            await asyncio.gather(*waiting, return_exceptions=True)
            raise Wrong("what came back has not been awaited: await what gather gives")
    if not isinstance(received, list) or sorted(map(str, received)) != sorted(expected):
        hint = "return a list with the answer to each question"
        raise Wrong.comparing(hint, questions, expected, received)
    if received != expected:
        hint = "the answers are in another order than the questions"
        raise Wrong.comparing(hint, questions, expected, received)
    if connections < len(questions):
        raise Wrong(f"{connections} connections were opened for 4 questions: each has its own")
    if most_asking < len(questions):
        raise Wrong(
            f"at most {most_asking} of 4 questions were under way at once: "
            "start them all first, asyncio.gather waits for all of them"
        )


PROBES = {"1": reverse, "2": countdown, "3": ask_all}
