// The host is killed once and restarted in order ten times while agents work: their Jobs go on, no line of them is lost or
// doubled, and no task is held.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { cellOf, changes, keep, tableOf } from '../kept.js';
import {
  TYPE,
  api,
  ended,
  eventsOf,
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

  /** A restart; `signal` ends the host. */
  async function restart(signal = 'SIGTERM') {
    const exit = await order('host/end', { signal });
    expect(exit).toBe(signal === 'SIGTERM' ? 0 : signal);
    await order('host/start');
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
    for (let times = 1; times <= RESTARTS; times += 1) {
      for (const [index, { agent, issue, run }] of [one, two].entries()) {
        const woken = await comment(issue);
        const next = await runOf(agent, woken.id);
        expect(next.id).not.toBe(run.id);
        await seen(next, 'tick ', { within: 240_000, every: 500 });
        runs[index].push(next);
      }
      await restart();
      for (const { issue } of [one, two]) {
        expect((await api('GET', `/issues/${issue.id}`)).status, `after restart ${times}`).not.toBe(
          'blocked',
        );
      }
    }
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

  it('is in the table of docs/host-endings.md', { timeout: 900_000 }, async () => {
    const rows = [];
    for (const [name, signal] of [['host stops in order', 'SIGTERM']]) {
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
