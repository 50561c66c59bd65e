// The oldest host that the adapter supports: it gives runs none of the newer callbacks, knows none of the newer keys of a
// result, and must go on all the same.
import { beforeAll, describe, expect, it } from 'vitest';

import { endings } from '../support/endings.js';
import { cellOf, changes, keep, tableOf } from './kept.js';
import { newCompany } from './support.js';
import { play, sideBySide } from './tasks.js';

const SUCCESS = { CLAUDE_STAND_IN_SCENARIO: 'success' };
const IMAGE = { image: 'missing/agent:1', imagePullGraceSec: 0 };
const WRONG = { tolerations: '{"not":"an array"}' };

const ofEnding = (name) => endings.find((ending) => ending.name === name) ?? { name, env: {} };
const played = [
  { name: 'success', env: SUCCESS },
  ofEnding('success, then exit 1'),
  ofEnding('crash'),
  ofEnding('time limit'),
  { name: 'image cannot be pulled', env: SUCCESS, config: IMAGE, repaired: {} },
  { name: 'configuration invalid', env: SUCCESS, config: WRONG, repaired: {} },
];

/** What the CLI's own result has; the adapter's keys are those beside it. */
const OF_THE_CLI = /_|^(type|subtype|result|usage|modelUsage|uuid)$/;
const keysOf = ({ run }) =>
  Object.keys(run.resultJson ?? {})
    .filter((key) => !OF_THE_CLI.test(key))
    .map((key) => `\`${key}\``)
    .join(', ') || 'nothing';

describe('the oldest host', () => {
  /** @type {ReturnType<typeof sideBySide<import('./tasks.js').Seen>>} */
  let seen;

  beforeAll(async () => {
    const company = await newCompany('Older');
    seen = sideBySide(
      played.length,
      played.map((task) => [task.name, () => play(company, task)]),
    );
  });

  it.each(played.map(({ name }) => [name]))('%s: a comment starts a run that succeeds', async (name) => {
    const result = await seen.get(name);
    if (result instanceof Error) throw result;
    expect(result?.next?.status).toBe('succeeded');
    expect(result?.last).not.toBe('blocked');
  });

  it('is in the table of docs/host-endings.md', async () => {
    const rows = [];
    for (const { name } of played) {
      const result = /** @type {any} */ (await seen.get(name));
      rows.push([name, cellOf(result), keysOf(result)]);
    }
    const table = tableOf(['ending', 'claude_k8s', 'what `resultJson` has beside the CLI’s result'], rows);
    console.log(table);
    keep('older', table);
    expect(changes('older', rows)).toEqual([]);
  });
});
