"""Web pages of other sites are turned away before the handshake, where a server asks for it."""

from __future__ import annotations

import pytest
from gateways import Echo, raw, request, serving
from nestling.origin import REFUSAL, is_foreign
from websockets.datastructures import Headers
from workbench import kernel

pytestmark = pytest.mark.usefixtures("nothing_left")

PORT = 3000

OURS = {
    "a program": (None, "127.0.0.1:3000"),
    "a program that names us otherwise": (None, "any.example:3000"),
    "a page from this machine": ("http://localhost:8888", "127.0.0.1:3000"),
    "by number": ("http://127.0.0.1:8888", "localhost:3000"),
    "by the number of IPv6": ("http://[::1]:8888", "127.0.0.1:3000"),
    "at the default port": ("http://localhost", "127.0.0.1:3000"),
    "over TLS": ("https://localhost:8888", "127.0.0.1:3000"),
    "through a proxy on this machine": ("http://localhost:8888", "localhost:8888"),
    "through a hub": ("https://hub.example", "hub.example"),
    "through a hub at a port": ("https://hub.example:8443", "hub.example:8443"),
    "in another case": ("https://Hub.Example", "hub.example"),
}
FOREIGN = {
    "another site": ("https://evil.example", "127.0.0.1:3000"),
    "another site, through a hub": ("https://evil.example", "hub.example"),
    "a neighbour on a hub's domain": ("https://evil.hub.example", "hub.example"),
    "a longer name": ("https://hub.example.evil.example", "hub.example"),
    "the same name at another port": ("https://hub.example:8443", "hub.example"),
    "a page from this machine, through a hub": ("http://localhost:8888", "hub.example"),
    "a name like this machine's": ("http://localhost.evil.example", "127.0.0.1:3000"),
    "a number like this machine's": ("http://127.0.0.1.evil.example", "127.0.0.1:3000"),
    "a name that leads to this machine": ("http://evil.example:3000", "evil.example:3000"),
    "a page without an origin": ("null", "127.0.0.1:3000"),
    "a page without an origin, through a hub": ("null", "hub.example"),
    "an empty origin": ("", "127.0.0.1:3000"),
    "an empty origin and an empty host": ("", ""),
    "another kind of page": ("vscode-webview://abc", "127.0.0.1:3000"),
    "no sense": ("http://[", "127.0.0.1:3000"),
}


def headers(origin: str | None, host: str) -> Headers:
    return Headers([("Host", host), *([("Origin", origin)] if origin is not None else [])])


@pytest.mark.parametrize("case", OURS)
def test_programs_and_pages_of_the_same_site_are_not_foreign(case):
    assert not is_foreign(headers(*OURS[case]), PORT)


@pytest.mark.parametrize("case", FOREIGN)
def test_pages_of_other_sites_are_foreign(case):
    assert is_foreign(headers(*FOREIGN[case]), PORT)


@pytest.mark.parametrize("name", ["Origin", "Host"])
def test_a_field_twice_is_foreign(name):
    doubled = headers("http://localhost", "127.0.0.1:3000")
    doubled[name] = doubled[name]
    assert is_foreign(doubled, PORT)


def test_no_host_is_foreign():
    assert is_foreign(Headers(Origin="http://localhost"), PORT)


async def answer(port: int, **fields: str) -> tuple[int, str]:
    async with raw(port) as client:
        status, _, body = await client.ask(request("/", **fields))
        return status, body


async def test_an_application_refuses_before_the_handshake_if_it_is_to_check():
    async with serving(Echo(), check_origin=True) as app:
        [port] = app.ports
        assert await answer(port, Origin="http://evil.example") == (403, REFUSAL)
        assert await answer(port, Origin="http://localhost:8888") == (101, "")
        assert await answer(port) == (101, "")
        bound = f"evil.example:{port}"
        assert await answer(port, Origin=f"http://{bound}", Host=bound) == (403, REFUSAL)


async def test_a_foreign_page_does_not_learn_which_paths_there_are():
    async with serving(Echo(), check_origin=True) as app, raw(app.ports[0]) as client:
        asked = request("/no/such/path", Origin="http://evil.example")
        assert (await client.ask(asked))[0] == 403


async def test_a_handler_in_the_kernel_refuses_likewise():
    async def handler(connection):
        await connection.wait_closed()

    for check, status in ((True, 403), (False, 101)):
        server = await kernel.start("handler", handler, check_origin=check)
        assert (await answer(server.port, Origin="http://evil.example"))[0] == status
        assert (await answer(server.port, Origin="http://localhost:8888"))[0] == 101
    await kernel.stop_all()
