"""A real Nest beside the kernel: its programs, the article's code, what ends it, recordings."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from conftest import Kernel, missing, until
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from workbench import article_code, endings, kernel, nest, workshop
from workbench.article_code import PRINTED, STEPS
from workbench.attempts import RECORDED, Compiled, Outcome
from workbench.endings import Ending
from workbench.workshop import Workshop

WHERE_NODE_IS = pytest.param(False, id="run"), pytest.param(True, id="recorded")


def children(pid: int | None = None) -> dict[int, str]:
    """The Node processes that a process has started, by their ids: their command lines."""
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if line.startswith("node"):
            found[child.pid] = line
    return found


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def here() -> None:
    if why := nest.why_not():
        missing(why)


@pytest.fixture
def folder(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like node/nest/, nothing in it compiled, for programs of a test's own."""
    for name in ("src", "package.json", "package-lock.json", "tsconfig.json"):
        place = nest.FOLDER / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / name)
    for place in nest.FOLDER.glob("*.mjs"):
        shutil.copy(place, tmp_path)
    (tmp_path / "node_modules").symlink_to(nest.FOLDER / "node_modules")
    monkeypatch.setattr(nest, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
async def shop() -> AsyncIterator[Workshop]:
    async with workshop.workshop() as made:
        yield made
    assert children() == {}


@pytest.fixture(params=WHERE_NODE_IS)
async def either(request, monkeypatch) -> AsyncIterator[Workshop]:
    """A workshop, with Node and where there is none."""
    hide_or_need_node(request.param, monkeypatch)
    async with workshop.workshop() as made:
        yield made


def hide_or_need_node(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if hidden:
        monkeypatch.setenv("PATH", "")
    elif why := nest.why_not():
        missing(why)


# Programs


def listening(pid: int) -> list[tuple[str, int]]:
    """The addresses at which a process listens."""
    connections = psutil.Process(pid).net_connections()
    return [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]


async def ask(port: int, message: str) -> str:
    async with asyncio.timeout(5), connect(f"ws://127.0.0.1:{port}") as client:
        await client.send(message)
        return await client.recv()


async def test_a_program_answers_on_loopback_only_and_ends_with_its_block(here, nothing_left):
    async with nest.started("article") as port:
        assert await ask(port, article_code.MESSAGE) == "[1,2,3]"
        [pid] = children()
        assert listening(pid) == [("127.0.0.1", port)]
    assert is_gone(pid)


async def test_an_error_in_the_block_ends_the_program_and_comes_out(here, nothing_left):
    with pytest.raises(KeyError):
        async with nest.started("article"):
            [pid] = children()
            raise KeyError
    assert is_gone(pid)


async def test_a_program_may_outlive_the_cell(here):
    port = await kernel.hold("nest", nest.started("article"))
    assert await ask(port, article_code.MESSAGE) == "[1,2,3]"
    await kernel.stop("nest")
    assert children() == {}


async def test_what_is_newer_than_what_was_compiled_is_compiled(folder):
    await nest.build()
    program = folder / "dist" / "program.js"
    first = program.stat().st_mtime_ns
    await nest.build()
    assert program.stat().st_mtime_ns == first
    os.utime(folder / "src" / "article.ts", ns=(first + 10**9, first + 10**9))
    await nest.build()
    assert program.stat().st_mtime_ns > first


async def test_what_was_never_compiled_is_compiled_when_it_is_started(folder):
    (folder / "src" / "new.ts").write_text("console.log(4711); setTimeout(() => {}, 60_000);")
    async with nest.started("new") as port:
        assert port == 4711


async def test_an_error_of_the_compiler_is_said(folder):
    (folder / "src" / "new.ts").write_text("const two: number = 'two';")
    with pytest.raises(nest.NestError, match=r"src/new.ts\(1,7\): error TS2322: Type 'string'"):
        await nest.build()


async def test_a_program_that_ends_before_it_listens_says_why(folder):
    (folder / "src" / "new.ts").write_text("throw new RangeError('too far');")
    with pytest.raises(nest.NestError, match="^new has ended before it listened: .*too far$"):
        async with nest.started("new"):
            pass


async def test_a_program_that_never_listens_is_ended(folder, monkeypatch):
    (folder / "src" / "new.ts").write_text("while (true);")
    await nest.build()
    monkeypatch.setattr(nest, "START", 0.3)
    with pytest.raises(nest.NestError, match=r"^new does not listen after 0\.3 s$"):
        async with nest.started("new"):
            pass
    assert children() == {}


async def test_a_compiler_that_does_not_end_is_ended(folder, monkeypatch):
    monkeypatch.setattr(nest, "COMPILE", 0.01)
    with pytest.raises(nest.NestError, match=r"^the compiler has not ended after 0.01 s$"):
        await nest.build()
    assert children() == {}


async def test_where_node_or_a_package_is_missing(monkeypatch, tmp_path):
    with monkeypatch.context() as hidden:
        hidden.setenv("PATH", "")
        with pytest.raises(nest.NestError, match="^install Node 20 or newer, then run: npm ci "):
            async with nest.started("article"):
                pass
        with pytest.raises(nest.NestError, match="^install Node 20"):
            await nest.build()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(nest, "FOLDER", tmp_path)
    assert nest.why_not() == "run, in a terminal: npm ci --prefix notebooks/node/nest"


# Nothing is left behind: in a real kernel, whatever Node was doing


SITUATIONS = """
import asyncio
from pathlib import Path
from workbench import kernel, nest
from workbench.workshop import workshop

nest.FOLDER = Path({folder!r})

async def listening():
    async with nest.started("article"):
        await asyncio.sleep(60)

async def starting():
    async with nest.started("slow"):
        pass

async def working():
    async with workshop() as shop:
        await shop.compile({{"main.ts": "while (true);"}})
        await shop.run()

async def building():
    nest.FOLDER = Path({unbuilt!r})
    await nest.build()
"""

# What the command lines of their processes contain.
PROCESSES = {
    "listening": ["dist/article.js"],
    "starting": ["dist/slow.js"],
    "working": ["compile.mjs", "dist/main.js"],
    "building": ["typescript/bin/tsc"],
}


@pytest.fixture
async def situated(folder: Path, real_kernel: Kernel, tmp_path_factory) -> Kernel:
    """A real kernel that knows the situations; two programs and a compiler in it take long."""
    (folder / "src" / "slow.ts").write_text("while (true);")
    await nest.build()
    unbuilt = tmp_path_factory.mktemp("unbuilt")
    slow = unbuilt / "node_modules" / "typescript" / "bin" / "tsc"
    slow.parent.mkdir(parents=True)
    slow.write_text("while (true);")
    for package in ("@nestjs/core", "@nestjs/platform-ws", "typescript"):
        (unbuilt / "node_modules" / package).mkdir(parents=True, exist_ok=True)
        (unbuilt / "node_modules" / package / "package.json").write_text("{}")
    (unbuilt / "src").mkdir()
    (unbuilt / "src" / "new.ts").touch()
    (unbuilt / "tsconfig.json").touch()
    shutil.copy(folder / "ends.mjs", unbuilt)
    await real_kernel.run(SITUATIONS.format(folder=str(folder), unbuilt=str(unbuilt)))
    return real_kernel


async def pid_of(kernel: Kernel) -> int:
    return int(await kernel.run("import os; print(os.getpid())"))


async def all_there(pid: int, names: list[str]) -> list[int]:
    """Wait until these processes have been started; gives the ids of all."""
    await until(lambda: all(any(n in line for line in children(pid).values()) for n in names), 20)
    return list(children(pid))


@pytest.mark.parametrize("situation", PROCESSES)
async def test_nothing_is_left_when_a_cell_is_interrupted(situation, situated):
    pid = await pid_of(situated)
    cell = asyncio.create_task(situated.run(f"await {situation}()"))
    await all_there(pid, PROCESSES[situation])
    await situated.manager.interrupt_kernel()
    said = await cell
    assert said.startswith(("KeyboardInterrupt", "CancelledError")), said
    assert children(pid) == {}


async def all_at_once(situated: Kernel) -> tuple[int, list[int]]:
    for situation in PROCESSES:
        await situated.run(f"await kernel.background({situation!r}, {situation}())")
        if situation == "listening":
            await all_there(await pid_of(situated), PROCESSES[situation])
    pid = await pid_of(situated)
    names = [name for situation in PROCESSES.values() for name in situation]
    pids = await all_there(pid, names)
    assert len(pids) == len(names)
    return pid, pids


async def all_gone(pids: list[int]) -> None:
    """Wait until these processes have ended; those that have not are ended, whatever the test."""
    try:
        await until(lambda: all(map(is_gone, pids)), 10)
    finally:
        for pid in pids:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


async def test_nothing_is_left_when_the_kernel_is_restarted(situated):
    _, pids = await all_at_once(situated)
    await situated.restart()
    await all_gone(pids)


async def test_nothing_is_left_when_the_kernel_is_killed(situated):
    pid, pids = await all_at_once(situated)
    os.kill(pid, signal.SIGKILL)
    await all_gone(pids)


async def test_stop_does_not_end_what_is_to_outlive_the_cell(situated):
    await situated.run("port = await kernel.hold('nest', nest.started('article'))")
    pid = await pid_of(situated)
    cell = asyncio.create_task(situated.run("await asyncio.sleep(60)"))
    await asyncio.sleep(0.5)
    await situated.manager.interrupt_kernel()
    await cell
    assert any("article" in line for line in children(pid).values())
    await situated.run("await kernel.stop_all()")
    assert children(pid) == {}


# The article's code


# For each step, the errors of the compiler, then what ends the program, or what it answers.
EXPECTED = [
    (["TS2305", "TS2693", "TS2693", "TS2307", "TS2307"], "module '@nestjs/platform-ws'", ""),
    (["TS2305", "TS2693", "TS2693", "TS2307"], "Cannot find module './app.module'", ""),
    (["TS2305", "TS2693", "TS2693"], "OnGatewayConnection is not a function", ""),
    (["TS2305"], "TypeError: Controller is not a function", ""),
    ([], "No driver (HTTP) has been selected.", ""),
    ([], "", "HTTP 404"),
    ([], "", '{"event":"events","data":[1,2,3]}'),
    ([], "", '{"event":"events","data":[1,2,3]}'),
]


async def test_each_step_mends_an_error(either):
    for step, (codes, ending, answer) in zip(STEPS, EXPECTED, strict=True):
        assert (await either.compile(step)).codes == codes
        outcome = await either.run()
        assert (outcome.listens, outcome.ended) == (not ending, bool(ending)), step
        assert ending in outcome.error and bool(ending) == bool(outcome.error), step
        assert not any(word in repr(outcome) for word in ("/tmp", "node:", "    at ", "pid"))
        said = await either.ask(article_code.MESSAGE)
        assert (said.text or said.refused) == (answer or "nobody listens: no program is running")


async def test_what_the_compiler_says_of_the_code_as_printed(either):
    errors = repr(await either.compile(PRINTED)).removeprefix(f"{RECORDED}\n").splitlines()
    assert errors[0] == (
        "TS2305  app.controller.ts:2  "
        "Module '\"@nestjs/websockets\"' has no exported member 'Controller'."
    )
    assert "TS2307  main.ts:2  Cannot find module '@nestjs/platform-ws' or its" in errors[3]
    assert "TS2307  main.ts:3  Cannot find module './app.module' or its" in errors[4]


async def test_a_compiler_that_forbids_any_finds_five_parameters_without_a_type(either):
    codes = (await either.compile(PRINTED, noImplicitAny=True)).codes
    assert codes.count("TS7006") == 5
    assert sorted(code for code in codes if code != "TS7006") == sorted(EXPECTED[0][0])


async def test_a_gateway_among_the_controllers_starts_and_says_nothing_of_messages(either):
    for step, subscribed in ((article_code.EXPRESS, False), (article_code.PROVIDER, True)):
        await either.compile(step)
        log = (await either.run()).log
        assert ("[RoutesResolver] AppController {/}:" in log) is not subscribed
        assert any('subscribed to the "events"' in line for line in log) is subscribed


async def test_in_both_lists_there_are_two_instances(either):
    assert (await either.compile(article_code.BOTH)).codes == []
    outcome = await either.run()
    assert outcome.log.count("made") == 2
    assert (await either.ask(article_code.MESSAGE)).text == EXPECTED[-1][2]


async def test_what_the_articles_client_prints(either):
    await either.compile(article_code.SMALLEST)
    await either.run()
    printed = await either.client(article_code.CLIENT)
    assert printed.log == [f"<Buffer {EXPECTED[-1][2].encode().hex(' ')}>"]
    assert not printed.ended and not printed.error
    alone = await either.client(article_code.CLIENT, 0)
    assert alone.error == "Error: connect ECONNREFUSED 127.0.0.1:·····"
    module = await either.client(article_code.CLIENT, module=True)
    assert module.error.startswith("ReferenceError: require is not defined in ES module scope")


def test_a_listing_has_all_files_each_below_its_name():
    listing = article_code.SMALLEST.listing
    for file, source in article_code.SMALLEST.sources.items():
        assert f"// {file}\n\n{source}" in listing
    assert re.findall(r"^// (.+)$", listing, re.MULTILINE) == [*article_code.SMALLEST.sources]


def test_steps_are_small():
    for before, step in pairwise(STEPS):
        assert step.before is before
        assert 0 < len([line for line in step.changes if line[0] in "+-"]) <= 5, step
    with pytest.raises(ValueError, match="'nowhere' does not occur in main.ts"):
        PRINTED.replacing("", ("nowhere", ""))


# The workshop


async def test_npm_brings_what_a_package_asks_for_and_no_more():
    brought = workshop.closure(article_code.INSTALLED)
    core = {"@nestjs/common", "@nestjs/core", "rxjs", "reflect-metadata"}
    assert {*article_code.INSTALLED, *core} <= brought
    assert not {"@nestjs/platform-ws", "@nestjs/platform-express", "ws"} & brought
    assert "ws" in workshop.closure(["@nestjs/platform-ws"])
    with pytest.raises(ValueError, match="no package 'left-pad' here"):
        workshop.closure(["left-pad"])


async def test_a_package_finds_only_what_is_installed(here, shop):
    source = "console.log(require('@nestjs/core') && 'core'); require('express');"
    await shop.compile({"main.ts": source}, article_code.INSTALLED)
    outcome = await shop.run()
    assert outcome.log == ["core"]
    assert outcome.error == "Error: Cannot find module 'express'"


async def test_one_compiler_is_asked_again_and_again(here, shop):
    assert (await shop.compile({"main.ts": "const a: string = 1;"})).codes == ["TS2322"]
    first = children()
    assert (await shop.compile({"main.ts": "const a: string = '1';"})).codes == []
    assert children() == first and len(first) == 1


async def test_a_syntax_error_has_its_line_and_the_program_is_written_all_the_same(here, shop):
    [error] = await shop.compile({"main.ts": "console.log('runs');\nconst a = (1;\n"})
    assert (error.code, error.file, error.line) == (1005, "main.ts", 2)
    assert repr(error) == "TS1005  main.ts:2  ')' expected."
    assert (await shop.run()).log == ["runs"]


async def test_the_next_program_ends_the_one_before_and_shares_no_file_with_it(here, shop):
    await shop.compile(article_code.SMALLEST)
    first = await shop.run()
    await shop.compile({"main.ts": "import './app.module';"})
    with pytest.raises(OSError):
        await ask(first.port, article_code.MESSAGE)
    assert (await shop.run()).error == "Error: Cannot find module './app.module'"
    assert (await shop.ask("{}")).refused == "nobody listens: no program is running"


async def test_a_program_of_the_reader_s_listens_on_loopback_whatever_it_asks_for(here, shop):
    source = "import { createServer } from 'http';\ncreateServer().listen(3000, '0.0.0.0');"
    await shop.compile({"main.ts": source})
    outcome = await shop.run()
    [pid] = [pid for pid, line in children().items() if "main.js" in line]
    assert listening(pid) == [("127.0.0.1", outcome.port)] and outcome.port != 3000


async def test_what_a_program_prints_later_and_that_it_ends(here, shop):
    crash = "import { createServer } from 'http';\ncreateServer(() => { throw new Error('x'); })"
    await shop.compile({"main.ts": f"{crash}.listen(3000, () => console.log('\\nready'));"})
    outcome = await shop.run()
    await until(lambda: "ready" in outcome.later)
    assert repr(outcome) == "it listens"
    _, writer = await asyncio.open_connection("127.0.0.1", outcome.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: outcome.ended)
    writer.close()
    assert repr(outcome) == "it listens\nError: x" and outcome.port is None


async def test_a_program_that_neither_listens_nor_ends_is_ended(here, shop, monkeypatch):
    await shop.compile({"main.ts": "console.log('here'); while (true);"})
    monkeypatch.setattr(nest, "START", 0.5)
    outcome = await shop.run()
    assert repr(outcome) == "here\nit neither listens nor ends in 0.5 s, and was ended"
    assert "main.js" not in str(children())


async def test_a_compilation_that_is_cancelled_is_not_taken_for_the_next(here, shop):
    await shop.compile({"main.ts": ""})
    cut = asyncio.create_task(shop.compile({"main.ts": "const a: string = 1;"}))
    await until(lambda: shop._compiler is not None and shop._turn.locked())
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    assert (await shop.compile({"main.ts": "missing();"})).codes == ["TS2304"]


async def test_a_start_that_is_cancelled_leaves_no_process(here, shop):
    await shop.compile({"main.ts": "while (true);"})
    cut = asyncio.create_task(shop.run())
    await until(lambda: "main.js" in str(children()))
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    assert "main.js" not in str(children())


async def test_a_compiler_that_dies_is_said_and_started_anew(here, shop):
    await shop.compile({"main.ts": ""})
    [pid] = children()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: is_gone(pid))
    with pytest.raises(nest.NestError, match="^the compiler has failed$"):
        await shop.compile({"main.ts": ""})
    assert (await shop.compile({"main.ts": ""})).codes == []


@pytest.mark.parametrize("name", ["../main.ts", "a/main.ts", "main.sh"])
async def test_a_file_stays_in_its_folder(name, here, shop):
    with pytest.raises(ValueError, match="is no name of a file such as main.ts"):
        await shop.compile({name: ""})


async def test_a_workshop_leaves_neither_files_nor_processes(here, nothing_left):
    async with workshop.workshop() as shop:
        await shop.compile(article_code.SMALLEST)
        await shop.run()
        place = shop._folder
        assert place.exists() and len(children()) == 2
    assert not place.exists() and children() == {}


# What ends a Nest


LIVES = {"no json": False, "circular": False, "nested": False, "hook": False, "slashes": True}

SAYS = {
    "no json": "TypeError: Do not know how to serialize a BigInt",
    "circular": "TypeError: Converting circular structure to JSON",
    "nested": "RangeError: Maximum call stack size exceeded",
    "hook": "Error: the hook failed",
    "slashes": "",
}


@pytest.mark.parametrize("hidden", WHERE_NODE_IS)
@pytest.mark.parametrize("name", endings.INPUTS)
async def test_what_an_input_does_to_nest(name, hidden, monkeypatch):
    hide_or_need_node(hidden, monkeypatch)
    found = await endings.nest(name)
    assert found.recorded is hidden and found.server.startswith("Nest 12.")
    assert (found.lives, found.error) == (LIVES[name], SAYS[name])
    assert found.code == (None if LIVES[name] else 1)
    if name == "slashes":
        assert found.client == (
            "half an answer, 'HTTP/1.1 400\\r\\nInvalid URL', then the connection is lost",
        )
    else:
        assert found.client == (
            "101 Switching Protocols",
            "1006: the connection is lost, without a close",
        )
    assert children() == {}


@pytest.mark.parametrize("name", endings.INPUTS)
async def test_ours_goes_on(name, nothing_left, caplog):
    found = await endings.ours(name)
    assert found.lives and found.code is None and not found.recorded
    if name == "slashes":
        assert found.client == ("404 Not Found",)
    elif name == "nested":
        assert found.client[1:] == ("nothing, and stays connected",)
    else:
        assert '"message":"Internal server error"' in found.client[1]
        assert found.client[2:] == (("close 1011",) if name == "hook" else ())
    assert caplog.text == ""


@pytest.mark.parametrize(("patience", "seen"), [(5.0, "late"), (0.05, "nothing, and stays")])
async def test_what_is_bound_to_come_is_waited_for_and_no_longer_than_that(
    patience, seen, monkeypatch
):
    async def answer_late(connection):
        await connection.recv()
        await asyncio.sleep(0.5)
        await connection.send("late")
        await connection.wait_closed()

    monkeypatch.setattr(endings, "QUIET", 0.05)
    async with serve(answer_late, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(patience - 1 if patience > 1 else 1):
            _, said = await endings._send(port, "/", "ask", patience)
    assert said.startswith(seen)


async def test_ours_is_waited_for_where_it_answers(monkeypatch):
    monkeypatch.setattr(endings, "QUIET", 0)
    assert "Internal server error" in (await endings.ours("no json")).client[1]
    assert (await endings.ours("nested")).client[1] == "nothing, and stays connected"


def test_an_ending_shows_what_both_sides_saw():
    seen = ("101 Switching Protocols", "1006: lost")
    assert repr(Ending("Nest 12", "a BigInt", seen, False, 1, "TypeError: no", True)) == (
        "(recorded, since Nest is missing here)\n"
        "Nest 12, a BigInt: ends, with exit code 1\n"
        "    the client sees   101 Switching Protocols\n"
        "    the client sees   1006: lost\n"
        "    the process says  TypeError: no"
    )
    assert repr(Ending("ours", "a set", (), True, None, "")) == "ours, a set: goes on"


# Recordings


async def test_an_edited_program_without_node_gets_a_sentence(monkeypatch, shop):
    monkeypatch.setenv("PATH", "")
    edited = PRINTED.sources | {"main.ts": "// mine\n" + PRINTED.sources["main.ts"]}
    sentence = (
        "nobody has recorded this program, and it cannot run here: "
        "install Node 20 or newer, then run: npm ci --prefix notebooks/node/nest"
    )
    assert repr(await shop.compile(edited, PRINTED.packages)) == sentence
    assert repr(await shop.run()) == sentence
    assert repr(await shop.ask("{}")) == sentence
    assert repr(await shop.client("// mine")) == sentence


async def test_recordings_say_so(monkeypatch, shop):
    monkeypatch.setenv("PATH", "")
    compiled = await shop.compile(article_code.SMALLEST)
    shown = [compiled, await shop.run(), await shop.ask(article_code.MESSAGE)]
    for result in (*shown, await shop.client(article_code.CLIENT)):
        assert repr(result).startswith(f"{RECORDED}\n")
    assert isinstance(compiled, Compiled) and isinstance(shown[1], Outcome)


def test_the_recording_is_small_and_names_no_machine():
    text = nest.RECORDED.read_text()
    assert len(text) < 100_000
    assert not any(word in text for word in ("/tmp", "/home", "file:", "node_modules"))
    assert len(json.loads(text)["endings"]) == len(endings.INPUTS)


# How Node reports


@pytest.mark.parametrize(
    ("said", "telling"),
    [
        ("/x/y.js:3\n  throw e;\n  ^\n\nRangeError: far\n    at z\n", "RangeError: far"),
        ("TypeError: (0 , a_1.B) is not a function\n", "TypeError: B is not a function"),
        ("X [Error]: no\n", "X [Error]: no"),
        ("MyException [Error]: no\n", "MyException: no"),
        ("[Nest] 12  - 1/2/2026, 3:04:05 PM   ERROR [Loader] gone +2ms\n", "[Loader] gone"),
        ("\nKilled\n", "Killed"),
        ("", ""),
    ],
)
def test_the_telling_line(said, telling):
    assert nest.telling(said) == telling


@pytest.fixture
def watched_by_the_loop(monkeypatch) -> None:
    """The event loop itself, and no thread, looks whether processes have ended, as from 3.12 on."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfd")
    if sys.version_info < (3, 12):
        monkeypatch.setattr(
            asyncio.get_event_loop_policy(), "_watcher", asyncio.PidfdChildWatcher()
        )


async def test_a_process_that_has_just_ended_keeps_its_exit_code(here, watched_by_the_loop, caplog):
    async with nest.node("-e", "process.exit(3)", ends=False) as process:
        time.sleep(0.5)  # It ends, and the event loop does not notice.
    assert process.returncode == 3
    assert caplog.text == ""


async def test_a_process_is_ended_with_its_standard_input(here):
    async with nest.node("-e", "while (true);") as process:
        assert isinstance(process, Process)
        process.stdin.close()
        async with asyncio.timeout(5):
            assert await process.wait() == -signal.SIGKILL
