// What the suites may ask of the lab, which lives in another process.
import http from 'node:http';

/** @param {Record<string, (order: any) => unknown>} answers by name; an order and an answer are JSON */
export async function startControl(answers) {
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    try {
      const answer = answers[request.url.slice(1)];
      if (!answer) throw new Error(`no such request: ${request.url}`);
      const value = await answer(JSON.parse(Buffer.concat(chunks).toString() || '{}'));
      response.end(JSON.stringify({ value }));
    } catch (error) {
      response.writeHead(500).end(JSON.stringify({ error: error.message }));
    }
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    },
  };
}
