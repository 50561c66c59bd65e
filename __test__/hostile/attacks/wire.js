// What stands between the host and its cluster: a proxy, or a server in the cluster's place, that damages, cuts or invents.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import path from 'node:path';

import { temporaryFolder } from '../../support/temporary.js';
import { listenOnLoopback } from '../../support/server.js';
import { INIT, lastResult } from './events.js';

const LINES = 300;
/** An agent that prints numbered lines for a second and a half. */
const COUNTS = `
console.log(${JSON.stringify(INIT)});
let n = 0;
const timer = setInterval(() => {
  for (let i = 0; i < 4; i++) console.log('line ' + n++ + ' ' + 'x'.repeat(100));
  if (n < ${LINES}) return;
  clearInterval(timer);
  console.log(${JSON.stringify(lastResult())});
}, 20)`;

/** How many connections an attack spoils: every other one, because a server that spoils all is down. */
const SPOILT = 8;

/**
 * A server in the cluster's place that hands everything on. `spoil` changes what some connections get: it is called
 * with each piece, how many bytes came before it, and the two sockets, and gives the piece to pass on.
 */
async function between(url, spoil) {
  const { hostname, port } = new URL(url);
  let [connections, spoilt] = [0, 0];
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let before = 0;
    connections += 1;
    let isDone = spoilt >= SPOILT || connections % 2 === 0;
    client.pipe(upstream);
    upstream.on('data', (data) => {
      let piece = data;
      if (!isDone) {
        piece = spoil(data, before, client) ?? data;
        isDone = piece !== data;
        if (isDone) spoilt += 1;
      }
      before += data.length;
      if (!client.destroyed) client.write(piece);
    });
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ])
      one.on('error', () => {}).once('close', () => other.destroy());
  });
  const at = await listenOnLoopback(server);
  return { url: `https://127.0.0.1:${at}`, spoilt: () => spoilt, close: () => server.close() };
}

/** The operator's kubeconfig with another server or proxy. */
function throughIt({ kubeconfig, url }, replaced) {
  const text = readFileSync(kubeconfig, 'utf8');
  assert(text.includes(url), text);
  const file = path.join(temporaryFolder('wire'), 'kubeconfig');
  writeFileSync(file, text.replace(url, replaced));
  return file;
}

/** A run through a server that spoils its answers: it must be as if nothing had been, once the server tires of it. */
const spoils = (name, before, spoil) => ({
  name,
  before,
  play: async (host) => {
    const server = await between(host.cluster.url, spoil);
    const config = { kubeconfig: throughIt(host.cluster, server.url) };
    const { result, output, runId } = await host.agent(COUNTS, { config });
    server.close();
    assert.equal(result.errorMessage, null, JSON.stringify(result));
    const numbers = [...output.stdout.matchAll(/^line (\d+) /gm)].map(([, n]) => Number(n));
    assert.deepEqual(
      numbers,
      Array.from({ length: LINES }, (_, n) => n),
    );
    assert(server.spoilt() > 0, 'nothing was spoilt');
    await host.assertNothingIsLeft(runId);
  },
});

/** Damages one bit of the byte that is this far into the connection. */
const damaged = (at) => (data, before) => {
  if (before > at || before + data.length <= at) return data;
  const copy = Buffer.from(data);
  copy[at - before] ^= 0x10;
  return copy;
};

/** Ends the connection that far in. */
const ended = (at, how) => (data, before, client) => {
  if (before + data.length <= at) return data;
  const rest = data.subarray(0, Math.max(0, at - before));
  client.write(rest);
  client[how]();
  return Buffer.alloc(0);
};

/** A run through a proxy whose first answer is broken. */
const noProxy = (name, before, answer) => ({
  name,
  before,
  play: async (host) => {
    const server = createServer((client) => {
      client.on('error', () => {}).once('data', () => answer(client));
    });
    const proxy = `http://127.0.0.1:${await listenOnLoopback(server)}`;
    const config = {
      kubeconfig: throughIt(host.cluster, `${host.cluster.url}\n    proxy-url: ${proxy}`),
    };
    const { result, runId } = await host.agent(COUNTS, { config });
    server.close();
    assert.notEqual(result.errorMessage, null, JSON.stringify(result));
    assert(JSON.stringify(result).length < 100_000, 'what the proxy said is in the result');
    await host.assertNothingIsLeft(runId);
  },
});

/** Writes as long as it is read. */
function pours(client, text) {
  const more = () => {
    while (!client.destroyed && client.write(text));
  };
  client.on('drain', more);
  more();
}

/** @type {import('./index.js').Attack[]} */
export const WIRE = [
  spoils('a damaged byte in the greeting of the API server', 'guard', damaged(60)),
  spoils('a damaged byte in the certificate of the API server', 'guard', damaged(400)),
  spoils('a damaged byte in the first answer of each connection', 'guard', damaged(2500)),
  spoils('a damaged byte in the middle of each connection', 'guard', damaged(9000)),
  spoils('connections that end within a record', 'guard', ended(2500, 'end')),
  spoils('connections that are reset within a record', 'guard', ended(9000, 'resetAndDestroy')),
  spoils('plain text in place of TLS', 'guard', () =>
    Buffer.from('HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n{'),
  ),
  spoils('zeros in place of a record', 'guard', (data, before) =>
    before < 2500 ? data : Buffer.alloc(data.length),
  ),
  noProxy('a proxy whose answer has no end', 'guard', (client) =>
    pours(client, 'HTTP/1.1 200 OK\r\n' + 'x-a: b\r\n'.repeat(5000)),
  ),
  noProxy('a proxy whose answer is not HTTP', 'guard', (client) => pours(client, Buffer.alloc(65_536, 0xff))),
  noProxy('a proxy that speaks no TLS behind its answer', 'guard', (client) => {
    client.write('HTTP/1.1 200 OK\r\n\r\n');
    pours(client, 'x'.repeat(65_536));
  }),
];
