"""From Nest to Python: every row is executed, can be copied, and its TypeScript is Nest's."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import subprocess
import sys
from html import unescape

import pytest
from conftest import missing
from nestling.application import create
from workbench import from_nest, nest
from workbench.from_nest import Row, guard, talk

each_row = pytest.mark.parametrize("row", from_nest.ROWS, ids=[row.name for row in from_nest.ROWS])


@each_row
async def test_a_row_is_executed(row, nothing_left):
    result = await from_nest.executed(row)
    assert result.problem is None
    assert result.said


@each_row
async def test_a_row_can_be_copied_and_run_after_the_imports(row, monkeypatch):
    copied: dict[str, object] = {}
    exec(from_nest.IMPORTS + "\n" + row.code.code, copied)
    module = sys.modules[row.proof.__module__]
    for name in (each.__name__ for each in row.python):
        assert copied[name] is not vars(module)[name]
        monkeypatch.setattr(module, name, copied[name])
    assert (await from_nest.executed(row)).problem is None


@each_row
def test_a_row_is_short(row):
    assert len(row.typescript.splitlines()) <= 7
    assert max(map(len, row.typescript.splitlines())) <= 66
    assert max(map(len, row.code.code.splitlines())) <= 72


# What a proof finds


def answering(frame):
    """A gateway that answers with something, in place of the row's."""

    async def proof(talking):
        async with talk.serving(create(guard.Club())) as port, talking.client(port) as client:
            await client.says("join", None)
            await client.says("news", None, *frame)

    return dataclasses.replace(guard.ROW, proof=proof)


@pytest.mark.parametrize(
    ("frames", "problem", "last"),
    [
        (["the bar is closed"], 'expected "the bar is closed"', '< "the bar is open"'),
        ([], "expected nothing", '< "the bar is open"'),
        (["the bar is open", 2], "expected 2", "< (nothing)"),
    ],
)
async def test_another_answer_is_a_failure_that_shows_what_came(
    frames, problem, last, nothing_left, monkeypatch
):
    monkeypatch.setattr(talk, "PATIENCE", 0.2)
    result = await from_nest.executed(answering(frames))
    assert result.problem == problem
    assert result.said[:2] == ['> {"event": "join"}', "< (nothing)"]
    assert result.said[-1] == last


async def test_another_value_is_a_failure():
    async def proof(talking):
        talking.shows([1], [2])

    result = await from_nest.executed(dataclasses.replace(guard.ROW, proof=proof))
    assert (result.said, result.problem) == (["[1]"], "expected [2]")


async def raising(talking):
    raise ConnectionRefusedError("Connect call failed ('127.0.0.1', 12345)")


async def hanging(talking):
    await asyncio.Event().wait()


@pytest.fixture
def page_with_failures(monkeypatch):
    """The page of a row that succeeds, one that raises, and one that never ends."""
    failing = [
        dataclasses.replace(guard.ROW, name=proof.__name__, proof=proof)
        for proof in (raising, hanging)
    ]
    monkeypatch.setattr(from_nest, "ROWS", [guard.ROW, *failing])
    monkeypatch.setattr(from_nest, "SECONDS", 0.5)
    return from_nest.page


async def test_a_row_that_fails_is_shown_as_failed_and_the_others_go_on(page_with_failures):
    page = await page_with_failures()
    assert page.failed == ["raising", "hanging"]
    for shown in (repr(page), unescape(page._repr_html_())):
        assert len(re.findall("✓ executed", shown)) == 1
        assert "✗ failed: ConnectionRefusedError: Connect call failed" in shown
        assert "12345" not in shown
        assert "✗ failed: TimeoutError" in shown


# What is shown


async def test_the_page_shows_all_of_every_row():
    page = await from_nest.page()
    assert page.failed == []
    text = repr(page)
    html = page._repr_html_()
    plain = unescape(re.sub("<[^>]+>", "", html))
    for result in page:
        row = result.row
        for part in (row.name, row.nest, row.here, *result.said):
            assert part in text
            assert part in plain
        for line in (*row.typescript.splitlines(), *row.code.code.splitlines()):
            assert line.strip() in text
            assert line in plain
    assert from_nest.IMPORTS in plain
    assert text.count("✓ executed") == html.count("✓ executed") == len(from_nest.ROWS)


async def test_two_pages_are_the_same():
    first, second = await from_nest.page(), await from_nest.page()
    assert repr(first) == repr(second)
    assert not re.search(r"127\.0\.0\.1:\d| at 0x|/tmp|/home", repr(first))


# The TypeScript

IMPORTS = """
import 'reflect-metadata';
import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import {
  Catch, Injectable, Module, ParseIntPipe, UseFilters, UseGuards, UseInterceptors,
} from '@nestjs/common';
import type {
  ArgumentsHost, CallHandler, CanActivate, ExecutionContext, NestInterceptor,
  OnApplicationShutdown,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { WsAdapter } from '@nestjs/platform-ws';
import {
  BaseWsExceptionFilter, ConnectedSocket, MessageBody, SubscribeMessage, WebSocketGateway,
  WebSocketServer, WsException,
} from '@nestjs/websockets';
import type { OnGatewayConnection, OnGatewayDisconnect, OnGatewayInit } from '@nestjs/websockets';
import { Subject, from, interval, map, of, takeUntil } from 'rxjs';
import type { Server, WebSocket } from 'ws';
"""

CLOCK = "@Injectable() class Clock { now() { return '12:00'; } }"

# What stands around a row's TypeScript; the row itself is where %s is.
AROUND = {
    "module": "class Counter {} class Clicks {} %s",
    "provider, dependency injection": f"{CLOCK} %s",
    "gateway": "%s",
    "adapter": "class AppModule {} %s",
    "@SubscribeMessage, @MessageBody, @ConnectedSocket, @WebSocketServer": (
        "@WebSocketGateway() class Room { %s }"
    ),
    "guard": """
        const members = new WeakSet<object>(); %s
        class Club { @UseGuards(MembersOnly) @SubscribeMessage('news') news() {} }
    """,
    "pipe": "%s }",
    "interceptor": "%s class Some { @UseInterceptors(Named) @SubscribeMessage('one') one() {} }",
    "exception filter": """
        %s
        class Some { @UseFilters(new TellRange()) @SubscribeMessage('book') book() {} }
    """,
    "Observable": "const stopped = new Subject<void>(); %s",
    "lifecycle hooks": """
        class Lobby implements
            OnGatewayInit, OnGatewayConnection, OnGatewayDisconnect, OnApplicationShutdown {
          seen: unknown[] = [];
          %s
        }
    """,
    "testing": f"""
        {CLOCK}
        @Injectable() class Greeter {{
          constructor(private clock: Clock) {{}}
          tell() {{ return this.clock.now(); }}
        }}
        %s
    """,
}


def program(row: Row) -> str:
    """A row's TypeScript as a whole program."""
    code = row.typescript
    if row.name == "pipe":  # a constant, and then a method
        code = code.replace("\n\n", "\n\n@WebSocketGateway() class Desk {\n", 1)
    rest = AROUND[row.name].replace("%s", f"\n{code}\n")
    testing = "import { Test } from '@nestjs/testing';" if row.name == "testing" else ""
    return f"{IMPORTS}\n{testing}\n{rest}\n"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the compiler says of each row's program, by its file; nothing if all is right."""
    if why := nest.why_not():
        missing(why)
    folder = tmp_path_factory.mktemp("from_nest")
    (folder / "node_modules").symlink_to(nest.FOLDER / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    options = {"extends": str(nest.FOLDER / "tsconfig.json"), "include": ["."]}
    options["compilerOptions"] = {"rootDir": ".", "noEmit": True}
    (folder / "tsconfig.json").write_text(json.dumps(options))
    for number, row in enumerate(from_nest.ROWS):
        (folder / f"row_{number}.ts").write_text(program(row))
    wrong = from_nest.ROWS[0].typescript.replace("providers", "provided")
    (folder / "wrong.ts").write_text(
        program(dataclasses.replace(from_nest.ROWS[0], typescript=wrong))
    )
    compiler = nest.FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler], cwd=folder, capture_output=True, text=True)
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if found := re.match(r"(\w+)\.ts\(", line):
            said.setdefault(found[1], []).append(line)
    return said


@pytest.mark.parametrize("number", range(len(from_nest.ROWS)))
def test_the_typescript_of_a_row_is_right_for_nest(compiled, number):
    said = compiled.get(f"row_{number}", [])
    if not (nest.FOLDER / "node_modules" / "@nestjs" / "testing").exists():
        # Nest's package for tests is not among those that the chapter installs.
        said = [line for line in said if "Cannot find module '@nestjs/testing'" not in line]
    assert said == []


def test_the_compiler_does_find_what_is_wrong(compiled):
    assert "provided" in compiled["wrong"][0]
