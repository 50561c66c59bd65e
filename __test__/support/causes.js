// Every cause of src/forensics/cause.rs with a way to bring it about. `causes.test.js` of the embedded cluster plays all of
// them; a real cluster can show those with `real`.
import { createHash } from 'node:crypto';

import { evidenceOf } from './host.js';

/**
 * What an injection may use.
 *
 * @typedef {object} Scene
 * @property {(method: string, path: string, body?: unknown, options?: {type?: string}) => Promise<any>} request as an
 *   administrator of the cluster
 * @property {(path: string, body?: unknown) => Promise<any>} control the embedded cluster's own API
 * @property {string} namespace
 * @property {any} ctx
 * @property {{stdout: string, stderr: string}} output
 * @property {() => Promise<any>} job the run's Job, once it exists
 * @property {() => Promise<any>} pod its pod, once it exists
 * @property {() => Promise<void>} begun once the CLI has printed its first event
 * @property {() => void} open lets a CLI that holds its last event print it; after `during` it may in any case
 * @property {() => Promise<void>} heal ends the faults of the embedded cluster
 * @property {() => void} abort
 * @property {(ms: number) => Promise<void>} sleep
 */
/**
 * @typedef {object} Row
 * @property {string} cause
 * @property {'Run' | 'Job' | 'Pod'} about what the summary must name
 * @property {string} [scenario] of the fake CLI
 * @property {Record<string, string>} [env] of the container
 * @property {object} [config]
 * @property {object} [context]
 * @property {object} [agent]
 * @property {object} [runtime]
 * @property {object} [settings] of the embedded cluster
 * @property {object[]} [faults] of the embedded cluster
 * @property {string[]} [binDirs] on the PATH of the containers
 * @property {(s: Scene) => Promise<unknown>} [before]
 * @property {(s: Scene) => Promise<unknown>} [during]
 * @property {string} [own] `process`: the host is a process of its own
 * @property {boolean} [watch] false: the run may not watch
 * @property {boolean} [success] the run succeeds, and its evidence is a warning
 * @property {boolean} [real] a real cluster can show it, too
 * @property {string} [skip] why it is not brought about
 */

const RUNNER = 'system:serviceaccount:paperclip:runner';
/** The first Job that a run creates is its claim. */
const PAST_CLAIM = { skip: 1 };

/** A fault of the API server for requests of the run. */
function fault(verb, resource, action, more = {}) {
  return { match: { user: RUNNER, verb, ...(resource && { resource }) }, action, ...more };
}
const answer = (code, message) => ({ status: { code, ...(message && { message }) } });

/**
 * A run whose CLI reports this error of the model's API.
 *
 * @param {string} cause
 * @param {{error?: string, limit?: object, result: object}} said
 */
const apiError = (cause, { error, limit, result }) => {
  const lines = [
    { type: 'system', subtype: 'init', session_id: 's', model: 'claude-x' },
    ...(limit ? [{ type: 'rate_limit_event', rate_limit_info: limit, session_id: 's' }] : []),
    { type: 'assistant', error, message: { id: 'm', content: [] }, session_id: 's' },
    { type: 'result', subtype: 'success', is_error: true, session_id: 's', ...result },
  ];
  return {
    cause,
    about: /** @type {const} */ ('Pod'),
    scenario: 'script',
    env: {
      CLAUDE_STAND_IN_EVENTS: lines.map((line) => JSON.stringify(line)).join('\n'),
      CLAUDE_STAND_IN_EXIT_CODE: '1',
    },
    real: true,
  };
};

/** The status of a resource, changed as its controller would. */
const patchStatus = (s, kind, name, status) =>
  s.request('PATCH', pathOf(s, kind, name, '/status'), { status }, { type: 'application/merge-patch+json' });
const pathOf = (s, kind, name = '', rest = '') => {
  const api = kind === 'jobs' ? '/apis/batch/v1' : '/api/v1';
  return `${api}/namespaces/${s.namespace}/${kind}${name && `/${name}`}${rest}`;
};

let events = 0;
/** An Event about an object, as a controller writes it. */
async function event(s, object, kind, reason, message) {
  const { name, namespace, uid } = object.metadata;
  const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  await s.request('POST', pathOf(s, 'events'), {
    apiVersion: 'v1',
    kind: 'Event',
    metadata: { name: `${name}.${(events += 1)}`, namespace },
    involvedObject: { kind, name, namespace, uid, apiVersion: kind === 'Job' ? 'batch/v1' : 'v1' },
    reason,
    message,
    type: 'Warning',
    count: 1,
    firstTimestamp: now,
    lastTimestamp: now,
  });
}

// Before the pod exists.

/** The Job controller does nothing but say why. */
const refusedPod = (cause, message, more = {}) => ({
  cause,
  about: 'Job',
  settings: { jobControllerPaused: true },
  during: async (s) => event(s, await s.job(), 'Job', 'FailedCreate', `Error creating: ${message}`),
  ...more,
});

/** A live Job of the agent. */
const otherJob = (cause, labels, more = {}) => ({
  cause,
  about: 'Job',
  runtime: { sessionId: '11111111-1111-4111-8111-111111111111', sessionParams: null },
  before: (s) => {
    const all = {
      'app.kubernetes.io/managed-by': 'paperclip',
      'paperclip.io/adapter-type': 'claude_k8s',
      'paperclip.io/agent-id': s.ctx.agent.id,
      'paperclip.io/run-id': 'run-0',
      ...(typeof labels === 'function' ? labels(s) : labels),
    };
    return s.request('POST', pathOf(s, 'jobs'), {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'ac-other', labels: all },
      spec: {
        // Without a pod.
        parallelism: 0,
        template: {
          metadata: { labels: all },
          spec: {
            restartPolicy: 'Never',
            containers: [{ name: 'claude', image: 'paperclip/agent:embedded' }],
          },
        },
      },
    });
  },
  ...more,
});

/** The name of a run's Job (docs/contract.md, "Job manifest"). */
function jobName(agent, run) {
  const part = (id) =>
    id
      .toLowerCase()
      .replaceAll(/[^a-z0-9-]/g, '-')
      .slice(0, 16)
      .replaceAll(/^-+|-+$/g, '');
  const hash = createHash('sha256').update(`${agent}:${run}`).digest('hex').slice(0, 6);
  return `ac-${part(agent)}-${part(run)}-${hash}`;
}

// Before the container runs: no scheduler and no kubelet touch the pod, so that it says what a row has it say.

const HELD = { schedulingDelayMs: 600_000 };
const QUICK = { podStartTimeoutSec: 2, imagePullGraceSec: 0 };

const pending = (cause, status, more = {}) => ({
  cause,
  about: 'Pod',
  settings: HELD,
  config: QUICK,
  during: async (s) => {
    const { metadata } = await s.pod();
    await patchStatus(s, 'pods', metadata.name, status());
  },
  ...more,
});
const now = () => new Date().toISOString().replace(/\.\d+Z$/, 'Z');
const scheduled = () => ({ type: 'PodScheduled', status: 'True', lastTransitionTime: now() });
const unschedulable = (cause, message) =>
  pending(cause, () => ({
    phase: 'Pending',
    conditions: [
      { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message, lastTransitionTime: now() },
    ],
  }));
const container = (name, state) => ({
  name,
  image: 'paperclip/agent:embedded',
  imageID: '',
  ready: false,
  restartCount: 0,
  state,
});
const waits = (cause, reason, message, more) =>
  pending(
    cause,
    () => ({
      phase: 'Pending',
      conditions: [scheduled()],
      containerStatuses: [container('claude', { waiting: { reason, message } })],
    }),
    more,
  );
const refusedByNode = (cause, reason, message) =>
  pending(cause, () => ({ phase: 'Failed', reason, message }));
/** A pod on its node that does not start, and what its Events say. */
const slow = (cause, reason, message) =>
  pending(cause, undefined, {
    during: async (s) => {
      const pod = await s.pod();
      await patchStatus(s, 'pods', pod.metadata.name, {
        phase: 'Pending',
        conditions: [scheduled()],
        containerStatuses: [container('claude', { waiting: { reason: 'ContainerCreating' } })],
      });
      if (reason) await event(s, pod, 'Pod', reason, message);
    },
  });

// While the container runs.

const running = (cause, during, more = {}) => ({
  cause,
  about: 'Pod',
  scenario: 'hang',
  during: async (s) => {
    await s.begun();
    await during(s);
  },
  ...more,
});
const act = (action, body) => async (s) =>
  s.control(`/simulator/pods/${s.namespace}/${(await s.pod()).metadata.name}/${action}`, body);
const deleteJob = (propagationPolicy) => async (s) =>
  s.request('DELETE', pathOf(s, 'jobs', (await s.job()).metadata.name), { propagationPolicy });
const patchJob = (spec) => async (s) =>
  s.request(
    'PATCH',
    pathOf(s, 'jobs', (await s.job()).metadata.name),
    { spec },
    { type: 'application/merge-patch+json' },
  );
const deletePod = (gracePeriodSeconds) => async (s) =>
  s.request('DELETE', pathOf(s, 'pods', (await s.pod()).metadata.name), { gracePeriodSeconds });
/** The guard has listed the pods by then. */
const afterCreation = (one) => async (s) => {
  await s.job();
  await s.control('/simulator/faults', one);
};
const deny = (resource, message) => (s) =>
  s.control('/simulator/policies', {
    name: 'policy',
    resource,
    labels: { 'paperclip.io/adapter-type': 'claude_k8s' },
    deny: message,
  });

export const rows = /** @type {Row[]} */ ([
  // Configuration.
  { cause: 'config_invalid', about: 'Run', config: { tolerations: '{"not":"an array"}' } },
  { cause: 'agent_id_invalid', about: 'Run', agent: { id: '@@@' } },
  { cause: 'own_pod_unreadable', about: 'Run', faults: [fault('get', 'pods', answer(403))] },
  {
    cause: 'host_helper_failed',
    about: 'Run',
    before: async (s) => {
      s.ctx.onMeta = () => Promise.reject(new Error('the database is away'));
    },
  },
  { cause: 'bundle_failed', about: 'Run', agent: { companyId: '../else' } },

  // Another run of the agent.
  otherJob('other_task_alive', { 'paperclip.io/task-id': 'task-2' }),
  otherJob('other_session_alive', { 'paperclip.io/task-id': 'task-1', 'paperclip.io/session-id': 'other' }),
  otherJob('unknown_task_alive', {}),
  otherJob(
    'reattach_disabled',
    { 'paperclip.io/task-id': 'task-1' },
    { config: { reattachOrphanedJobs: false } },
  ),
  otherJob('same_run_alive', (s) => ({ 'paperclip.io/run-id': s.ctx.runId })),
  {
    cause: 'taken_over',
    about: 'Job',
    before: (s) =>
      s.request('POST', pathOf(s, 'jobs'), {
        apiVersion: 'batch/v1',
        kind: 'Job',
        metadata: {
          name: jobName(s.ctx.agent.id, s.ctx.runId),
          annotations: { 'paperclip.io/start-barred-for-job': 'ac-x' },
        },
        spec: {
          parallelism: 0,
          template: { spec: { restartPolicy: 'Never', containers: [{ name: 'barrier', image: 'i' }] } },
        },
      }),
  },
  { cause: 'guard_forbidden', about: 'Run', faults: [fault('list', 'jobs', answer(403))] },
  { cause: 'guard_unreachable', about: 'Run', faults: [fault('list', 'jobs', answer(503))] },

  // Creating the Job.
  {
    cause: 'job_quota_exceeded',
    about: 'Job',
    before: (s) =>
      s.request('POST', pathOf(s, 'resourcequotas'), {
        apiVersion: 'v1',
        kind: 'ResourceQuota',
        metadata: { name: 'jobs' },
        spec: { hard: { 'count/jobs.batch': '0' } },
      }),
  },
  {
    cause: 'job_admission_refused',
    about: 'Job',
    before: deny('jobs', 'no Jobs of this kind'),
  },
  {
    cause: 'job_create_forbidden',
    about: 'Job',
    faults: [
      fault(
        'create',
        'jobs',
        answer(
          403,
          `jobs.batch is forbidden: User "${RUNNER}" cannot create resource "jobs" in API group "batch"`,
        ),
      ),
    ],
  },
  {
    cause: 'job_invalid',
    about: 'Job',
    faults: [fault('create', 'jobs', answer(422, 'Job.batch "x" is invalid: spec: Forbidden'))],
  },
  { cause: 'namespace_missing', about: 'Job', config: { namespace: 'nowhere' } },
  {
    cause: 'namespace_terminating',
    about: 'Job',
    faults: [
      fault(
        'create',
        'jobs',
        answer(
          403,
          'jobs.batch "x" is forbidden: unable to create new content in namespace paperclip because it is being terminated',
        ),
      ),
    ],
  },
  {
    cause: 'job_create_timeout',
    about: 'Job',
    faults: [fault('create', 'jobs', answer(504, 'request did not complete'), PAST_CLAIM)],
  },
  {
    cause: 'job_create_unreachable',
    about: 'Job',
    faults: [fault('create', 'jobs', answer(503, 'etcd is gone'), PAST_CLAIM)],
  },
  {
    cause: 'job_create_failed',
    about: 'Job',
    faults: [fault('create', 'jobs', answer(405, 'no'), PAST_CLAIM)],
  },
  {
    cause: 'prompt_secret_failed',
    about: 'Job',
    config: { promptTemplate: 'x'.repeat(120_000) },
    faults: [fault('create', 'secrets', answer(403, 'no'))],
  },

  // No pod.
  {
    cause: 'pod_quota_exceeded',
    about: 'Job',
    before: (s) =>
      s.request('POST', pathOf(s, 'resourcequotas'), {
        apiVersion: 'v1',
        kind: 'ResourceQuota',
        metadata: { name: 'pods' },
        spec: { hard: { pods: '0' } },
      }),
  },
  refusedPod(
    'pod_security_refused',
    'pods "p" is forbidden: violates PodSecurity "restricted:latest": seccompProfile (pod or container "claude" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
  ),
  refusedPod(
    'limit_range_refused',
    'pods "p" is forbidden: maximum memory usage per Container is 1Gi, but limit is 8Gi',
  ),
  { cause: 'pod_admission_refused', about: 'Job', before: deny('pods', 'agents only on Sundays') },
  refusedPod(
    'service_account_missing',
    'pods "p" is forbidden: error looking up service account paperclip/nobody: serviceaccount "nobody" not found',
  ),
  refusedPod('pod_refused', 'Internal error occurred: something new'),
  {
    cause: 'job_suspended',
    about: 'Job',
    config: { queueTimeoutSec: 1 },
    before: (s) =>
      s.control('/simulator/policies', {
        name: 'queue',
        resource: 'jobs',
        labels: { 'paperclip.io/adapter-type': 'claude_k8s' },
        patch: [{ op: 'add', path: '/spec/suspend', value: true }],
      }),
  },
  { cause: 'pod_not_created', about: 'Job', settings: { jobControllerPaused: true } },

  // No node.
  pending(
    'scheduling_gated',
    () => ({
      phase: 'Pending',
      conditions: [
        {
          type: 'PodScheduled',
          status: 'False',
          reason: 'SchedulingGated',
          message: 'Scheduling is blocked due to non-empty scheduling gates',
          lastTransitionTime: now(),
        },
      ],
    }),
    { config: { queueTimeoutSec: 1 } },
  ),
  unschedulable('unschedulable_resources', '0/3 nodes are available: 3 Insufficient cpu.'),
  unschedulable(
    'unschedulable_taint',
    '0/3 nodes are available: 3 node(s) had untolerated taint {gpu: true}.',
  ),
  {
    cause: 'unschedulable_selector',
    about: 'Pod',
    real: true,
    config: { nodeSelector: { disk: 'none' } },
  },
  unschedulable(
    'unschedulable_volume',
    '0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.',
  ),
  unschedulable('unschedulable', '0/3 nodes are available: 3 node(s) were unhappy.'),
  { cause: 'not_scheduled', about: 'Pod', settings: HELD, config: QUICK },

  // The container does not start.
  waits('image_not_found', 'ErrImagePull', 'failed to resolve reference "r/x:1": r/x:1: not found'),
  waits('image_unauthorized', 'ErrImagePull', 'failed to authorize: failed to fetch token: 401 Unauthorized'),
  waits('registry_unreachable', 'ErrImagePull', 'dial tcp: lookup r on 10.0.0.10:53: no such host'),
  waits(
    'registry_untrusted',
    'ErrImagePull',
    'failed to do request: Head "https://r/v2/x": tls: failed to verify certificate: x509: certificate signed by unknown authority',
  ),
  waits(
    'registry_rate_limited',
    'ErrImagePull',
    'unexpected status code https://r.example/v2/x: 429 Too Many Requests - Server message: toomanyrequests: You have reached your unauthenticated pull rate limit.',
  ),
  waits('image_pull_failed', 'ErrImagePull', 'write /x: no space left on device'),
  slow('image_pull_slow', 'Pulling', 'Pulling image "r/x:1"'),
  waits('image_name_invalid', 'InvalidImageName', 'couldn\'t parse image name "A::B"'),
  waits(
    'image_never_pulled',
    'ErrImageNeverPull',
    'Container image "x" is not present with pull policy of Never',
  ),
  waits('image_inspect_failed', 'ImageInspectError', 'Failed to inspect image "x"'),
  waits('image_signature_invalid', 'SignatureValidationFailed', 'image pull failed for x because signature'),
  waits('secret_missing', 'CreateContainerConfigError', 'secret "agent-secrets" not found'),
  waits('config_map_missing', 'CreateContainerConfigError', 'configmap "agent-settings" not found'),
  waits(
    'config_key_missing',
    'CreateContainerConfigError',
    "couldn't find key token in Secret paperclip/agent",
  ),
  waits(
    'container_config_invalid',
    'CreateContainerConfigError',
    'container has runAsNonRoot and image will run as root',
  ),
  waits('container_create_failed', 'CreateContainerError', 'context deadline exceeded'),
  waits('container_run_failed', 'RunContainerError', 'failed to create shim task: exec: "sh": not found'),
  pending('container_start_failed', undefined, {
    during: async (s) => {
      const pod = await s.pod();
      await patchStatus(s, 'pods', pod.metadata.name, {
        phase: 'Failed',
        conditions: [scheduled()],
        containerStatuses: [
          container('claude', {
            terminated: {
              exitCode: 128,
              reason: 'StartError',
              message: 'failed to create shim task: exec: "sh": executable file not found in $PATH',
              startedAt: '1970-01-01T00:00:00Z',
              finishedAt: now(),
            },
          }),
        ],
      });
    },
  }),
  waits('container_hook_failed', 'PostStartHookError', 'Exec lifecycle hook failed'),
  waits('container_crash_loop', 'CrashLoopBackOff', 'back-off 10s restarting failed container'),
  pending('init_container_failed', () => ({
    phase: 'Pending',
    conditions: [scheduled()],
    initContainerStatuses: [container('write-prompt', { terminated: { exitCode: 1, reason: 'Error' } })],
    containerStatuses: [container('claude', { waiting: { reason: 'PodInitializing' } })],
  })),
  pending('init_container_out_of_memory', () => ({
    phase: 'Pending',
    conditions: [scheduled()],
    initContainerStatuses: [
      container('mesh-init', { terminated: { exitCode: 137, reason: 'OOMKilled', finishedAt: now() } }),
    ],
    containerStatuses: [container('claude', { waiting: { reason: 'PodInitializing' } })],
  })),
  slow('volume_attach_failed', 'FailedAttachVolume', 'Multi-Attach error for volume "pvc-1"'),
  slow('volume_mount_failed', 'FailedMount', 'MountVolume.SetUp failed for volume "data": timed out'),
  refusedByNode('node_out_of_cpu', 'OutOfcpu', "Node didn't have enough resource: cpu"),
  refusedByNode('node_out_of_memory', 'OutOfmemory', "Node didn't have enough resource: memory"),
  refusedByNode('node_out_of_pods', 'OutOfpods', "Node didn't have enough resource: pods"),
  refusedByNode('node_affinity_refused', 'NodeAffinity', 'Predicate NodeAffinity failed'),
  refusedByNode(
    'node_admission_refused',
    'UnexpectedAdmissionError',
    'Allocate failed due to no healthy devices',
  ),
  slow('start_timeout'),

  // Ended from outside.
  running(
    'evicted_by_api',
    async (s) => {
      const { name, namespace } = (await s.pod()).metadata;
      await s.request('POST', pathOf(s, 'pods', name, '/eviction'), {
        apiVersion: 'policy/v1',
        kind: 'Eviction',
        metadata: { name, namespace },
      });
    },
    { real: true },
  ),
  running('evicted_for_memory', act('evict')),
  running(
    'evicted_for_disk',
    act('evict', { message: 'The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi.' }),
  ),
  running(
    'evicted_for_storage_limit',
    act('evict', {
      message: 'Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ',
    }),
  ),
  running('evicted_by_node', act('evict', { message: 'The node had condition: [PIDPressure]. ' })),
  running('preempted', act('preempt')),
  running(
    'preempted_by_node',
    act('evict', { reason: 'Preempting', message: 'Preempted in order to admit critical pod' }),
  ),
  running('node_tainted', act('taint')),
  running('node_lost', act('node-lost', { removeAfterMs: 500 })),
  running(
    'node_shutdown',
    act('evict', {
      reason: 'Terminated',
      message: 'Pod was terminated in response to imminent node shutdown.',
    }),
  ),
  running('pod_disrupted', async (s) => {
    const pod = await s.pod();
    await s.control('/simulator/kubelet', { paused: true });
    await patchStatus(s, 'pods', pod.metadata.name, {
      phase: 'Failed',
      conditions: [
        scheduled(),
        {
          type: 'DisruptionTarget',
          status: 'True',
          reason: 'SpotReclaim',
          message: 'the capacity was taken back',
          lastTransitionTime: now(),
        },
      ],
      containerStatuses: [
        container('claude', { terminated: { exitCode: 137, reason: 'Error', finishedAt: now() } }),
      ],
    });
  }),
  running('job_deleted', deleteJob('Background'), { about: 'Job', real: true }),
  running('job_deleted_foreground', deleteJob('Foreground'), {
    about: 'Job',
    real: true,
    // Its pod keeps the Job for the grace period.
    scenario: 'stubborn',
  }),
  running('job_orphaned', deleteJob('Orphan'), { about: 'Job' }),
  running('pod_deleted', deletePod(1), { real: true }),
  running('namespace_deleted', (s) => s.request('DELETE', `/api/v1/namespaces/${s.namespace}`), {
    about: 'Job',
  }),
  running('job_suspended_mid_run', patchJob({ suspend: true }), { about: 'Job', real: true }),
  running('job_deadline', patchJob({ activeDeadlineSeconds: 1 }), { about: 'Job', real: true }),
  running(
    'pod_deadline',
    async (s) => {
      const path = pathOf(s, 'pods', (await s.pod()).metadata.name);
      await s.request(
        'PATCH',
        path,
        { spec: { activeDeadlineSeconds: 1 } },
        { type: 'application/merge-patch+json' },
      );
    },
    { real: true },
  ),
  {
    cause: 'time_limit',
    about: 'Job',
    scenario: 'hang',
    // Long enough for the container to begin.
    config: { timeoutSec: 10, graceSec: 0 },
    real: true,
  },
  running('cancelled_by_host', async (s) => s.abort(), { about: 'Job', real: true }),
  running('cancelled_by_control_plane', async () => {}, { about: 'Job', own: 'cancelled' }),
  running('host_shutdown', async () => {}, { about: 'Job', own: 'process' }),
  running('left_by_host', async () => {}, {
    about: 'Job',
    own: 'process',
    config: { hostShutdown: 'leave' },
  }),

  // The container ended by itself.
  running('out_of_memory', act('oom')),
  { cause: 'killed', about: 'Pod', scenario: 'truncated', real: true },
  running('terminated', act('kill', { signal: 'SIGTERM' })),
  { cause: 'crashed', about: 'Pod', scenario: 'crash', real: true },
  { cause: 'command_not_found', about: 'Pod', binDirs: [] },
  { cause: 'exit_code', about: 'Pod', scenario: 'exit-code', real: true },
  running('container_status_unknown', async (s) => {
    const pod = await s.pod();
    await s.control('/simulator/kubelet', { paused: true });
    await patchStatus(s, 'pods', pod.metadata.name, {
      phase: 'Failed',
      containerStatuses: [
        container('claude', {
          terminated: {
            exitCode: 137,
            reason: 'ContainerStatusUnknown',
            message: 'The container could not be located when the pod was terminated',
            finishedAt: now(),
          },
        }),
      ],
    });
  }),

  // Log and result.
  apiError('cli_failed', { result: { api_error_status: 400, result: 'API Error: 400 prompt is too long' } }),
  { cause: 'max_turns', about: 'Pod', scenario: 'max-turns', real: true },
  apiError('usage_limit', {
    error: 'rate_limit',
    limit: { status: 'rejected', resetsAt: 4_000_000_000 },
    result: { api_error_status: 429, result: "You've hit your limit" },
  }),
  { cause: 'provider_unavailable', about: 'Pod', scenario: 'overload', real: true },
  { cause: 'auth_required', about: 'Pod', scenario: 'auth', real: true },
  apiError('model_not_found', { error: 'model_not_found', result: { api_error_status: 404, result: 'no' } }),
  apiError('billing_failed', {
    error: 'billing_error',
    result: { api_error_status: 400, result: 'Credit balance is too low' },
  }),
  apiError('model_refused', { result: { api_error_status: null, stop_reason: 'refusal', result: 'no' } }),
  apiError('session_broken', {
    result: { api_error_status: 400, result: 'API Error: 400 Could not process image' },
  }),
  {
    cause: 'session_unavailable',
    about: 'Pod',
    scenario: 'unknown-session',
    real: true,
    runtime: { sessionId: '11111111-1111-4111-8111-111111111111', sessionParams: null },
  },
  { cause: 'llm_empty_response', about: 'Pod', scenario: 'empty-llm', real: true },
  {
    cause: 'truncated',
    about: 'Pod',
    scenario: 'crash',
    env: { CLAUDE_STAND_IN_EXIT_CODE: '1' },
    real: true,
  },
  { cause: 'no_result', about: 'Pod', scenario: 'mute', real: true },
  {
    cause: 'hung_after_result',
    about: 'Pod',
    scenario: 'slow-result',
    env: { CLAUDE_STAND_IN_SECONDS: '300' },
    config: { resultGraceSec: 1 },
    success: true,
    real: true,
  },
  {
    cause: 'log_lost',
    about: 'Pod',
    settings: { jobControllerPaused: false, jobConditionLagMs: 600_000 },
    faults: [fault('get', 'pods/log', answer(503))],
    during: async (s) => {
      await podPhase(s, 'Succeeded');
      await deleteJob('Background')(s);
    },
  },
  {
    cause: 'job_ttl_too_short',
    about: 'Job',
    // A run that reads its pod in the moment before it is removed knows more, and names another cause.
    skip: 'whether the pod is seen once more is a race; src/outcome/classify.rs has the test of this cause',
  },
  {
    cause: 'log_rotated',
    about: 'Pod',
    scenario: 'long',
    env: { CLAUDE_STAND_IN_SECONDS: '1' },
    // The CLI prints its last lines while its log cannot be read, and each goes to a file of its own.
    during: async (s) => {
      await s.begun();
      await s.control('/simulator/faults', fault('get', 'pods/log', answer(503)));
      await s.control('/simulator/settings', { logRotateBytes: 200 });
      await s.control('/simulator/connections/reset');
      s.open();
      await podPhase(s, 'Succeeded');
      await s.heal();
    },
  },
  { cause: 'log_forbidden', about: 'Pod', faults: [fault('get', 'pods/log', answer(403))] },
  { cause: 'log_unreadable', about: 'Pod', faults: [fault('get', 'pods/log', answer(503))] },

  // The cluster's API.
  running(
    'api_unreachable',
    (s) =>
      s
        .control('/simulator/faults', { match: { user: RUNNER }, action: { refuse: true } })
        .then(() => s.control('/simulator/connections/reset')),
    { about: 'Job', config: { apiOutageSec: 2 } },
  ),
  {
    cause: 'pods_forbidden',
    about: 'Job',
    settings: HELD,
    faults: [fault('watch', 'pods', answer(403))],
    during: afterCreation(fault('list', 'pods', answer(403))),
  },
  {
    cause: 'pod_unreadable',
    about: 'Job',
    settings: HELD,
    config: { apiOutageSec: 2 },
    faults: [fault('watch', 'pods', answer(403))],
    during: afterCreation(fault('list', 'pods', answer(503))),
  },
  {
    cause: 'internal_error',
    about: 'Run',
    skip: 'a panic is a bug, and none is known; src/run/scenarios/settles.rs has the test of this cause',
  },
  otherJob('reattach_without_pod', { 'paperclip.io/task-id': 'task-1' }, { runtime: {} }),
]);

/** Waits until the run's pod has this phase. */
async function podPhase(s, phase) {
  while (!s.output.stdout.includes('[paperclip] Pod running')) await s.sleep(10);
  while ((await s.pod()).status?.phase !== phase) await s.sleep(10);
}

/**
 * What is wrong about how a run's result names its cause: the code, the object, the time.
 *
 * @param {Row} row
 * @param {{result: any, began: number, ended: number}} seen
 * @returns {string[]}
 */
export function wrongs(row, { result, began, ended }) {
  const evidence = evidenceOf(result ?? {});
  if (!evidence) return [`no evidence: ${JSON.stringify(result)}`];
  const { cause, summary, hint, timeline, job, pod } = evidence;
  const wrong = [];
  if (cause !== row.cause) wrong.push(`cause ${cause}: ${result.errorMessage}`);
  const object = { Run: 'Run', Job: `Job \\S*${job}`, Pod: `Pod \\S*${pod}` }[row.about];
  if (!new RegExp(`^${object}\\b`).test(summary)) wrong.push(`object: ${summary}`);
  const at = Date.parse(/, (?:at|at or before|since) (\S+Z)$/.exec(summary)?.[1] ?? '');
  // The cluster's times are whole seconds.
  if (!(at >= began - 1_500 && at <= ended + 500)) wrong.push(`time: ${summary}`);
  if (!Date.parse(timeline.noticed) || !hint.endsWith('.')) wrong.push('hint or time of notice');
  if (JSON.stringify(evidence).length > 16_384) wrong.push('size');
  const message = result.errorMessage;
  const ends = row.success
    ? message === null
    : message === 'Run cancelled' || message?.endsWith(`; ${summary}`);
  if (!ends) wrong.push(`message: ${message}`);
  return wrong;
}
