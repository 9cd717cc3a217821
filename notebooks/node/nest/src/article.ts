// The smallest program that answers as the article's does, once it is mended.

import { Module } from '@nestjs/common';
import { SubscribeMessage, WebSocketGateway } from '@nestjs/websockets';
import { of } from 'rxjs';
import type { WebSocket } from 'ws';
import { run } from './program.js';

@WebSocketGateway()
class EventsGateway {
  @SubscribeMessage('events')
  events(client: WebSocket, data: unknown) {
    return of([1, 2, 3]);
  }
}

@Module({ providers: [EventsGateway] })
class AppModule {}

await run(AppModule);
