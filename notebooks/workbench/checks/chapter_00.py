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

from workbench.checks import Wrong, serving
from workbench.kernel import Handler


async def reverse(handler: Handler) -> None:
    """00.1: every message comes back reversed."""
    async with serving(handler) as server, connect(server.url) as client:
        for sent in ("abc", "a second message"):
            expected = sent[::-1]
            try:
                await client.send(sent)
                received = await asyncio.wait_for(client.recv(), 2)
            except TimeoutError:
                hint = "nothing came back within 2 s: await connection.send(...) for each message"
                raise Wrong.comparing(hint, sent, expected, None) from None
            except ConnectionClosed:
                hint = (
                    "the connection was closed, as happens when the handler returns: "
                    "loop with async for over all messages"
                )
                raise Wrong.comparing(hint, sent, expected, None) from None
            if received != expected:
                hint = "another text came back: [::-1] turns a string round"
                raise Wrong.comparing(hint, sent, expected, received)


async def countdown(handler: Handler) -> None:
    """00.2: "3" is answered by "3", "2", "1", "0", a tenth of a second apart."""
    expected = ["3", "2", "1", "0"]
    received: list[str | bytes] = []
    arrivals: list[float] = []
    stamps: list[float] = []

    async def tick() -> None:
        while True:
            stamps.append(perf_counter())
            await asyncio.sleep(0.01)

    ticking = asyncio.ensure_future(tick())
    try:
        async with serving(handler) as server, connect(server.url) as client:
            await client.send("3")
            while len(received) < len(expected):
                received.append(await asyncio.wait_for(client.recv(), 2))
                arrivals.append(perf_counter())
    except (TimeoutError, ConnectionClosed):
        hint = "a number is missing: from what was sent down to 0, a message each"
        raise Wrong.comparing(hint, "3", expected, received) from None
    finally:
        ticking.cancel()
    if received != expected:
        hint = "other messages came back: from what was sent down to 0, each as text"
        raise Wrong.comparing(hint, "3", expected, received)
    gaps = [after - before for before, after in pairwise(stamps)]
    if (frozen := sum(gap for gap in gaps if gap > 0.05)) > 0.2:
        raise Wrong(
            f"the kernel stood still for {frozen:.1f} s while your handler waited: "
            "await asyncio.sleep(0.1) waits without stopping the others"
        )
    if arrivals[-1] - arrivals[0] < 0.2:
        raise Wrong("the numbers came at once: wait a tenth of a second after each")


async def ask_all(function: Callable[[str, list[str]], Awaitable[list[str]]]) -> None:
    """00.3: questions are asked side by side, the answers are in the questions' order."""
    if not inspect.iscoroutinefunction(function):
        raise Wrong("the answer is the function itself, made with async def")
    questions = ["4", "3", "2", "1"]
    expected = ["answer to 4", "answer to 3", "answer to 2", "answer to 1"]
    open_now = most_open = 0

    async def slow(connection: ServerConnection) -> None:
        nonlocal open_now, most_open
        open_now += 1
        most_open = max(most_open, open_now)
        try:
            async for question in connection:
                await asyncio.sleep(0.1 * int(question))
                await connection.send(f"answer to {question}")
        finally:
            open_now -= 1

    async with serving(slow) as server:
        received = await function(server.url, list(questions))
    if not isinstance(received, list) or sorted(map(str, received)) != sorted(expected):
        hint = "return a list with the answer to each question"
        raise Wrong.comparing(hint, questions, expected, received)
    if received != expected:
        hint = "the answers are in the order they came: put them in the order of the questions"
        raise Wrong.comparing(hint, questions, expected, received)
    if most_open < len(questions):
        raise Wrong(
            f"at most {most_open} of 4 connections were open at once: "
            "start all the questions first, asyncio.gather waits for all of them"
        )


PROBES = {"1": reverse, "2": countdown, "3": ask_all}
