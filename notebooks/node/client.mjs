// A client like the article's: it connects, sends one message, and prints what comes.
//
//     node client.mjs URL

import WebSocket from 'ws';

const socket = new WebSocket(process.argv[2]);

socket.on('open', () => {
  socket.send(JSON.stringify({ event: 'events', data: 'hello world' }));
});

socket.on('message', (data, isBinary) => {
  console.log('as the article prints it:', data);
  console.log('binary:', isBinary);
  console.log('as text:', String(data));
  socket.close(1000);
});
