// The host's part in a run, for tests of the built addon on the embedded cluster.
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';

import { startCluster } from '../../tools/simulator/cluster.mjs';
import { temporaryFolder } from './temporary.js';

/** Starts a cluster and gives this process the environment of the host's pod in it. */
export async function clusterForHost(options) {
  const cluster = await startCluster(options);
  Object.assign(process.env, {
    HOSTNAME: 'paperclip-0',
    PAPERCLIP_NAMESPACE: cluster.namespace,
    PAPERCLIP_HOME: temporaryFolder('paperclip-home'),
  });
  return cluster;
}

/**
 * @typedef {import('@paperclipai/adapter-utils').AdapterExecutionContext} Context
 * @typedef {{stdout: string, stderr: string, chunks: {stream: 'stdout' | 'stderr', chunk: string, at: number}[],
 *   meta: import('@paperclipai/adapter-utils').AdapterInvocationMeta[]}} Output everything that a run passed to its host
 */

/**
 * A context as the host passes it, and the run's output so far.
 *
 * @param {{kubeconfig: string}} cluster
 * @param {{scenario?: string, env?: Record<string, string>, config?: object, context?: object, agent?: object,
 *   runtime?: object, runId?: string, [key: string]: unknown}} [options]
 * @returns {{ctx: Context, output: Output}}
 */
export function hostRun(
  cluster,
  { scenario = 'success', env, config, context, agent, runtime, ...rest } = {},
) {
  /** @type {Output} */
  const output = { stdout: '', stderr: '', chunks: [], meta: [] };
  const ctx = {
    runId: randomUUID(),
    // A host passes more of an agent than the adapter reads.
    agent: /** @type {Context['agent']} */ ({
      id: `agent-${randomUUID()}`,
      companyId: 'company-1',
      name: 'Ada',
      ...agent,
    }),
    runtime: { sessionId: null, sessionParams: null, sessionDisplayId: null, taskKey: null, ...runtime },
    config: {
      kubeconfig: cluster.kubeconfig,
      env: { CLAUDE_STAND_IN_SCENARIO: scenario, CLAUDE_STAND_IN_DELAY_MS: '5', ...env },
      ...config,
    },
    context: { taskId: 'task-1', ...context },
    onLog: async (/** @type {'stdout' | 'stderr'} */ stream, /** @type {string} */ chunk) => {
      output[stream] += chunk;
      output.chunks.push({ stream, chunk, at: Date.now() });
    },
    onMeta: async (meta) => {
      output.meta.push(meta);
    },
    ...rest,
  };
  return { ctx, output };
}

/**
 * What the host passes to the environment test.
 *
 * @param {string} kubeconfig
 */
export function environmentOf(kubeconfig) {
  return { companyId: 'company-1', adapterType: 'claude_k8s', config: { kubeconfig } };
}

/**
 * The evidence of a run, if it has any.
 *
 * @param {import('@paperclipai/adapter-utils').AdapterExecutionResult} result
 * @returns {import('../../index.js').ClaudeK8sEvidence | undefined}
 */
export function evidenceOf({ resultJson }) {
  return /** @type {any} */ (resultJson)?.k8s;
}

/**
 * Keeps the fake CLI of a `long` run before its last event until `open` is called: what a test does to a run happens
 * before its end, however slow the machine is. `env` is added to the run's.
 */
export function gate() {
  const file = path.join(temporaryFolder('gate'), 'open');
  return { env: { CLAUDE_STAND_IN_HOLD: file }, open: () => writeFileSync(file, '') };
}

/** The lines that the agent printed, without the adapter's. */
export function agentLines(output) {
  return output.stdout.split('\n').filter((line) => line && !line.startsWith('[paperclip]'));
}

/** Selects the Jobs and the Secrets of runs, not claims or barriers. */
export const RUN_JOBS = `labelSelector=${encodeURIComponent('paperclip.io/adapter-type=claude_k8s')}`;

/**
 * Names of the Jobs and Secrets that runs left in the cluster. The cluster collects the Secret of a run whose Job is gone in
 * its own time, which is waited for; one that it does not collect is left.
 */
export async function leftovers(cluster) {
  const ns = cluster.namespace;
  const read = async () => {
    const { items: jobs } = await cluster.get(`/apis/batch/v1/namespaces/${ns}/jobs`);
    const { items: secrets } = await cluster.get(`/api/v1/namespaces/${ns}/secrets?${RUN_JOBS}`);
    const uids = new Set(jobs.map(({ metadata }) => metadata.uid));
    const stays = ({ metadata: { ownerReferences = [] } }) =>
      ownerReferences.length === 0 || ownerReferences.some(({ uid }) => uids.has(uid));
    return { left: [...jobs, ...secrets], isSettled: secrets.every(stays) };
  };
  let seen = await read();
  await eventually(async () => seen.isSettled || (seen = await read()).isSettled, { within: 10_000 }).catch(
    () => {},
  );
  return seen.left.map(({ metadata }) => metadata.name);
}

/** Names of the pods of runs that are in the cluster. */
export async function podsOf(cluster) {
  const selector = encodeURIComponent('paperclip.io/agent-id');
  const { items } = await cluster.get(
    `/api/v1/namespaces/${cluster.namespace}/pods?labelSelector=${selector}`,
  );
  return items.map(({ metadata }) => metadata.name);
}

/**
 * Polls until `check` gives something truthy and resolves to it. The limit ends a test that waits in vain, and says
 * nothing of how long it should take.
 *
 * @template T
 * @param {() => T | Promise<T>} check
 * @param {{within?: number, every?: number}} [times] in milliseconds
 * @returns {Promise<NonNullable<T>>}
 */
export async function eventually(check, { within = 90_000, every = 25 } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not seen within ${within} ms: ${check}`);
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}
