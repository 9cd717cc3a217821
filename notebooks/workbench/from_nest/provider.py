"""Providers: dependency injection."""

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
@WebSocketGateway()
class Greeter {
  constructor(private readonly clock: Clock) {}
  @SubscribeMessage('now')
  tell() { return this.clock.now(); }
}"""


@websocket_gateway()
class Greeter:
    def __init__(self, now):
        self.now = now

    @subscribe_message("now")
    def tell(self, client, data):
        return self.now()


def application():
    return create(Greeter(now=lambda: "twelve"))


async def proof(talk: Talk) -> None:
    async with serving(application()) as port, talk.client(port) as client:
        await client.says("now", None, "twelve")


ROW = Row(
    "provider, dependency injection",
    "An @Injectable() class. Nest reads the types of a constructor and hands it the objects.",
    TYPESCRIPT,
    "An argument of __init__, handed over by whoever makes the object.",
    (Greeter, application),
    proof,
)
