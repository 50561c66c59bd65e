// A host process: plays the attacks of a batch at once, with quiet runs beside them, and prints what came of it as JSON.
// argv: the name of the batch, and the cluster as JSON.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import { createServerAdapter } from '../../index.js';
import { agentLines, eventually, hostRun } from '../support/host.js';
import { BATCHES } from './attacks/index.js';

const QUIET_RUNS = 20;
/** How long a batch may take; then the attack that is under way has succeeded. */
const LIMIT_MS = 240_000;

/**
 * @typedef {object} HostileHost what an attack has at hand
 * @property {{kubeconfig: string, namespace: string}} cluster
 * @property {(code: string, options?: any) => Promise<{result: any, output: any, longest: number, runId: string}>} agent
 *   one run of an agent that is this JavaScript; `keep: false` keeps only the adapter's lines of its output
 * @property {(runId: string) => Promise<void>} assertNothingIsLeft
 */

const [, , batch, json] = process.argv;
const cluster = JSON.parse(json);
const attacks = BATCHES[batch];
const adapter = createServerAdapter();
// As in a pod, where the host has a cluster without any kubeconfig.
Object.assign(process.env, { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: '1' });

/** @type {HostileHost} */
const host = {
  cluster,
  agent: async (code, { keep = true, config, ...options } = {}) => {
    let longest = 0;
    const { ctx, output } = hostRun(cluster, { config, env: { HOSTILE_AGENT: code }, ...options });
    if (!options.onLog) {
      ctx.onLog = async (stream, chunk) => {
        longest = Math.max(longest, chunk.length);
        if (keep || chunk.length < 1000) output[stream] += chunk;
        else if (chunk.includes('[paperclip]'))
          output[stream] += chunk.slice(chunk.lastIndexOf('[paperclip]'));
      };
    }
    const result = await adapter.execute(ctx);
    return { result, output, longest, runId: ctx.runId };
  },
  assertNothingIsLeft: async (runId) => {
    const jobs = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs`;
    await eventually(async () => {
      const { items } = await get(
        `${jobs}?labelSelector=${encodeURIComponent(`paperclip.io/run-id=${runId}`)}`,
      );
      return items.length === 0;
    });
  },
};

async function get(where) {
  const { default: https } = await import('node:https');
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${cluster.token}` };
    https
      .get(new URL(where, cluster.url), { ca: cluster.ca, headers, agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk) => (text += chunk));
        response.on('end', () => resolve(JSON.parse(text)));
      })
      .on('error', reject);
  });
}

/** A run that must not notice anything: its result, and what it printed. */
async function quiet() {
  const { ctx, output } = hostRun(cluster, { agent: { id: `quiet-${randomUUID()}` } });
  const { errorMessage, exitCode, summary, sessionId } = await adapter.execute(ctx);
  const gaps = output.stdout.match(/\[paperclip\] (?:Log gap|Log stream disconnected)/g) ?? [];
  // Ids and times differ from run to run.
  const events = agentLines(output).map((line) => JSON.parse(line));
  return {
    ...{ errorMessage, exitCode, summary, gaps, errors: output.stderr },
    types: events.map(({ type }) => type),
    isOneSession: events.every((event) => event.session_id === sessionId),
  };
}

const problems = [];
process.on('uncaughtException', (error) => problems.push(`uncaught: ${error?.stack}`));
process.on('unhandledRejection', (error) => problems.push(`unhandled: ${String(error)}`));

const expected = await quiet();
await sleep(200);
globalThis.gc?.();
const idle = process.memoryUsage().rss;
let most = 0;
let lag = 0;
let last = performance.now();
const watch = setInterval(() => {
  most = Math.max(most, process.memoryUsage().rss);
  lag = Math.max(lag, performance.now() - last - 20);
  last = performance.now();
}, 20);

async function played({ name, play }) {
  const limit = new AbortController();
  try {
    await Promise.race([
      play(host),
      sleep(LIMIT_MS, undefined, { signal: limit.signal }).then(() => assert.fail('it does not end')),
    ]);
    return { name };
  } catch (error) {
    return { name, problem: error?.stack ?? String(error) };
  } finally {
    limit.abort();
  }
}

const runs = Promise.all(
  Array.from({ length: QUIET_RUNS }, async () => {
    try {
      assert.deepEqual(await quiet(), expected);
    } catch (error) {
      problems.push(`a quiet run noticed: ${error?.message}`);
    }
  }),
);
const results = await Promise.all(attacks.map(played));
await runs;
clearInterval(watch);
const MB = 1024 * 1024;
const report = {
  results,
  problems,
  memory: Math.round((most - idle) / MB),
  idle: Math.round(idle / MB),
  lag: Math.round(lag),
};
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
