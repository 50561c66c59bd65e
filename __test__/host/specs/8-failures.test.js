// What can go wrong in a cluster, and what the host makes of it: the task lives on, and a comment starts a run that succeeds
// once the cause is gone.
import { beforeAll, describe, expect, it } from 'vitest';

import { failures, playOn } from '../failures.js';
import { cellOf, changes, keep, tableOf } from '../kept.js';
import { installed, lab, newCompany } from '../support.js';
import { sideBySide } from '../tasks.js';

const AT_ONCE = 14;

describe.skipIf(lab.kind !== 'embedded')('a failure of the cluster', () => {
  /** @type {ReturnType<typeof sideBySide<import('../tasks.js').Seen>>} */
  let seen;

  beforeAll(async () => {
    await installed();
    const company = await newCompany('Failures');
    seen = sideBySide(
      AT_ONCE,
      failures.map((failure, number) => [failure.name, () => playOn(company, failure, `failure-${number}`)]),
    );
  });

  it.each(failures.map(({ name, codes }) => [name, codes]))(
    '%s: the task lives on',
    { timeout: 900_000 },
    async (name, codes) => {
      const result = await seen.get(name);
      if (result instanceof Error) throw result;
      const { run, next, last } = /** @type {import('../tasks.js').Seen} */ (result);
      expect(run.status).not.toBe('succeeded');
      expect(codes).toContain(run.resultJson?.k8sErrorCode ?? run.errorCode);
      expect(next?.status).toBe('succeeded');
      expect(last).not.toBe('blocked');
    },
  );

  it('is in the table of docs/host-endings.md', { timeout: 900_000 }, async () => {
    const rows = [];
    for (const { name } of failures) rows.push([name, cellOf(/** @type {any} */ (await seen.get(name)))]);
    const table = tableOf(['failure', 'claude_k8s'], rows);
    console.log(table);
    keep('failures', table);
    expect(changes('failures', rows)).toEqual([]);
  });
});
