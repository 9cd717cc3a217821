"""A server that is measured: it gives back each message's event and data.

    python -m workbench.speed.server websockets|gateway|own

prints its port, then, for every line that comes in, the CPU seconds that it has used so far,
and ends with its standard input. For a line that says `count`, it prints instead, as JSON,
which functions were called since the last such line, and how often.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from time import process_time
from types import FrameType
from typing import Any

import nestling.server
import nestling.transport
import websockets.asyncio.server
from nestling.application import create
from nestling.gateway import Client, subscribe_message, websocket_gateway

HOST = "127.0.0.1"

encode = json.JSONEncoder(separators=(",", ":")).encode  # compact, as in Node


async def bare(connection: Any) -> None:
    """The same JSON as a gateway's, and nothing else."""
    async for message in connection:
        received = json.loads(message)
        await connection.send(encode({"event": received["event"], "data": received["data"]}))


@websocket_gateway()
class Gateway:
    """The same as in node/nest/src/speed.ts."""

    @subscribe_message("events")
    def events(self, client: Client, data: object) -> object:
        return {"event": "events", "data": data}


async def listen(name: str) -> int:
    """Start the server of this name; its port."""
    if name == "websockets":
        options = {"compression": None, "ping_interval": None, "max_size": 100 * 2**20}
        server = await websockets.asyncio.server.serve(bare, HOST, 0, **options)
        return server.sockets[0].getsockname()[1]
    app = create(Gateway())
    serves = {"gateway": nestling.transport.serve, "own": nestling.server.serve}
    await app.listen(0, host=HOST, serve=serves[name])
    return app.ports[0]


class Calls(Counter[str]):
    """How often each function was called, by its module and name; C's by its name alone."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self[f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            self[argument.__qualname__] += 1


async def main(name: str) -> None:
    print(await listen(name), flush=True)
    while asked := await asyncio.to_thread(sys.stdin.readline):
        if asked.strip() == "count":
            counted, calls = sys.getprofile() or {}, Calls()
            sys.setprofile(None)
            print(json.dumps(counted), flush=True)
            sys.setprofile(calls)
        else:
            print(process_time(), flush=True)
    os._exit(0)  # whoever is connected: nobody is told goodbye


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
