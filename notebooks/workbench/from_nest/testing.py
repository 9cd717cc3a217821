"""Testing."""

from nestling.application import create
from nestling.client import GatewayClient

from workbench.from_nest.provider import Greeter
from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk

TYPESCRIPT = """\
const testing = await Test
  .createTestingModule({ providers: [Greeter, Clock] })
  .overrideProvider(Clock).useValue({ now: () => 'noon' })
  .compile();
assert.equal(testing.get(Greeter).tell(), 'noon');"""


async def test_greeter():
    greeter = Greeter(now=lambda: "noon")
    assert greeter.tell(client=None, data=None) == "noon"

    app = create(greeter)
    await app.listen(0)
    try:
        url = f"ws://127.0.0.1:{app.ports[0]}"
        async with GatewayClient(url) as client:
            assert await client.request("now") == "noon"
    finally:
        await app.close()


async def proof(talk: Talk) -> None:
    await test_greeter()
    talk.lines.append("test_greeter passed")


ROW = Row(
    "testing",
    "A module made for a test, with some providers replaced.",
    TYPESCRIPT,
    "Make the object with what it is to have, and call it; or let a client ask it.",
    (Greeter, test_greeter),
    proof,
)
