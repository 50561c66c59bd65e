// Containers that a mesh or a scanner adds to the pods of runs, by an admission policy for the pods of one agent.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { enforce } from './support/policies.js';
import { expectOnce, expectRecording, runsOn } from './support/runs.js';

/** A failure of which the host may repeat the whole task. */
const BOOTSTRAP = { kind: 'bootstrap', providerWorkStarted: false };
const MEBI = 1 << 20;

let cluster;
let runs;
/** @type {(() => Promise<unknown>)[]} */
const undo = [];

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
});

afterAll(async () => {
  await Promise.all(undo.map((step) => step()));
  await cluster?.close();
});

beforeEach(({ skip }) => skip(cluster.unchangeable !== undefined, cluster.unchangeable));

/** A container that runs a shell. */
const container = (script, more = {}) => ({
  name: 'beside',
  image: 'busybox:1.36',
  imagePullPolicy: 'IfNotPresent',
  command: ['sh', '-c', script],
  resources: { requests: { cpu: '1m', memory: String(MEBI) } },
  ...more,
});

/** Where a container is added: after all others, or as an init container that runs on beside the others. */
const ORDINARY = { path: '/spec/containers/-', more: {} };
const NATIVE = { path: '/spec/initContainers', more: { restartPolicy: 'Always' } };

/** Starts a run whose pod gets another container. */
async function start({ path, more }, beside, options = /** @type {any} */ ({})) {
  const agent = { id: `agent-${randomUUID()}` };
  const added = { ...beside, ...more };
  // The pod has no init container, so that the list is added with it.
  const value = path === NATIVE.path ? [added] : added;
  const { remove } = await enforce(cluster, {
    resource: 'pods',
    labels: { 'paperclip.io/agent-id': agent.id },
    patch: [{ op: 'add', path, value }],
  });
  undo.push(remove);
  const abort = new AbortController();
  return { ...runs.start({ agent, signal: abort.signal, ...options }), abort };
}

/** The result of a run that is to end within some time; one that does not is cancelled, and the spec fails. */
async function endOf(run, within) {
  let timer;
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`the run did not end within ${within} s`)), within * 1_000);
  });
  try {
    return await Promise.race([run.done, late]);
  } catch (error) {
    run.abort.abort();
    await run.done;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Starts a run with a sidecar and resolves to it and its result once nothing of it is left. */
async function play(kind, beside, options, within = 90) {
  const run = await start(kind, beside, options);
  const result = await endOf(run, within);
  await runs.nothingLeft(run);
  return { ...run, result };
}

function expectSuccess({ result, output }) {
  expect(result).toMatchObject({ exitCode: 0, errorMessage: null, summary: 'All done.' });
  expect(result).not.toHaveProperty('errorCode');
  expectRecording(output, 'success');
  expect(output.stdout, 'the log is that of claude').not.toContain('beside says');
}

const CHATTY = 'echo beside says hello';
const UNTIL_ASKED = 'trap "exit 0" TERM; while :; do sleep 0.1; done';

describe.concurrent('a native sidecar', () => {
  it('that ends when it is asked to leaves a success a success', async () => {
    expectSuccess(await play(NATIVE, container(`${CHATTY}; ${UNTIL_ASKED}`)));
  });

  it('that never ends by itself leaves a success a success', async () => {
    expectSuccess(await play(NATIVE, container(`${CHATTY}; trap "" TERM; while :; do sleep 1; done`)));
  });

  it('that fails twice is started again, and the run goes on', async () => {
    const mount = { volumeMounts: [{ name: 'prompt', mountPath: '/again' }] };
    const twice = `echo . >> /again/marks; [ $(wc -l < /again/marks) -lt 3 ] && exit 3; ${UNTIL_ASKED}`;
    expectSuccess(await play(NATIVE, container(twice, mount)));
  });

  it('that keeps failing at its start is named', async () => {
    // One that ran for a moment counts as started, and the pod goes on.
    const { result } = await play(NATIVE, container('', { command: ['/missing'] }), {
      config: { podStartTimeoutSec: 20 },
    });
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(/"beside".*(\/missing|restarting failed container=beside)/);
  });

  it('whose image is missing is named', async () => {
    const { result } = await play(NATIVE, container('true', { image: cluster.unpullable }));
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(/[Ii]nit container "beside" image pull failed: /);
  });

  it('does not hide how claude failed', async () => {
    const { result } = await play(NATIVE, container(UNTIL_ASKED), {
      scenario: 'exit-code',
      env: { CLAUDE_STAND_IN_EXIT_CODE: '3' },
    });
    expect(result.exitCode).toBe(3);
  });
});

describe.concurrent('an ordinary sidecar', () => {
  it('that ends by itself leaves a success a success', async () => {
    expectSuccess(await play(ORDINARY, container(CHATTY)));
  });

  it('that fails at its start leaves a success a success', async () => {
    expectSuccess(await play(ORDINARY, container('echo beside says no; exit 3')));
  });

  it('that never ends leaves a success a success', async () => {
    expectSuccess(await play(ORDINARY, container(UNTIL_ASKED)));
  });

  it('that never ends is no reason for a warning', async () => {
    const run = await play(ORDINARY, container(UNTIL_ASKED));
    expectSuccess(run);
    const warnings = run.output.stderr
      .split('\n')
      .filter((line) => line && !line.includes('PAPERCLIP_API_URL'));
    expect(warnings).toEqual([]);
  });

  it('that never ends does not hide how claude failed', async () => {
    const { result, output } = await play(ORDINARY, container(UNTIL_ASKED), {
      scenario: 'exit-code',
      env: { CLAUDE_STAND_IN_EXIT_CODE: '3' },
    });
    expect(result.exitCode).toBe(3);
    expectOnce(output);
  });

  it('whose image is missing leaves a success a success', async () => {
    expectSuccess(await play(ORDINARY, container('true', { image: cluster.unpullable })));
  });

  it('that runs does not hide that the image of claude is missing', async () => {
    const { result } = await play(
      ORDINARY,
      container(UNTIL_ASKED),
      { config: { image: cluster.unpullable, imagePullGraceSec: 5 } },
      60,
    );
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(/^Pod scheduling failed: Image pull failed for "claude": /);
  });
});

describe.concurrent('a sidecar', () => {
  it('is not ended before claude', async () => {
    const run = await start(NATIVE, container(UNTIL_ASKED), {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '8' },
    });
    const { metadata } = await runs.podOf(run);
    const where = `/api/v1/namespaces/${cluster.namespace}/pods/${metadata.name}`;
    const pod = await eventually(
      async () => {
        const now = await cluster.api.get(where);
        return now.status.phase === 'Running' && now;
      },
      { within: 30_000, every: 100 },
    );
    const [beside] = pod.status.initContainerStatuses;
    expect(beside).toMatchObject({ name: 'beside', started: true, ready: true, restartCount: 0 });
    expect(beside.state.running).toBeDefined();
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await runs.nothingLeft(run);
  });
});
