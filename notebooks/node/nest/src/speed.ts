// A server that is measured: it gives back each message's event and data.
//
//     node dist/speed.js nest|ws
//
// prints its port, then the CPU seconds that it has used so far for every line that comes in,
// and ends with its standard input. `ws` does the same JSON as Nest's adapter, and nothing else.

import type { AddressInfo } from 'node:net';
import { Module } from '@nestjs/common';
import { SubscribeMessage, WebSocketGateway } from '@nestjs/websockets';
import { WebSocketServer, type WebSocket } from 'ws';
import { run } from './program.js';

@WebSocketGateway()
class Gateway {
  @SubscribeMessage('events')
  events(client: WebSocket, data: unknown) {
    return { event: 'events', data };
  }
}

@Module({ providers: [Gateway] })
class AppModule {}

function bare(): void {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  server.on('connection', socket => {
    socket.on('message', message => {
      const { event, data } = JSON.parse(message.toString());
      socket.send(JSON.stringify({ event, data }));
    });
  });
  server.on('listening', () => console.log(String((server.address() as AddressInfo).port)));
}

process.stdin.on('end', () => process.exit()).on('data', () => {
  const { user, system } = process.cpuUsage();
  console.log(String((user + system) / 1e6));
});
if (process.argv[2] === 'nest') {
  await run(AppModule);
} else {
  bare();
}
