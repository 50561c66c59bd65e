// Every way the CLI can end, through this adapter and through the host's own, side by side in one host.
import { beforeAll, describe, expect, it } from 'vitest';

import { RESETS_AT, endings } from '../../support/endings.js';
import { cellOf, changes, keep, tableOf } from '../kept.js';
import { TYPE, installed, newCompany } from '../support.js';
import { LOCAL, play, sideBySide } from '../tasks.js';

/** Most of a task's time is waiting for the host's sweeps. */
const AT_ONCE = 14;

describe('an ending of the CLI', () => {
  /** @type {ReturnType<typeof sideBySide<import('../tasks.js').Seen>>} */
  let seen;
  const of = (adapter, name) => seen.get(`${adapter} ${name}`);

  beforeAll(async () => {
    await installed();
    const company = await newCompany('Endings');
    const playing = (ending, adapter) => {
      const name = `${adapter === TYPE ? 'Pod' : 'Process'}: ${ending.name}`;
      return play(company, { ...ending, adapter, name });
    };
    seen = sideBySide(
      AT_ONCE,
      endings.flatMap((ending) =>
        [LOCAL, TYPE].map((adapter) => [`${adapter} ${ending.name}`, () => playing(ending, adapter)]),
      ),
    );
  });

  it.each(endings.map(({ name }) => [name]))('%s: the task lives on', { timeout: 900_000 }, async (name) => {
    const [local, ours] = await Promise.all([of(LOCAL, name), of(TYPE, name)]);
    if (local instanceof Error) throw local;
    if (ours instanceof Error) throw ours;
    // Not held, and not worse off than with the host's own adapter. Of an agent that succeeded the host asks what has become of
    // the task, and blocks it without an answer: when, is not the adapter's.
    if (local?.issue !== 'blocked' && ours?.run.status !== 'succeeded')
      expect(ours?.issue).not.toBe('blocked');
    expect(ours?.next?.status).toBe('succeeded');
    expect(ours?.last).not.toBe('blocked');
    // Retried where the host's own adapter is, unless this one knows that the run succeeded or a person must repair something:
    // the host's sweep does not know model_not_found, and retries it where it sees the run before its release does.
    if (local?.retry.kind !== 'none' && ours?.run.status !== 'succeeded' && ours?.issue !== 'blocked')
      expect(ours?.retry.kind).not.toBe('none');
  });

  it('with a reset time is retried at that second', { timeout: 900_000 }, async () => {
    const ours = await of(TYPE, 'usage limit, reset time in an event');
    expect(Date.parse(/** @type {any} */ (ours).run.resultJson.retryNotBefore)).toBe(RESETS_AT * 1_000);
    expect(/** @type {any} */ (ours).retry).toMatchObject({ kind: 'scheduled', atNotBefore: true });
  });

  it('is in the table of docs/host-endings.md', { timeout: 900_000 }, async () => {
    const rows = [];
    for (const { name } of endings) {
      const [local, ours] = /** @type {any[]} */ (await Promise.all([of(LOCAL, name), of(TYPE, name)]));
      rows.push([name, cellOf(local), cellOf(ours)]);
    }
    const table = tableOf(['ending', LOCAL, TYPE], rows);
    console.log(table);
    keep('endings', table);
    expect(changes('endings', rows)).toEqual([]);
  });
});
