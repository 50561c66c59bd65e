// Limits of local storage, which a kubelet enforces some time after they are exceeded. Nearly all of that is waiting.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { ownNamespace } from './support/namespaces.js';
import { runsOn } from './support/runs.js';

let cluster;
/** @type {(() => Promise<unknown>)[]} */
const undo = [];

beforeAll(async () => {
  cluster = await conformanceCluster();
});

afterAll(async () => {
  await Promise.all(undo.map((step) => step()));
  await cluster?.close();
});

/** A limit of the namespace is one for all of its pods. */
async function inNamespace() {
  const namespace = await ownNamespace(cluster);
  undo.push(namespace.remove);
  return namespace;
}

/** A kubelet looks at sizes every 10 s, and at those of volumes once a minute. */
const EVICTION = { within: 300_000, every: 250 };

describe.concurrent('a limit of ephemeral storage', () => {
  it('of a volume evicts the pod that exceeds it', async () => {
    const { core } = await inNamespace();
    await cluster.api.post(`${core}/pods`, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'large' },
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
      const pod = await cluster.api.get(`${core}/pods/large`);
      return pod.status.phase === 'Failed' && pod;
    }, EVICTION);
    expect(status).toMatchObject({
      reason: 'Evicted',
      message: 'Usage of EmptyDir volume "cache" exceeds the limit "1Mi". ',
    });
    // A node that is short of storage says DisruptionTarget; a pod that used too much was not disrupted by anything else.
    expect(status.conditions.map(({ type }) => type)).not.toContain('DisruptionTarget');
  });

  it('that a run exceeds by its log is in its message', async () => {
    const { core, name } = await inNamespace();
    await cluster.api.post(`${core}/limitranges`, {
      apiVersion: 'v1',
      kind: 'LimitRange',
      metadata: { name: 'ours' },
      spec: { limits: [{ type: 'Container', default: { 'ephemeral-storage': '5Mi' } }] },
    });
    // Twenty megabytes in the first seconds, then it goes on for minutes.
    const env = {
      CLAUDE_STAND_IN_LINES: '40000',
      CLAUDE_STAND_IN_LINE_BYTES: '5000',
      CLAUDE_STAND_IN_RATE: '200',
    };
    const { result } = await runsOn(cluster, name).play({ scenario: 'flood', env });
    expect(result).toMatchObject({ timedOut: false });
    expect(result.exitCode).not.toBe(0);
    expect(result.errorMessage).toContain('Evicted');
    // A kubelet compares the sum of all containers first.
    const words = 'Pod ephemeral local storage usage exceeds the total limit of containers 5Mi';
    expect(result.errorMessage).toContain(words);
  });
});
