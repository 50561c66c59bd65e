// A real MCP server over streamable HTTP, made with the SDK of the protocol. It has one tool and asks for a token; what was
// refused and what was called is a line each on stdout. Bundled into one file, so that it runs in a pod as well.
// @ts-nocheck the SDK is in the cache, not among the packages of this repository
import { createServer } from 'node:http';

import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { CallToolRequestSchema, ListToolsRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const [, , port = '0', name = 'server', token = ''] = process.argv;

/** The server of one request: there are no sessions. */
function serverOf() {
  const server = new Server({ name, version: '1.0.0' }, { capabilities: { tools: {} } });
  const inputSchema = { type: 'object', properties: { word: { type: 'string' } }, required: ['word'] };
  server.setRequestHandler(ListToolsRequestSchema, async () => ({
    tools: [{ name: 'look_up', description: `Looks a word up in ${name}`, inputSchema }],
  }));
  server.setRequestHandler(CallToolRequestSchema, async ({ params }) => {
    console.log(`called ${params.name} ${JSON.stringify(params.arguments)}`);
    return { content: [{ type: 'text', text: `${name} knows ${params.arguments.word}` }] };
  });
  return server;
}

const http = createServer(async (request, response) => {
  if (request.headers.authorization !== `Bearer ${token}`) {
    console.log('refused a request without the token');
    response.writeHead(401).end();
  } else if (request.method !== 'POST') {
    response.writeHead(405).end();
  } else {
    const server = serverOf();
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    response.on('close', () => server.close());
    await server.connect(transport);
    await transport.handleRequest(request, response);
  }
});
http.listen(Number(port), '0.0.0.0', () => console.log(`listens on ${http.address().port}`));
