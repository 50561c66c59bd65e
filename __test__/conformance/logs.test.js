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

const MIB = 1 << 20;

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

describe('a log that is rotated at 10 Mi', () => {
  it('of 200 MB has each line once, or a mark where lines are missing', async () => {
    const counter = rotatedFloodCounter();
    const { result } = await flood(200_000, 1_000, 10_000, { onLog: counter.take });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(counter.expectMarked(200_000).received).toBeGreaterThan(0);
  });

  it('is marked where a slow host could not keep up', async () => {
    // Two megabytes in a second, of five: it falls behind by whole files.
    const pause = (bytes) => new Promise((resolve) => setTimeout(resolve, (bytes / (2 * MIB)) * 1_000));
    const counter = rotatedFloodCounter(pause);
    const { result } = await flood(40_000, 5_000, 1_000, { onLog: counter.take });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    const { received, marks } = counter.expectMarked(40_000);
    expect(received).toBeLessThan(40_000);
    expect(marks).toBeGreaterThan(0);
  });
});
