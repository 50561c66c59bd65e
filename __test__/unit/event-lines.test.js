// The shared file of the CLI's lines: what each reader makes of them is in its own test.
import { expect, it } from 'vitest';

import { eventLines, kindOf, recordedLines, recordings } from '../support/recordings.js';

const kinds = eventLines.map(({ kind }) => kind);

it('has one line of each kind', () => {
  expect(eventLines.map(({ line }) => kindOf(line))).toEqual(kinds);
  expect(new Set(kinds).size).toBe(kinds.length);
});

it.each(recordings)('has every kind of line of the recorded run %s', (name) => {
  expect(kinds).toEqual(expect.arrayContaining(recordedLines(name).map(kindOf)));
});
