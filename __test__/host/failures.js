// What can go wrong in the cluster, each on a cluster of its own: how it is brought about, and how it is repaired.
import { eventually, order, seen } from './support.js';
import { play } from './tasks.js';

/**
 * @typedef {object} Scene
 * @property {string} namespace
 * @property {string} kubeconfig of the account under which the runs act
 * @property {(method: string, path: string, body?: unknown, type?: string) => Promise<any>} request as an administrator
 * @property {(where: string, body?: unknown) => Promise<any>} control the embedded cluster's own API
 * @property {(where: string) => Promise<any>} undo deletes below the embedded cluster's own API
 * @property {() => Promise<any>} job the run's Job, once it exists
 * @property {() => Promise<any>} pod its pod, once it exists
 * @property {() => Promise<unknown>} begun once the agent has said something
 */
/**
 * @typedef {object} Failure
 * @property {string} name as the table names it
 * @property {string[]} codes what the run may end with
 * @property {object} [settings] of the embedded cluster
 * @property {Record<string, string>} [env]
 * @property {(scene: Scene) => object | Promise<object>} [config]
 * @property {boolean} [configured] the repair is one of the agent's configuration
 * @property {(scene: Scene) => Promise<unknown>} [before]
 * @property {(scene: Scene) => Promise<unknown>} [during]
 * @property {(scene: Scene) => Promise<unknown>} [repair]
 */

const RUNNER = 'system:serviceaccount:paperclip:runner';
const MERGE = 'application/merge-patch+json';
const pathOf = (s, kind, name = '', rest = '') =>
  `${kind === 'jobs' ? '/apis/batch/v1' : '/api/v1'}/namespaces/${s.namespace}/${kind}${name && `/${name}`}${rest}`;

/** Faults of the requests that runs make. */
export const fault = (match, action) => (s) =>
  s.control('/simulator/faults', { match: { user: RUNNER, ...match }, action });
export const noFaults = (s) => s.undo('/simulator/faults');
const settings = (changed) => (s) => s.control('/simulator/settings', changed);
const quota = (hard) => ({
  before: (s) =>
    s.request('POST', pathOf(s, 'resourcequotas'), {
      apiVersion: 'v1',
      kind: 'ResourceQuota',
      metadata: { name: 'full' },
      spec: { hard },
    }),
  repair: (s) => s.request('DELETE', pathOf(s, 'resourcequotas', 'full')),
});
const policy = (resource, rule) => ({
  before: (s) =>
    s.control('/simulator/policies', {
      name: 'policy',
      resource,
      labels: { 'paperclip.io/adapter-type': 'claude_k8s' },
      ...rule,
    }),
  repair: (s) => s.undo('/simulator/policies/policy'),
});
const act = (action, body) => async (s) =>
  s.control(`/simulator/pods/${s.namespace}/${(await s.pod()).metadata.name}/${action}`, body);
const deleteJob = async (s) =>
  s.request('DELETE', pathOf(s, 'jobs', (await s.job()).metadata.name), { propagationPolicy: 'Background' });

/** With two dozen tasks at once a run waits for its turn in the host. */
const PATIENT = { within: 240_000, every: 500 };

/** The retry of a run that was disturbed is not: it ends by itself. */
const COUNTING = { CLAUDE_STAND_IN_SCENARIO: 'long', CLAUDE_STAND_IN_SECONDS: '25' };
const disturbed = (name, codes, during, more = {}) => ({
  name,
  codes,
  env: COUNTING,
  during: async (s) => {
    await s.begun();
    await during(s);
  },
  ...more,
});

/** @type {Failure[]} */
export const failures = [
  // Before the CLI runs.
  {
    name: 'image cannot be pulled',
    codes: ['k8s_pod_schedule_failed'],
    config: () => ({ image: 'missing/agent:1', imagePullGraceSec: 0 }),
    repair: settings({ unpullable: [] }),
  },
  {
    name: 'pod cannot be scheduled',
    codes: ['k8s_pod_schedule_failed'],
    settings: { unschedulable: true },
    config: () => ({ unschedulableGraceSec: 1 }),
    repair: settings({ unschedulable: false }),
  },
  { name: 'quota of Jobs used up', codes: ['k8s_job_create_failed'], ...quota({ 'count/jobs.batch': '0' }) },
  {
    name: 'quota of pods used up',
    codes: ['k8s_pod_schedule_failed'],
    config: () => ({ podStartTimeoutSec: 5 }),
    ...quota({ pods: '0' }),
  },
  { name: 'Job refused by a webhook', codes: ['k8s_job_create_failed'], ...policy('jobs', { deny: 'no' }) },
  {
    name: 'pod refused by a webhook',
    codes: ['k8s_pod_schedule_failed'],
    config: () => ({ podStartTimeoutSec: 5 }),
    ...policy('pods', { deny: 'no' }),
  },
  {
    name: 'Jobs may not be listed',
    codes: ['k8s_concurrency_guard_unreachable'],
    before: fault({ verb: 'list', resource: 'jobs' }, { status: { code: 403 } }),
    repair: noFaults,
  },
  {
    name: 'configuration invalid',
    codes: ['k8s_config_invalid', 'configuration_incomplete'],
    config: () => ({ tolerations: '{"not":"an array"}' }),
    configured: true,
  },
  {
    name: 'prompt over 1 MiB',
    codes: ['k8s_job_create_failed', 'k8s_config_invalid'],
    config: () => ({ promptTemplate: 'x'.repeat(1_100_000) }),
    configured: true,
  },
  {
    name: 'pod evicted before it started',
    codes: ['k8s_pod_schedule_failed', 'claude_truncated'],
    settings: { schedulingDelayMs: 600_000 },
    during: async (s) => {
      const { name } = (await s.pod()).metadata;
      const status = { phase: 'Failed', reason: 'Evicted', message: 'The node was low on resource: memory.' };
      await s.request('PATCH', pathOf(s, 'pods', name, '/status'), { status }, MERGE);
    },
    config: () => ({ podStartTimeoutSec: 20 }),
    repair: settings({ schedulingDelayMs: 0 }),
  },
  {
    name: 'own pod unreadable',
    codes: ['k8s_api_unreachable', 'k8s_config_invalid', 'k8s_own_pod_unreadable'],
    before: fault({ verb: 'get', resource: 'pods' }, { status: { code: 403 } }),
    repair: noFaults,
  },
  {
    name: 'kubeconfig missing',
    codes: ['k8s_config_invalid', 'configuration_incomplete', 'k8s_api_unreachable'],
    config: () => ({ kubeconfig: '/nowhere/kubeconfig' }),
    configured: true,
  },
  {
    name: 'kubeconfig broken',
    codes: ['k8s_config_invalid', 'configuration_incomplete', 'k8s_api_unreachable'],
    config: async () => ({ kubeconfig: await order('scene/file', { name: 'broken', text: 'clusters: {{' }) }),
    configured: true,
  },
  {
    name: 'API away before the start',
    codes: ['k8s_api_unreachable', 'k8s_concurrency_guard_unreachable'],
    before: fault({}, { refuse: true }),
    repair: noFaults,
  },
  {
    name: 'Job deleted before its pod ran',
    codes: ['k8s_job_deleted_externally'],
    settings: { schedulingDelayMs: 600_000 },
    during: deleteJob,
    config: () => ({ podStartTimeoutSec: 20 }),
    repair: settings({ schedulingDelayMs: 0 }),
  },
  {
    name: 'Job suspended by a queue',
    codes: ['k8s_pod_schedule_failed'],
    config: () => ({ queueTimeoutSec: 2 }),
    ...policy('jobs', { patch: [{ op: 'add', path: '/spec/suspend', value: true }] }),
  },
  {
    name: 'pod not scheduled in time',
    codes: ['k8s_pod_schedule_failed'],
    settings: { schedulingDelayMs: 600_000 },
    config: () => ({ podStartTimeoutSec: 5 }),
    repair: settings({ schedulingDelayMs: 0 }),
  },

  // While the CLI runs.
  disturbed('pod deleted', ['claude_truncated'], async (s) =>
    s.request('DELETE', pathOf(s, 'pods', (await s.pod()).metadata.name), { gracePeriodSeconds: 1 }),
  ),
  disturbed('pod evicted by its node', ['claude_truncated'], act('evict')),
  disturbed('pod preempted', ['claude_truncated'], act('preempt')),
  disturbed('node drained', ['claude_truncated'], async (s) => {
    const { name, namespace } = (await s.pod()).metadata;
    await s.request('POST', pathOf(s, 'pods', name, '/eviction'), {
      apiVersion: 'policy/v1',
      kind: 'Eviction',
      metadata: { name, namespace },
    });
  }),
  disturbed('pod evicted by a taint', ['claude_truncated'], act('taint')),
  disturbed('node lost', ['claude_truncated'], act('node-lost', { removeAfterMs: 500 })),
  disturbed('out of memory', ['claude_truncated'], act('oom')),
  disturbed('SIGKILL', ['claude_truncated'], act('kill', { signal: 'SIGKILL' })),
  disturbed('SIGTERM', ['claude_truncated', 'adapter_failed'], act('kill', { signal: 'SIGTERM' })),
  disturbed('Job deleted', ['k8s_job_deleted_externally'], deleteJob),
  disturbed('Job suspended', ['claude_truncated', 'k8s_job_deleted_externally'], async (s) => {
    const { name } = (await s.job()).metadata;
    await s.request('PATCH', pathOf(s, 'jobs', name), { spec: { suspend: true } }, MERGE);
  }),
  disturbed(
    'API away',
    ['k8s_job_state_mismatch', 'k8s_api_unreachable'],
    (s) => s.control('/simulator/restart', { downMs: 45_000 }),
    {
      config: () => ({ apiOutageSec: 10 }),
      // The Job runs on, and the next run attaches to it.
      env: { CLAUDE_STAND_IN_SCENARIO: 'long', CLAUDE_STAND_IN_SECONDS: '90' },
      repair: (s) => eventually(() => s.request('GET', '/version').catch(() => false), 'the API'),
    },
  ),
  {
    name: 'time limit',
    codes: ['timeout'],
    env: { CLAUDE_STAND_IN_SCENARIO: 'hang' },
    config: () => ({ timeoutSec: 10, graceSec: 0 }),
  },
  {
    name: 'crash',
    codes: ['claude_truncated', 'adapter_failed'],
    env: { CLAUDE_STAND_IN_SCENARIO: 'crash' },
  },
  { name: 'exit code 3', codes: ['adapter_failed'], env: { CLAUDE_STAND_IN_SCENARIO: 'exit-code' } },
];

/**
 * Starts the cluster of a failure.
 *
 * @param {string} id
 * @param {object} [changed] settings of the embedded cluster
 */
export async function startScene(id, changed) {
  const { namespace, kubeconfig } = await order('scene/start', { id, settings: changed });
  const request = (method, path, body, type) => order('scene/request', { id, method, path, body, type });
  return {
    namespace,
    kubeconfig,
    request,
    control: (where, body = {}) => request('POST', where, body),
    undo: (where) => request('DELETE', where),
    stop: () => order('scene/stop', { id }),
  };
}

/** The first object of the agent's runs in a cluster. */
const first = (scene, path) =>
  eventually(
    async () => {
      const label = encodeURIComponent('paperclip.io/adapter-type=claude_k8s');
      return (await scene.request('GET', `${path}?labelSelector=${label}`)).items[0];
    },
    path,
    PATIENT,
  );

/**
 * Plays a failure on a cluster of its own.
 *
 * @param {{id: string}} company
 * @param {Failure} failure
 * @param {string} id of the cluster
 */
export async function playOn(company, failure, id) {
  const started = await startScene(id, failure.settings);
  const common = { kubeconfig: started.kubeconfig };
  const wrong = await failure.config?.(/** @type {any} */ (started));
  const sceneOf = (run) => ({
    ...started,
    begun: () => seen(run, 'tick 2 of', PATIENT),
    job: () => first(started, `/apis/batch/v1/namespaces/${started.namespace}/jobs`),
    pod: () => first(started, `/api/v1/namespaces/${started.namespace}/pods`),
  });
  try {
    await failure.before?.(/** @type {any} */ (started));
    return await play(company, {
      name: failure.name,
      env: failure.env ?? { CLAUDE_STAND_IN_SCENARIO: 'success' },
      config: { ...common, ...wrong },
      repaired: failure.configured ? common : undefined,
      during: async ({ run }) => failure.during?.(/** @type {any} */ (sceneOf(run))),
      repair: async () => failure.repair?.(/** @type {any} */ (started)),
    });
  } finally {
    await started.stop();
  }
}
