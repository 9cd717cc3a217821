"""Exception filters."""

from functools import wraps

from nestling.application import create
from nestling.gateway import WsException, subscribe_message, websocket_gateway

from workbench.from_nest.row import Row
from workbench.from_nest.talk import Talk, exception, serving

TYPESCRIPT = """\
@Catch(RangeError)
class TellRange extends BaseWsExceptionFilter {
  catch(error: RangeError, host: ArgumentsHost) {
    super.catch(new WsException(error.message), host);
  }
} // above a method or its class: @UseFilters(new TellRange())"""


def telling(*errors):
    def decorate(method):
        @wraps(method)
        async def filtered(self, client, data):
            try:
                return await method(self, client, data)
            except errors as error:
                raise WsException(str(error)) from error

        return filtered

    return decorate


@websocket_gateway()
class Shelf:
    @subscribe_message("book")
    @telling(IndexError)
    async def book(self, client, data):
        return ["Emma", "Middlemarch"][data]


async def proof(talk: Talk) -> None:
    async with serving(create(Shelf())) as port, talk.client(port) as client:
        await client.says("book", 1, "Middlemarch")
        await client.says("book", 2, exception("list index out of range", "book", 2))


ROW = Row(
    "exception filter",
    "Catches what a method throws and says what the client hears of it, which by default is "
    "Internal server error.",
    TYPESCRIPT,
    "A decorator with try and except, that makes a WsException of it.",
    (telling, Shelf),
    proof,
)
