"""Adapters."""

from contextlib import asynccontextmanager

from nestling import server, transport
from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk

TYPESCRIPT = """\
const app = await NestFactory.create(AppModule);
app.useWebSocketAdapter(new WsAdapter(app));
await app.listen(3000);"""


@websocket_gateway()
class Echo:
    @subscribe_message("echo")
    async def echo(self, client, data):
        return data


@asynccontextmanager
async def listening(serve):
    app = create(Echo())
    await app.listen(0, serve=serve)
    try:
        yield app.ports[0]
    finally:
        await app.close()


async def proof(talk: Talk) -> None:
    for serve in (transport.serve, server.serve):
        async with listening(serve) as port, talk.client(port) as client:
            await client.says("echo", serve.__module__, serve.__module__)


ROW = Row(
    "adapter",
    "An object between Nest and a library: WsAdapter for ws, IoAdapter for socket.io.",
    TYPESCRIPT,
    "A function, as an argument: transport.serve is of the library websockets, server.serve ours.",
    (Echo, listening),
    proof,
)
