// Runs while the cluster itself fails. No other spec may run meanwhile.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { conformanceCluster } from './support/clusters.js';
import { expectTicks, runsOn } from './support/runs.js';

let cluster;
let runs;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
});

afterAll(async () => {
  await cluster?.close();
});

beforeEach(({ skip }) => skip(cluster.foreign !== undefined, cluster.foreign));

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
const long = (seconds, options) =>
  runs.start({ scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: String(seconds) }, ...options });

/** Starts runs and resolves when all of them are under way. */
async function underWay(...started) {
  await Promise.all(started.map((run) => runs.podOf(run)));
  return started;
}

/** Asserts that the run ended as if nothing had happened. */
async function expectWhole(run, atLeast) {
  expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
  expect(expectTicks(run.output)).toBeGreaterThanOrEqual(atLeast);
  await runs.nothingLeft(run);
}

/** Evicts the pod of a run, and asserts that the run sees it: who ended a pod is only in the cluster, not in its log. */
async function expectEvicted(run) {
  const [{ metadata }] = await runs.pods(run.agentId);
  const { name, namespace } = metadata;
  const eviction = { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name, namespace } };
  await cluster.api.post(`/api/v1/namespaces/${namespace}/pods/${name}/eviction`, eviction);
  const result = await run.done;
  expect(result).toMatchObject({ exitCode: 143, timedOut: false });
  expect(result.errorMessage).toContain('the pod was evicted through the Eviction API');
  await runs.nothingLeft(run);
}

describe('a restart of the API server', () => {
  it('does no harm to a run that watches, polls or ends meanwhile', async () => {
    const [watching, polling, short] = await underWay(long(30), long(30, { as: 'existing' }), long(6));
    await cluster.apiServer.restart();
    const next = runs.start();
    await Promise.all([expectWhole(watching, 59), expectWhole(polling, 59), expectWhole(short, 11)]);
    expect(await next.done, 'a run that was started right after').toMatchObject({
      exitCode: 0,
      errorMessage: null,
    });
    await runs.nothingLeft(next);
  });
});

describe('a kubelet', () => {
  it('that is paused for 20 s delays its reports and loses nothing', async () => {
    const abort = new AbortController();
    const [going, polling, ending, cancelled] = await underWay(
      long(30),
      long(30, { as: 'existing' }),
      long(6),
      runs.start({ scenario: 'hang', signal: abort.signal }),
    );
    await cluster.kubelet.pause();
    abort.abort();
    // Created while there is no kubelet to start it.
    const next = runs.start();
    await sleep(20);
    await cluster.kubelet.resume();
    await Promise.all([expectWhole(going, 59), expectWhole(polling, 59), expectWhole(ending, 11)]);
    expect(await next.done).toMatchObject({ exitCode: 0, errorMessage: null });
    await runs.nothingLeft(next);
    // Its pod still existed when the acknowledgement was due, or was just deleted: either is reported as it is.
    const { errorCode, resultJson } = await cancelled.done;
    expect(errorCode).toBe('cancelled');
    if (resultJson?.executionCancellation) await runs.stopped(cancelled.agentId);
    await runs.nothingLeft(cancelled);
  });

  it('that is killed and comes back loses nothing', async () => {
    const [going, polling, ending] = await underWay(long(30), long(30, { as: 'existing' }), long(6));
    await cluster.kubelet.kill();
    await sleep(10);
    await cluster.kubelet.start();
    await Promise.all([expectWhole(going, 59), expectWhole(polling, 59), expectWhole(ending, 11)]);
  });
});

describe('an API server that comes back without history', () => {
  it('while the kubelet restarts, too, does no harm to a run that watches, polls, ends or is evicted', async () => {
    const jobs = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs`;
    const [watching, polling, ending, evicted] = await underWay(
      long(40),
      long(40, { as: 'existing' }),
      long(6),
      runs.start({ scenario: 'hang' }),
    );
    const { metadata } = await cluster.api.get(jobs);
    await cluster.kubelet.kill();
    await cluster.apiServer.restart({ compact: true });
    const old = `${jobs}?watch=true&timeoutSeconds=5&resourceVersion=${metadata.resourceVersion}`;
    const answer = await cluster.api.get(old).catch(({ code }) => ({ code }));
    expect(JSON.stringify(answer), 'what was seen before is gone').toContain('"code":410');
    await cluster.kubelet.start();
    const next = runs.start();
    expect(await next.done, 'a run that was started right after').toMatchObject({
      exitCode: 0,
      errorMessage: null,
    });
    await Promise.all([expectWhole(watching, 79), expectWhole(polling, 79), expectWhole(ending, 11)]);
    // A watch that has failed for a while tries again within 30 s: by now it is back.
    await expectEvicted(evicted);
    await runs.nothingLeft(next);
  });
});
