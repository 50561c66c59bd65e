// A reload of the adapter does not affect runs under way: the native half and its runs stay in the process.
import { beforeAll, describe, expect, it } from 'vitest';

import {
  TYPE,
  api,
  ended,
  eventsOf,
  gone,
  installed,
  lab,
  newAgent,
  newCompany,
  objectsOf,
  oneRun,
  seen,
  textsOf,
  adapterLinesOf,
  wake,
} from '../support.js';

let company;
beforeAll(async () => {
  await installed();
  company = await newCompany('Reloads');
});

const reload = () => api('POST', `/adapters/${TYPE}/reload`);

describe('a reload of the adapter during a run', () => {
  it('neither ends the run nor loses or repeats a line of it', async () => {
    const agent = await newAgent(company, 'Ada', { scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '6' } });
    const run = await wake(agent);
    await seen(run, 'tick 2 of');
    for (let times = 0; times < 3; times += 1) {
      expect(await reload()).toEqual({ type: TYPE, version: lab.packed.version, reloaded: true });
    }
    expect(await ended(run)).toMatchObject({ status: 'succeeded', exitCode: 0 });
    const ticks = (await eventsOf(run)).flatMap(
      (event) => /tick (\d+) of 12/.exec(JSON.stringify(event))?.[1] ?? [],
    );
    expect(ticks).toEqual(Array.from({ length: 12 }, (_, index) => String(index + 1)));
    expect(textsOf(await eventsOf(run))).toContain('tick 1 of 12');
    expect((await adapterLinesOf(run)).filter((line) => line.includes('Created K8s Job'))).toHaveLength(1);
    await gone(agent);
  });

  it('lets the reloaded adapter cancel the run and run the agent again', async () => {
    const agent = await newAgent(company, 'Bea', {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '300' },
    });
    const run = await wake(agent);
    await seen(run, 'tick 2 of');
    await reload();
    expect(await api('POST', `/heartbeat-runs/${run.id}/cancel`)).toMatchObject({
      status: 'cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
    });
    expect(await objectsOf(agent)).toEqual({ jobs: [], pods: [] });
    const next = await newAgent(company, 'Cleo');
    expect(await oneRun(next)).toMatchObject({ status: 'succeeded' });
  });

  it('still keeps an agent’s runs exclusive: the old and the new copy share one lock', async () => {
    // Long enough for the second run to find it running, on a slow machine too.
    const agent = await newAgent(company, 'Dora', {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '12' },
    });
    const first = await wake(agent);
    await seen(first, 'tick 2 of');
    await reload();
    // Another run of this agent may not start beside it.
    const second = await ended(await wake(agent, { taskKey: 'other' }));
    expect(second).toMatchObject({
      status: 'failed',
      error: expect.stringMatching(/^Concurrent run blocked/),
    });
    expect(await ended(first)).toMatchObject({ status: 'succeeded' });
  });
});
