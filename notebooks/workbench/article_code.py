"""The article's code, from as it is printed to the smallest program that works.

`STEPS` are versions of it, each a small change to the one before that mends one error. What is
printed is shortened to what is under discussion; the mends are ours.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

# What the article has its readers install. npm brings what that package asks for with it:
# core, common, rxjs and reflect-metadata.
INSTALLED = ("@nestjs/websockets",)

# It listens on any free port of 127.0.0.1, whatever port it names: see node/nest/cable.mjs.
MAIN = """\
import { NestFactory } from '@nestjs/core';
import { WsAdapter } from '@nestjs/platform-ws';
import { AppModule } from './app.module';

async function bootstrap() {
  const app = await NestFactory.create(AppModule);
  app.useWebSocketAdapter(new WsAdapter(app));
  await app.listen(3000);
}
bootstrap();
"""

CONTROLLER = """\
import {
  Controller,
  OnGatewayConnection,
  OnGatewayDisconnect,
  SubscribeMessage,
  WebSocketGateway,
  WsResponse,
} from '@nestjs/websockets';
import { Observable, of } from 'rxjs';
import { map } from 'rxjs/operators';

@Controller()
@WebSocketGateway()
export class AppController {
  @OnGatewayConnection()
  handleConnection(client) {
    console.log('Client connected');
  }

  @OnGatewayDisconnect()
  handleDisconnect(client) {
    console.log('Client disconnected');
  }

  @SubscribeMessage('events')
  onEvent(client, data): Observable<WsResponse<number[]>> {
    return of([1, 2, 3]).pipe(map(data => ({ event: 'events', data })));
  }

  @SubscribeMessage('identity')
  async identity(client, data: number): Promise<number> {
    return data;
  }
}
"""

# The article does not show it; it says that the class is a controller.
MODULE = """\
import { Module } from '@nestjs/common';
import { AppController } from './app.controller';

@Module({ controllers: [AppController] })
export class AppModule {}
"""

# What the article's client sends.
MESSAGE = '{"event":"events","data":"hello world"}'

CLIENT = """\
const WebSocket = require('ws');

const ws = new WebSocket('ws://localhost:3000');

ws.on('open', () => {
  ws.send(JSON.stringify({ event: 'events', data: 'hello world' }));
});

ws.on('message', data => {
  console.log(data);
});
"""


@dataclass(frozen=True)
class Step:
    """A version of the program.

    name:     what has been done to the one before
    sources:  its files by their names
    packages: what has been installed for it by name
    before:   the version that it was made of
    """

    name: str
    sources: dict[str, str]
    packages: tuple[str, ...]
    before: Step | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return "\n".join([self.name, *(f"    {line}" for line in self.changes)])

    @property
    def listing(self) -> str:
        """Its files, one below the other, each under its name."""
        return "\n".join(f"// {file}\n\n{source}" for file, source in self.sources.items())

    @property
    def changes(self) -> list[str]:
        """What differs from the version before: a line each, with - or + before it."""
        if self.before is None:
            return []
        new = [f"+ npm install {p}" for p in self.packages if p not in self.before.packages]
        for file, source in self.sources.items():
            old = self.before.sources.get(file, "").splitlines()
            lines = difflib.ndiff(old, source.splitlines())
            changed = [line for line in lines if line[0] in "+-" and line[2:].strip()]
            new += [f"{file}:", *changed] if changed else []
        return new

    def installing(self, package: str) -> Step:
        """This version with one more package."""
        packages = (*self.packages, package)
        return Step(f"Install {package}", self.sources, packages, self)

    def with_file(self, name: str, file: str, source: str) -> Step:
        """This version with one more file."""
        return Step(name, self.sources | {file: source}, self.packages, self)

    def replacing(self, name: str, *lines: tuple[str, str]) -> Step:
        """This version with some text replaced, wherever it stands.

        Raises ValueError for a text that does not occur.
        """
        sources = dict(self.sources)
        for old, new in lines:
            if not any(old in source for source in sources.values()):
                raise ValueError(f"{old!r} does not occur in {', '.join(sources)}")
            sources = {file: source.replace(old, new) for file, source in sources.items()}
        return Step(name, sources, self.packages, self)


PRINTED = Step("As printed", {"main.ts": MAIN, "app.controller.ts": CONTROLLER}, INSTALLED)

ADAPTER = PRINTED.installing("@nestjs/platform-ws")

AS_CONTROLLER = ADAPTER.with_file("Write the module that main.ts imports", "app.module.ts", MODULE)

INTERFACES = AS_CONTROLLER.replacing(
    "Drop the two interfaces that stand as decorators",
    ("  OnGatewayConnection,\n  OnGatewayDisconnect,\n", ""),
    ("  @OnGatewayConnection()\n", ""),
    ("  @OnGatewayDisconnect()\n", ""),
)

COMMON = INTERFACES.replacing(
    "Import Controller from where it is",
    ("import {\n  Controller,\n", "import { Controller } from '@nestjs/common';\nimport {\n"),
)

EXPRESS = COMMON.installing("@nestjs/platform-express")

PROVIDER = EXPRESS.replacing(
    "Make the gateway a provider", ("controllers: [AppController]", "providers: [AppController]")
)

SMALLEST = PROVIDER.replacing(
    "Drop what a gateway does not need",
    ("import { Controller } from '@nestjs/common';\n", ""),
    ("@Controller()\n", ""),
)

STEPS = (PRINTED, ADAPTER, AS_CONTROLLER, INTERFACES, COMMON, EXPRESS, PROVIDER, SMALLEST)

# Beside the way: the class in both lists, of which it has then two instances.
BOTH = PROVIDER.replacing(
    "A provider and a controller, and each instance says that it is made",
    ("{ providers:", "{ controllers: [AppController], providers:"),
    ("AppController {\n", "AppController {\n  constructor() {\n    console.log('made');\n  }\n\n"),
)
