// The servers that ours are measured against, each as long as its standard input is open.
//
//     node server.mjs nest|ws
//
// prints its port, then the CPU seconds used so far for every line that comes in.
//
// Nest has two handlers that give back what they get: `events`, which is plain, and `later`,
// which is async. That of ws does the same JSON without Nest, for any event. There is no
// compiler here, so the decorators are called as functions.

import 'reflect-metadata';
import { createRequire } from 'node:module';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { WsAdapter } from '@nestjs/platform-ws';
import { SubscribeMessage, WebSocketGateway } from '@nestjs/websockets';

class Gateway {
  events(client, data) {
    return { event: 'events', data };
  }

  async later(client, data) {
    return { event: 'later', data };
  }
}

function decorate() {
  for (const event of ['events', 'later']) {
    const method = Object.getOwnPropertyDescriptor(Gateway.prototype, event);
    SubscribeMessage(event)(Gateway.prototype, event, method);
  }
  WebSocketGateway()(Gateway);
  class AppModule {}
  Module({ providers: [Gateway] })(AppModule);
  return AppModule;
}

async function nest() {
  const app = await NestFactory.create(decorate(), { logger: false });
  app.useWebSocketAdapter(new WsAdapter(app));
  await app.listen(0, '127.0.0.1');
  return app.getHttpServer().address().port;
}

async function ws() {
  // The copy that Nest's adapter uses.
  const require = createRequire(import.meta.resolve('@nestjs/platform-ws'));
  const { WebSocketServer } = require('ws');
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  server.on('connection', socket => {
    socket.on('message', message => {
      const { event, data } = JSON.parse(message.toString());
      socket.send(JSON.stringify({ event, data }));
    });
  });
  await new Promise(resolve => server.on('listening', resolve));
  return server.address().port;
}

console.log(String(await { nest, ws }[process.argv[2]]()));
process.stdin.on('end', () => process.exit()).on('data', () => {
  const { user, system } = process.cpuUsage();
  console.log(String((user + system) / 1e6));
});
