"""Pipes."""

from functools import wraps

from nestling.application import create
from nestling.gateway import WsException, subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, exception, serving

TYPESCRIPT = """\
const exceptionFactory = (text: string) => new WsException(text);

@SubscribeMessage('half')
half(
  @MessageBody(new ParseIntPipe({ exceptionFactory })) n: number,
) { return n / 2; }"""


def pipe(convert):
    def decorate(method):
        @wraps(method)
        def piped(self, client, data):
            try:
                value = convert(data)
            except (TypeError, ValueError) as error:
                raise WsException(str(error)) from error
            return method(self, client, value)

        return piped

    return decorate


def name(data):
    if not isinstance(data, str) or not data.strip():
        raise ValueError("a name, please")
    return data.strip()


@websocket_gateway()
class Desk:
    @subscribe_message("half")
    @pipe(int)
    def half(self, client, number):
        return number / 2

    @subscribe_message("greet")
    @pipe(name)
    def greet(self, client, name):
        return f"Hello, {name}"


async def proof(talk: Talk) -> None:
    async with serving(create(Desk())) as port, talk.client(port) as client:
        await client.says("half", "5", 2.5)
        refused = "invalid literal for int() with base 10: 'five'"
        await client.says("half", "five", exception(refused, "half", "five"))
        await client.says("greet", " Ann ", "Hello, Ann")
        await client.says("greet", 5, exception("a name, please", "greet", 5))


ROW = Row(
    "pipe",
    "Converts or validates an argument before the method gets it. What is no WsException, and by "
    "itself ParseIntPipe throws none, is an Internal server error to the client.",
    TYPESCRIPT,
    "A function that gives the value or raises ValueError, as int does (which takes more than "
    "ParseIntPipe: 2.5, True, ' 5 '), and a decorator that calls it.",
    (pipe, name, Desk),
    proof,
)
