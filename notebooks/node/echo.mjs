// An echo server made of the package ws, for as long as its standard input is open.
//
//     node echo.mjs MAX_SIZE        prints its port

import { WebSocketServer } from 'ws';

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: Number(process.argv[2]),
  perMessageDeflate: true,
});

server.on('listening', () => console.log(String(server.address().port)));
server.on('connection', socket => {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
});
process.stdin.on('end', () => process.exit()).resume();
