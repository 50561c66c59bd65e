// What a Job and its pod go through, version by version: the embedded cluster must write what a real one writes, in the
// same order.
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { historyOf, jobText, podText, watch } from './support/watch.js';

let cluster;
let jobs;
let pods;

beforeAll(async () => {
  cluster = await conformanceCluster();
  jobs = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs`;
  pods = `/api/v1/namespaces/${cluster.namespace}/pods`;
});

afterAll(async () => {
  await cluster?.close();
});

const soon = { within: 150_000, every: 100 };
const background = { propagationPolicy: 'Background' };
/** It ends two seconds after it was asked to. */
const SLOW_END = "trap 'sleep 2; exit 7' TERM; echo ready; while :; do sleep 0.1; done";

/** A container that runs a script in a shell. */
const container = (name, script, rest = {}) => ({
  name,
  image: 'busybox:1.36',
  imagePullPolicy: 'IfNotPresent',
  command: ['sh', '-c', script],
  ...rest,
});

/** Creates a Job and watches it and its pods; `pod` is the pod's specification, `spec` adds to the Job's. */
async function create(pod, spec = {}) {
  const name = `life-${randomBytes(5).toString('hex')}`;
  const metadata = { name, labels: { suite: 'life' } };
  const [ofJob, ofPods] = await Promise.all([
    watch(cluster, `${jobs}?fieldSelector=metadata.name%3D${name}`),
    watch(cluster, `${pods}?labelSelector=job-name%3D${name}`),
  ]);
  const created = await cluster.api.post(jobs, {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata,
    spec: {
      backoffLimit: 0,
      ...spec,
      template: {
        spec: { restartPolicy: 'Never', terminationGracePeriodSeconds: 20, ...pod },
      },
    },
  });
  const where = `${jobs}/${name}`;
  return {
    name,
    where,
    uid: created.metadata.uid,
    ofJob,
    ofPods,
    pod: async (/** @type {(pod: any) => unknown} */ ready = () => true) =>
      (await ofPods.until(({ object }) => ready(object), 120_000)).object,
    /** Resolves once it has its final condition, and the watch of its pods has brought what they are then. */
    finished: async () => {
      const last = await ofJob.until(finished);
      const { items } = await cluster.api.get(`${pods}?labelSelector=job-name%3D${name}`);
      // Two watches do not wait for each other.
      const versions = items.map(({ metadata: { resourceVersion } }) => resourceVersion);
      const isSeen = (version) =>
        ofPods.events.some(({ object }) => object.metadata.resourceVersion === version);
      await eventually(() => versions.every(isSeen), soon);
      return last.object;
    },
    /** Deletes it if it is there still, and returns the histories. */
    end: async () => {
      await cluster.api.delete(where, background).catch(() => {});
      await eventually(async () => {
        const { items } = await cluster.api.get(`${pods}?labelSelector=job-name%3D${name}`);
        return items.length === 0;
      }, soon);
      await ofJob.until(({ type }) => type === 'DELETED');
      // What a list shows a watch brings a moment later.
      const isGone = ({ object }) =>
        ofPods.events.some(
          ({ type, object: gone }) => type === 'DELETED' && gone.metadata.uid === object.metadata.uid,
        );
      await eventually(() => ofPods.events.every(isGone), soon);
      ofJob.stop();
      ofPods.stop();
    },
    history: () => ({ job: historyOf(ofJob.events, jobText), pod: historyOf(ofPods.events, podText) }),
  };
}

const running = ({ status }) => status.containerStatuses?.every(({ state }) => state.running);
const finished = ({ object }) => /\b(Complete|Failed)\(/.test(jobText(object));

/** Keeps a history beside the output of the runs, to compare clusters. */
function keep(title, history) {
  const dir = fileURLToPath(new URL(`../../target/conformance/${cluster.name}/histories/`, import.meta.url));
  mkdirSync(dir, { recursive: true });
  const text = ['Job', ...history.job, '', 'Pod', ...history.pod, ''].join('\n');
  writeFileSync(path.join(dir, `${title.replace(/\W+/g, '-')}.txt`), text);
}

/** Asserts that some lines are among others, in their order. */
function expectInOrder(lines, wanted) {
  let from = 0;
  for (const line of wanted) {
    const at = lines.findIndex(
      (text, index) => index >= from && (line instanceof RegExp ? line.test(text) : text === line),
    );
    expect(at, `${line} is missing, or comes too early, in\n${lines.join('\n')}`).toBeGreaterThanOrEqual(0);
    from = at + 1;
  }
}

describe.concurrent('a Job', () => {
  it('that succeeds meets its criteria before it is complete', async () => {
    // A busy kubelet does not report a container that runs for a second.
    const job = await create({ containers: [container('main', 'echo one; sleep 4')] });
    await job.finished();
    const history = job.history();
    keep('succeeds', history);
    expectInOrder(history.job, [
      '',
      'active=1',
      'SuccessCriteriaMet(CompletionsReached)',
      'succeeded=1 SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)',
    ]);
    expectInOrder(history.pod, [
      'Pending',
      'Pending main:waiting(ContainerCreating)',
      'Running main:running',
      // The kubelet tells the end of a container before that of its pod.
      'Running main:0(Completed)',
      'Succeeded main:0(Completed)',
    ]);
    await job.end();
  });

  it('whose container fails is a failure to be before it is one', async () => {
    const job = await create({ containers: [container('main', 'sleep 1; exit 3')] });
    await job.finished();
    const history = job.history();
    keep('fails', history);
    expectInOrder(history.job, [
      'active=1',
      'FailureTarget(BackoffLimitExceeded)',
      'failed=1 FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded)',
    ]);
    expectInOrder(history.pod, ['Running main:3(Error)', 'Failed main:3(Error)']);
    await job.end();
  });

  it('whose pod is deleted has failed then, and is Failed when the pod has ended', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] });
    const { metadata } = await job.pod(running);
    await cluster.api.delete(`${pods}/${metadata.name}`);
    await job.finished();
    await job.ofPods.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('pod deleted', history);
    const target = 'FailureTarget(BackoffLimitExceeded)';
    expectInOrder(history.job, [
      'active=1',
      `terminating=1 failed=1 ${target}`,
      `failed=1 ${target} Failed(BackoffLimitExceeded)`,
    ]);
    expectInOrder(history.pod, [
      'Running main:running',
      'Running deleted(20) main:running',
      'Failed deleted(20) main:7(Error)',
      'Failed deleted(0) main:7(Error)',
      'Failed deleted(0) main:7(Error) gone',
    ]);
    const uids = new Set(job.ofPods.events.map(({ object }) => object.metadata.uid));
    expect(uids.size, 'pods of the Job').toBe(1);
    const times = job.ofPods.events.map(({ object }) => object.metadata.deletionTimestamp).filter(Boolean);
    expect(new Set(times).size, 'the last delete of the kubelet moves the time').toBe(2);
    await job.end();
  });

  it('at its deadline tells so before its pod has ended', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] }, { activeDeadlineSeconds: 8 });
    await job.finished();
    await job.ofPods.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('deadline', history);
    const target = 'FailureTarget(DeadlineExceeded)';
    expectInOrder(history.job, [
      'active=1',
      `terminating=1 failed=1 ${target}`,
      `failed=1 ${target} Failed(DeadlineExceeded)`,
    ]);
    expectInOrder(history.pod, ['Running deleted(20) main:running', 'Failed deleted(0) main:7(Error) gone']);
    await job.end();
  });

  it('that is deleted in the background is gone before its pod has ended', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] });
    await job.pod(running);
    await cluster.api.delete(job.where, background);
    await job.ofJob.until(({ type }) => type === 'DELETED');
    expect(job.ofPods.events.some(({ type }) => type === 'DELETED')).toBe(false);
    await job.ofPods.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('background', history);
    expect(history.job.at(-1)).toBe('active=1 gone');
    expectInOrder(history.pod, ['Running deleted(20) main:running', 'Failed deleted(0) main:7(Error) gone']);
    await job.end();
  });

  it('that is deleted in the foreground stays until its pod has ended', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] });
    await job.pod(running);
    await cluster.api.delete(job.where, { propagationPolicy: 'Foreground' });
    await job.ofJob.until(({ type }) => type === 'DELETED');
    // Two watches do not wait for each other.
    await job.ofPods.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('foreground', history);
    expectInOrder(history.job, [/^active=1 deleted\(foregroundDeletion\)$/, / gone$/]);
    expect(history.job.at(-1), 'its pod is let go and does not count').toBe(
      'terminating=1 deleted(foregroundDeletion) gone',
    );
    expect(history.pod.at(-1), 'the pod went first').toBe('Failed deleted(0) main:7(Error) gone');
    await job.end();
  });

  it('that is deleted as an orphan leaves its pod running', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] });
    const { metadata } = await job.pod(running);
    await cluster.api.delete(job.where, { propagationPolicy: 'Orphan' });
    await job.ofJob.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('orphan', history);
    // The Job's controller may see its pod let go before the Job is gone.
    expectInOrder(history.job, [
      'active=1',
      'active=1 deleted(orphan)',
      /^(active=1 )?deleted\(orphan\) gone$/,
    ]);
    const orphan = await eventually(async () => {
      const now = await cluster.api.get(`${pods}/${metadata.name}`);
      return !now.metadata.finalizers && now;
    }, soon);
    expect(orphan.metadata.ownerReferences ?? []).toEqual([]);
    expect(podText(orphan)).toBe('Running main:running');
    await cluster.api.delete(`${pods}/${metadata.name}`);
    await job.ofPods.until(({ type }) => type === 'DELETED');
    job.ofJob.stop();
    job.ofPods.stop();
  });
});

describe.concurrent('a pod', () => {
  it('that is evicted through the API has the condition before it is deleted', async () => {
    const job = await create({ containers: [container('main', SLOW_END)] });
    const { metadata } = await job.pod(running);
    await cluster.api.post(`${pods}/${metadata.name}/eviction`, {
      apiVersion: 'policy/v1',
      kind: 'Eviction',
      metadata: { name: metadata.name, namespace: cluster.namespace },
    });
    await job.finished();
    await job.ofPods.until(({ type }) => type === 'DELETED');
    const history = job.history();
    keep('evicted', history);
    const target = 'EvictionByEvictionAPI(Eviction API: evicting)';
    expectInOrder(history.pod, [
      `Running ${target} main:running`,
      `Running deleted(20) ${target} main:running`,
      `Failed deleted(20) ${target} main:7(Error)`,
      `Failed deleted(0) ${target} main:7(Error) gone`,
    ]);
    await job.end();
  });

  it('of which a container never ran is Pending, whatever the others do', async () => {
    const job = await create({
      containers: [
        container('main', 'sleep 600', { image: cluster.unpullable }),
        container('other', 'sleep 4; exit 5'),
      ],
    });
    await job.pod(({ status }) => status.containerStatuses?.some(({ state }) => state.terminated));
    const { metadata } = await job.pod();
    const ended = await eventually(async () => {
      const now = await cluster.api.get(`${pods}/${metadata.name}`);
      return /main:waiting\(ImagePullBackOff\)/.test(podText(now)) && now;
    }, soon);
    expect(podText(ended)).toBe('Pending main:waiting(ImagePullBackOff) other:5(Error)');
    await job.end();
    const history = job.history();
    keep('container waits', history);
    const phases = new Set(history.pod.map((line) => line.split(' ')[0]));
    expect(phases).toEqual(new Set(['Pending', 'Failed']));
    expectInOrder(history.pod, [/^Pending .*other:running$/, /^Pending .*other:5\(Error\)$/]);
    // Why it waited is forgotten when the pod is ended, and a container that is not there then counts as killed.
    expectInOrder(history.pod, [
      'Pending deleted(20) main:waiting(ImagePullBackOff) other:5(Error)',
      'Pending deleted(20) main:waiting(ContainerCreating) other:5(Error)',
      'Failed deleted(20) main:137(ContainerStatusUnknown) other:5(Error)',
      'Failed deleted(0) main:137(ContainerStatusUnknown) other:5(Error) gone',
    ]);
  });

  it('that is deleted while its image cannot be pulled counts as killed', async () => {
    const job = await create({ containers: [container('main', 'sleep 600', { image: cluster.unpullable })] });
    await job.pod(({ status }) => status.containerStatuses?.[0].state.waiting?.reason === 'ImagePullBackOff');
    await job.end();
    const history = job.history();
    keep('pull deleted', history);
    expectInOrder(history.pod, [
      'Pending',
      'Pending main:waiting(ContainerCreating)',
      /^Pending main:waiting\(ErrImagePull\)$/,
      'Pending main:waiting(ImagePullBackOff)',
      'Pending deleted(20) main:waiting(ImagePullBackOff)',
      'Pending deleted(20) main:waiting(ContainerCreating)',
      'Failed deleted(20) main:137(ContainerStatusUnknown)',
      'Failed deleted(0) main:137(ContainerStatusUnknown) gone',
    ]);
  });

  it('that is deleted while it initializes tells that its container never started', async () => {
    const job = await create({
      initContainers: [container('first', 'sleep 600')],
      containers: [container('main', 'sleep 600')],
      terminationGracePeriodSeconds: 1,
    });
    await job.pod(({ status }) => status.initContainerStatuses?.[0].state.running);
    await job.end();
    const history = job.history();
    keep('initializes', history);
    expectInOrder(history.pod, [
      'Pending first:running main:waiting(PodInitializing)',
      'Pending deleted(1) first:running main:waiting(PodInitializing)',
      'Failed deleted(0) first:137(Error) main:waiting(PodInitializing) gone',
    ]);
  });
});
