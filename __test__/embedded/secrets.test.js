// What is secret of a run is in its Secret and in no other object of the cluster.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { clusterForHost, eventually, gate, hostRun } from '../support/host.js';
import { marked, marksOf } from '../support/marks.js';

const adapter = createServerAdapter();
const MARKS = marksOf('marked');
const KINDS = [
  '/api/v1/pods',
  '/api/v1/configmaps',
  '/api/v1/events',
  '/api/v1/serviceaccounts',
  '/api/v1/namespaces',
  '/api/v1/persistentvolumeclaims',
  '/apis/batch/v1/jobs',
];
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  await cluster.stop();
});

/** A run with a mark in everything that it can be given. */
const markedRun = (options) => hostRun(cluster, marked(MARKS, { scenario: 'long', ...options }));

/** The run's Secret, once it is there. */
const secretOf = () =>
  eventually(async () => {
    const { items } = await cluster.get(`/api/v1/namespaces/${cluster.namespace}/secrets`);
    return items.find(({ metadata }) => metadata.name.includes('-run-'));
  });

const isGone = () =>
  eventually(async () => {
    const { items } = await cluster.get(`/api/v1/namespaces/${cluster.namespace}/secrets`);
    return items.every(({ metadata }) => !metadata.name.includes('-run-'));
  });

describe('what is secret of a run', () => {
  it('is in its Secret alone, and goes with the run', async () => {
    const { env, open } = gate();
    const { ctx, output } = markedRun({ env: { ...env, CLAUDE_STAND_IN_SECONDS: '2' } });
    const running = adapter.execute(ctx);
    await eventually(() => output.stdout.includes('tick 1 of'));
    const secret = await secretOf();
    expect(secret.metadata.ownerReferences).toMatchObject([{ kind: 'Job' }]);
    expect(secret.immutable).toBe(true);
    const held = Object.values(secret.data)
      .map((value) => Buffer.from(value, 'base64').toString())
      .join('\n');
    for (const mark of MARKS) expect(held, mark).toContain(mark);
    for (const kind of KINDS) {
      const objects = JSON.stringify(await cluster.get(kind));
      expect(
        MARKS.filter((mark) => objects.includes(mark)),
        kind,
      ).toEqual([]);
    }
    open();
    expect((await running).errorMessage).toBeNull();
    await isGone();
  });

  it('is deleted at the end of a retained run', async () => {
    const { ctx } = markedRun({ scenario: 'success', config: { retainJobs: true } });
    expect((await adapter.execute(ctx)).errorMessage).toBeNull();
    await isGone();
    const jobs = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs`;
    const { items } = await cluster.get(jobs);
    expect(items).toHaveLength(1);
    await cluster.delete(`${jobs}/${items[0].metadata.name}`);
  });
});
