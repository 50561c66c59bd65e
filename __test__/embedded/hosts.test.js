// Two host processes start the same agents at the same moment.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { RUN_JOBS, clusterForHost, eventually, leftovers } from '../support/host.js';

/** A thousand races: the agents of a round, and the rounds. */
const AGENTS = 50;
const ROUNDS = 20;

let cluster;
let hosts;

beforeAll(async () => {
  cluster = await clusterForHost();
  await cluster.post('/simulator/settings', { podStartDelayMs: 0 });
  hosts = await Promise.all(['task-1', 'task-2'].map(startHost));
});

afterAll(async () => {
  for (const host of hosts) await host.end();
  await cluster.stop();
});

async function startHost(task) {
  const child = fork(fileURLToPath(new URL('../support/racer.js', import.meta.url)));
  const heard = [];
  child.on('message', (message) => heard.push(message));
  await eventually(() => heard.some(({ ready }) => ready));
  return {
    heard,
    send: (message) => child.send({ kubeconfig: cluster.kubeconfig, task, ...message }),
    end: () =>
      new Promise((resolve) => {
        child.once('exit', resolve);
        child.kill('SIGKILL');
      }),
  };
}

/** The agents whose runs have a Job now, and those whose container has started. */
async function jobs() {
  const ns = cluster.namespace;
  const { items } = await cluster.get(`/apis/batch/v1/namespaces/${ns}/jobs?${RUN_JOBS}`);
  const pods = await cluster.get(`/api/v1/namespaces/${ns}/pods?${RUN_JOBS}`);
  return {
    jobs: items.map(({ metadata }) => metadata.labels['paperclip.io/agent-id']),
    started: pods.items
      .filter(({ status }) => status.containerStatuses?.some(({ state }) => !state.waiting))
      .map(({ metadata }) => metadata.labels['paperclip.io/agent-id']),
  };
}

describe('two hosts that start the same agent at the same moment', () => {
  it(`start one container between them, ${AGENTS * ROUNDS} times`, async () => {
    const lead = { 0: 0, 1: 0 };
    let waited = 0;
    // Its agents stay until they are cancelled, and end when they are asked to.
    const config = { env: { CLAUDE_STAND_IN_SCENARIO: 'silent', CLAUDE_STAND_IN_SECONDS: '600' } };
    for (let round = 0; round < ROUNDS; round += 1) {
      const agents = Array.from({ length: AGENTS }, (_, n) => `agent-${round}-${n}`);
      // The second host starts from the other end, so that neither leads throughout.
      hosts[0].send({ start: agents, config });
      hosts[1].send({ start: agents.toReversed(), config });
      const ended = () =>
        hosts.map(({ heard }) => heard.filter(({ agent, created }) => agents.includes(agent) && !created));
      // Every race has ended for one of the two, and the container of the other runs.
      await eventually(
        async () => {
          const counts = ended().map(({ length }) => length);
          return counts[0] + counts[1] >= AGENTS;
        },
        { every: 100 },
      );
      await eventually(async () => (await jobs()).started.length >= AGENTS, { every: 100 });
      const now = await jobs();
      expect(now.jobs.toSorted(), 'one Job per agent').toEqual(agents.toSorted());
      expect(now.started.toSorted(), 'one container per agent').toEqual(agents.toSorted());
      for (const one of ended().flat())
        expect(one).toMatchObject({ errorCode: 'k8s_concurrent_run_blocked' });

      for (const host of hosts) host.send({ stop: agents });
      await eventually(() => ended().flat().length === 2 * AGENTS, { every: 100 });
      for (const [index, list] of ended().entries()) {
        lead[index] += list.filter(({ errorCode }) => errorCode === 'cancelled').length;
        waited += list.filter((one) => one.waited).length;
      }
    }
    const created = hosts.flatMap(({ heard }) => heard.filter((one) => one.created));
    expect(created).toHaveLength(AGENTS * ROUNDS);
    expect(lead[0] + lead[1]).toBe(AGENTS * ROUNDS);
    expect(lead[0], 'both win some').toBeGreaterThan(0);
    expect(lead[1], 'both win some').toBeGreaterThan(0);
    expect(waited, 'they met').toBeGreaterThan(0);
    console.log(`  ${AGENTS * ROUNDS} races: won ${lead[0]} to ${lead[1]}, waited for a claim in ${waited}`);
    expect(await leftovers(cluster)).toEqual([]);
  });
});
