// Loaded before a program that the reader has written: whatever port it asks for, it gets any free
// one of 127.0.0.1, and says which in a line of its own that begins with a zero byte.

import { Server } from 'node:net';

const { listen } = Server.prototype;

Server.prototype.listen = function (...asked) {
  this.once('listening', () => process.stdout.write(`\0${this.address().port}\n`));
  return listen.call(this, 0, '127.0.0.1', ...asked.filter(one => typeof one === 'function'));
};
