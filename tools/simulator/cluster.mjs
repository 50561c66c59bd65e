// Starts the embedded cluster and talks to its control API. Used by `npm start` and by the tests.
import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync } from 'node:fs';
import https from 'node:https';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Where cargo leaves the release builds of the cluster and of the fake CLI. */
export const programs = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');

/**
 * Starts a cluster of its own on loopback. It ends with `stop()`, or with this process.
 *
 * @param {{port?: number, binDirs?: string[], args?: string[], env?: Record<string, string>}} [options] `binDirs` come
 *   first on the PATH of every container, by default the fake CLI's; `env` is added to the cluster's own environment.
 *   What it writes to stderr is kept in the folder EMBEDDED_CLUSTER_LOGS, where that is set.
 */
export async function startCluster({ port = 0, binDirs = [programs], args = [], env } = {}) {
  const child = spawn(
    path.join(programs, 'embedded-cluster'),
    ['--exit-on-stdin-eof', '--port', String(port), ...binDirs.flatMap((dir) => ['--bin-dir', dir]), ...args],
    // A group of its own: a Ctrl-C at the terminal is for this process, which then ends the cluster in order.
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true, env: { ...process.env, ...env } },
  );
  let stderr = '';
  const { EMBEDDED_CLUSTER_LOGS: logs } = process.env;
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr = (stderr + text).slice(-16_384);
    if (logs) appendFileSync(path.join(logs, `embedded-cluster-${child.pid}.log`), text);
  });
  const exited = new Promise((resolve) => {
    child.once('exit', resolve);
  });
  const ready = await new Promise((resolve, reject) => {
    child.once('error', reject);
    createInterface({ input: child.stdout }).once('line', (line) => resolve(JSON.parse(line)));
    exited.then((code) => reject(new Error(stderr.trim() || `the embedded cluster ended with ${code}`)));
  });
  const ca = readFileSync(ready.caFile);
  const agent = new https.Agent({ ca, keepAlive: true, maxSockets: 4 });

  /** One request; resolves to the parsed answer, rejects for anything but 2xx. */
  function request(method, where, body, { token = ready.token, type = 'application/json' } = {}) {
    const text = body === undefined ? '' : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const call = https.request(new URL(where, ready.url), {
        method,
        agent,
        // Without a length Node sends the body of a DELETE unframed, and the server does not read its propagation policy.
        headers: {
          authorization: `Bearer ${token}`,
          'content-type': type,
          'content-length': Buffer.byteLength(text),
        },
      });
      call.once('error', (error) => {
        // A kept connection was closed meanwhile: the request is sent again, on another one.
        if (call.reusedSocket && isReset(error)) resolve(request(method, where, body, { token, type }));
        else reject(error);
      });
      call.once('response', (response) => {
        let answer = '';
        response.setEncoding('utf8').on('data', (chunk) => {
          answer += chunk;
        });
        response.once('end', () => {
          const { statusCode = 0 } = response;
          if (statusCode >= 200 && statusCode < 300) {
            resolve(answer ? parsed(answer) : undefined);
          } else {
            reject(new Error(`${method} ${where}: ${statusCode} ${answer}`));
          }
        });
        response.once('error', reject);
      });
      call.end(text);
    });
  }

  return {
    ...ready,
    request,
    get: (where) => request('GET', where),
    post: (where, body = {}) => request('POST', where, body),
    delete: (where) => request('DELETE', where),
    /** What the cluster wrote to stderr. */
    errors: () => stderr,
    async stop() {
      agent.destroy();
      child.stdin.end();
      await exited;
    },
  };
}

/** Whether a connection was broken off. @param {NodeJS.ErrnoException} error */
export const isReset = ({ code }) => code === 'ECONNRESET' || code === 'EPIPE';

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
