"""A workshop for small Nest programs: sources in, the compiler's errors or a running program out.

::

    shop = await kernel.hold("workshop", workshop())     # until kernel.stop("workshop")
    await shop.compile({"main.ts": MAIN}, packages=["@nestjs/websockets"])
    await shop.run()                                     # a program that listens, or what ended it
    await shop.ask('{"event":"events"}')                 # what it answers

Only the named packages are there for the program, with what npm would bring along. Where Node
or Nest is missing, the same calls give what was recorded, and say so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from workbench import nest
from workbench.article_code import Step
from workbench.attempts import Answer, Compiled, Diagnostic, Outcome
from workbench.node import unused_port
from workbench.relay import HOST


@asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    """A workshop, whose programs and files are gone after the block."""
    with TemporaryDirectory(prefix="nest-") as folder:
        shop = Workshop(Path(folder))
        try:
            yield shop
        finally:
            await shop.close()


class Workshop:
    """Compiles one program at a time, and runs it; see the module.

    kept: what each program gave, by a key of its sources, as `recorded.json` has it
    """

    def __init__(self, folder: Path) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self._folder = folder
        self._key = ""
        self._port: int | None = None
        self._compiling, self._running = AsyncExitStack(), AsyncExitStack()
        self._compiler: Process | None = None
        self._turn = asyncio.Lock()

    async def compile(
        self, program: Step | Mapping[str, str], packages: Iterable[str] = (), **options: Any
    ) -> Compiled:
        """Compile a program, and make it the one that `run` runs; gives the compiler's errors.

        program:  its TypeScript files by their names, main.ts among them; or a step of
                  `workbench.article_code`, which brings its packages
        packages: what has been installed for it by name
        options:  of the compiler, such as noImplicitAny=True

        A program that ran is ended. JavaScript comes out in spite of errors. Raises ValueError
        for a package that is not here, and NestError if the compiler fails.
        """
        if isinstance(program, Step):
            sources, packages = program.sources, program.packages
        else:
            sources, packages = dict(program), tuple(packages)
        async with self._turn:
            await self._end_program()
            self._key = key_of(sources, packages, options)
            if nest.why_not():
                return Compiled.recorded(self._recorded("errors"))
            lay_out(self._folder, sources, packages)
            found = await self._ask_compiler(list(sources), options)
            self.kept[self._key] = {"errors": found}
            return Compiled(Diagnostic(**one) for one in found)

    async def run(self) -> Outcome:
        """Run what was compiled last, until it listens or ends, or for nest.START seconds."""
        async with self._turn:
            await self._end_program()
            if nest.why_not():
                return Outcome.recorded(self._recorded("outcome"))
            outcome = await self._start()
            self._port = outcome.port
            self._keep("outcome", outcome.plain())
            return outcome

    async def ask(self, message: str, timeout: float = 5.0) -> Answer:
        """Send the running program one message, and give the first that comes back."""
        if nest.why_not():
            return Answer.recorded(self._recorded("answers", message))
        answer = await answer_of(self._port, message, timeout)
        self._keep("answers", {message: answer.plain()})
        return answer

    async def client(self, source: str, port: int | None = None, module: bool = False) -> Outcome:
        """Run a client in JavaScript, with `ws` installed, until it has printed a line or ends.

        port:   of 127.0.0.1, that it connects to, though its source says localhost:3000; None is
                the running program, 0 a port where nobody listens
        module: whether Node takes the file for an ES module
        """
        key = key_of({"client.js": source}, ["ws"], {"module": module, "server": port != 0})
        if nest.why_not():
            return Outcome.recorded(nest.recorded("programs").get(key, {}).get("outcome"))
        with TemporaryDirectory(prefix="nest-") as name:
            folder = Path(name)
            port = (self._port if port is None else port) or unused_port()
            text = source.replace("localhost:3000", f"{HOST}:{port}")
            lay_out(folder, {"client.js": text}, ["ws"], module)
            outcome = await first_line(folder)
        self.kept[key] = {"outcome": outcome.plain()}
        return outcome

    async def close(self) -> None:
        """End the program and the compiler."""
        await self._end_program()
        await self._compiling.aclose()

    async def _start(self) -> Outcome:
        process = await self._running.enter_async_context(run_main(self._folder))
        outcome = Outcome()
        try:
            async with asyncio.timeout(nest.START):
                await outcome.follow(process)
        except TimeoutError:
            outcome.error = f"it neither listens nor ends in {nest.START:g} s, and was ended"
        finally:
            if outcome.port is None:
                await self._end_program()
        if outcome.port is not None:
            reading = asyncio.create_task(outcome.follow(process))
            self._running.callback(reading.cancel)
        return outcome

    async def _end_program(self) -> None:
        self._port = None
        await self._running.aclose()

    async def _ask_compiler(self, files: list[str], options: Mapping[str, Any]) -> list[Any]:
        """What compile.mjs says of the files that are laid out."""
        question = {"folder": str(self._folder), "files": files, "options": options}
        try:
            if self._compiler is None:
                child = nest.node("compile.mjs", ends=False)
                self._compiler = await self._compiling.enter_async_context(child)
            self._compiler.stdin.write(f"{json.dumps(question)}\n".encode())
            async with asyncio.timeout(nest.COMPILE):
                return json.loads(await self._compiler.stdout.readline())
        except BaseException as error:
            # Its answer would be taken for that to the next question.
            self._compiler = None
            await self._compiling.aclose()
            if isinstance(error, (ValueError, OSError, TimeoutError)):
                raise nest.NestError("the compiler has failed") from None
            raise

    def _keep(self, what: str, value: Any) -> None:
        kept = self.kept.setdefault(self._key, {})
        kept[what] = kept[what] | value if what in kept else value

    def _recorded(self, *names: str) -> Any:
        """What was recorded of the program at hand; None if nothing was."""
        found = nest.recorded("programs").get(self._key)
        for name in names:
            found = found and found.get(name)
        return found


def key_of(sources: Mapping[str, str], packages: Iterable[str], options: Mapping[str, Any]) -> str:
    """The name under which a program is recorded."""
    told = json.dumps([dict(sources), sorted(packages), dict(options)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


# A program and its folder


def run_main(folder: Path) -> AbstractAsyncContextManager[Process]:
    """The process of the program that was compiled in a folder; any port it asks for is free."""
    return _run(folder, "dist/main.js", "--import", (nest.FOLDER / "cable.mjs").as_uri())


def _run(folder: Path, file: str, *options: str) -> AbstractAsyncContextManager[Process]:
    # Node takes the links for the packages themselves, so that those find only what is linked, too.
    links = ("--preserve-symlinks", "--preserve-symlinks-main")
    return nest.node(*options, *links, file, cwd=folder, stderr=PIPE)


def lay_out(
    folder: Path, sources: Mapping[str, str], packages: Iterable[str], module: bool = False
) -> None:
    """Make a folder hold these files and packages, and no others.

    Raises ValueError for a file outside of the folder, and for a package that is not here.
    """
    names = closure(packages)
    for old in list(folder.iterdir()):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, source in sources.items():
        if not re.fullmatch(r"[\w.-]+\.(ts|js|mjs)", name):
            raise ValueError(f"{name!r} is no name of a file such as main.ts")
        (folder / name).write_text(source)
    (folder / "package.json").write_text(json.dumps({"type": "module"} if module else {}))
    installed = nest.FOLDER / "node_modules"
    for name in names:
        for one in (name, f"@types/{name}"):
            if (installed / one).exists():
                (folder / "node_modules" / one).parent.mkdir(parents=True, exist_ok=True)
                (folder / "node_modules" / one).symlink_to(installed / one)


def closure(packages: Iterable[str]) -> set[str]:
    """The packages at the top of node_modules after npm has installed these: what they need, too.

    Raises ValueError for a package that the lock file does not have.
    """
    lock = json.loads((nest.FOLDER / "package-lock.json").read_text())["packages"]
    todo = [(f"node_modules/{package}", package) for package in packages]
    found: set[str] = set()
    while todo:
        place, package = todo.pop()
        if place not in lock:
            raise ValueError(f"there is no package {package!r} here, only what Nest is made of")
        if place in found:
            continue
        found.add(place)
        optional = lock[place].get("peerDependenciesMeta", {})
        for name in lock[place].get("dependencies", {}) | lock[place].get("peerDependencies", {}):
            if name not in optional:
                inside = f"{place}/node_modules/{name}"
                todo.append((inside if inside in lock else f"node_modules/{name}", name))
    return {
        place.removeprefix("node_modules/") for place in found if place.count("node_modules/") == 1
    }


async def first_line(folder: Path, timeout: float = 10.0) -> Outcome:
    """Run a folder's client.js until it prints a line, or ends; then it is ended."""
    outcome = Outcome()
    async with _run(folder, "client.js") as process:
        try:
            async with asyncio.timeout(timeout):
                line = (await process.stdout.readline()).decode(errors="replace").rstrip()
                if line:
                    outcome.log.append(line)
                else:
                    await outcome.follow(process)
        except TimeoutError:
            outcome.error = f"it neither prints anything nor ends in {timeout:g} s, and was ended"
    return outcome


async def answer_of(port: int | None, message: str, timeout: float) -> Answer:
    """What a server on this port of 127.0.0.1 answers to one message."""
    if port is None:
        return Answer(refused="nobody listens: no program is running")
    try:
        async with asyncio.timeout(timeout), connect(f"ws://{HOST}:{port}") as client:
            await client.send(message)
            return Answer(str(await client.recv()))
    except InvalidStatus as error:
        return Answer(refused=f"HTTP {error.response.status_code}")
    except TimeoutError:
        return Answer()
    except (OSError, WebSocketException) as error:
        return Answer(refused=f"{type(error).__name__}")
