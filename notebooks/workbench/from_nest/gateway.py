"""Gateways."""

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
@WebSocketGateway({ path: '/sums' })
class Sums {
  @SubscribeMessage('add')
  add(client: WebSocket, [a, b]: number[]) { return a + b; }
}"""


@websocket_gateway(path="/sums")
class Sums:
    @subscribe_message("add")
    def add(self, client, data):
        a, b = data
        return a + b


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
