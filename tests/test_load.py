"""What a message costs a server: that it is counted right, not how much it is."""

from __future__ import annotations

import asyncio
from time import process_time
from typing import Any

import pytest
from nestling import server
from nestling.frames import Decoder
from workbench import load


def burning(seconds: float) -> Any:
    """A `serve` whose connections spend so much of the processor on each message."""

    class Burning:
        def __init__(self, connection: Any) -> None:
            self.send, self._connection = connection.send, connection

        async def __aiter__(self):
            async for message in self._connection:
                end = process_time() + seconds
                while process_time() < end:
                    pass
                yield message

    def serve(handler, *place, **options):
        return server.serve(lambda connection: handler(Burning(connection)), *place, **options)

    return serve


async def test_who_does_more_for_a_message_costs_more():
    serves = {"much": burning(0.001), "little": burning(0.0001), "nothing": server.serve}
    cost = await load.costs(serves, in_flight=2, questions=5, turns=3)
    assert list(cost) == ["much", "little", "nothing"]
    assert cost["much"] > 900 and cost["much"] > 2 * cost["little"]
    assert cost["little"] > cost["nothing"]


@pytest.mark.parametrize("in_flight", [1, 4, 100])
async def test_so_many_questions_are_in_flight_and_all_are_answered(in_flight):
    asked, most = 0, 0

    class Counting(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.decoder, self.waiting = transport, None, 0

        def data_received(self, data):
            nonlocal asked, most
            if self.decoder is None:
                self.decoder = Decoder(masked=True)
                self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                return
            for frame in self.decoder.feed(data):
                assert frame.payload == load.MESSAGE
                asked, self.waiting = asked + 1, self.waiting + 1
                most = max(most, self.waiting)
            asyncio.get_running_loop().call_soon(self.answer)

        def answer(self):
            self.transport.write(load.ANSWER * self.waiting)
            self.waiting = 0

    async def serve(handler, host, port, **options):
        return await asyncio.get_running_loop().create_server(Counting, host, port)

    await load.costs({"counting": serve}, in_flight, questions=10, turns=1)
    assert asked == 10 * load.CONNECTIONS
    assert most == min(in_flight, 10)


async def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(load, "PATIENCE", 0.3)

    async def serve(handler, host, port, **options):
        return await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)

    with pytest.raises(TimeoutError):
        await load.costs({"silent": serve}, in_flight=1, turns=1)
