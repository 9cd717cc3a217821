"""What a method is given, and the server."""

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
@WebSocketServer() server!: Server;
@SubscribeMessage('say')
say(@MessageBody() data: string,
    @ConnectedSocket() client: WebSocket) {
  const said = JSON.stringify({ event: 'said', data });
  this.server.clients.forEach(each => each.send(said));
}"""


@websocket_gateway()
class Room:
    @subscribe_message("say")
    async def say(self, client, data):
        for each in self.server.clients:
            await each.send({"event": "said", "data": data})


async def proof(talk: Talk) -> None:
    async with serving(create(Room())) as port, talk.client(port) as ann, talk.client(port) as bob:
        said = {"event": "said", "data": "hello"}
        await ann.says("say", "hello", said)
        await bob.says("say", "hello", said, said)


ROW = Row(
    "@SubscribeMessage, @MessageBody, @ConnectedSocket, @WebSocketServer",
    "Decorators that say which event, which argument is which, and where the server goes.",
    TYPESCRIPT,
    "A decorator for the event; client and data are arguments in this order; self.server is there.",
    (Room,),
    proof,
)
