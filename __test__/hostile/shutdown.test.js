// A host that is asked to end: at every stage of a run, and while its API swallows every request.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { startCluster } from '../../tools/simulator/cluster.mjs';
import { clusterForHost, eventually, leftovers } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';

/** A pod has 30 s to end. This is how long one with a lot to do on this machine may take. */
const STILL_THERE_MS = 60_000;
/** How long a stage lasts, so that the signal comes during it. */
const STAGE_MS = 2000;

let cluster;
beforeAll(async () => {
  cluster = await clusterForHost();
});
afterAll(async () => {
  killHosts();
  await cluster?.stop();
});

/** Asks a host to end, which it must do in time. */
async function end({ child, output, ended }) {
  child.kill('SIGTERM');
  const still = sleep(STILL_THERE_MS, 'still there');
  expect(await Promise.race([ended, still]), output.errors).toEqual({ code: null, signal: 'SIGTERM' });
}

it('host_ends_on_sigterm_while_the_api_swallows_requests', async () => {
  const host = startHost(cluster, { options: { scenario: 'hang' } });
  await eventually(() => host.output.stdout.includes('"subtype":"init"'));
  // No answer comes for an hour.
  await cluster.post('/simulator/faults', { action: { delayMs: 3_600_000 } });
  await end(host);
});

/** The request during which the host is asked to end, and how many of the kind come before it. */
const STAGES = {
  'its own pod is read': { verb: 'get', resource: 'pods', subresource: '' },
  'its claim is made': { verb: 'create', resource: 'jobs' },
  'its agent is looked for': { verb: 'list', resource: 'jobs' },
  'its Job is made': { verb: 'create', resource: 'jobs', skip: 1 },
  'the Secret of its Job is made': { verb: 'create', resource: 'secrets' },
  'its log is opened': { verb: 'get', resource: 'pods', subresource: 'log' },
  'its claim is deleted': { verb: 'delete', resource: 'jobs' },
  'its Job is deleted': { verb: 'delete', resource: 'jobs', skip: 1 },
};

describe.concurrent('a host that ends while', () => {
  it.each(Object.entries(STAGES))('%s leaves nothing', async (_stage, { skip = 0, ...match }) => {
    const own = await startCluster();
    try {
      await own.post('/simulator/faults', { match, skip, times: 1, action: { delayMs: STAGE_MS } });
      const host = startHost(own, {
        options: { scenario: 'success', agent: { id: 'agent-of-stage' } },
        stays: 3_600_000,
      });
      await eventually(async () => (await own.get('/simulator/faults')).faults[0].hits > 0);
      // What the server carries out after the host's end would be left.
      const isOver = sleep(STAGE_MS);
      await end(host);
      await isOver;
      await eventually(async () => (await leftovers(own)).length === 0);
    } finally {
      await own.stop();
    }
  });

  it('its log is followed leaves nothing', async () => {
    const own = await startCluster();
    try {
      const host = startHost(own, { options: { scenario: 'hang' } });
      await eventually(() => host.output.stdout.includes('"subtype":"init"'));
      await end(host);
      await eventually(async () => (await leftovers(own)).length === 0);
    } finally {
      await own.stop();
    }
  });
});
