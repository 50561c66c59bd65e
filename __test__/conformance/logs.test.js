// Long logs, which a kubelet rotates, and the storage that they take. Each spec has the cluster for itself: floods slow down
// everything else, and a limit of the namespace would be one for all pods.
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { later } from './support/later.js';
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

/** The issue that mends what a run makes of a follower that has fallen behind. */
const ENDS = 'Every run starts, ends and fails truly';
const MIB = 1 << 20;
/** A kubelet looks at sizes every 10 s, and at those of volumes once a minute. */
const EVICTION = { within: 180_000, every: 250 };

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
    const { received } = counter.expectMarked(200_000);
    expect(received, 'a host that keeps up loses little').toBeGreaterThan(100_000);
  });

  later(ENDS, 'is marked where a slow host could not keep up', async () => {
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

describe('a limit of ephemeral storage', () => {
  it('of a volume evicts the pod that exceeds it', async () => {
    const name = `storage-${randomBytes(5).toString('hex')}`;
    const pods = `/api/v1/namespaces/${cluster.namespace}/pods`;
    await cluster.api.post(pods, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name },
      spec: {
        restartPolicy: 'Never',
        terminationGracePeriodSeconds: 5,
        containers: [
          {
            name: 'main',
            image: 'busybox:1.36',
            imagePullPolicy: 'IfNotPresent',
            command: ['sh', '-c', 'head -c 3000000 /dev/zero > /cache/file; sleep 600'],
            volumeMounts: [{ name: 'cache', mountPath: '/cache' }],
          },
        ],
        volumes: [{ name: 'cache', emptyDir: { sizeLimit: '1Mi' } }],
      },
    });
    const { status } = await eventually(async () => {
      const pod = await cluster.api.get(`${pods}/${name}`);
      return pod.status.phase === 'Failed' && pod;
    }, EVICTION);
    expect(status).toMatchObject({
      reason: 'Evicted',
      message: 'Usage of EmptyDir volume "cache" exceeds the limit "1Mi". ',
    });
    // A node that is short of storage says DisruptionTarget; a pod that used too much was not disrupted by anything else.
    expect(status.conditions.map(({ type }) => type)).not.toContain('DisruptionTarget');
    await cluster.api.delete(`${pods}/${name}`);
  });

  it('that a run exceeds by its log is in its message', async () => {
    const ranges = `/api/v1/namespaces/${cluster.namespace}/limitranges`;
    const name = `storage-${randomBytes(5).toString('hex')}`;
    await cluster.api.post(ranges, {
      apiVersion: 'v1',
      kind: 'LimitRange',
      metadata: { name },
      spec: { limits: [{ type: 'Container', default: { 'ephemeral-storage': '5Mi' } }] },
    });
    try {
      // Twenty megabytes in the first seconds, then it goes on for minutes.
      const { result } = await flood(40_000, 5_000, 200);
      expect(result).toMatchObject({ timedOut: false });
      expect(result.exitCode).not.toBe(0);
      expect(result.errorMessage).toContain('Evicted');
      // A kubelet compares the sum of all containers first.
      const words = 'Pod ephemeral local storage usage exceeds the total limit of containers 5Mi';
      expect(result.errorMessage).toContain(words);
    } finally {
      await cluster.api.delete(`${ranges}/${name}`);
    }
  });
});
