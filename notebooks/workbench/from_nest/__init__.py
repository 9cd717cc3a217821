"""From Nest to Python, the page to keep: what each thing of Nest's is here.

`await from_nest.page()` executes the right-hand side of every row, and shows what came.
"""

from __future__ import annotations

import asyncio

from workbench.errors import masked
from workbench.from_nest import (
    adapter,
    decorators,
    exception_filter,
    gateway,
    guard,
    interceptor,
    lifecycle,
    module,
    observable,
    pipe,
    provider,
    testing,
)
from workbench.from_nest.row import Row
from workbench.from_nest.shown import Page, Result
from workbench.from_nest.talk import Talk, Unexpected

ROWS = [
    each.ROW
    for each in (
        module,
        provider,
        gateway,
        adapter,
        decorators,
        guard,
        pipe,
        interceptor,
        exception_filter,
        observable,
        lifecycle,
        testing,
    )
]

# Seconds for the proof of one row.
SECONDS = 10.0

IMPORTS = """\
import asyncio
from contextlib import aclosing, asynccontextmanager
from functools import wraps
from itertools import count
from weakref import WeakSet

from nestling import server, transport
from nestling.application import create
from nestling.client import GatewayClient
from nestling.gateway import WsException, subscribe_message, websocket_gateway
"""


async def page() -> Page:
    """All rows, executed. One that fails is shown as failed, and raises nothing."""
    return Page([await executed(row) for row in ROWS], IMPORTS)


async def executed(row: Row) -> Result:
    """A row, and what its proof has said."""
    talk = Talk()
    try:
        async with asyncio.timeout(SECONDS):
            await row.proof(talk)
    except Unexpected as unexpected:
        return Result(row, talk.lines, str(unexpected))
    except Exception as error:
        return Result(row, talk.lines, masked(f"{type(error).__name__}: {error}"))
    return Result(row, talk.lines, None)
