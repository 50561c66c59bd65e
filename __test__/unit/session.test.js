import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { sessionCodec } from '../../js/session.js';

// A host may call the methods without their object.
const { deserialize, serialize, getDisplayId } = sessionCodec;

const SPELLINGS = {
  sessionId: ['sessionId', 'session_id'],
  cwd: ['cwd', 'workdir', 'folder'],
  workspaceId: ['workspaceId', 'workspace_id'],
  repoUrl: ['repoUrl', 'repo_url'],
  repoRef: ['repoRef', 'repo_ref'],
  promptBundleKey: ['promptBundleKey', 'prompt_bundle_key'],
};
const FIELDS = Object.keys(SPELLINGS);

describe.each([
  ['deserialize', deserialize],
  ['serialize', serialize],
])('%s', (_name, codec) => {
  it('becomes null without a session id', () => {
    for (const value of [
      null,
      undefined,
      {},
      { cwd: '/w' },
      { sessionId: '' },
      { sessionId: ' \n' },
      { sessionId: 7 },
    ]) {
      expect(codec(value)).toBeNull();
    }
  });

  it('keeps exactly the known fields', () => {
    expect(codec({ sessionId: 's', other: 1, cwd: null })).toStrictEqual({ sessionId: 's' });
    const full = Object.fromEntries(FIELDS.map((field) => [field, `value of ${field}`]));
    expect(codec({ ...full, extra: true })).toStrictEqual(full);
    expect(Object.keys(codec(full) ?? {})).toEqual(FIELDS);
  });

  /** @type {[string, string, number, readonly string[]][]} */
  const spellings = Object.entries(SPELLINGS).flatMap(([field, names]) =>
    names.map((name, rank) => /** @type {[string, string, number, string[]]} */ ([field, name, rank, names])),
  );
  it.each(spellings)('accepts %s as %s', (field, name, rank, names) => {
    const base = field === 'sessionId' ? {} : { sessionId: 's' };
    expect(codec({ ...base, [name]: ' v ' })).toStrictEqual({ ...base, [field]: 'v' });
    // It hides the spellings after it, and a blank one hides nothing.
    const lower = Object.fromEntries(names.slice(rank + 1).map((other) => [other, 'lower']));
    expect(codec({ ...base, ...lower, [name]: 'v' })).toStrictEqual({ ...base, [field]: 'v' });
    if (names[rank + 1]) {
      expect(codec({ ...base, ...lower, [name]: ' ' })).toStrictEqual({ ...base, [field]: 'lower' });
    }
  });
});

describe('deserialize', () => {
  it.each([null, undefined, '', 'sessionId', 0, 1, true, [], [{ sessionId: 's' }]])('refuses %j', (value) => {
    expect(deserialize(value)).toBeNull();
  });
});

describe('getDisplayId', () => {
  it.each([
    [null, null],
    [undefined, null],
    [{}, null],
    [{ cwd: '/w' }, null],
    [{ sessionId: 3, session_id: ' ' }, null],
    [{ sessionId: ' a ' }, 'a'],
    [{ session_id: 'b' }, 'b'],
    [{ sessionId: 'a', session_id: 'b' }, 'a'],
    [{ sessionId: ' ', session_id: 'b' }, 'b'],
  ])('of %j is %j', (params, expected) => {
    expect(getDisplayId(params)).toBe(expected);
  });
});

describe('any value', () => {
  const spelled = fc.record(
    Object.fromEntries(
      Object.values(SPELLINGS)
        .flat()
        .map((name) => [name, fc.oneof(fc.string(), fc.jsonValue())]),
    ),
    { requiredKeys: [] },
  );

  it('becomes null or known keys with trimmed text, and stays so', () => {
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), spelled), (value) => {
        const params = deserialize(value);
        expect(serialize(/** @type {any} */ (value))).toEqual(params);
        if (params === null) return;
        expect(params.sessionId).toBeTypeOf('string');
        for (const [key, text] of Object.entries(params)) {
          expect(FIELDS).toContain(key);
          expect(text).not.toBe('');
          expect(text).toBe(text.trim());
        }
        expect(deserialize(params)).toEqual(params);
        expect(deserialize(JSON.parse(JSON.stringify(params)))).toEqual(params);
        expect(getDisplayId(params)).toBe(params.sessionId);
      }),
      { numRuns: 1000 },
    );
  });
});
