// Jobs and pods that an administrator's rules refuse, change or hold back: quotas, limit ranges, pod security, admission
// policies, suspension, scheduling gates. What concerns a whole namespace has a namespace of its own; a policy covers
// the objects of one agent.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { ownNamespace } from './support/namespaces.js';
import { enforce } from './support/policies.js';
import { expectRecording, expectTicks, running, runsOn } from './support/runs.js';

/** A failure of which the host may repeat the whole task. */
const BOOTSTRAP = { kind: 'bootstrap', providerWorkStarted: false };

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

/** A namespace for a spec, with objects in it, and runs there. */
async function inNamespace({ labels, objects = [] } = /** @type {any} */ ({})) {
  const namespace = await ownNamespace(cluster, { labels });
  undo.push(namespace.remove);
  for (const [plural, kind, spec] of objects) {
    const body = { apiVersion: 'v1', kind, metadata: { name: 'ours' }, spec };
    await cluster.api.post(`${namespace.core}/${plural}`, body);
  }
  const quotas = `${namespace.core}/resourcequotas`;
  // A quota refuses everything until the controller has counted what is there.
  await eventually(async () => (await cluster.api.get(quotas)).items.every(({ status }) => status.used), {
    within: 60_000,
    every: 100,
  });
  return { ...namespace, runs: runsOn(cluster, namespace.name) };
}

const quota = (hard) => ['resourcequotas', 'ResourceQuota', { hard }];
const limits = (limit) => ['limitranges', 'LimitRange', { limits: [{ type: 'Container', ...limit }] }];

/** An agent and what its objects are recognised by. */
function agentOf() {
  const id = `agent-${randomUUID()}`;
  const labels = { 'paperclip.io/agent-id': id };
  const component = (name) => ({ ...labels, 'app.kubernetes.io/component': name });
  return { agent: { id }, job: component('agent-job'), claim: component('agent-claim'), pod: labels };
}

/** Makes a rule for the objects of one agent, until the end of the specs. */
async function rule(options) {
  const made = await enforce(cluster, options);
  undo.push(made.remove);
  return made;
}

const refusalBy = ({ name }, message) =>
  `ValidatingAdmissionPolicy '${name}' with binding '${name}' denied request: ${message}`;

/** The Job of a run, which is not its claim. */
const jobOf = (run) =>
  eventually(async () => (await runs.jobs(run.agentId)).find(({ spec }) => spec.parallelism !== 0) ?? false, {
    within: 60_000,
    every: 100,
  });
const patchJob = ({ metadata: { name, namespace } }, patch) =>
  cluster.api.request('PATCH', `/apis/batch/v1/namespaces/${namespace}/jobs/${name}`, patch, {
    type: 'application/merge-patch+json',
  });
const conditionOf = (object, type) => object.status.conditions?.find((one) => one.type === type);
const holds = (job, type) =>
  eventually(
    async () => {
      const { name, namespace } = job.metadata;
      const now = await cluster.api.get(`/apis/batch/v1/namespaces/${namespace}/jobs/${name}`);
      return conditionOf(now, type)?.status === 'True' && now;
    },
    { within: 60_000, every: 100 },
  );
const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

/** A spec whose rule changes objects. */
const itChanges = (/** @type {string} */ title, /** @type {() => Promise<void>} */ spec) =>
  it(title, ({ skip }) => {
    skip(cluster.unchangeable !== undefined, cluster.unchangeable);
    return spec();
  });

describe.concurrent('a ResourceQuota', () => {
  it('that admits no Job refuses the start', async () => {
    const { runs: there } = await inNamespace({ objects: [quota({ 'count/jobs.batch': '0' })] });
    const { result } = await there.play();
    expect(result).toMatchObject({ errorCode: 'k8s_job_create_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(
      'exceeded quota: ours, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: count/jobs.batch=0',
    );
  });

  const withOneJob = async () => {
    const { runs: there } = await inNamespace({ objects: [quota({ 'count/jobs.batch': '1' })] });
    const { result, output } = await there.play();
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expectRecording(output, 'success');
  };
  // The claim takes the one, and a real quota counts it for a while after it is deleted.
  it('that admits one Job is enough for a run', withOneJob);

  it('that admits one Job admits the next once it counts a deleted one no more', async () => {
    const { name, core } = await inNamespace();
    const jobs = `/apis/batch/v1/namespaces/${name}/jobs`;
    const job = (called) => ({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: called },
      spec: {
        suspend: true,
        template: { spec: { restartPolicy: 'Never', containers: [{ name: 'main', image: 'busybox:1.36' }] } },
      },
    });
    // The controllers share what they have seen of Jobs: once this condition is there, the first count of a new quota has the
    // Job. A count that missed it would stand for five minutes.
    await holds(await cluster.api.post(jobs, job('first')), 'Suspended');
    const [plural, kind, spec] = quota({ 'count/jobs.batch': '1' });
    await cluster.api.post(`${core}/${plural}`, { apiVersion: 'v1', kind, metadata: { name: 'ours' }, spec });
    const counted = async () =>
      (await cluster.api.get(`${core}/${plural}/ours`)).status.used?.['count/jobs.batch'] === '1';
    await eventually(counted, { within: 60_000, every: 100 });
    // Admission looks at the quotas that it has heard of, a moment later.
    const refusal = () =>
      cluster.api.post(`${jobs}?dryRun=All`, job('second')).then(
        () => false,
        (error) => error,
      );
    const { code, body: refused } = await eventually(refusal, { within: 60_000, every: 100 });
    expect({ code, reason: refused.reason }).toEqual({ code: 403, reason: 'Forbidden' });
    expect(refused.message).toContain('requested: count/jobs.batch=1, used: count/jobs.batch=1');
    await cluster.api.delete(`${jobs}/first`, { propagationPolicy: 'Background' });
    const admitted = () =>
      cluster.api.post(jobs, job('second')).catch((error) => {
        if (error.code !== 403) throw error;
        expect(error.body.message).toContain('exceeded quota: ours');
        return false;
      });
    await eventually(admitted, { within: 60_000, every: 100 });
  });

  it('that admits no pod is named', async () => {
    const { runs: there } = await inNamespace({ objects: [quota({ pods: '0' })] });
    const { result, output } = await there.play();
    const words = 'exceeded quota: ours, requested: pods=1, used: pods=0, limited: pods=0';
    expect(output.stderr, 'said long before the run ends').toContain(words);
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(words);
  });

  it('that refuses the pod for a while is waited for', async () => {
    const { runs: there, core } = await inNamespace({ objects: [quota({ pods: '0' })] });
    const run = there.start();
    const [job] = await eventually(
      async () => {
        const found = (await there.jobs(run.agentId)).filter(({ spec }) => spec.parallelism !== 0);
        return found.length > 0 && found;
      },
      { within: 60_000, every: 100 },
    );
    const selector = encodeURIComponent(`involvedObject.uid=${job.metadata.uid},reason=FailedCreate`);
    await eventually(
      async () => (await cluster.api.get(`${core}/events?fieldSelector=${selector}`)).items[0],
      {
        within: 60_000,
        every: 100,
      },
    );
    const name = `${core}/resourcequotas/ours`;
    await cluster.api.request(
      'PATCH',
      name,
      { spec: { hard: { pods: '5' } } },
      { type: 'application/merge-patch+json' },
    );
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await there.nothingLeft(run);
  });

  it('on the processors and the memory of pods admits ours', async () => {
    const hard = { 'requests.cpu': '2', 'requests.memory': '2Gi', 'limits.cpu': '4', 'limits.memory': '4Gi' };
    const { runs: there } = await inNamespace({ objects: [quota(hard)] });
    const { result } = await there.play();
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
  });

  it('on the processors of pods is named where it refuses one', async () => {
    const { runs: there } = await inNamespace({ objects: [quota({ 'requests.cpu': '5m' })] });
    const { result } = await there.play();
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(
      /exceeded quota: ours, requested: requests\.cpu=\d+m, used: requests\.cpu=0, limited: requests\.cpu=5m/,
    );
  });
});

describe.concurrent('a LimitRange', () => {
  it('gives the containers what they do not ask for', async () => {
    const storage = { 'ephemeral-storage': '1Gi' };
    const range = limits({ default: storage, defaultRequest: { 'ephemeral-storage': '1Mi' } });
    const { runs: there } = await inNamespace({ objects: [range] });
    const run = there.start({ scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '3' } });
    const { metadata, spec } = await there.podOf(run);
    for (const { resources } of [...spec.containers]) {
      expect(resources.limits).toMatchObject(storage);
    }
    expect(metadata.annotations['kubernetes.io/limit-ranger']).toBe(
      'LimitRanger plugin set: ephemeral-storage request for container claude; ephemeral-storage limit for container ' +
        'claude',
    );
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await there.nothingLeft(run);
  });

  it('is named where it refuses the pod', async () => {
    const { runs: there } = await inNamespace({ objects: [limits({ max: { cpu: '100m' } })] });
    const { result, output } = await there.play();
    const words = 'maximum cpu usage per Container is 100m, but limit is 1';
    expect(output.stderr).toContain(words);
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(words);
  });
});

describe.concurrent('PodSecurity', () => {
  const level = (mode, name) => ({ [`pod-security.kubernetes.io/${mode}`]: name });

  it('baseline admits the pod and warns of nothing', async () => {
    const { runs: there } = await inNamespace({ labels: level('enforce', 'baseline') });
    const { result, output } = await there.play();
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.stderr).not.toContain('PodSecurity');
  });

  it('restricted admits the pod and warns of nothing', async () => {
    const { runs: there } = await inNamespace({ labels: level('enforce', 'restricted') });
    const { result, output } = await there.play();
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.stderr).not.toContain('PodSecurity');
  });

  // What a pod of ours never asks for, added by another rule.
  const onTheHost = [{ op: 'add', path: '/spec/template/spec/hostNetwork', value: true }];
  const words = 'host namespaces (hostNetwork=true)';

  itChanges('that refuses the pod is named, and warned of at the start', async () => {
    const { runs: there } = await inNamespace({ labels: level('enforce', 'baseline') });
    const { agent, job } = agentOf();
    await rule({ resource: 'jobs', labels: job, patch: onTheHost });
    const { result, output } = await there.play({ agent });
    expect(output.stderr).toContain(`would violate PodSecurity "baseline:latest": ${words}`);
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(`is forbidden: violates PodSecurity "baseline:latest": ${words}`);
  });

  itChanges('restricted names what baseline would admit', async () => {
    const { runs: there } = await inNamespace({ labels: level('enforce', 'restricted') });
    const { agent, job } = agentOf();
    const asRoot = { op: 'add', path: '/spec/template/spec/securityContext', value: { runAsUser: 0 } };
    await rule({ resource: 'jobs', labels: job, patch: [asRoot] });
    const abort = new AbortController();
    const run = there.start({ agent, signal: abort.signal });
    const refused =
      /is forbidden: violates PodSecurity "restricted:latest": .*runAsUser=0 \(pod must not set/;
    await eventually(() => refused.test(run.output.stderr), { within: 60_000, every: 100 });
    expect(run.output.stderr).toContain('would violate PodSecurity "restricted:latest": ');
    // What follows is as above, and takes a minute.
    abort.abort();
    expect(await run.done).toMatchObject({ errorCode: 'cancelled' });
    await there.nothingLeft(run);
  });

  itChanges('that only warns lets the run succeed and is logged', async () => {
    const { runs: there } = await inNamespace({ labels: level('warn', 'baseline') });
    const { agent, job } = agentOf();
    const shared = { op: 'add', path: '/spec/template/spec/hostPID', value: true };
    await rule({ resource: 'jobs', labels: job, patch: [shared] });
    const { result, output } = await there.play({ agent });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.stderr).toContain(
      'would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)',
    );
  });
});

describe.concurrent('an admission policy', () => {
  const message = 'an agent is not wanted here';

  it('that refuses the Job is named', async () => {
    const { agent, job } = agentOf();
    const made = await rule({ resource: 'jobs', labels: job, message });
    const { result } = await runs.play({ agent });
    expect(result).toMatchObject({ errorCode: 'k8s_job_create_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(refusalBy(made, message));
  });

  it('that refuses the claim only is warned of, and the run goes on', async () => {
    const { agent, claim } = agentOf();
    const made = await rule({ resource: 'jobs', labels: claim, message });
    const { result, output } = await runs.play({ agent });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.stderr).toContain(refusalBy(made, message));
    expectRecording(output, 'success');
  });

  it('that refuses the pod is named', async () => {
    const { agent, pod } = agentOf();
    const made = await rule({ resource: 'pods', labels: pod, message });
    const { result, output } = await runs.play({ agent });
    expect(output.stderr).toContain(refusalBy(made, message));
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(refusalBy(made, message));
  });

  it('is not to blame where the service account is missing', async () => {
    const { result } = await runs.play({ config: { serviceAccountName: 'nobody' } });
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toContain(
      `error looking up service account ${cluster.namespace}/nobody: serviceaccount "nobody" not found`,
    );
  });
});

describe.concurrent('a Job that a queue suspends', () => {
  const suspend = [{ op: 'add', path: '/spec/suspend', value: true }];

  itChanges('from its start runs once it is let go', async () => {
    const { agent, job: labels } = agentOf();
    await rule({ resource: 'jobs', labels, patch: suspend });
    const run = runs.start({ agent });
    const job = await holds(await jobOf(run), 'Suspended');
    expect(job.status.startTime).toBeUndefined();
    expect(await runs.pods(run.agentId)).toEqual([]);
    await seconds(5);
    await patchJob(job, { spec: { suspend: false } });
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    expectRecording(run.output, 'success');
    await runs.nothingLeft(run);
  });

  itChanges('is waited for longer than a pod, and said to be suspended once', async () => {
    const { agent, job: labels } = agentOf();
    await rule({ resource: 'jobs', labels, patch: suspend });
    const run = runs.start({ agent, config: { podStartTimeoutSec: 10 } });
    const job = await holds(await jobOf(run), 'Suspended');
    await seconds(20);
    await patchJob(job, { spec: { suspend: false } });
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(run.output.stdout.match(/^\[paperclip\] Job is suspended/gm)).toHaveLength(1);
    await runs.nothingLeft(run);
  });

  itChanges('for longer than is allowed ends the run with proof that nothing began', async () => {
    const { agent, job: labels } = agentOf();
    await rule({ resource: 'jobs', labels, patch: suspend });
    const { result } = await runs.play({ agent, config: { queueTimeoutSec: 5 } });
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(/suspended/i);
    expect(result.errorMessage, 'not the limit of a pod').not.toContain('(120s)');
  });

  it('in mid-run is said to be suspended', async () => {
    const run = runs.start({ scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '60' } });
    const hasTicked = () => run.output.stdout.includes('tick 1 of');
    await eventually(hasTicked, { within: 120_000, every: 100 });
    const job = await jobOf(run);
    await patchJob(job, { spec: { suspend: true } });
    const result = await run.done;
    expectTicks(run.output);
    expect(result.exitCode).not.toBe(0);
    expect(result.errorMessage).toMatch(/suspended/i);
    expect(result.errorMessage).not.toContain('unknown API client');
    expect(result).not.toHaveProperty('executionRecovery', BOOTSTRAP);
    await runs.nothingLeft(run);
  });
});

describe.concurrent('a scheduling gate', () => {
  const gate = [{ op: 'add', path: '/spec/schedulingGates', value: [{ name: 'example.com/queue' }] }];
  const podOf = (run) =>
    eventually(async () => (await runs.pods(run.agentId))[0], { within: 60_000, every: 100 });
  const open = ({ metadata: { name, namespace } }) =>
    cluster.api.request(
      'PATCH',
      `/api/v1/namespaces/${namespace}/pods/${name}`,
      { spec: { schedulingGates: [] } },
      { type: 'application/merge-patch+json' },
    );

  itChanges('that is opened lets the run go on', async () => {
    const { agent, pod: labels } = agentOf();
    await rule({ resource: 'pods', labels, patch: gate });
    const run = runs.start({ agent });
    const pod = await podOf(run);
    expect(conditionOf(pod, 'PodScheduled')).toMatchObject({
      status: 'False',
      reason: 'SchedulingGated',
      message: 'Scheduling is blocked due to non-empty scheduling gates',
    });
    await seconds(5);
    expect(running(run.output)).toBe(false);
    await open(pod);
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await runs.nothingLeft(run);
  });

  itChanges('is waited for longer than a pod, and said once', async () => {
    const { agent, pod: labels } = agentOf();
    await rule({ resource: 'pods', labels, patch: gate });
    const run = runs.start({ agent, config: { podStartTimeoutSec: 10 } });
    const pod = await podOf(run);
    await seconds(20);
    await open(pod);
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(run.output.stdout.match(/scheduling gate.*waiting as long/g)).toHaveLength(1);
    await runs.nothingLeft(run);
  });

  itChanges('that stays shut for longer than is allowed is named', async () => {
    const { agent, pod: labels } = agentOf();
    await rule({ resource: 'pods', labels, patch: gate });
    const { result } = await runs.play({ agent, config: { queueTimeoutSec: 5 } });
    expect(result).toMatchObject({ errorCode: 'k8s_pod_schedule_failed', executionRecovery: BOOTSTRAP });
    expect(result.errorMessage).toMatch(/gate/i);
    expect(result.errorMessage, 'not the limit of a pod').not.toContain('(120s)');
  });
});
