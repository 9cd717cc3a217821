"""Modules."""

from itertools import count

from nestling.application import create
from nestling.gateway import subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, serving

TYPESCRIPT = """\
@Module({ providers: [Counter, Clicks] })
class ClicksModule {}

@Module({ imports: [ClicksModule] })
class AppModule {}"""


@websocket_gateway()
class Clicks:
    def __init__(self, counter):
        self.counter = counter

    @subscribe_message("click")
    def click(self, client, data):
        return next(self.counter)


def clicks_module():
    return [Clicks(count(1))]


def application():
    return create(*clicks_module())


async def proof(talk: Talk) -> None:
    async with serving(application()) as port, talk.client(port) as client:
        await client.says("click", None, 1)
        await client.says("click", None, 2)


ROW = Row(
    "module",
    "A class that lists what belongs together, from which Nest makes one object of each.",
    TYPESCRIPT,
    "A function that makes the objects. (What need not be made is a Python module.)",
    (Clicks, clicks_module, application),
    proof,
)
