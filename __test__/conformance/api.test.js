// What the API itself answers, where the adapter depends on it: the embedded cluster must not be kinder or harsher than
// a real one.
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { watch } from './support/watch.js';

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

// A kubelet of 1.20 that failed to start a container, or forgot one, syncs the pod again a minute later, and only then
// removes it.
const soon = { within: 150_000, every: 100 };
const background = { propagationPolicy: 'Background' };

/** A Job with one container named `main`; `pod` adds to the pod's spec, `spec` to the Job's. */
function job(script, { pod = {}, container = {}, spec = {}, labels = {} } = {}) {
  const name = `api-${randomBytes(5).toString('hex')}`;
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, labels: { suite: 'api', ...labels } },
    spec: {
      backoffLimit: 0,
      ...spec,
      template: {
        metadata: { labels: { suite: 'api' } },
        spec: {
          restartPolicy: 'Never',
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              name: 'main',
              image: 'busybox:1.36',
              imagePullPolicy: 'IfNotPresent',
              command: ['sh', '-c', script],
              ...container,
            },
          ],
          ...pod,
        },
      },
    },
  };
}

async function create(...args) {
  const body = job(...args);
  const created = await cluster.api.post(jobs, body);
  return { ...created, name: body.metadata.name, path: `${jobs}/${body.metadata.name}` };
}

const podsOf = async (name) =>
  (await cluster.api.get(`${pods}?labelSelector=${encodeURIComponent(`job-name=${name}`)}`)).items;
/** @param {(pod: any) => unknown} [ready] */
const podOf = (name, ready = () => true) =>
  eventually(async () => {
    const [pod] = await podsOf(name);
    return pod && ready(pod) && pod;
  }, soon);
const isRunning = ({ status }) => status.phase === 'Running';
const hasEnded = ({ status }) => ['Succeeded', 'Failed'].includes(status.phase);
const gone = (path) =>
  eventually(
    () =>
      cluster.api.get(path).then(
        () => false,
        ({ code }) => code === 404,
      ),
    soon,
  );
const conditions = ({ status }) =>
  (status.conditions ?? []).filter((one) => one.status === 'True').map((one) => one.type);
const ended = (path) =>
  eventually(async () => {
    const now = await cluster.api.get(path);
    return conditions(now).some((type) => ['Complete', 'Failed'].includes(type)) && now;
  }, soon);
const state = (pod) => pod.status.containerStatuses[0].state;

describe.concurrent('a refusal', () => {
  /** @type {[string, () => [string, string, object?], number, string, string][]} */
  const cases = [
    [
      'of a Job that is not there',
      () => ['GET', `${jobs}/nope`],
      404,
      'NotFound',
      'jobs.batch "nope" not found',
    ],
    ['of a pod that is not there', () => ['GET', `${pods}/nope`], 404, 'NotFound', 'pods "nope" not found'],
    [
      'of a log of a pod that is not there',
      () => ['GET', `${pods}/nope/log`],
      404,
      'NotFound',
      'pods "nope" not found',
    ],
    [
      'to delete what is not there',
      () => ['DELETE', `${jobs}/nope`, background],
      404,
      'NotFound',
      'jobs.batch "nope" not found',
    ],
    [
      'of a resource that is not served',
      () => ['GET', `/api/v1/namespaces/${cluster.namespace}/widgets`],
      404,
      'NotFound',
      'the server could not find the requested resource',
    ],
  ];
  it.each(cases)('%s', async (_what, request, code, reason, message) => {
    const status = await cluster.api.refusal(...request());
    expect(status).toMatchObject({
      kind: 'Status',
      apiVersion: 'v1',
      status: 'Failure',
      code,
      reason,
      message,
    });
  });

  it('of an unknown token', async () => {
    const status = await cluster.api.refusal('GET', jobs, undefined, { bearer: 'unknown-token' });
    expect(status).toMatchObject({
      kind: 'Status',
      code: 401,
      reason: 'Unauthorized',
      message: 'Unauthorized',
    });
  });

  it('of what an account may not do', async () => {
    const existing = await import('./support/api.js').then(({ apiOf }) =>
      apiOf(cluster.kubeconfigs.existing),
    );
    const status = await existing.refusal('GET', `${jobs}?watch=true`);
    expect(status).toMatchObject({
      code: 403,
      reason: 'Forbidden',
      message:
        `jobs.batch is forbidden: User "system:serviceaccount:${cluster.namespace}:paperclip-existing" cannot watch ` +
        `resource "jobs" in API group "batch" in the namespace "${cluster.namespace}"`,
      details: { group: 'batch', kind: 'jobs' },
    });
    existing.close();
  });

  it('of a name that is taken', async () => {
    const body = job('true');
    await cluster.api.post(jobs, body);
    const status = await cluster.api.refusal('POST', jobs, body);
    const { name } = body.metadata;
    expect(status).toMatchObject({
      code: 409,
      reason: 'AlreadyExists',
      message: `jobs.batch "${name}" already exists`,
    });
    await cluster.api.delete(`${jobs}/${name}`, background);
  });

  it('of a Job that is not valid names the field', async () => {
    const body = job('true', { container: { imagePullPolicy: 'Sometimes' } });
    body.spec.template.spec.restartPolicy = 'Always';
    const status = await cluster.api.refusal('POST', jobs, body);
    expect(status).toMatchObject({ code: 422, reason: 'Invalid', details: { group: 'batch', kind: 'Job' } });
    expect(status.details.causes.map(({ field }) => field).toSorted()).toEqual([
      'spec.template.spec.containers[0].imagePullPolicy',
      'spec.template.spec.restartPolicy',
    ]);
    expect(status.message).toContain(`Job.batch "${body.metadata.name}" is invalid: `);
  });

  it('to delete an object of another UID', async () => {
    const { name, path } = await create('sleep 60');
    const status = await cluster.api.refusal('DELETE', path, {
      ...background,
      preconditions: { uid: 'another' },
    });
    expect(status).toMatchObject({ code: 409, reason: 'Conflict' });
    expect(status.message).toMatch(
      /^Operation cannot be fulfilled on Job\.batch "\S+": the UID in the precondition \(another\) does not match the UID in record /,
    );
    expect((await cluster.api.get(path)).metadata.name).toBe(name);
    await cluster.api.delete(path, background);
  });
});

describe.concurrent('a Job', () => {
  it('that succeeds is Complete, and its container Completed', async () => {
    const { name, path, metadata } = await create('echo one; echo two');
    const done = await ended(path);
    expect(conditions(done)).toContain('Complete');
    expect(done.status).toMatchObject({
      succeeded: 1,
      startTime: expect.any(String),
      completionTime: expect.any(String),
    });
    expect(done.status.active ?? 0).toBe(0);
    const [pod] = await podsOf(name);
    expect(pod.metadata.labels).toMatchObject({ 'job-name': name, 'controller-uid': metadata.uid });
    expect(pod.metadata.ownerReferences).toMatchObject([
      {
        apiVersion: 'batch/v1',
        kind: 'Job',
        name,
        uid: metadata.uid,
        controller: true,
        blockOwnerDeletion: true,
      },
    ]);
    expect(pod.status.phase).toBe('Succeeded');
    expect(state(pod).terminated).toMatchObject({
      exitCode: 0,
      reason: 'Completed',
      containerID: expect.stringMatching(/^[a-z-]+:\/\/\w/),
    });
    expect(await cluster.api.get(`${pods}/${pod.metadata.name}/log`)).toBe('one\ntwo\n');
    await cluster.api.delete(path, background);
    await Promise.all([gone(path), gone(`${pods}/${pod.metadata.name}`)]);
  });

  it('whose container fails reaches its backoff limit', async () => {
    const { name, path } = await create('exit 3');
    const done = await ended(path);
    expect(done.status.conditions.find(({ type }) => type === 'Failed')).toMatchObject({
      reason: 'BackoffLimitExceeded',
      message: 'Job has reached the specified backoff limit',
    });
    expect(done.status.failed).toBe(1);
    const [pod] = await podsOf(name);
    expect(pod.status.phase).toBe('Failed');
    expect(state(pod).terminated).toMatchObject({ exitCode: 3, reason: 'Error' });
    await cluster.api.delete(path, background);
  });

  it('whose pod is deleted reaches its backoff limit, or in old versions makes another', async () => {
    const { name, path } = await create('sleep 600');
    const pod = await podOf(name, isRunning);
    await cluster.api.delete(`${pods}/${pod.metadata.name}`);
    // A deleted pod counts as failed only since Jobs hold their pods with a finalizer.
    if (cluster.minor < 25) {
      await eventually(
        async () => (await podsOf(name)).some(({ metadata }) => metadata.uid !== pod.metadata.uid),
        soon,
      );
    } else {
      expect((await ended(path)).status.conditions.find(({ type }) => type === 'Failed').reason).toBe(
        'BackoffLimitExceeded',
      );
    }
    await cluster.api.delete(path, background);
    await gone(path);
    await eventually(async () => (await podsOf(name)).length === 0, soon);
  });

  it('fails at its deadline, and its pod is deleted', async () => {
    const { name, path } = await create('sleep 600', { spec: { activeDeadlineSeconds: 20 } });
    await podOf(name, isRunning);
    expect((await ended(path)).status.conditions.find(({ type }) => type === 'Failed')).toMatchObject({
      reason: 'DeadlineExceeded',
      message: 'Job was active longer than specified deadline',
    });
    await eventually(async () => (await podsOf(name)).length === 0, soon);
    await cluster.api.delete(path, background);
  });

  it('is deleted with its pod after its time to live', async () => {
    const { name, path } = await create('true', { spec: { ttlSecondsAfterFinished: 2 } });
    await gone(path);
    await eventually(async () => (await podsOf(name)).length === 0, soon);
  });

  it('that is deleted without a policy leaves its pod', async () => {
    const { name, path } = await create('sleep 600');
    const pod = await podOf(name, isRunning);
    await cluster.api.delete(path);
    await gone(path);
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const [orphan] = await podsOf(name);
    expect(orphan.metadata).toMatchObject({ uid: pod.metadata.uid });
    expect(orphan.metadata.ownerReferences ?? []).toEqual([]);
    expect(orphan.metadata.deletionTimestamp).toBeUndefined();
    await cluster.api.delete(`${pods}/${orphan.metadata.name}`);
  });

  it('that is deleted in the foreground stays until its pod is gone', async () => {
    const { name, path } = await create('sleep 600', { pod: { terminationGracePeriodSeconds: 4 } });
    await podOf(name, isRunning);
    const answer = await cluster.api.delete(path, { propagationPolicy: 'Foreground' });
    expect(answer).toMatchObject({ kind: 'Job', metadata: { finalizers: ['foregroundDeletion'] } });
    expect((await cluster.api.get(path)).metadata.deletionTimestamp).toEqual(expect.any(String));
    await gone(path);
    expect(await podsOf(name)).toEqual([]);
  });

  it('is deleted with the Secret that it owns', async () => {
    const { path, metadata, name } = await create('sleep 600');
    const secrets = `/api/v1/namespaces/${cluster.namespace}/secrets`;
    await cluster.api.post(secrets, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name, ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name, uid: metadata.uid }] },
      stringData: { a: 'b' },
    });
    await cluster.api.delete(path, background);
    await gone(`${secrets}/${name}`);
  });
});

describe.concurrent('a pod', () => {
  it('that is being deleted has a deletion time, and gets a SIGTERM that it can handle', async () => {
    const { name, path } = await create(
      "trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.1; done",
      {
        pod: { terminationGracePeriodSeconds: 20 },
      },
    );
    const pod = await podOf(name, isRunning);
    const log = `${pods}/${pod.metadata.name}/log`;
    await eventually(async () => (await cluster.api.get(log)).includes('ready'), soon);
    const watching = await watch(cluster, `${pods}?fieldSelector=metadata.name=${pod.metadata.name}`);
    const answer = await cluster.api.delete(`${pods}/${pod.metadata.name}`);
    expect(answer).toMatchObject({
      kind: 'Pod',
      metadata: { deletionGracePeriodSeconds: 20, deletionTimestamp: expect.any(String) },
    });
    const last = await watching.until(({ type }) => type === 'DELETED');
    expect(state(last.object).terminated, 'how it ended is in the last event').toMatchObject({
      exitCode: 7,
      reason: 'Error',
    });
    watching.stop();
    await cluster.api.delete(path, background);
  });

  it('whose first process ignores SIGTERM is killed after its grace period', async () => {
    const { name, path } = await create('sleep 600 | cat', { pod: { terminationGracePeriodSeconds: 3 } });
    const pod = await podOf(name, isRunning);
    const watching = await watch(cluster, `${pods}?fieldSelector=metadata.name=${pod.metadata.name}`);
    const began = Date.now();
    await cluster.api.delete(`${pods}/${pod.metadata.name}`);
    const last = await watching.until(({ type }) => type === 'DELETED');
    expect(Date.now() - began).toBeGreaterThan(2_500);
    expect(state(last.object).terminated).toMatchObject({ exitCode: 137, reason: 'Error' });
    watching.stop();
    await cluster.api.delete(path, background);
  });

  it('whose image cannot be pulled is waiting for that reason', async () => {
    const { name, path } = await create('true', { container: { image: cluster.unpullable } });
    const pod = await podOf(name, ({ status }) =>
      /ErrImagePull|ImagePullBackOff/.test(status.containerStatuses?.[0].state.waiting?.reason),
    );
    expect(pod.status.phase).toBe('Pending');
    const refused = await cluster.api.refusal('GET', `${pods}/${pod.metadata.name}/log`);
    expect(refused).toMatchObject({ code: 400, reason: 'BadRequest' });
    expect(refused.message).toMatch(
      new RegExp(
        `^container "main" in pod "${pod.metadata.name}" is waiting to start: (image can't be pulled|trying and failing to pull image)$`,
      ),
    );
    await cluster.api.delete(path, background);
  });

  it('that fits no node is unschedulable and has an empty log', async () => {
    const { name, path } = await create('true', { pod: { nodeSelector: { gpu: 'yes' } } });
    const pod = await podOf(name, ({ status }) =>
      status.conditions?.some(({ type }) => type === 'PodScheduled'),
    );
    expect(pod.status.conditions.find(({ type }) => type === 'PodScheduled')).toMatchObject({
      status: 'False',
      reason: 'Unschedulable',
      message: expect.stringMatching(/^0\/\d+ nodes are available: \d+ node\(s\) didn't match/),
    });
    expect(pod.status.phase).toBe('Pending');
    expect(await cluster.api.get(`${pods}/${pod.metadata.name}/log`)).toBe('');
    await cluster.api.delete(path, background);
  });

  it('gives the beginning of the last line of its log, with the stamp', async () => {
    const last = async (script) => {
      const { name, path } = await create(`${script}; sleep 600`);
      const pod = await podOf(name, isRunning);
      const log = `${pods}/${pod.metadata.name}/log?timestamps=true`;
      return {
        all: () => cluster.api.get(log),
        last: () => cluster.api.get(`${log}&tailLines=1&limitBytes=64`),
        end: () => cluster.api.delete(path, background),
      };
    };
    const [short, long, none] = await Promise.all([
      last('echo first; echo last'),
      last("echo first; head -c 100000 /dev/zero | tr '\\0' x"),
      last('true'),
    ]);
    const lines = await eventually(async () => {
      const text = await short.all();
      return text.includes('last') && text.split('\n');
    }, soon);
    expect(await short.last()).toBe(`${lines.at(-2)}\n`);
    await eventually(async () => (await long.all()).length > 60_000, soon);
    expect(await long.last()).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S* x+$/);
    expect(await long.last()).toHaveLength(64);
    expect(await none.last()).toBe('');
    await Promise.all([short, long, none].map(({ end }) => end()));
  });

  it('whose container has not started has no log', async () => {
    const { name, path } = await create('true', {
      pod: { initContainers: [{ name: 'first', image: 'busybox:1.36', command: ['sleep', '600'] }] },
    });
    const pod = await podOf(name, ({ status }) => status.initContainerStatuses?.[0].state.running);
    const log = `${pods}/${pod.metadata.name}/log`;
    expect(await cluster.api.refusal('GET', `${log}?container=main`)).toMatchObject({
      code: 400,
      message: `container "main" in pod "${pod.metadata.name}" is waiting to start: PodInitializing`,
    });
    expect(await cluster.api.get(`${log}?container=first`)).toBe('');
    expect(await cluster.api.refusal('GET', `${log}?container=nope`)).toMatchObject({
      code: 400,
      message: `container nope is not valid for pod ${pod.metadata.name}`,
    });
    await cluster.api.delete(path, background);
  });

  it('that needs a Secret that does not exist does not start', async () => {
    const { name, path } = await create('true', {
      container: { env: [{ name: 'A', valueFrom: { secretKeyRef: { name: 'nope', key: 'a' } } }] },
    });
    const pod = await podOf(
      name,
      ({ status }) => status.containerStatuses?.[0].state.waiting?.reason === 'CreateContainerConfigError',
    );
    expect(state(pod).waiting.message).toBe('secret "nope" not found');
    await cluster.api.delete(path, background);
  });
});

describe.concurrent('what a pod is given', () => {
  it('includes the token of its service account, unless it is declined', async () => {
    const volumes = async (automountServiceAccountToken) => {
      const { name, path } = await create('true', { pod: { automountServiceAccountToken } });
      const { spec } = await podOf(name);
      await cluster.api.delete(path, background);
      return { volumes: spec.volumes ?? [], mounts: spec.containers[0].volumeMounts ?? [] };
    };
    const [given, declined] = await Promise.all([volumes(undefined), volumes(false)]);
    expect(declined).toEqual({ volumes: [], mounts: [] });
    const name = expect.stringMatching(/^kube-api-access-[a-z0-9]{5}$/);
    const mountPath = '/var/run/secrets/kubernetes.io/serviceaccount';
    expect(given.mounts).toEqual([{ name, mountPath, readOnly: true }]);
    const sources = [
      { serviceAccountToken: { expirationSeconds: 3607, path: 'token' } },
      { configMap: { name: 'kube-root-ca.crt', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
      {
        downwardAPI: {
          items: [{ path: 'namespace', fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.namespace' } }],
        },
      },
    ];
    expect(given.volumes).toEqual([{ name, projected: { defaultMode: 420, sources } }]);
  });

  it('says which generation of it was seen, and which image it runs', async () => {
    const { name, path } = await create('sleep 600');
    const { metadata, status } = await podOf(name, isRunning);
    expect(metadata.generation).toBe(1);
    expect(status.observedGeneration).toBe(1);
    for (const { type, observedGeneration } of status.conditions) expect(observedGeneration, type).toBe(1);
    const [{ image, imageID }] = status.containerStatuses;
    expect(image).toBe('docker.io/library/busybox:1.36');
    expect(imageID).toMatch(/^(docker\.io\/library\/busybox@)?sha256:[0-9a-f]{64}$/);
    const answer = await cluster.api.delete(`${pods}/${metadata.name}`);
    expect(answer.metadata.generation, 'a deletion is a change').toBe(2);
    await cluster.api.delete(path, background);
  });

  it('is in Events of it and of its Job, each said once', async () => {
    const said = async (uid) => {
      const selector = encodeURIComponent(`involvedObject.uid=${uid}`);
      const { items } = await cluster.api.get(
        `/api/v1/namespaces/${cluster.namespace}/events?fieldSelector=${selector}`,
      );
      return items.map((event) => `${event.reason} ${event.series?.count ?? event.count ?? 1}`).toSorted();
    };
    const { name, path, metadata } = await create('echo one; sleep 600');
    const pod = await podOf(name, isRunning);
    await cluster.api.delete(`${pods}/${pod.metadata.name}`);
    await ended(path);
    const wanted = ['Created 1', 'Killing 1', 'Pulled 1', 'Scheduled 1', 'Started 1'];
    await eventually(async () => (await said(pod.metadata.uid)).length >= wanted.length, soon);
    expect(await said(pod.metadata.uid)).toEqual(wanted);
    await eventually(async () => (await said(metadata.uid)).length >= 2, soon);
    expect(await said(metadata.uid)).toEqual(['BackoffLimitExceeded 1', 'SuccessfulCreate 1']);
    await cluster.api.delete(path, background);
  });
});

describe.concurrent('a log', () => {
  let path;
  let log;

  beforeAll(async () => {
    const created = await create('echo one; sleep 2; echo two; printf three');
    path = created.path;
    const pod = await podOf(created.name, hasEnded);
    log = `${pods}/${pod.metadata.name}/log`;
  });
  afterAll(() => cluster.api.delete(path, background));

  const STAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z $/;
  const stamped = async (query = '') =>
    (await cluster.api.get(`${log}?timestamps=true${query}`))
      .split('\n')
      .filter(Boolean)
      .map((line) => [line.slice(0, 31), line.slice(31)]);

  it('ends with the last byte that the container wrote', async () => {
    expect(await cluster.api.get(log)).toBe('one\ntwo\nthree');
    expect(await cluster.api.get(`${log}?follow=true`)).toBe('one\ntwo\nthree');
  });

  it('has stamps of a fixed width', async () => {
    const lines = await stamped();
    expect(lines.map(([, text]) => text)).toEqual(['one', 'two', 'three']);
    for (const [stamp] of lines) expect(stamp).toMatch(STAMP);
  });

  it('is cut to whole seconds by sinceTime, inclusively', async () => {
    const [, [second]] = await stamped();
    const whole = `${second.slice(0, 19)}Z`;
    expect((await stamped(`&sinceTime=${whole}`)).map(([, text]) => text)).toEqual(['two', 'three']);
    const within = `${second.slice(0, 19)}.999999999Z`;
    expect((await stamped(`&sinceTime=${within}`)).map(([, text]) => text)).toEqual(['two', 'three']);
  });

  it('has a tail and a limit', async () => {
    expect(await cluster.api.get(`${log}?tailLines=1`)).toBe('three');
    expect(await cluster.api.get(`${log}?tailLines=0`)).toBe('');
    expect(await cluster.api.get(`${log}?limitBytes=5`)).toBe('one\nt');
  });

  it('of a container that never ran before is not found', async () => {
    expect(await cluster.api.refusal('GET', `${log}?previous=true`)).toMatchObject({
      code: 400,
      reason: 'BadRequest',
    });
  });
});

describe.concurrent('a watch', () => {
  it('reports every change of the objects that its selector matches, the deletion included', async () => {
    const mark = randomBytes(4).toString('hex');
    const { metadata } = await cluster.api.get(jobs);
    const watching = await watch(
      cluster,
      `${jobs}?labelSelector=mark%3D${mark}&resourceVersion=${metadata.resourceVersion}`,
    );
    const { path, metadata: made } = await create('true', { labels: { mark } });
    await create('true').then((other) => cluster.api.delete(other.path, background));
    await watching.until(({ object }) => conditions(object).includes('Complete'));
    await cluster.api.delete(path, background);
    const last = await watching.until(({ type }) => type === 'DELETED');
    expect(last.object.metadata.uid).toBe(made.uid);
    expect(conditions(last.object)).toContain('Complete');
    expect(watching.events[0].type).toBe('ADDED');
    expect(new Set(watching.events.map(({ object }) => object.metadata.uid))).toEqual(new Set([made.uid]));
    watching.stop();
  });

  it('ends at its time limit', async () => {
    const began = Date.now();
    await cluster.api.get(`${jobs}?watch=true&timeoutSeconds=2&labelSelector=no%3Dthing`);
    expect(Date.now() - began).toBeGreaterThan(1_500);
    expect(Date.now() - began).toBeLessThan(20_000);
  });
});
