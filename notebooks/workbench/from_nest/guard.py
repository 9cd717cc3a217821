"""Guards."""

from functools import wraps
from weakref import WeakSet

from nestling.application import create
from nestling.gateway import WsException, subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, exception, serving

TYPESCRIPT = """\
class MembersOnly implements CanActivate {
  canActivate(context: ExecutionContext) {
    return members.has(context.switchToWs().getClient());
  }
} // above a method or its class: @UseGuards(MembersOnly)"""


def members_only(method):
    @wraps(method)
    def guarded(self, client, data):
        if client not in self.members:
            raise WsException("Forbidden resource")
        return method(self, client, data)

    return guarded


@websocket_gateway()
class Club:
    def __init__(self):
        self.members = WeakSet()

    @subscribe_message("join")
    def join(self, client, data):
        self.members.add(client)

    @subscribe_message("news")
    @members_only
    def news(self, client, data):
        return "the bar is open"


async def proof(talk: Talk) -> None:
    async with serving(create(Club())) as port, talk.client(port) as client:
        await client.says("news", None, exception("Forbidden resource", "news"))
        await client.says("join", None)
        await client.says("news", None, "the bar is open")


ROW = Row(
    "guard",
    "Asked before a method is called; where it says no, the client gets an exception frame.",
    TYPESCRIPT,
    "A decorator that raises WsException, below @subscribe_message.",
    (members_only, Club),
    proof,
)
