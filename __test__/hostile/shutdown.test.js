// A host that shuts down while its API swallows every request.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { clusterForHost, eventually } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';

/** A pod has 30 s to end. This is how long one with a lot to do on this machine may take. */
const STILL_THERE_MS = 60_000;

let cluster;
beforeAll(async () => {
  cluster = await clusterForHost();
});
afterAll(async () => {
  killHosts();
  await cluster?.stop();
});

it('host_ends_on_sigterm_while_the_api_swallows_requests', async () => {
  const { child, output, ended } = startHost(cluster, { options: { scenario: 'hang' } });
  await eventually(() => output.stdout.includes('"subtype":"init"'));
  // No answer comes for an hour.
  await cluster.post('/simulator/faults', { action: { delayMs: 3_600_000 } });
  child.kill('SIGTERM');
  const still = sleep(STILL_THERE_MS, 'still there');
  expect(await Promise.race([ended, still]), output.errors).toEqual({ code: null, signal: 'SIGTERM' });
});
