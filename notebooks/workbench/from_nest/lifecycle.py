"""Lifecycle hooks."""

from contextlib import asynccontextmanager

from nestling.application import create
from nestling.gateway import websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk

TYPESCRIPT = """\
afterInit(server: Server) { this.seen.push('ready'); }
handleConnection(client: WebSocket, request: IncomingMessage) {
  this.seen.push(request.url);
}
handleDisconnect(client: WebSocket) { this.seen.push('gone'); }
onApplicationShutdown() { this.seen.push('shut down'); }"""


@websocket_gateway(path="/lobby")
class Lobby:
    def __init__(self):
        self.seen = []

    def after_init(self, server):
        self.seen.append("ready")

    def handle_connection(self, client, request):
        self.seen.append(request.path)

    def handle_disconnect(self, client, code):
        self.seen.append(f"gone, {code}")


@asynccontextmanager
async def running(lobby):
    app = create(lobby)
    await app.listen(0)
    try:
        yield app.ports[0]
    finally:
        await app.close()
        lobby.seen.append("shut down")


async def proof(talk: Talk) -> None:
    lobby = Lobby()
    async with running(lobby) as port, talk.client(port, "/lobby"):
        pass
    talk.shows(lobby.seen, ["ready", "/lobby", "gone, 1000", "shut down"])


ROW = Row(
    "lifecycle hooks",
    "Methods that are called by their names. (The shutdown's also on a signal, once "
    "app.enableShutdownHooks() was called.)",
    TYPESCRIPT,
    "Three are methods, too. What comes after the end stands after app.close(), in finally.",
    (Lobby, running),
    proof,
)
