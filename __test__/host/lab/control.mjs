// The lab's control API for the suites, which run in another process.
import http from 'node:http';

import { closeServer, listenOnLoopback } from '../../support/server.js';

/** @param {Record<string, (order: any) => unknown>} answers by name; an order and an answer are JSON */
export async function startControl(answers) {
  const server = http.createServer(async (request, response) => {
    const { url = '' } = request;
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    try {
      const answer = answers[url.slice(1)];
      if (!answer) throw new Error(`no such request: ${url}`);
      const value = await answer(JSON.parse(Buffer.concat(chunks).toString() || '{}'));
      response.end(JSON.stringify({ value }));
    } catch (error) {
      response.writeHead(500).end(JSON.stringify({ error: error.message }));
    }
  });
  return { url: `http://127.0.0.1:${await listenOnLoopback(server)}`, stop: () => closeServer(server) };
}
