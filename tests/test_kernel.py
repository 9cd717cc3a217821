"""workbench.kernel: everything that a server in a kernel must survive."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import pytest
from conftest import Kernel
from nestling.application import Application, create
from nestling.gateway import websocket_gateway
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from workbench import kernel


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    yield
    await kernel.stop_all(grace=0)
    assert not kernel._turns


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def shout(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.upper())


async def deaf(connection: ServerConnection) -> None:
    await asyncio.Event().wait()


async def ask(url: str, question: str) -> str:
    async with asyncio.timeout(5), connect(url) as client:
        await client.send(question)
        return await client.recv()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# Starting, again and again


async def test_a_server_outlives_the_call_and_listens_on_loopback_only():
    server = await kernel.start("echo", echo)
    assert await ask(server.url, "hello") == "hello"
    assert [s.getsockname()[0] for s in server._listener.sockets] == ["127.0.0.1"]


async def test_a_second_start_replaces_the_first_even_on_the_same_fixed_port():
    port = free_port()
    await kernel.start("echo", echo, port=port)
    server = await kernel.start("echo", shout, port=port)
    assert server.port == port
    assert await ask(server.url, "hello") == "HELLO"
    assert kernel.status() == "echo: a server"


async def test_the_replaced_server_listens_no_more():
    first = await kernel.start("echo", echo)
    await kernel.start("echo", shout)
    with pytest.raises(ConnectionRefusedError):
        await ask(first.url, "hello")


async def test_servers_and_tasks_share_the_names():
    server = await kernel.start("it", echo)
    await kernel.background("it", asyncio.sleep(60))
    with pytest.raises(ConnectionRefusedError):
        await ask(server.url, "hello")
    assert kernel.status() == "it: a task, running"


async def test_options_reach_the_library():
    server = await kernel.start("small", echo, max_size=10)
    with pytest.raises(ConnectionClosedError, match="1009"):
        await ask(server.url, "more than ten bytes")


async def test_the_module_reloaded_still_knows_what_runs():
    server = await kernel.start("echo", echo)
    importlib.reload(kernel)
    assert kernel.status() == "echo: a server"
    again = await kernel.start("echo", shout)
    assert await ask(again.url, "hello") == "HELLO"
    with pytest.raises(ConnectionRefusedError):
        await ask(server.url, "hello")


# Ports


async def test_a_port_that_another_program_holds():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(kernel.PortError) as caught:
            await kernel.start("echo", echo, port=port)
    assert f"port {port} is taken by another program" in str(caught.value)
    assert "leave out port=" in str(caught.value)
    assert kernel.status() == "nothing is running"


async def test_a_port_that_a_server_of_this_kernel_holds():
    first = await kernel.start("first", echo)
    with pytest.raises(kernel.PortError, match=r"await kernel\.stop\('first'\)"):
        await kernel.start("second", echo, port=first.port)
    assert await ask(first.url, "hello") == "hello"


async def test_a_port_that_is_not_allowed():
    if os.geteuid() != 0:
        port = 1
    elif int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        port = 81
    else:
        pytest.skip("this system allows every port to everyone")
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(kernel.PortError, match=f"port {port} is not allowed.*above 1023"):
            await kernel.start("echo", echo, port=port)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("port", [-1, 65536, "3000", 3000.0, True, None])
async def test_a_port_that_is_no_port_leaves_the_running_server_alone(port):
    server = await kernel.start("echo", echo)
    with pytest.raises(ValueError, match="from 0 .* to 65535"):
        await kernel.start("echo", shout, port=port)
    assert await ask(server.url, "hello") == "hello"


async def test_a_handler_that_is_none_leaves_the_running_server_alone():
    server = await kernel.start("echo", echo)
    called = echo(None)
    with pytest.raises(TypeError, match=r"start\('echo', echo\), without calling"):
        await kernel.start("echo", called)
    called.close()
    assert await ask(server.url, "hello") == "hello"


# Stopping


async def test_open_clients_are_told_1001():
    server = await kernel.start("echo", echo)
    async with asyncio.timeout(5), connect(server.url) as client:
        await kernel.stop("echo")
        with pytest.raises(ConnectionClosedOK, match="1001"):
            await client.recv()


async def test_a_handler_that_never_receives_is_cancelled_after_its_grace():
    server = await kernel.start("deaf", deaf)
    async with asyncio.timeout(5), connect(server.url):
        start = perf_counter()
        await kernel.stop("deaf", grace=0.3)
        assert 0.3 <= perf_counter() - start < 2


async def test_a_handler_may_use_its_grace():
    finished = []

    async def careful(connection: ServerConnection) -> None:
        async for _ in connection:
            pass
        await asyncio.sleep(0.2)
        finished.append(connection.close_code)

    server = await kernel.start("careful", careful)
    async with asyncio.timeout(5), connect(server.url) as client:
        await (await client.ping())
        await kernel.stop("careful", grace=2)
    assert finished == [1001]


async def test_a_handler_that_catches_its_cancellation_is_reported_and_hangs_nothing():
    release = asyncio.Event()

    async def stubborn(connection: ServerConnection) -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    server = await kernel.start("stubborn", stubborn)
    client = await connect(server.url)
    async with asyncio.timeout(10):
        with pytest.warns(UserWarning, match="'stubborn' holds on to a task"):
            await kernel.stop("stubborn", grace=0.1)
    assert kernel.status() == "nothing is running"
    release.set()
    for task in list(server._handling):
        task.cancel()
    await client.close()


async def test_a_client_that_does_not_answer_the_close_is_cut():
    server = await kernel.start("echo", echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(5):
        await kernel.stop("echo", grace=0.3)
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(100):
                pass
    writer.close()


async def test_a_client_that_never_sent_its_handshake_delays_nothing():
    server = await kernel.start("echo", echo)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(3):
        await kernel.stop("echo", grace=0.3)
    with pytest.raises(ConnectionRefusedError):
        await ask(server.url, "hello")
    writer.close()


async def test_stopping_what_does_not_run_is_no_error():
    await kernel.stop("nobody")
    await kernel.stop_all()


async def test_stop_all_gives_the_graces_side_by_side():
    servers = [await kernel.start(f"deaf {n}", deaf) for n in range(5)]
    clients = [await connect(server.url) for server in servers]
    start = perf_counter()
    await kernel.stop_all(grace=0.5)
    assert perf_counter() - start < 5 * 0.5
    assert kernel.status() == "nothing is running"
    for client in clients:
        await client.close()


async def test_a_stop_that_was_interrupted_can_be_repeated():
    server = await kernel.start("deaf", deaf)
    async with asyncio.timeout(5), connect(server.url):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await kernel.stop("deaf", grace=60)
        assert kernel.status() == "deaf: a server"
        await kernel.stop("deaf", grace=0)
    assert kernel.status() == "nothing is running"


async def test_a_handler_may_stop_its_own_server():
    async def last_order(connection: ServerConnection) -> None:
        await connection.recv()
        await kernel.stop("bar", grace=0.1)

    server = await kernel.start("bar", last_order)
    async with asyncio.timeout(5), connect(server.url) as client:
        await client.send("close, please")
        with pytest.raises(ConnectionClosedOK, match="1001"):
            await client.recv()
    await asyncio.sleep(1.5)
    assert kernel.status() == "nothing is running"


async def test_a_handler_may_stop_everything():
    async def last_order(connection: ServerConnection) -> None:
        await connection.recv()
        await kernel.stop_all(grace=0.1)
        finished.set()

    finished = asyncio.Event()
    await kernel.start("kitchen", echo)
    server = await kernel.start("bar", last_order)
    async with asyncio.timeout(10), connect(server.url) as client:
        await client.send("close, please")
        await finished.wait()
    assert kernel.status() == "nothing is running"


@pytest.mark.parametrize("deaf_to", [1, 2])
async def test_what_catches_a_cancellation_or_two_is_cancelled_again(recwarn, deaf_to):
    async def hard_of_hearing() -> None:
        for _ in range(deaf_to):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = await kernel.background("task", hard_of_hearing())
    await asyncio.sleep(0)
    await kernel.stop("task")
    assert repr(task) == "task: a task, ended"
    assert not recwarn.list


# Two at once


async def refuses(server: kernel.Server) -> bool:
    try:
        await ask(server.url, "hello")
    except ConnectionRefusedError:
        return True
    return False


async def test_of_two_starts_at_once_the_second_replaces_the_first():
    first, second = await asyncio.gather(kernel.start("it", echo), kernel.start("it", shout))
    assert await refuses(first)
    assert await ask(second.url, "hello") == "HELLO"
    await kernel.stop_all()
    assert await refuses(second)


async def test_two_tasks_at_once_in_the_place_of_a_server_with_a_client():
    server = await kernel.start("it", deaf)
    async with connect(server.url):
        first, second = await asyncio.gather(
            kernel.background("it", asyncio.sleep(60)), kernel.background("it", asyncio.sleep(60))
        )
    await kernel.stop_all()
    assert [repr(task) for task in (first, second)] == ["it: a task, ended"] * 2


@pytest.mark.parametrize("turns", range(1, 7))
async def test_a_server_that_is_starting_is_stopped_with_all(turns):
    starting = asyncio.create_task(kernel.start("it", echo))
    for _ in range(turns):
        await asyncio.sleep(0)
    await kernel.stop_all()
    assert kernel.status() == "nothing is running"
    assert await refuses(await starting)


async def test_a_handler_that_stops_its_server_while_it_is_being_stopped_may_finish():
    async def tidy(connection: ServerConnection) -> None:
        await connection.wait_closed()
        await kernel.stop("tidy")
        finished.set()

    finished = asyncio.Event()
    server = await kernel.start("tidy", tidy)
    async with connect(server.url) as client:
        await (await client.ping())
        async with asyncio.timeout(10):
            await kernel.stop("tidy", grace=60)
    assert finished.is_set()


async def test_a_handler_that_starts_its_own_name_anew_while_it_is_being_stopped():
    async def stubborn(connection: ServerConnection) -> None:
        await connection.wait_closed()
        await kernel.start("stubborn", echo)

    server = await kernel.start("stubborn", stubborn)
    async with connect(server.url) as client:
        await (await client.ping())
        async with asyncio.timeout(10):
            await kernel.stop("stubborn", grace=60)
    assert kernel.status() == "nothing is running"
    assert [type(error) for error in server.errors] == [RuntimeError]


async def test_a_hook_that_stops_its_own_name_does_not_hold_up_the_start():
    @websocket_gateway()
    class Hasty:
        async def after_init(self, server: object) -> None:
            await kernel.stop("hasty")
            await kernel.stop_all()

    async with asyncio.timeout(5):
        server = await kernel.start("hasty", create(Hasty()))
        await kernel.stop("hasty")
    assert await refuses(server)


# Errors and records


async def test_what_a_handler_raises_is_kept_and_the_server_goes_on(capfd):
    async def half(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(str(int(message) // 2))

    server = await kernel.start("half", half)
    with pytest.raises(ConnectionClosedError, match="1011"):
        await ask(server.url, "two")
    assert await ask(server.url, "4") == "2"
    assert [type(error) for error in server.errors] == [ValueError]
    assert kernel.status().splitlines()[1].strip().startswith("ValueError: invalid literal")
    assert capfd.readouterr().err == ""


async def test_a_client_that_leaves_is_no_error():
    async def once(connection: ServerConnection) -> None:
        while True:
            await connection.send(await connection.recv())

    server = await kernel.start("once", once)
    assert await ask(server.url, "hello") == "hello"
    await kernel.stop("once")
    assert server.errors == []


async def test_the_errors_of_an_application_are_those_that_it_keeps():
    app = Application([], parse=str)
    app.errors = deque([KeyError("poll")], maxlen=2)
    server = await kernel.start("app", app)
    app.errors += [ValueError("two"), LookupError("three")]
    assert [str(error) for error in server.errors] == ["two", "three"]
    assert kernel.status() == ("app: an application\n    ValueError: two\n    LookupError: three")


async def test_what_ends_a_background_task_is_kept():
    async def fail() -> None:
        raise LookupError("no such thing")

    task = await kernel.background("failing", fail())
    await asyncio.sleep(0.05)
    assert [str(error) for error in task.errors] == ["no such thing"]
    assert kernel.status() == "failing: a task, ended\n    LookupError: no such thing"


async def test_background_replaces_and_stop_cancels():
    ended = []

    async def run(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)

    await kernel.background("ticker", run("first"))
    await asyncio.sleep(0)
    await kernel.background("ticker", run("second"))
    await asyncio.sleep(0)
    assert ended == ["first"]
    await kernel.stop("ticker")
    assert ended == ["first", "second"]


async def test_background_wants_a_coroutine():
    with pytest.raises(TypeError, match="with the function called"):
        await kernel.background("deaf", deaf)


async def test_records_can_be_awaited_before_and_after_they_are_written():
    records = kernel.records("test.records")
    log = logging.getLogger("test.records")
    waiting = asyncio.create_task(records.until("second"))
    log.info("first %d", 1)
    await asyncio.to_thread(log.warning, "second, from a thread")
    assert await waiting == "second, from a thread"
    assert await records.until("first") == "first 1"
    assert repr(records) == "first 1\nsecond, from a thread"


async def test_records_are_kept_from_the_loggers_above(caplog):
    records = kernel.records("test.above.below")
    logging.getLogger("test.above.below").warning("for the cell that asked")
    assert records.lines == ["for the cell that asked"]
    assert caplog.records == []


async def test_a_record_that_does_not_come_says_what_did():
    records = kernel.records("test.absent")
    logging.getLogger("test.absent").info("something else")
    with pytest.raises(TimeoutError, match="'expected' in 0.1 s; logged: something else"):
        await records.until("expected", timeout=0.1)


async def test_records_asked_for_again_are_empty_and_doubled_nowhere():
    first = kernel.records("test.again")
    logging.getLogger("test.again").info("before")
    second = kernel.records("test.again")
    logging.getLogger("test.again").info("after")
    assert (first.lines, second.lines) == (["before"], ["after"])


async def test_a_proxy_in_the_environment_is_passed_by(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.org")
    server = await kernel.start("echo", echo)
    with pytest.raises(OSError):
        await ask(server.url, "hello")
    importlib.reload(kernel)
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"
    assert await ask(server.url, "hello") == "hello"


# In a real kernel

ECHO = """
import asyncio
from websockets.asyncio.client import connect
from workbench import kernel

async def echo(connection):
    async for message in connection:
        print("heard", message)
        await connection.send(message)

async def ask(url):
    async with asyncio.timeout(5), connect(url) as client:
        await client.send("hello")
        return await client.recv()
"""


async def interrupted(real_kernel: Kernel, source: str) -> tuple[str, float]:
    """What a cell printed that was interrupted after half a second, and how long it went on."""
    running = asyncio.create_task(real_kernel.run(source))
    await asyncio.sleep(0.5)
    start = perf_counter()
    await real_kernel.manager.interrupt_kernel()
    return await running, perf_counter() - start


async def test_interrupt_ends_an_idle_await_and_the_server_lives_on(real_kernel):
    await real_kernel.run(ECHO)
    await real_kernel.run("server = await kernel.start('echo', echo)")
    printed, seconds = await interrupted(real_kernel, "await asyncio.Event().wait()")
    assert "CancelledError" in printed
    assert seconds < 2
    assert "'hello'" in await real_kernel.run("await ask(server.url)")


async def test_interrupt_ends_an_idle_await_after_asyncio_was_patched(real_kernel):
    await real_kernel.run(ECHO + "import nest_asyncio2; nest_asyncio2.apply()")
    printed, seconds = await interrupted(real_kernel, "await asyncio.Event().wait()")
    assert "CancelledError" in printed
    assert seconds < 2


async def test_a_restart_frees_a_fixed_port(real_kernel):
    start = f"server = await kernel.start('echo', echo, port={free_port()})"
    for _ in range(3):
        assert await real_kernel.run(ECHO + start) == ""
        assert "'hello'" in await real_kernel.run("await ask(server.url)")
        await real_kernel.restart()
    assert "NameError" in await real_kernel.run("server")


async def test_the_module_reloaded_in_a_kernel(real_kernel):
    await real_kernel.run(ECHO + "await kernel.start('echo', echo)")
    await real_kernel.run("import importlib; importlib.reload(kernel)")
    assert "echo: a server" in await real_kernel.run("print(kernel.status())")
    await real_kernel.run("server = await kernel.start('echo', echo)")
    assert "'hello'" in await real_kernel.run("await ask(server.url)")
    assert await real_kernel.run("print(kernel.status())") == "echo: a server\n"


async def test_what_a_handler_prints_lands_in_the_cell_that_is_running(real_kernel):
    await real_kernel.run(ECHO + "server = await kernel.start('echo', echo)")
    assert "heard hello" in await real_kernel.run("await ask(server.url)")


# What outlives the cell though it is a context manager


@asynccontextmanager
async def noted(notes: list[str]) -> AsyncIterator[str]:
    notes.append("entered")
    try:
        yield "value"
    finally:
        notes.append("left")


async def test_a_context_manager_is_held_until_its_name_is_stopped():
    notes = []
    assert await kernel.hold("it", noted(notes)) == "value"
    await asyncio.sleep(0)
    assert (notes, kernel.status()) == (["entered"], "it: a task, running")
    await kernel.stop("it")
    assert notes == ["entered", "left"]


async def test_holding_a_name_again_leaves_what_was_held_first():
    first, second = [], []
    await kernel.hold("it", noted(first))
    await kernel.hold("it", noted(second))
    assert (first, second) == (["entered", "left"], ["entered"])


async def test_an_error_while_entering_comes_out_and_nothing_runs():
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise KeyError("inside")
        yield

    with pytest.raises(KeyError, match="inside"):
        await kernel.hold("it", broken())
    assert kernel.status() == "nothing is running"


async def test_an_error_while_leaving_is_kept():
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise KeyError("inside")

    await kernel.hold("it", broken())
    held = kernel._running["it"]
    await asyncio.sleep(0)
    await kernel.stop("it")
    assert [repr(error) for error in held.errors] == ["KeyError('inside')"]


async def test_a_cell_that_is_stopped_while_it_enters_leaves_nothing():
    notes = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        async with noted(notes):
            await asyncio.sleep(60)
            yield

    cell = asyncio.create_task(kernel.hold("it", slow()))
    while not notes:
        await asyncio.sleep(0.001)
    cell.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cell
    assert (notes, kernel.status()) == (["entered", "left"], "nothing is running")


async def test_what_is_stopped_while_it_is_entered_does_not_keep_the_cell_waiting():
    notes = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        async with noted(notes):
            await asyncio.sleep(60)
            yield

    cell = asyncio.create_task(kernel.hold("it", slow()))
    while not notes:
        await asyncio.sleep(0.001)
    await kernel.stop("it")
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await cell
