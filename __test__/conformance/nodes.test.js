// Runs whose pod is preempted, or whose node is tainted, lost and deleted. No other spec may run meanwhile.
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { runsOn } from './support/runs.js';
import { jobText, podText, watch } from './support/watch.js';

let cluster;
let runs;
let pods;
let node;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
  pods = `/api/v1/namespaces/${cluster.namespace}/pods`;
  const { items } = await cluster.api.get('/api/v1/nodes');
  node = `/api/v1/nodes/${items[0].metadata.name}`;
});

afterAll(async () => {
  await cluster?.close();
});

beforeEach(({ skip }) => skip(cluster.foreign !== undefined, cluster.foreign));

const hang = (options) => runs.start({ scenario: 'hang', ...options });
const isReady = ({ status }) =>
  status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True');

/** The run ended because its CLI obeyed the SIGTERM; its message names who ended the pod. */
async function expectEnded(run, by) {
  const result = await run.done;
  expect(result.exitCode).toBe(143);
  expect(result.timedOut).toBe(false);
  expect(result.errorMessage).toContain(by);
  await runs.nothingLeft(run);
}

describe('a run', () => {
  it('whose pod is preempted names the scheduler', async () => {
    const { status } = await cluster.api.get(node);
    const { cpu } = status.allocatable;
    // Two of this size do not fit the node.
    const size = `${Math.floor((cpu.endsWith('m') ? Number.parseInt(cpu, 10) : cpu * 1_000) * 0.6)}m`;
    const name = `high-${randomBytes(4).toString('hex')}`;
    const classes = '/apis/scheduling.k8s.io/v1/priorityclasses';
    await cluster.api.post(classes, {
      apiVersion: 'scheduling.k8s.io/v1',
      kind: 'PriorityClass',
      metadata: { name, labels: cluster.labels },
      value: 1_000,
    });
    try {
      const run = hang({
        config: {
          resources: { requests: { cpu: size, memory: '16Mi' }, limits: { cpu: size, memory: '256Mi' } },
        },
      });
      const victim = await runs.podOf(run);
      const ofPod = await watch(cluster, `${pods}?fieldSelector=metadata.name%3D${victim.metadata.name}`);
      await cluster.api.post(pods, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name },
        spec: {
          priorityClassName: name,
          terminationGracePeriodSeconds: 0,
          containers: [
            {
              name: 'main',
              image: 'busybox:1.36',
              imagePullPolicy: 'IfNotPresent',
              command: ['sleep', '600'],
              resources: { requests: { cpu: size } },
            },
          ],
        },
      });
      await expectEnded(run, '[PreemptionByScheduler]');
      const last = await ofPod.until(({ type }) => type === 'DELETED');
      expect(podText(last.object)).toContain(
        'PreemptionByScheduler(default-scheduler: preempting to accommodate a higher priority pod)',
      );
      ofPod.stop();
      await eventually(async () => (await cluster.api.get(`${pods}/${name}`)).status.phase === 'Running', {
        within: 60_000,
        every: 200,
      });
    } finally {
      await cluster.api.delete(`${pods}/${name}`).catch(() => {});
      await cluster.api.delete(`${classes}/${name}`);
    }
  });

  it('whose node gets a taint that it does not tolerate names the taint', async () => {
    const [run, tolerant] = [
      hang(),
      hang({
        config: { tolerations: JSON.stringify([{ key: 'test.paperclip.io/broken', operator: 'Exists' }]) },
      }),
    ];
    const [victim, other] = await Promise.all([runs.podOf(run), runs.podOf(tolerant)]);
    const ofPod = await watch(cluster, `${pods}?fieldSelector=metadata.name%3D${victim.metadata.name}`);
    await cluster.api.patch(node, {
      spec: { taints: [{ key: 'test.paperclip.io/broken', effect: 'NoExecute' }] },
    });
    try {
      await expectEnded(run, '[DeletionByTaintManager]');
    } finally {
      await cluster.api.patch(node, { spec: { taints: null } });
    }
    const last = await ofPod.until(({ type }) => type === 'DELETED');
    expect(podText(last.object)).toContain(
      'DeletionByTaintManager(Taint manager: deleting due to NoExecute taint)',
    );
    ofPod.stop();
    const left = await cluster.api.get(`${pods}/${other.metadata.name}`);
    expect(left.metadata.deletionTimestamp, 'the one that tolerates it').toBeUndefined();
    await cluster.api.delete(`${pods}/${other.metadata.name}`);
    await expectEnded(tolerant, 'the pod was deleted by an unknown API client');
  });
});

describe('a run whose ended pod is collected', () => {
  /** Makes more ended pods than the cluster keeps; they never had a node. */
  async function crowd(count) {
    const labels = { crowd: randomBytes(4).toString('hex') };
    const one = async (at) => {
      const name = `ended-${labels.crowd}-${at}`;
      await cluster.api.post(pods, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, labels },
        spec: {
          schedulingGates: [{ name: 'example.com/never' }],
          containers: [{ name: 'main', image: 'busybox:1.36' }],
        },
      });
      await cluster.api.patch(`${pods}/${name}/status`, { status: { phase: 'Succeeded' } });
    };
    await Promise.all(Array.from({ length: count }, (_, at) => one(at)));
    return () => cluster.api.delete(`${pods}?labelSelector=crowd%3D${labels.crowd}`);
  }

  it('before its host has taken the log is a success', async ({ skip }) => {
    const { terminatedPods } = cluster;
    if (terminatedPods === undefined) return skip('how many ended pods this cluster keeps is not known');
    let free;
    const collected = new Promise((resolve) => {
      free = resolve;
    });
    const config = { retainJobs: true, ttlSecondsAfterFinished: 3_600 };
    const run = runs.start({ scenario: 'success', config, onLog: () => collected });
    const ended = await eventually(
      async () => {
        const [pod] = await runs.pods(run.agentId);
        return pod?.status.phase === 'Succeeded' && pod;
      },
      { within: 120_000, every: 100 },
    );
    // A second later than the run's, or else it is not the oldest.
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    const remove = await crowd(terminatedPods);
    try {
      await eventually(
        async () =>
          !(await runs.pods(run.agentId)).some(({ metadata }) => metadata.uid === ended.metadata.uid),
        { within: 90_000, every: 250 },
      );
    } finally {
      free();
      await remove();
    }
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null, summary: 'All done.' });
    const { metadata } = await runs.jobOf(run);
    const job = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${metadata.name}`;
    await cluster.api.delete(job, { propagationPolicy: 'Background' });
    await runs.nothingLeft(run);
  });
});

// One loss of the node serves all of these: it takes two minutes.
describe('a node whose kubelet is dead', () => {
  let lost;
  /** The runs, and what there was to see after the pods were marked and before the node was deleted. */
  const seen = /** @type {any} */ ({});

  beforeAll(async () => {
    if (cluster.foreign !== undefined) return;
    const host = await cluster.api.get(`${pods}/${cluster.hostPod}`);
    // Of these the first two are evicted, and declared dead; the third stays bound to the node.
    const stays = { key: 'node.kubernetes.io/unreachable', operator: 'Exists' };
    lost = [hang(), hang({ as: 'existing' }), hang({ config: { tolerations: JSON.stringify([stays]) } })];
    const [pod, , kept] = await Promise.all(lost.map((run) => runs.podOf(run)));
    const job = await runs.jobOf(lost[0]);
    const jobPath = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${job.metadata.name}`;
    const podPath = `${pods}/${pod.metadata.name}`;
    // Where no node is ready a cluster evicts nothing, unless the node is left out of that count. The controller looks at
    // its nodes every 5 s.
    await cluster.api.patch(node, { metadata: { labels: { 'node.kubernetes.io/exclude-disruption': '' } } });
    await new Promise((resolve) => setTimeout(resolve, 12_000));
    await cluster.kubelet.kill();
    try {
      await eventually(
        async () => (await cluster.api.get(podPath)).metadata.deletionTimestamp !== undefined,
        {
          within: 120_000,
          every: 500,
        },
      );
      await eventually(async () => jobText(await cluster.api.get(jobPath)).includes('FailureTarget'), {
        within: 30_000,
        every: 200,
      });
      // A pod that had ended, or whose Job had, would be gone by now.
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      seen.node = await cluster.api.get(node);
      seen.job = jobText(await cluster.api.get(jobPath));
      seen.pod = podText(await cluster.api.get(podPath));
      // A run that polls sees it some seconds later. Whether they said it is for a spec to judge.
      const said = ({ output }) => output.stdout.includes('is being ended');
      const evicted = lost.slice(0, 2);
      await eventually(async () => evicted.every(said), { within: 30_000, every: 200 }).catch(() => {});
      seen.output = evicted.map(({ output }) => `${output.stdout}\n${output.stderr}`);
      seen.declaredDead = await lastOf(pod, () => taint('node.kubernetes.io/out-of-service', 'NoSchedule'));
      seen.kept = podText(await cluster.api.get(`${pods}/${kept.metadata.name}`));
      seen.deleted = await lastOf(kept, () => cluster.api.delete(node));
    } finally {
      await cluster.kubelet.start();
    }
    await eventually(async () => isReady(await cluster.api.get(node).catch(() => ({ status: {} }))), {
      within: 60_000,
      every: 500,
    });
    await restore(host);
  });

  it('is not ready, and keeps its pods, which count as failed', () => {
    const ready = seen.node.status.conditions.find(({ type }) => type === 'Ready');
    expect(ready).toMatchObject({
      status: 'Unknown',
      reason: 'NodeStatusUnknown',
      message: 'Kubelet stopped posting node status.',
    });
    expect(seen.node.spec.taints.map(({ key, effect }) => `${key}:${effect}`).toSorted()).toEqual([
      'node.kubernetes.io/unreachable:NoExecute',
      'node.kubernetes.io/unreachable:NoSchedule',
    ]);
    expect(seen.pod).toMatch(
      /^Running deleted\(\d+\) DeletionByTaintManager\(Taint manager: deleting due to NoExecute taint\) .*claude:running$/,
    );
    expect(seen.job).toBe('terminating=1 failed=1 FailureTarget(BackoffLimitExceeded)');
  });

  it('has its runs say that it does not answer, and that their pods are being ended', () => {
    for (const output of seen.output) {
      expect(output).toMatch(/^\[paperclip\] Pod \S+: its node \S+ does not answer \(Ready=False\)$/m);
      expect(output).toMatch(/^\[paperclip\] Pod \S+ is being ended: .*\[DeletionByTaintManager\]/m);
    }
  });

  it('loses the pods that are being ended when it is declared out of service', () => {
    expect(seen.declaredDead).toMatch(
      /^Failed deleted\(0\) DeletionByTaintManager\(Taint manager: deleting due to NoExecute taint\) .*claude:running$/,
    );
    expect(seen.kept, 'the pod that is not').toMatch(/^Running (\S+:0\(Completed\) )?claude:running$/);
  });

  it('loses all pods when it is deleted', () => {
    expect(seen.deleted).toMatch(
      /^Failed deleted\(0\) DeletionByPodGC\(PodGC: node no longer exists\) .*claude:running$/,
    );
  });

  it('ends its runs, which name what ended their pods', async () => {
    const ended = ['DeletionByTaintManager', 'DeletionByTaintManager', 'DeletionByPodGC'];
    for (const [at, run] of lost.entries()) {
      const result = await run.done;
      expect(result.timedOut).toBe(false);
      expect(result.errorMessage, run.output.stdout.slice(-1_000)).toContain(`[${ended[at]}]`);
    }
  });

  it('runs the next pod when it is back, and nothing of the lost ones', async () => {
    const { result } = await runs.play();
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    await Promise.all(lost.map((run) => runs.nothingLeft(run)));
  });
});

/** Adds a taint to the node. */
async function taint(key, effect) {
  const { spec } = await cluster.api.get(node);
  await cluster.api.patch(node, { spec: { taints: [...(spec.taints ?? []), { key, effect }] } });
}

/** What a pod was like when it was deleted, which `act` brings about. */
async function lastOf({ metadata }, act) {
  const ofPod = await watch(cluster, `${pods}?fieldSelector=metadata.name%3D${metadata.name}`);
  await act();
  const last = await ofPod.until(({ type }) => type === 'DELETED', 150_000);
  ofPod.stop();
  return podText(last.object);
}

/** Makes the host's pod again, which went with its node. */
async function restore({ apiVersion, kind, metadata: { name, namespace, labels, annotations }, spec }) {
  const { nodeName: _, ...rest } = spec;
  const where = `${pods}/${name}`;
  await eventually(
    async () => {
      const now = await cluster.api.get(where).catch(({ code }) => code);
      if (now === 404)
        await cluster.api.post(pods, {
          apiVersion,
          kind,
          metadata: { name, namespace, labels, annotations },
          spec: rest,
        });
      return now !== 404 && now.status.phase === 'Running' && now.metadata.deletionTimestamp === undefined;
    },
    { within: 90_000, every: 500 },
  );
}
