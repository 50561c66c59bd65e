// The host stops or is killed in the middle of a run. The adapter and the host both decide about the Job, the run and
// the task; both parts are asserted as they are.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import {
  TYPE,
  api,
  ended,
  eventsOf,
  eventually,
  getRun,
  gone,
  installed,
  lab,
  newAgent,
  newCompany,
  newIssue,
  objectsOf,
  oneRun,
  order,
  seen,
  started,
  textsOf,
  adapterLinesOf,
} from '../support.js';
import { comment, runOf } from '../tasks.js';

/** The file that ends an agent's work, before its name. */
const OVER = 'restart-is-over';

let company;
beforeAll(async () => {
  await installed();
  company = await newCompany('Restarts');
});

/** Other suites need a host even if this one failed. */
afterAll(() => order('host/start').catch(() => {}));

/** An agent that counts until its file exists, in the middle of a run for a task. */
async function counting(name, config) {
  const agent = await newAgent(company, name, {
    scenario: 'long',
    env: { CLAUDE_STAND_IN_SECONDS: '3600', CLAUDE_STAND_IN_UNTIL: `${lab.home}/${OVER}-${name}` },
    config,
  });
  const issue = await newIssue(company, agent, `Count, ${name}`);
  const run = await started(issue, agent);
  await seen(run, 'tick 2 of');
  return { agent, issue, run };
}

/** Ends the work of an agent that counts. */
const letEnd = (name) => order('volume/touch', { file: `${OVER}-${name}` });

const ticksOf = (events) =>
  events.flatMap((event) => /tick (\d+) of/.exec(JSON.stringify(event))?.[1] ?? []).map(Number);
const upTo = (count) => Array.from({ length: count }, (_, index) => index + 1);

describe('a host that stops', () => {
  let deleted;
  let left;
  let exit;
  beforeAll(async () => {
    [deleted, left] = await Promise.all([counting('deleted', { hostShutdown: 'delete' }), counting('left')]);
    exit = await order('host/end', { signal: 'SIGTERM' });
  });

  it('shuts down in order and leaves the Jobs under way, except those it is to delete', async () => {
    expect(exit).toBe(0);
    const doomed = await objectsOf(deleted.agent);
    expect(doomed.jobs).toEqual([]);
    expect(doomed.pods.filter(({ metadata }) => !metadata.deletionTimestamp)).toEqual([]);
    expect(await objectsOf(left.agent)).toMatchObject({
      jobs: [{}],
      pods: [{ status: { phase: 'Running' } }],
    });
  });

  it('comes back with the adapter, the runs interrupted and their tasks under way', async () => {
    await order('host/start');
    expect(await api('GET', `/adapters/${TYPE}`)).toMatchObject({
      loaded: true,
      version: lab.packed.version,
    });
    const interrupted = { status: 'interrupted', errorCode: 'server_shutdown_interrupted' };
    expect(await getRun(left.run)).toMatchObject(interrupted);
    // Both get the signal: the run is closed by the host's drain, or by the adapter's result if that is faster.
    const ending = await getRun(deleted.run);
    if (ending.status !== 'interrupted') {
      expect(ending).toMatchObject({ status: 'failed', errorCode: 'k8s_host_shutdown' });
    } else expect(ending).toMatchObject(interrupted);
    for (const { issue } of [deleted, left]) {
      expect(await api('GET', `/issues/${issue.id}`)).toMatchObject({ status: 'in_progress' });
    }
  });

  it('attaches to the Job that was left, and has all of its log', { timeout: 240_000 }, async () => {
    const { id } = await comment(left.issue);
    const again = await runOf(left.agent, id);
    await seen(again, 'Reattached to pod');
    const { jobs } = await objectsOf(left.agent);
    expect(jobs.map(({ metadata }) => metadata.labels['paperclip.io/run-id'])).toEqual([again.id]);

    await letEnd('left');
    const over = await ended(again, { within: 120_000 });
    expect(over).toMatchObject({
      status: 'succeeded',
      exitCode: 0,
      sessionIdAfter: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    const events = await eventsOf(again);
    const ticks = ticksOf(events);
    expect(ticks).toEqual(upTo(ticks.length));
    // The CLI's own count.
    expect(events.find(({ type }) => type === 'result').result).toBe(`All ${ticks.length} ticks done.`);
    expect((await adapterLinesOf(again)).some((line) => line.includes('Created K8s Job'))).toBe(false);
    expect((await adapterLinesOf(again)).join('\n')).toContain(`(prior run ${left.run.id})`);
    // The session of this run, not of the agent's next one.
    await gone(left.agent, jobs[0].metadata.name);
  });

  it('runs the agent whose Job was deleted again for a comment', async () => {
    // The host may have started its task again by itself.
    await letEnd('deleted');
    await gone(deleted.agent);
    await api('PATCH', `/agents/${deleted.agent.id}`, {
      adapterConfig: { ...deleted.agent.adapterConfig, env: { CLAUDE_STAND_IN_SCENARIO: 'success' } },
    });
    const { id } = await comment(deleted.issue);
    const again = await ended(await runOf(deleted.agent, id));
    expect(again).toMatchObject({ status: 'succeeded' });
    expect(textsOf(await eventsOf(again))).toContain('All done.');
  });
});

describe('a host that is killed', () => {
  it(
    'leaves the Job running, and nothing is started beside it after the restart',
    { timeout: 300_000 },
    async () => {
      const { agent, run } = await counting('orphan');
      const before = await objectsOf(agent);
      expect(await order('host/end', { signal: 'SIGKILL' })).toBe('SIGKILL');
      expect((await objectsOf(agent)).pods).toMatchObject([{ status: { phase: 'Running' } }]);
      await order('host/start');
      expect((await objectsOf(agent)).pods.map(({ metadata }) => metadata.uid)).toEqual(
        before.pods.map(({ metadata }) => metadata.uid),
      );
      // The host calls such a run lost once its lease has expired, up to a minute after the kill, if it starts again
      // later than that; otherwise after five minutes.
      const lost = await getRun(run);
      if (lost.status === 'running') expect(lost).toMatchObject({ execution: { phase: 'reconnecting' } });
      else expect(lost).toMatchObject({ status: 'failed', errorCode: 'process_lost' });

      const other = await oneRun(agent);
      expect(other).toMatchObject({
        status: 'failed',
        error: expect.stringMatching(/^Concurrent run blocked/),
      });

      // Once the Job has ended the agent is free.
      await letEnd('orphan');
      await eventually(
        async () => (await objectsOf(agent)).pods.every(({ status }) => status.phase === 'Succeeded'),
        'the end of the Job',
        { within: 120_000 },
      );
      await api('PATCH', `/agents/${agent.id}`, {
        adapterConfig: { ...agent.adapterConfig, env: { CLAUDE_STAND_IN_SCENARIO: 'success' } },
      });
      expect(await oneRun(agent)).toMatchObject({ status: 'succeeded' });
    },
  );
});
