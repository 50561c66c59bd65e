// What is secret of a run is in its Secret and in no other object of the cluster, and is gone with the run: however it ends.
import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { marked, marksIn, marksOf } from '../support/marks.js';
import { killHosts, startHost } from '../support/processes.js';
import { conformanceCluster } from './support/clusters.js';
import { runsOn } from './support/runs.js';

const SOON = { within: 120_000, every: 250 };

let cluster;
let runs;
/** The lists of every kind of object that the cluster has. @type {string[]} */
let lists;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
  const { api } = cluster;
  const { groups } = await api.get('/apis');
  const versions = [
    '/api/v1',
    ...groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`),
  ];
  const found = await Promise.all(
    versions.map(async (version) =>
      (await api.get(version)).resources
        .filter(({ name, verbs }) => verbs.includes('list') && !name.includes('/'))
        .map(({ name }) => `${version}/${name}`),
    ),
  );
  lists = found.flat();
});

afterAll(async () => {
  killHosts();
  await cluster?.close();
});

/** The marks in each list of the cluster that has any. */
async function whereAre(marks) {
  const texts = await Promise.all(
    lists.map(async (list) => [list, JSON.stringify(await cluster.api.get(list))]),
  );
  const found = texts.map(([list, text]) => [list, marksIn(marks, text)]);
  return Object.fromEntries(found.filter(([, some]) => some.length > 0));
}

const freshMarks = () => marksOf(`marked-${randomBytes(4).toString('hex')}`);
/** Whether every mark is gone from the cluster: collected with the Job, in the cluster's own time. */
const areGone = (marks) => eventually(async () => Object.keys(await whereAre(marks)).length === 0, SOON);

/** Starts a marked run in a host process of its own, and kills that in mid-run. */
async function killedInMidRun(marks, options) {
  const agentId = `agent-${randomUUID()}`;
  const { ctx } = runs.prepare({ config: options.config });
  const { env: _, kubeconfig, ...config } = ctx.config;
  const { child, output, ended } = startHost(
    { kubeconfig: String(kubeconfig), namespace: cluster.namespace },
    { options: { ...marked(marks, { ...options, config }), agent: { id: agentId } } },
  );
  await runs.podOf({ output, agentId });
  child.kill('SIGKILL');
  await ended;
  return { output, agentId };
}

const long = (seconds) => ({ scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: String(seconds) } });
const ONLY_SECRETS = ['/api/v1/secrets'];

describe.concurrent('what is secret of a run', () => {
  it('is in its Secret alone, and goes with the run', async () => {
    const marks = freshMarks();
    const run = runs.start(marked(marks, long(6)));
    await runs.podOf(run);
    const found = await whereAre(marks);
    expect(Object.keys(found)).toEqual(ONLY_SECRETS);
    expect(found[ONLY_SECRETS[0]]).toEqual(marks);
    expect(lists).toEqual(expect.arrayContaining(['/api/v1/pods', '/api/v1/events', '/apis/batch/v1/jobs']));
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await areGone(marks);
  });

  it('is gone after a retained run, whose Job is not', async () => {
    const marks = freshMarks();
    const run = runs.start(marked(marks, { scenario: 'success', config: { retainJobs: true } }));
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await areGone(marks);
    const [job] = await runs.jobs(run.agentId);
    const path = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${job.metadata.name}`;
    await cluster.api.delete(path, { propagationPolicy: 'Background' });
    await runs.nothingLeft(run);
  });

  it('goes with the Job whose host was killed', async () => {
    const marks = freshMarks();
    const config = { ttlSecondsAfterFinished: 1 };
    const run = await killedInMidRun(marks, { ...long(4), config });
    expect(Object.keys(await whereAre(marks))).toEqual(ONLY_SECRETS);
    await areGone(marks);
    await runs.nothingLeft(run);
  });

  it('goes with the run that attached after a kill', async () => {
    const marks = freshMarks();
    const { agentId } = await killedInMidRun(marks, long(8));
    const next = await runs.play({ agent: { id: agentId } });
    expect(next.result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(next.output.stdout).toContain('Reattaching to in-flight K8s Job');
    await areGone(marks);
  });

  it('is gone after a retained run that attached after a kill', async () => {
    const marks = freshMarks();
    const { agentId } = await killedInMidRun(marks, long(8));
    const run = runs.start({ agent: { id: agentId }, config: { retainJobs: true } });
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await areGone(marks);
    const [job] = await runs.jobs(agentId);
    const path = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${job.metadata.name}`;
    await cluster.api.delete(path, { propagationPolicy: 'Background' });
    await runs.nothingLeft(run);
  });
});
