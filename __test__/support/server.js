// Servers on loopback, for tests and for what they stand on.

/**
 * Starts a server on a free port of 127.0.0.1 and resolves to the port.
 *
 * @param {import('node:net').Server} server
 * @returns {Promise<number>}
 */
export function listenOnLoopback(server) {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
      resolve(port);
    });
  });
}

/**
 * Ends a server of HTTP and its connections.
 *
 * @param {import('node:http').Server} server
 */
export async function closeServer(server) {
  server.closeAllConnections();
  await new Promise((resolve) => {
    server.close(resolve);
  });
}
