// An agent, or a callback of the host, attacks the host: it goes on, quiet runs beside do not notice, its memory is bounded.
import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { programs } from '../../tools/simulator/cluster.mjs';
import { clusterForHost } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';
import { BATCHES } from './attacks/index.js';

/** How much memory a host may take over what it has when idle, with all attacks of a batch and the quiet runs. */
const MOST_MEMORY_MB = 150;

/** A `claude` that runs the code of a hostile agent, and else is the fake CLI. */
function hostileClaude() {
  const folder = path.join(temporaryFolder('hostile'), 'bin');
  mkdirSync(folder);
  const file = path.join(folder, 'claude');
  writeFileSync(
    file,
    `#!/bin/sh
if [ -z "$HOSTILE_AGENT" ]; then exec '${path.join(programs, 'claude')}' "$@"; fi
cat > /dev/null
exec '${process.execPath}' -e "$HOSTILE_AGENT"
`,
  );
  chmodSync(file, 0o755);
  return folder;
}

let cluster;
beforeAll(async () => {
  cluster = await clusterForHost({ binDirs: [hostileClaude(), programs] });
});
afterAll(() => cluster?.stop());

/** What the host process says of a batch. */
async function play(batch) {
  const { kubeconfig, namespace, url, token, caFile } = cluster;
  const order = JSON.stringify({ kubeconfig, namespace, url, token, ca: readFileSync(caFile, 'utf8') });
  const script = fileURLToPath(new URL('./host.mjs', import.meta.url));
  const child = spawn(process.execPath, ['--expose-gc', script, batch, order], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [out, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (errors = (errors + text).slice(-8000)));
  const [code, signal] = await new Promise((resolve) => child.once('close', (...ended) => resolve(ended)));
  expect({ code, signal, errors }, 'the host process goes on').toEqual({ code: 0, signal: null, errors: '' });
  return JSON.parse(out);
}

describe('hostile agents and callbacks', () => {
  it.for(Object.keys(BATCHES))('%s', async (batch) => {
    const { results, problems, memory, idle, lag } = await play(batch);
    console.log(
      `${batch}: ${results.length} attacks, ${memory} MB over ${idle} MB idle, event loop late by ${lag} ms`,
    );
    expect(results.filter(({ problem }) => problem)).toEqual([]);
    expect(problems).toEqual([]);
    expect(memory).toBeLessThanOrEqual(MOST_MEMORY_MB);
  });

  it('are at least forty, each once', () => {
    const names = Object.values(BATCHES)
      .flat()
      .map(({ name }) => name);
    expect(names.length).toBeGreaterThanOrEqual(40);
    expect(new Set(names).size).toBe(names.length);
  });
});
