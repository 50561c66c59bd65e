// A newer version, published to the registry and installed by the host's "reinstall" without a restart: new runs are the new
// version's, runs under way end on the old one.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

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
  order,
  seen,
  wake,
} from '../support.js';

const OLD = lab.packed.version;
const NEW = '999.0.0';
const KEY = 'fieldOfTheNewVersion';
const RUNS = 20;
/** The file on the volume that ends the runs. */
const OVER = 'update-is-over';

let company;
beforeAll(async () => {
  await installed();
  company = await newCompany('Updates');
});
afterAll(async () => {
  await order('registry/publish');
  expect(await reinstall()).toMatchObject({ version: OLD });
});

const reinstall = () => api('POST', `/adapters/${TYPE}/reinstall`);
const keysOfForm = async () =>
  (await api('GET', `/adapters/${TYPE}/config-schema`)).fields.map(({ key }) => key);

describe('a newer version, installed while runs are under way', () => {
  it('takes over without a restart and costs these runs nothing', async () => {
    const scenario = {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '3600', CLAUDE_STAND_IN_UNTIL: `${lab.home}/${OVER}` },
    };
    const agents = await Promise.all(
      Array.from({ length: RUNS }, (_, index) => newAgent(company, `Under way ${index}`, scenario)),
    );
    const runs = await Promise.all(agents.map((agent) => wake(agent)));
    await Promise.all(runs.map((run) => seen(run, 'tick 1 of')));

    await order('registry/publish', { version: NEW, key: KEY });
    expect(await reinstall()).toEqual({ type: TYPE, version: NEW, reinstalled: true });
    expect(await api('GET', `/adapters/${TYPE}`)).toMatchObject({ version: NEW, loaded: true });
    expect(await keysOfForm(), 'the modules are the new version’s').toEqual([KEY]);

    // One run per agent holds across versions: the cluster decides.
    const second = await ended(await wake(agents[0], { taskKey: 'other' }));
    expect(second).toMatchObject({
      status: 'failed',
      error: expect.stringMatching(/^Concurrent run blocked/),
    });
    expect(await oneRun(await newAgent(company, 'On the new version'))).toMatchObject({
      status: 'succeeded',
    });
    const addons = await order('host/addons');
    for (const version of [OLD, NEW]) {
      expect(addons, 'each version has its addon').toContainEqual(expect.stringContaining(`-${version}.`));
    }

    await order('volume/touch', { file: OVER });
    for (const [index, run] of runs.entries()) {
      expect(await ended(run), agents[index].name).toMatchObject({ status: 'succeeded', exitCode: 0 });
      const ticks = (await eventsOf(run)).flatMap(
        (event) => /tick (\d+) of/.exec(JSON.stringify(event))?.[1] ?? [],
      );
      expect(ticks.length).toBeGreaterThan(2);
      expect(ticks, 'no line is lost or doubled').toEqual(ticks.map((_, at) => String(at + 1)));
      await gone(agents[index]);
      expect(await objectsOf(agents[index])).toEqual({ jobs: [], pods: [] });
    }
  });
});
