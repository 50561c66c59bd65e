// How the tests of 0.1.49 are judged: what is known to differ must differ, and all else must pass.
import { describe, expect, it } from 'vitest';

import { judge } from '../parity/differences.mjs';

const KNOWN = [
  'execute: happy path > logs bundled skill names and count (FAR-36 diagnostic)',
  'execute: happy path > includes skill count in onMeta commandNotes (FAR-36 diagnostic)',
];
const version = '2026.916.1';
const passing = [1, 2, 3].map((n) => ({ name: `other ${n}`, state: 'passed' }));
const ending = (state, names = KNOWN) => [...passing, ...names.map((name) => ({ name, state }))];

describe('the tests of 0.1.49', () => {
  it('known_differences_are_counted_apart', () => {
    const { problems, ...counts } = judge(ending('failed'), { version });
    expect(problems).toEqual([]);
    expect(counts).toMatchObject({ passed: 3, failed: 0, skipped: 0 });
    expect(counts.known.map(({ test }) => test)).toEqual(KNOWN);
  });

  it('third_failure_is_a_problem', () => {
    const tests = [...ending('failed'), { name: 'another', state: 'failed' }];
    expect(judge(tests, { version })).toMatchObject({ failed: 1, problems: ['1 failed that must pass'] });
  });

  it('unexpected_pass_is_a_problem', () => {
    expect(judge(ending('passed'), { version }).problems).toEqual(
      KNOWN.map((name) => `Known to differ with adapter-utils ${version}, and passes now: ${name}`),
    );
  });

  it('known_difference_that_is_gone_is_a_problem', () => {
    expect(judge(passing, { version }).problems).toHaveLength(2);
  });

  it('same_failures_endinganother_host_package_are_problems', () => {
    expect(judge(ending('failed'), { version: '2026.403.0' })).toMatchObject({
      failed: 2,
      problems: ['2 failed that must pass'],
    });
  });

  it('skipped_test_is_a_problem_unless_a_pattern_left_it_out', () => {
    const tests = [...ending('failed'), { name: 'another', state: 'skipped' }];
    expect(judge(tests, { version }).problems).toEqual(['1 did not run']);
    expect(judge(tests, { version, pattern: 'x' }).problems).toEqual([]);
    expect(judge(ending('skipped'), { version, pattern: 'x' }).problems).toEqual([]);
  });
});
