// What the parity table is played against; workbench/parity/gateways.py says the same in Python.

import { EventEmitter, once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createServer, Server } from 'node:net';
import {
  createParamDecorator, type ExecutionContext, type INestApplication, Module, ParseIntPipe, UseGuards,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { WsAdapter } from '@nestjs/platform-ws';
import {
  MessageBody, SubscribeMessage, WebSocketGateway, WebSocketServer, WsException,
} from '@nestjs/websockets';
import { concat, finalize, from, map, NEVER, of, throwError } from 'rxjs';
import type { WebSocket, WebSocketServer as WsServer } from 'ws';
import { run } from './program.js';

// A gateway's own port is bound to all interfaces, and Nest has no option for that.
const listen = Server.prototype.listen as (...options: unknown[]) => Server;
Server.prototype.listen = function (this: Server, port: unknown, host?: unknown, ...more: unknown[]) {
  return listen.call(this, port, host ?? '127.0.0.1', ...more);
};

/**
 * A port that is free, of those that no system gives away when it is asked for any.
 * Those from 25,000 on are for the gateways in Python, which start at the same time.
 */
async function freePort(): Promise<number> {
  const port = 20_000 + Math.floor(Math.random() * 5_000);
  const server = createServer().listen(port);
  try {
    await once(server, 'listening');
  } catch {
    return freePort();
  }
  await once(server.close(), 'close');
  return port;
}

/** Let the loop turn so many times. */
async function turns(count: number): Promise<void> {
  for (; count > 0; count--) await new Promise(setImmediate);
}

EventEmitter.defaultMaxListeners = 300; // for the row with 257 messages in flight

const OWN = await freePort();
let SHARED = OWN;
while (SHARED === OWN) SHARED = await freePort();
const ports = [OWN, SHARED];

/** Answers `settled` once all that need not wait have answered. */
abstract class Settling {
  @SubscribeMessage('settled')
  async settled(client: WebSocket, data: unknown) {
    await turns(50);
    return data;
  }
}

const Event = createParamDecorator((_, context: ExecutionContext) => context.switchToWs().getPattern());

const nobody = { canActivate: () => false };

@WebSocketGateway()
class Values extends Settling {
  @SubscribeMessage('identity')
  identity(client: WebSocket, data: unknown) {
    return data;
  }

  @SubscribeMessage('got')
  got(client: WebSocket, data: unknown) {
    return [data];
  }

  @SubscribeMessage('length')
  length(client: WebSocket, data: string) {
    return data.length;
  }

  @SubscribeMessage('nothing')
  nothing() {}

  @SubscribeMessage('later')
  async later(client: WebSocket, data: unknown) {
    await turns(5);
    return data;
  }

  @SubscribeMessage('of')
  of() {
    return of([1, 2, 3]);
  }

  @SubscribeMessage('from')
  from() {
    return from([1, 2, 3]);
  }

  @SubscribeMessage('items')
  items(client: WebSocket, data: unknown[]) {
    return from(data);
  }

  @SubscribeMessage('later from')
  async laterFrom() {
    await turns(5);
    return from([1, 2, 3]);
  }

  @SubscribeMessage('not finite')
  notFinite() {
    return [NaN, Infinity, { least: -Infinity }];
  }

  @SubscribeMessage('date')
  date() {
    return new Date(0);
  }

  @SubscribeMessage('set')
  set() {
    return new Set([1]);
  }

  @SubscribeMessage('undefined')
  undefined() {
    return { here: 1, away: undefined };
  }

  @SubscribeMessage('send')
  send(client: WebSocket, data: unknown) {
    client.send(JSON.stringify('sent'));
    return data;
  }

  @SubscribeMessage('twice')
  once(client: WebSocket, data: unknown) {
    return ['first', data];
  }

  @SubscribeMessage('twice')
  again(client: WebSocket, data: unknown) {
    return ['last', data];
  }

  @SubscribeMessage('which')
  which(@Event() event: string) {
    return event;
  }

  @SubscribeMessage('')
  empty() {
    return 'the empty event';
  }

  @SubscribeMessage('*')
  star() {
    return 'the event *';
  }

  @SubscribeMessage('ports')
  ports() {
    return ports;
  }
}

@WebSocketGateway()
class Order {
  @SubscribeMessage('wait')
  async wait(client: WebSocket, data: string) {
    await once(client, `open ${data}`);
    return data;
  }

  @SubscribeMessage('open')
  open(client: WebSocket, data: string) {
    client.emit(`open ${data}`);
  }

  @SubscribeMessage('gated')
  gated(client: WebSocket, data: string) {
    const opened = from(once(client, `open ${data}`));
    return concat(of(`${data} 1`), opened.pipe(map(() => `${data} 2`)));
  }
}

@WebSocketGateway()
class Errors {
  @SubscribeMessage('refuse')
  refuse(client: WebSocket, data: object) {
    throw new WsException(data);
  }

  @SubscribeMessage('refuse later')
  async refuseLater(client: WebSocket, data: object) {
    await turns(5);
    throw new WsException(data);
  }

  @SubscribeMessage('refuse in a stream')
  refuseInAStream(client: WebSocket, data: object) {
    return concat(from([1, 2]), throwError(() => new WsException(data)));
  }

  @SubscribeMessage('fail')
  fail(client: WebSocket, data: unknown) {
    throw new Error('a secret');
  }

  @SubscribeMessage('fail later')
  async failLater(client: WebSocket, data: unknown) {
    await turns(5);
    throw new Error('a secret');
  }

  @SubscribeMessage('fail in a stream')
  failInAStream(client: WebSocket, data: unknown) {
    return concat(from([1, 2]), throwError(() => new Error('a secret')));
  }

  @UseGuards(nobody)
  @SubscribeMessage('guarded')
  guarded(client: WebSocket, data: unknown) {
    return data;
  }

  @SubscribeMessage('number')
  number(@MessageBody(ParseIntPipe) data: number) {
    return data;
  }

  @SubscribeMessage('close')
  close(client: WebSocket, data: [code?: number, reason?: string]) {
    client.close(...data);
  }
}

/** What has happened to the clients of /hooks, by the target of their request. */
@WebSocketGateway({ path: '/hooks' })
class Hooks extends Settling {
  private inits = 0;
  private targets = new Map<WebSocket, string>();
  private happened = new Map<string, unknown[]>();

  afterInit(server: WsServer) {
    this.inits++;
  }

  handleConnection(client: WebSocket, request: IncomingMessage) {
    this.targets.set(client, request.url!);
    this.happened.set(request.url!, ['connected']);
  }

  handleDisconnect(client: WebSocket, code: number) {
    this.record(client, `disconnected ${code}`);
  }

  private record(client: WebSocket, what: string) {
    this.happened.get(this.targets.get(client)!)!.push(what);
  }

  @SubscribeMessage('inits')
  countInits() {
    return this.inits;
  }

  @SubscribeMessage('happened')
  async tell(client: WebSocket, [target, count]: [string, number]) {
    const happened = this.happened.get(target)!;
    while (happened.length < count) await turns(1);
    return [...happened].sort();
  }

  @SubscribeMessage('outlive')
  async outlive(client: WebSocket) {
    const happened = this.happened.get(this.targets.get(client)!)!;
    while (happened.length < 2) await turns(1);
    this.record(client, 'the handler went on');
    return 'a reply to nobody';
  }

  @SubscribeMessage('endless')
  endless(client: WebSocket) {
    const ended = finalize(() => this.record(client, 'the stream was closed'));
    return concat(of('an item'), NEVER).pipe(ended);
  }
}

@WebSocketGateway({ path: '/greeting' })
class Greeting extends Settling {
  async handleConnection(client: WebSocket) {
    await turns(20);
    client.send(JSON.stringify('welcome'));
  }

  @SubscribeMessage('identity')
  identity(client: WebSocket, data: unknown) {
    return data;
  }
}

@WebSocketGateway({ path: '/crowd' })
class Crowd extends Settling {
  @WebSocketServer()
  server!: WsServer;

  @SubscribeMessage('tell all')
  tellAll(client: WebSocket, data: unknown) {
    for (const each of this.server.clients) each.send(JSON.stringify(data));
    return this.server.clients.size;
  }
}

@WebSocketGateway({ path: '/pair' })
class First extends Settling {
  @SubscribeMessage('ask')
  ask(client: WebSocket, data: unknown) {
    return ['first', data];
  }

  @SubscribeMessage('only first')
  only(client: WebSocket, data: unknown) {
    return ['first', data];
  }
}

@WebSocketGateway({ path: '/pair' })
class Second {
  @SubscribeMessage('ask')
  ask(client: WebSocket, data: unknown) {
    return ['second', data];
  }
}

@WebSocketGateway({ path: '/inner' })
class Inner extends Settling {
  @SubscribeMessage('where')
  where() {
    return 'at a path';
  }
}

@WebSocketGateway(OWN)
class OwnPort extends Settling {
  @SubscribeMessage('where')
  where() {
    return 'on a port of its own';
  }
}

@WebSocketGateway(SHARED, { path: '/one' })
class SharedOne extends Settling {
  @SubscribeMessage('where')
  where() {
    return 'one of two on their own port';
  }
}

@WebSocketGateway(SHARED, { path: '/two' })
class SharedTwo extends Settling {
  @SubscribeMessage('where')
  where() {
    return 'two of two on their own port';
  }
}

const leaving: INestApplication[] = [];

@WebSocketGateway()
class Leaving {
  @SubscribeMessage('end')
  end() {
    leaving[0].close();
  }
}

@Module({ providers: [Leaving] })
class LeavingModule {}

@Module({
  providers: [
    Values, Order, Errors, Hooks, Greeting, Crowd, First, Second, Inner,
    OwnPort, SharedOne, SharedTwo,
  ],
})
class AppModule {}

leaving.push(await NestFactory.create(LeavingModule, { logger: false }));
leaving[0].useWebSocketAdapter(new WsAdapter(leaving[0]));
await leaving[0].listen(0, '127.0.0.1');
ports.push(leaving[0].getHttpServer().address().port);
await run(AppModule);
