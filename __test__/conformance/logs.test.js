// Long logs, which a kubelet rotates. Each spec has the cluster for itself: floods slow down everything else.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { conformanceCluster } from './support/clusters.js';
import { rotatedFloodCounter, runsOn } from './support/runs.js';

let cluster;
let runs;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
});

afterAll(async () => {
  await cluster?.close();
});

/** A run that prints a number of lines of one size at a rate per second. */
const flood = (lines, bytes, rate, options) =>
  runs.play({
    scenario: 'flood',
    env: {
      CLAUDE_STAND_IN_LINES: String(lines),
      CLAUDE_STAND_IN_LINE_BYTES: String(bytes),
      CLAUDE_STAND_IN_RATE: String(rate),
    },
    ...options,
  });

/** Takes nothing for this time after the first chunk, and then everything at once. */
function lateHost(ms) {
  let ready;
  return () => (ready ??= new Promise((resolve) => setTimeout(resolve, ms)));
}

describe('a log that is rotated at 10 Mi', () => {
  it('of 200 MB has each line once, or a mark where lines are missing', async () => {
    const counter = rotatedFloodCounter();
    const { result } = await flood(200_000, 1_000, 10_000, { onLog: counter.take });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    const { received, last } = counter.expectMarked(200_000);
    expect(last, 'what follows a hole is read to the end').toBe(200_000);
    // The node keeps at least one file of 10 Mi.
    expect(received).toBeGreaterThan(10_000);
  });

  it('is marked where a slow host could not keep up', async () => {
    // The kubelet looks every 10 s whether a file is to be rotated: after 25 s at least one has come and gone unread.
    const counter = rotatedFloodCounter(lateHost(25_000));
    const { result } = await flood(30_000, 5_000, 1_000, { onLog: counter.take });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    const { received, marks } = counter.expectMarked(30_000);
    expect(received).toBeLessThan(30_000);
    expect(marks).toBeGreaterThan(0);
  });
});
