// Runs of the adapter with the real CLI, and everything about each: its result, its log, the UI's entries, and the
// requests to the API.
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { agentLines, eventually, hostRun } from '../support/host.js';
import { cliCluster, sharedFolder } from './clusters.js';

const { parseStdoutLine } = createRequire(import.meta.url)('../../js/ui-parser.cjs');

export const adapter = createServerAdapter();
/** The folder for logs; `run.mjs` sets it. */
export const LOGS = process.env.REAL_CLI_LOGS ?? tmpdir();

/** The cluster, with this process as the host in its pod. */
export async function openForHost() {
  const cluster = await cliCluster();
  Object.assign(process.env, {
    HOSTNAME: cluster.hostPod,
    PAPERCLIP_NAMESPACE: cluster.namespace,
    PAPERCLIP_HOME: sharedFolder(cluster, 'real-cli-home'),
    PAPERCLIP_API_URL: '',
  });
  sharedFolder(cluster, 'real-cli');
  return cluster;
}

/**
 * Starts a run in its own workspace; `done` resolves to everything about it.
 *
 * @param {import('./clusters.js').CliCluster} cluster
 * @param {{name: string, prompt?: string, api?: Record<string, string | number>, env?: Record<string, string>, config?: object,
 *   workspace?: string, runtime?: object, signal?: AbortSignal, agent?: object}} options `api` are the settings of the
 *   fake API, without their prefix
 */
export function start(cluster, { name, prompt = 'Say hello', api = {}, env, config, workspace, ...rest }) {
  const id = `${name}-${randomUUID().slice(0, 8)}`;
  const folder = workspace ?? `real-cli/${id}`;
  sharedFolder(cluster, folder);
  const record = `real-cli/${id}.record.jsonl`;
  const { ctx, output } = hostRun(cluster, {
    config: {
      promptTemplate: prompt,
      ...cluster.config,
      ...config,
      env: {
        // The CLI calls only the fake API.
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
        DISABLE_TELEMETRY: '1',
        ANTHROPIC_STAND_IN_RECORD: `/paperclip/${record}`,
        ...Object.fromEntries(
          Object.entries(api).map(([key, value]) => [`ANTHROPIC_STAND_IN_${key}`, String(value)]),
        ),
        ...cluster.env,
        ...env,
      },
    },
    context: { paperclipWorkspace: { cwd: `/paperclip/${folder}` } },
    ...rest,
  });
  const logs = path.join(LOGS, id);
  mkdirSync(logs, { recursive: true });
  const { onLog } = ctx;
  ctx.onLog = async (stream, chunk) => {
    // As it happens, for a run that never ends.
    appendFileSync(path.join(logs, `${stream}.log`), chunk);
    await onLog(stream, chunk);
  };
  const run = { folder, logs, ctx, output, agentId: ctx.agent.id };
  run.done = finish(cluster, run, path.join(cluster.volume, record));
  // If the spec fails first, nothing awaits the promise.
  run.done.catch(() => {});
  return run;
}

/** Runs to the end. */
export const play = (cluster, options) => start(cluster, options).done;

async function finish(cluster, run, record) {
  const began = Date.now();
  let result;
  try {
    result = await adapter.execute(run.ctx);
  } finally {
    if (existsSync(record)) copyFileSync(record, path.join(run.logs, 'requests.jsonl'));
    writeFileSync(
      path.join(run.logs, 'result.json'),
      JSON.stringify({ ms: Date.now() - began, result }, null, 2),
    );
  }
  await nothingLeft(cluster, run);
  const lines = agentLines(run.output);
  const events = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  const ids = events.map(({ uuid }) => uuid).filter(Boolean);
  expect(ids.length - new Set(ids).size, 'events that came twice').toBe(0);
  const asked = existsSync(record)
    ? readFileSync(record, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [];
  return {
    ...run,
    result,
    events,
    /** Lines that are neither events nor the adapter's. */
    otherLines: lines.filter((line) => !line.startsWith('{')),
    /** The UI's entries, without those for lines it does not know. */
    entries: lines.flatMap((line) => parseStdoutLine(line, 'now')).filter(({ kind }) => kind !== 'stdout'),
    asked: asked.filter((request) => request.path === '/v1/messages'),
    everythingAsked: asked,
  };
}

async function nothingLeft(cluster, { agentId, output }) {
  const [, job] = /Created K8s Job: (\S+)/.exec(output.stdout) ?? [];
  const selector = encodeURIComponent(`paperclip.io/agent-id=${agentId}`);
  const ns = cluster.namespace;
  let left;
  await eventually(
    async () => {
      const lists = await Promise.all([
        cluster.get(`/apis/batch/v1/namespaces/${ns}/jobs?labelSelector=${selector}`),
        cluster.get(`/api/v1/namespaces/${ns}/pods?labelSelector=${selector}`),
        cluster.get(`/api/v1/namespaces/${ns}/secrets`),
      ]);
      const [jobs, pods, secrets] = lists.map(({ items }) => items.map(({ metadata }) => metadata.name));
      left = [...jobs, ...pods, ...secrets.filter((name) => name === `${job}-prompt`)];
      return left.length === 0;
    },
    { within: 60_000, every: 250 },
  ).catch(() => expect(left, 'left behind').toEqual([]));
}

/** Processes of the pods of this test. */
export function processesLeft(cluster) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return `${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')}`;
      } catch {
        return '';
      }
    })
    .filter((line) => line.includes(cluster.marker));
}

/** Tokens of every answer that the API gave, added up. */
export function tokensOf(asked) {
  const sum = (key) => asked.reduce((total, { usage }) => total + (usage?.[key] ?? 0), 0);
  return {
    // Those that are written to the cache are billed, too.
    inputTokens: sum('input_tokens') + sum('cache_creation_input_tokens'),
    cachedInputTokens: sum('cache_read_input_tokens'),
    outputTokens: sum('output_tokens'),
  };
}

/** Reads the list that the fake API answered with. */
export function listIn(text, prefix) {
  expect(text.startsWith(`${prefix}: `), text).toBe(true);
  return JSON.parse(text.slice(prefix.length + 2));
}
