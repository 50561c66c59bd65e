// Where the MCP servers of the specs run: as processes of this machine beside the embedded cluster, as sidecars of the run's
// pod in a real one, whose pods do not reach this machine.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { rolldown } from 'rolldown';

import { temporaryFolder } from '../support/temporary.js';
import { installMcpSdk } from './install.mjs';

/** @returns {Promise<string>} the server in one file */
export async function bundleOfServer() {
  const file = path.join(temporaryFolder('mcp'), 'server.mjs');
  const modules = path.resolve(await installMcpSdk(), '../..');
  const input = fileURLToPath(new URL('mcp-server.mjs', import.meta.url));
  const bundle = await rolldown({ input, platform: 'node', resolve: { modules: [modules] } });
  await bundle.write({ file, format: 'esm', codeSplitting: false });
  await bundle.close();
  return file;
}

/**
 * Servers as processes of this machine.
 *
 * @param {string} bundle
 * @param {{name: string, token: string}[]} servers
 * @returns {Promise<{ports: number[], config: object, lines: () => string[], close: () => void}>}
 */
export async function asProcesses(bundle, servers) {
  /** @type {string[]} */
  const lines = [];
  const children = servers.map(({ name, token }) =>
    spawn(process.execPath, [bundle, '0', name, token], { stdio: ['ignore', 'pipe', 'inherit'] }),
  );
  const ports = await Promise.all(
    children.map(
      (child) =>
        new Promise((resolve, reject) => {
          child.on('error', reject).on('exit', (code) => reject(new Error(`exit ${code}`)));
          child.stdout.setEncoding('utf8').on('data', (text) => {
            lines.push(...text.trim().split('\n'));
            const [, port] = /^listens on (\d+)$/m.exec(text) ?? [];
            if (port) resolve(Number(port));
          });
        }),
    ),
  );
  return { ports, config: {}, lines: () => lines, close: () => children.forEach((child) => child.kill()) };
}

const FIRST_PORT = 9_100;

/**
 * Servers as sidecars of the run's pod, from an image that has Node and the bundle as `/opt/mcp/server.mjs`.
 *
 * @param {string} image
 * @param {{name: string, token: string}[]} servers
 */
export function asSidecars(image, servers) {
  const ports = servers.map((_, index) => FIRST_PORT + index);
  const initContainers = servers.map(({ name, token }, index) => ({
    name,
    image,
    restartPolicy: 'Always',
    command: ['/opt/mcp/node', '/opt/mcp/server.mjs', String(ports[index]), name, token],
    startupProbe: { tcpSocket: { port: ports[index] }, periodSeconds: 1, failureThreshold: 60 },
    securityContext: { runAsUser: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false },
  }));
  return { ports, config: { podTemplate: { spec: { initContainers } } }, close: () => {} };
}
