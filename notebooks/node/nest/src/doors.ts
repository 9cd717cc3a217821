// Exercise 07.1: a guard and a pipe.

import { Module, ParseIntPipe, UseGuards } from '@nestjs/common';
import type { CanActivate, ExecutionContext } from '@nestjs/common';
import { MessageBody, SubscribeMessage, WebSocketGateway, WsException } from '@nestjs/websockets';
import { run } from './program.js';

class KnowsTheWord implements CanActivate {
  canActivate(context: ExecutionContext) {
    return context.switchToWs().getData()?.word === 'sesame';
  }
}

const exceptionFactory = (message: string) => new WsException(message);

@WebSocketGateway()
class Doors {
  @UseGuards(KnowsTheWord)
  @SubscribeMessage('enter')
  enter(@MessageBody('floor', new ParseIntPipe({ exceptionFactory })) floor: number) {
    return { event: 'entered', data: floor };
  }
}

@Module({ providers: [Doors] })
class AppModule {}

await run(AppModule);
