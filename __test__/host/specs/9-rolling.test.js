// The host is killed once and restarted in order ten times while agents work: their Jobs go on, no line of them is lost or
// doubled, and no task is held.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { fault, noFaults, startScene } from '../failures.js';
import { STOPPED, cellOf, changes, keep, tableOf } from '../kept.js';
import {
  TYPE,
  api,
  ended,
  eventsOf,
  eventually,
  getRun,
  installed,
  lab,
  newCompany,
  newIssue,
  order,
  seen,
  started,
} from '../support.js';
import { LOCAL, comment, configOf, retryOf, runOf } from '../tasks.js';

const RESTARTS = 10;
/** The file that ends the work of the agents. */
const OVER = 'rolling-is-over';

/** The numbers of the lines that the stored log of a run has, in order. */
const numbersOf = async (run) =>
  (await eventsOf(run)).flatMap((event) => {
    const number = /tick (\d+) of/.exec(JSON.stringify(event))?.[1];
    return number ? [Number(number)] : [];
  });
const from = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => first + index);

describe('a host that is restarted again and again', () => {
  let company;
  beforeAll(async () => {
    await installed();
    company = await newCompany('Rolling');
  });
  /** Other suites need a host even if this one failed. */
  afterAll(() => order('host/start').catch(() => {}));

  /** An agent that counts until a file exists, in the middle of a run for a task. */
  async function counting(name, file, adapter = TYPE) {
    const agent = await api('POST', `/companies/${company.id}/agents`, {
      name,
      role: 'engineer',
      adapterType: adapter,
      adapterConfig: configOf(adapter, {
        CLAUDE_STAND_IN_SCENARIO: 'long',
        CLAUDE_STAND_IN_SECONDS: '3600',
        CLAUDE_STAND_IN_UNTIL: `${lab.home}/${file}`,
      }),
    });
    const issue = await newIssue(company, agent, name);
    const run = await started(issue, agent);
    await seen(run, 'tick 2 of');
    return { agent, issue, run };
  }

  /** A restart; `signal` ends the host. Resolves to how long the host took to end, in milliseconds. */
  async function restart(signal = 'SIGTERM') {
    const asked = performance.now();
    const exit = await order('host/end', { signal });
    const took = Math.round(performance.now() - asked);
    expect(exit).toBe(signal === 'SIGTERM' ? 0 : signal);
    await order('host/start');
    return took;
  }

  /** What was seen of a task whose run the host ended, after a comment. */
  async function after({ agent, issue, run }) {
    const over = await ended(run, { within: 400_000 });
    const retry = await retryOf(agent, over);
    const { status } = await api('GET', `/issues/${issue.id}`);
    const { id } = await comment(issue);
    const next = await ended(await runOf(agent, id), { within: 180_000 });
    const last = await api('GET', `/issues/${issue.id}`);
    await api('PATCH', `/issues/${issue.id}`, { status: 'done' });
    return {
      run: over,
      issue: status,
      retry,
      next,
      last: last.status,
    };
  }

  it('loses no task and no line', { timeout: 1_800_000 }, async () => {
    const [one, two] = await Promise.all([counting('Counts', OVER), counting('Counts too', OVER)]);

    // The host calls their runs lost only after some time, while the next runs are under way.
    await restart('SIGKILL');

    /** @type {any[]} */
    const runs = [[], []];
    const stops = [];
    for (let times = 1; times <= RESTARTS; times += 1) {
      for (const [index, { agent, issue, run }] of [one, two].entries()) {
        const woken = await comment(issue);
        const next = await runOf(agent, woken.id);
        expect(next.id).not.toBe(run.id);
        await seen(next, 'tick ', { within: 240_000, every: 500 });
        runs[index].push(next);
      }
      stops.push(await restart());
      for (const { issue } of [one, two]) {
        expect((await api('GET', `/issues/${issue.id}`)).status, `after restart ${times}`).not.toBe(
          'blocked',
        );
      }
    }
    console.log(`Stops of a host with two Jobs under way: ${stops.join(', ')} ms`);
    // Once the last runs have attached: a Job that ends while the host is away is not looked for.
    for (const [index, { agent, issue }] of [one, two].entries()) {
      const last = await runOf(agent, (await comment(issue)).id);
      await seen(last, 'tick ', { within: 240_000, every: 500 });
      runs[index].push(last);
    }
    await order('volume/touch', { file: OVER });
    for (const [index, { issue }] of [one, two].entries()) {
      const last = await ended(runs[index].at(-1), { within: 400_000 });
      expect(last).toMatchObject({ status: 'succeeded', exitCode: 0 });
      // The CLI's own count is the last number.
      const counted = (await eventsOf(last)).find(({ type }) => type === 'result').result;
      expect(counted).toBe(`All ${(await numbersOf(last)).at(-1)} ticks done.`);
      for (const run of runs[index]) {
        const numbers = await numbersOf(run);
        expect(numbers).toEqual(from(1, numbers.at(-1) ?? 0));
      }
      expect((await api('GET', `/issues/${issue.id}`)).status).not.toBe('blocked');
    }
    for (const { run } of [one, two]) {
      expect(await getRun(run)).toMatchObject({ status: 'failed', errorCode: 'process_lost' });
    }
  });

  // The API does not answer, so that the run has no Job when its host ends. The host's own part of a start, before it calls
  // the adapter, is over when the run's first request comes.
  it.each([
    ['at once', () => true],
    [
      'once it has named its harness',
      async (run) =>
        (await api('GET', `/heartbeat-runs/${run.id}/events`)).some(
          ({ eventType }) => eventType === 'adapter.invoke',
        ),
    ],
  ])(
    'keeps the task of a run without a Job, ended %s',
    { timeout: 600_000 },
    async (when, /** @type {(run: any) => any} */ due) => {
      const name = `Waits, ended ${when}`;
      const scene = await startScene(name.replaceAll(/\W/g, '-'));
      try {
        await fault({ verb: 'get', resource: 'pods' }, { delayMs: 600_000 })(scene);
        const agent = await api('POST', `/companies/${company.id}/agents`, {
          name,
          role: 'engineer',
          adapterType: TYPE,
          adapterConfig: configOf(
            TYPE,
            { CLAUDE_STAND_IN_SCENARIO: 'success' },
            { kubeconfig: scene.kubeconfig },
          ),
        });
        const issue = await newIssue(company, agent, name);
        const run = await started(issue, agent);
        const asked = async () =>
          (await scene.request('GET', '/simulator/requests')).requests.some(
            ({ verb, resource }) => verb === 'get' && resource === 'pods',
          );
        await eventually(async () => (await asked()) && (await due(run)), `the wait of ${name}`, {
          every: 50,
        });
        const took = await restart();
        console.log(`Stop of a host with a run without a Job, ${when}: ${took} ms`);
        const over = await getRun(run);
        expect(over.errorCode).toMatch(/^(server_shutdown_interrupted|k8s_host_shutdown)$/);
        expect((await api('GET', `/issues/${issue.id}`)).status).not.toBe('blocked');
        await noFaults(scene);
        const woken = await comment(issue);
        expect(await ended(await runOf(agent, woken.id), { within: 240_000 })).toMatchObject({
          status: 'succeeded',
        });
        await api('PATCH', `/issues/${issue.id}`, { status: 'done' });
      } finally {
        await scene.stop();
      }
    },
  );

  it('is in the table of docs/host-endings.md', { timeout: 900_000 }, async () => {
    const rows = [];
    for (const [name, signal] of [[STOPPED, 'SIGTERM']]) {
      const tasks = await Promise.all([
        counting(`Process, ${name}`, 'stop-is-over', LOCAL),
        counting(`Pod, ${name}`, 'stop-is-over'),
      ]);
      await restart(/** @type {any} */ (signal));
      await order('volume/touch', { file: 'stop-is-over' });
      const cells = await Promise.all(tasks.map((task) => after(task).catch((error) => error)));
      rows.push([name, ...cells.map(cellOf)]);
    }
    const table = tableOf(['end', LOCAL, TYPE], rows);
    console.log(table);
    keep('rolling', table);
    expect(changes('rolling', rows)).toEqual([]);
  });
});
