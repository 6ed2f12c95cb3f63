// ws for Node with the command line of Wirelane's examples:
//
//   --mode echo|broadcast|relay [--listen ADDR:PORT] [--deflate off|shared|dedicated]
//   [--tls-cert FILE --tls-key FILE]

'use strict';

const fs = require('fs');
const http = require('http');
const https = require('https');
const { WebSocketServer } = require('ws');

const options = { mode: 'echo', listen: '127.0.0.1:9001', deflate: 'off' };
const words = process.argv.slice(2);
for (let index = 0; index < words.length; index += 2) {
  const name = words[index].replace(/^--/, '');
  if (!['mode', 'listen', 'deflate', 'tls-cert', 'tls-key'].includes(name)) {
    console.error(`unknown option ${words[index]}`);
    process.exit(2);
  }
  options[name] = words[index + 1];
}

const tls = options['tls-cert'] !== undefined;
const server = tls
  ? https.createServer({
      cert: fs.readFileSync(options['tls-cert']),
      key: fs.readFileSync(options['tls-key']),
    })
  : http.createServer();
const perMessageDeflate =
  options.deflate === 'off'
    ? false
    : {
        serverNoContextTakeover: options.deflate === 'shared',
        clientNoContextTakeover: options.deflate === 'shared',
        threshold: 0,
      };
const sockets = new WebSocketServer({ server, perMessageDeflate, maxPayload: 16 * 1024 * 1024 });

sockets.on('connection', (ws) => {
  ws.on('error', () => {});
  ws.on('message', (data, isBinary) => {
    if (options.mode === 'echo') {
      ws.send(data, { binary: isBinary });
      return;
    }
    for (const peer of sockets.clients) {
      if (options.mode === 'broadcast' || peer !== ws) peer.send(data, { binary: isBinary });
    }
  });
});

const colon = options.listen.lastIndexOf(':');
server.listen(Number(options.listen.slice(colon + 1)), options.listen.slice(0, colon), () => {
  const { address, port } = server.address();
  console.log(`listening on ${tls ? 'wss' : 'ws'}://${address}:${port}/`);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
