"""Gateways."""

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
@WebSocketGateway({ path: '/sums' })
class Sums {
  @SubscribeMessage('add')
  add(client: WebSocket, data: number[]) { return data[0] + data[1]; }
}"""


@websocket_gateway(path="/sums")
class Sums:
    @subscribe_message("add")
    def add(self, client, data):
        return data[0] + data[1]


async def proof(talk: Talk) -> None:
    async with serving(create(Sums())) as port, talk.client(port, "/sums") as client:
        await client.says("add", [1, 2], 3)
        await client.says("Add", [1, 2])


ROW = Row(
    "gateway",
    "A provider whose methods answer messages by their event, for the clients of a path.",
    TYPESCRIPT,
    "The same. An object of it goes into create().",
    (Sums,),
    proof,
)
