// Ends a process with its standard input, whatever it is doing: while it starts, or in a loop.
//
//     node --import ./ends.mjs PROGRAM

import { Worker } from 'node:worker_threads';

const watch = `
  const { Socket } = require('node:net');
  const input = new Socket({ fd: 0, readable: true });
  input.on('error', () => {}).on('close', () => process.kill(process.pid, 'SIGKILL')).resume();
`;
new Worker(watch, { eval: true, execArgv: [] }).unref();
