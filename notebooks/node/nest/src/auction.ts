// Exercise 07.3: an auction.

import { Catch, Module, UseFilters } from '@nestjs/common';
import type { ArgumentsHost } from '@nestjs/common';
import {
  BaseWsExceptionFilter, ConnectedSocket, MessageBody, SubscribeMessage, WebSocketGateway,
  WsException,
} from '@nestjs/websockets';
import { BehaviorSubject, finalize, fromEvent, map, takeUntil } from 'rxjs';
import type { WebSocket } from 'ws';
import { run } from './program.js';

class TooLow extends Error {}

@Catch(TooLow)
class TellTheBidder extends BaseWsExceptionFilter {
  catch(error: TooLow, host: ArgumentsHost) {
    super.catch(new WsException(error.message), host);
  }
}

@WebSocketGateway()
@UseFilters(new TellTheBidder())
class Auction {
  private readonly highest = new BehaviorSubject(0);
  private watching = 0;

  handleConnection(client: WebSocket) {
    client.send(JSON.stringify({ event: 'welcome', data: this.highest.value }));
  }

  @SubscribeMessage('bid')
  bid(@MessageBody() amount: unknown) {
    if (typeof amount !== 'number') throw new TypeError('a bid is a number');
    if (amount <= this.highest.value) throw new TooLow(`bid more than ${this.highest.value}`);
    this.highest.next(amount);
    return { event: 'accepted', data: amount };
  }

  @SubscribeMessage('watch')
  watch(@ConnectedSocket() client: WebSocket) {
    this.watching += 1;
    return this.highest.pipe(
      takeUntil(fromEvent(client, 'close')),
      map(data => ({ event: 'highest', data })),
      finalize(() => (this.watching -= 1)),
    );
  }

  @SubscribeMessage('watching')
  count() {
    return { event: 'watching', data: this.watching };
  }
}

@Module({ providers: [Auction] })
class AppModule {}

await run(AppModule);
