// Exercise 07.2: what does a client hear?

import { Module } from '@nestjs/common';
import { MessageBody, SubscribeMessage, WebSocketGateway, WsException } from '@nestjs/websockets';
import { concat, from, of, throwError } from 'rxjs';
import { run } from './program.js';

@WebSocketGateway()
class Replies {
  @SubscribeMessage('same')
  same(@MessageBody() data: unknown) {
    return data;
  }

  @SubscribeMessage('named')
  async named(@MessageBody() data: unknown) {
    return { event: 'news', data };
  }

  @SubscribeMessage('of')
  of() {
    return of([1, 2, 3]);
  }

  @SubscribeMessage('from')
  from() {
    return from([1, 2, 3]);
  }

  @SubscribeMessage('breaks')
  breaks() {
    return concat(from([1, 2]), throwError(() => new WsException('no more')));
  }
}

@Module({ providers: [Replies] })
class AppModule {}

await run(AppModule);
