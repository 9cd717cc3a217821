// What every program here does: say where it listens, and end with whoever started it.

import type { Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { WsAdapter } from '@nestjs/platform-ws';

/** Run a module on a free port of 127.0.0.1; print the port; end when standard input ends. */
export async function run(module: Type): Promise<void> {
  process.stdin.on('end', () => process.exit()).resume();
  const app = await NestFactory.create(module, { logger: false });
  app.useWebSocketAdapter(new WsAdapter(app));
  await app.listen(0, '127.0.0.1');
  console.log(String(app.getHttpServer().address().port));
}
