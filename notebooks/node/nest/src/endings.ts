// A gateway whose clients can end the process: each event, or way to connect, is one of them.

import type { IncomingMessage } from 'node:http';
import { Module } from '@nestjs/common';
import { SubscribeMessage, WebSocketGateway } from '@nestjs/websockets';
import type { WebSocket } from 'ws';
import { run } from './program.js';

@WebSocketGateway()
class EndingsGateway {
  handleConnection(client: WebSocket, request: IncomingMessage) {
    if (request.url === '/?throw') throw new Error('the hook failed');
  }

  @SubscribeMessage('echo')
  echo(client: WebSocket, data: unknown) {
    return data;
  }

  @SubscribeMessage('no json')
  noJson() {
    return { votes: 10n };
  }

  @SubscribeMessage('circular')
  circular() {
    const list: unknown[] = [];
    list.push(list);
    return list;
  }
}

@Module({ providers: [EndingsGateway] })
class AppModule {}

await run(AppModule);
