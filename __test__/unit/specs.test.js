// How a suite judges a file that failed and then ran alone (tools/dev/specs.mjs).
import path from 'node:path';
import { expect, it } from 'vitest';

import { root } from '../../tools/dev/lib.mjs';
import { counts, isBroken, namesOfFailed, renewed } from '../../tools/dev/specs.mjs';

const file = (name, ...statuses) => ({
  name: path.join(root, name),
  status: statuses.includes('failed') ? 'failed' : 'passed',
  assertionResults: statuses.map((status, at) => ({ fullName: `test ${at}`, status })),
});

it('counts a file that passes alone as passed, and knows which tests had failed', () => {
  const first = [file('a.test.js', 'passed', 'failed', 'skipped'), file('b.test.js', 'passed')];
  const broken = first.filter(isBroken);
  expect(broken.flatMap(namesOfFailed)).toEqual(['a.test.js > test 1']);
  const files = renewed(first, [file('a.test.js', 'passed', 'passed', 'skipped')]);
  expect(files.some(isBroken)).toBe(false);
  expect(counts(files)).toEqual({ passed: 3, failed: 0, skipped: 1 });
});

it('counts what fails twice as failed', () => {
  const first = [file('a.test.js', 'failed', 'failed'), file('b.test.js', 'passed')];
  const files = renewed(first, [file('a.test.js', 'passed', 'failed')]);
  expect(files.filter(isBroken)).toHaveLength(1);
  expect(counts(files)).toEqual({ passed: 2, failed: 1, skipped: 0 });
});

it('counts a file that failed as a whole as one failure', () => {
  const whole = { ...file('a.test.js'), status: 'failed' };
  expect(counts([whole])).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(namesOfFailed(whole)).toEqual(['a.test.js']);
});
