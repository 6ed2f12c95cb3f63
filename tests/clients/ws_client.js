// Asks an echo server for what a client of the npm package `ws` can ask for.
//
// In: a URL, and what the server does with the offer of compression (`off`, `shared`,
// `dedicated`). Out: status 0, or the assertion that failed. Run by `run`, which provides the
// package.
"use strict";

const assert = require("node:assert");
const { once } = require("node:events");
const WebSocket = require("ws");

// What the server answers to the offer of `ws`.
const ANSWERS = {
  off: undefined,
  shared: "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
  dedicated: "permessage-deflate",
};

function payloads() {
  const messages = [];
  for (const size of [0, 1, 125, 126, 65535, 65536, 1 << 20]) {
    messages.push("grüße 🦀 ".repeat(size / 16));
    messages.push(Buffer.from(Array.from({ length: size }, (_, index) => (index * 31) % 256)));
  }
  return messages;
}

async function main(url, deflate) {
  const websocket = new WebSocket(url, { perMessageDeflate: { threshold: 0 } });
  const upgraded = once(websocket, "upgrade");
  const opened = once(websocket, "open");
  const [response] = await upgraded;
  assert.strictEqual(response.headers["sec-websocket-extensions"], ANSWERS[deflate]);
  await opened;
  assert.strictEqual(websocket.extensions, deflate === "off" ? "" : "permessage-deflate");

  let total = 0;
  async function expectEcho(message) {
    const [echo, isBinary] = await once(websocket, "message");
    assert.strictEqual(isBinary, typeof message !== "string");
    assert.ok(echo.equals(Buffer.from(message)), `${message.length} of length`);
    total += echo.length;
  }
  for (const message of payloads()) {
    websocket.send(message);
    await expectEcho(message);
  }
  const few = ["frag", "ments of 🦀", "", " one message"];
  for (const fragments of [few, Array(3).fill("🦀 ".repeat(9000))]) {
    fragments.forEach((fragment, index) =>
      websocket.send(fragment, { fin: index === fragments.length - 1 }),
    );
    await expectEcho(fragments.join(""));
  }
  const received = websocket._socket.bytesRead;
  assert.strictEqual(received < total / 10, deflate !== "off", `${received} bytes for ${total}`);

  websocket.ping("are you there?");
  const [payload] = await once(websocket, "pong");
  assert.strictEqual(payload.toString(), "are you there?");
  websocket.close(3333, "done");
  const [code, reason] = await once(websocket, "close");
  assert.deepStrictEqual([code, reason.toString()], [3333, ""]);
}

setTimeout(() => assert.fail("it takes too long"), 40_000).unref();
main(...process.argv.slice(2));
