// Brings every cause of a failure about, each on a cluster of its own, and counts which are named rightly: the code, the object
// and the time.
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { startCluster } from '../../tools/simulator/cluster.mjs';
import { rows as table, wrongs } from '../support/causes.js';
import { RUN_JOBS, clusterForHost, eventually, gate, hostRun } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';
import { listenOnLoopback } from '../support/server.js';

const adapter = createServerAdapter();
/** All, or those that `CAUSES=code,code` names while working on them. */
const named = process.env.CAUSES?.split(',');
const rows = table.filter(({ cause, skip }) => !skip && (!named || named.includes(cause)));
const RUNNER = 'system:serviceaccount:paperclip:runner';
/** Nearly all of a row's time is waiting: for the run's own limits, some of them a minute. */
const AT_ONCE = 24;
/** The share of causes that must be named rightly. */
const WANTED = 0.98;

/** A kubeconfig of the account under which the run acts, and on which faults act. */
async function runnerOf(cluster, { watch = true }) {
  const verbs = watch ? ['*'] : ['create', 'get', 'list', 'patch', 'delete'];
  await cluster.post('/simulator/tokens', {
    token: 'runner-token',
    user: RUNNER,
    rules: [{ apiGroups: ['*'], resources: ['*'], verbs }],
  });
  const kubeconfig = `${cluster.kubeconfig}-runner`;
  const admin = readFileSync(cluster.kubeconfig, 'utf8');
  writeFileSync(kubeconfig, admin.replace(/token: .+/, 'token: runner-token'));
  return kubeconfig;
}

/**
 * Plays a row; resolves to the run's result and when it began.
 *
 * @param {import('../support/causes.js').Row} row
 */
async function play(row) {
  const cluster = await startCluster(row.binDirs && { binDirs: row.binDirs });
  try {
    const kubeconfig = await runnerOf(cluster, row);
    const controller = new AbortController();
    const last = gate();
    const options = {
      agent: { id: `agent-${randomUUID()}`, ...row.agent },
      runId: randomUUID(),
      scenario: row.scenario,
      env: { CLAUDE_STAND_IN_SECONDS: '300', ...last.env, ...row.env },
      config: { kubeconfig, ...row.config },
      context: row.context,
      runtime: row.runtime,
      signal: controller.signal,
      ...(row.own === 'cancelled' && { authToken: 'token' }),
    };
    const { ctx, output } = hostRun(cluster, options);
    const { namespace } = cluster;
    const first = (path) => eventually(async () => (await cluster.get(path)).items[0], { every: 20 });
    /** @type {import('../support/causes.js').Scene} */
    const scene = {
      request: (method, path, body, more) => cluster.request(method, path, body, more),
      control: cluster.post,
      namespace,
      ctx,
      output,
      job: () => first(`/apis/batch/v1/namespaces/${namespace}/jobs?${RUN_JOBS}`),
      pod: () =>
        first(
          `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent('paperclip.io/agent-id')}`,
        ),
      begun: async () => {
        await eventually(() => output.stdout.includes('"subtype":"init"'));
      },
      open: last.open,
      heal: () => cluster.delete('/simulator/faults'),
      abort: () => controller.abort(),
      sleep: (ms) => sleep(ms),
    };
    await row.before?.(scene);
    if (row.settings) await cluster.post('/simulator/settings', row.settings);
    for (const fault of row.faults ?? []) await cluster.post('/simulator/faults', fault);
    const began = Date.now();
    const run =
      row.own === 'process'
        ? elsewhere(cluster, { ...options, signal: undefined }, output)
        : adapter.execute(ctx);
    const injected = Promise.resolve(row.during?.(scene)).then(last.open);
    const [result] = await Promise.all([run, injected]);
    return { result, began, ended: Date.now() };
  } finally {
    await cluster.stop();
  }
}

/** A run in a host process that is shut down as soon as the CLI has begun. */
async function elsewhere(cluster, options, output) {
  const host = startHost(cluster, { options, listen: true });
  Object.defineProperty(output, 'stdout', { get: () => host.output.stdout });
  await eventually(() => host.output.stdout.includes('"subtype":"init"'));
  host.child.kill('SIGTERM');
  await host.ended;
  return host.output.result;
}

describe('causes', () => {
  let home;
  let server;
  /** @type {Map<string, Promise<string[]>>} */
  const played = new Map();
  /** @type {string[]} */
  const right = [];

  beforeAll(async () => {
    home = await clusterForHost();
    // The control plane, for the row that it cancels.
    server = createServer((_, response) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ status: 'cancelled' }));
    });
    process.env.PAPERCLIP_API_URL = `http://127.0.0.1:${await listenOnLoopback(server)}`;
    const waiting = [...rows];
    const settle = new Map();
    for (const { cause } of rows) {
      played.set(
        cause,
        new Promise((resolve) => {
          settle.set(cause, resolve);
        }),
      );
    }
    const worker = async () => {
      for (let row = waiting.shift(); row; row = waiting.shift()) {
        const { cause } = row;
        const wrong = await play(row).then(
          (seen) => wrongs(row, seen),
          (error) => [String(error?.stack ?? error)],
        );
        if (wrong.length === 0) right.push(cause);
        settle.get(cause)(wrong);
      }
    };
    for (let n = 0; n < AT_ONCE; n += 1) void worker();
  });

  afterAll(async () => {
    delete process.env.PAPERCLIP_API_URL;
    server?.close();
    killHosts();
    await home.stop();
  });

  it.each(rows.map((row) => [row.cause, row]))('%s is named', async (cause) => {
    expect(await played.get(cause)).toEqual([]);
  });

  it('nearly all are named rightly', async () => {
    await Promise.all(played.values());
    const share = right.length / rows.length;
    console.log(`causes named rightly: ${right.length} of ${rows.length} (${(share * 100).toFixed(1)} %)`);
    expect(share).toBeGreaterThanOrEqual(WANTED);
  });
});
