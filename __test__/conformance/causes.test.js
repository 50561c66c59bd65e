// The causes of failures that both clusters can show: `real` in the table of injections.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { rows, wrongs } from '../support/causes.js';
import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { running, runsOn } from './support/runs.js';

let cluster;
let runs;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
});

afterAll(async () => {
  await cluster?.close();
});

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @param {import('../support/causes.js').Row} row */
async function play(row) {
  const controller = new AbortController();
  const began = Date.now();
  const run = runs.start({
    scenario: row.scenario,
    env: { CLAUDE_STAND_IN_SECONDS: '300', ...row.env },
    config: row.config,
    runtime: row.runtime,
    signal: controller.signal,
  });
  /** @type {import('../support/causes.js').Scene} */
  const scene = {
    request: (method, path, body, more) => cluster.api.request(method, path, body, more),
    control: () => Promise.reject(new Error('a real cluster has no such API')),
    namespace: cluster.namespace,
    ctx: run.ctx,
    output: run.output,
    job: () => runs.jobOf(run),
    pod: () => runs.podOf(run),
    begun: async () => {
      await eventually(() => running(run.output), { within: 120_000 });
    },
    open: () => {},
    heal: () => Promise.resolve(),
    abort: () => controller.abort(),
    sleep,
  };
  const [result] = await Promise.all([run.done, row.during?.(scene)]);
  const ended = Date.now();
  await runs.nothingLeft(run);
  return { result, began, ended };
}

const shown = rows.filter(({ real }) => real);

describe.concurrent('a cause that both clusters can show', () => {
  it.each(shown.map((row) => [row.cause, row]))('%s is named', async (_, row) => {
    expect(wrongs(row, await play(row))).toEqual([]);
  });

  it('an image that cannot be pulled is named', async () => {
    const row = {
      cause: 'registry_unreachable',
      about: /** @type {const} */ ('Pod'),
      config: { image: cluster.unpullable, imagePullGraceSec: 0 },
    };
    expect(wrongs(row, await play(row))).toEqual([]);
  });
});
