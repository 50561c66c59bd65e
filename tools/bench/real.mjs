// Row (g): what a run adds to its container, on a cluster with a kubelet. Each round plays a bare Job with the volumes of a
// run's, then a run of each package, so that what changes on the machine meets all of them.
import { randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

import { conformanceCluster } from '../../__test__/conformance/support/clusters.js';
import { eventually, hostRun } from '../../__test__/support/host.js';
import { Problem, step } from '../dev/lib.mjs';

/** What the CLI does: five events, of which four come 10 ms after the one before. */
const CLI = { CLAUDE_STAND_IN_SCENARIO: 'success', CLAUDE_STAND_IN_DELAY_MS: '10' };
const RESOURCES = { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } };
const SOON = { within: 120_000, every: 10 };

/**
 * Measures the row. Rounds come one after the other, and in each round the packages.
 *
 * @param {{packages: {name: string, entry: string}[], rounds: number}} options `entry` is a package's main file
 * @returns {Promise<{bare: any[], packages: {name: string, first: any, rounds: any[]}[], minor: number}>} the times of all rounds,
 *   and of each package's first run in this process
 */
export async function measureReal({ packages, rounds }) {
  process.env.CONFORMANCE_CLUSTER = 'real';
  const cluster = await conformanceCluster();
  try {
    const measured = [];
    for (const { name, entry } of packages) {
      const { createServerAdapter } = await import(String(pathToFileURL(entry)));
      const adapter = createServerAdapter();
      measured.push({
        name,
        adapter,
        first: await ofRun(cluster, adapter),
        rounds: /** @type {any[]} */ ([]),
      });
    }
    await ofBare(cluster);
    const bare = [];
    for (let round = 1; round <= rounds; round += 1) {
      const base = await ofBare(cluster);
      bare.push(base);
      for (const each of measured) {
        const times = await ofRun(cluster, each.adapter);
        each.rounds.push({
          ...times,
          startOver: times.start - base.start,
          wholeOver: times.whole - base.whole,
        });
      }
      const said = measured.map(({ name, rounds: all }) => `${name} ${all.at(-1).whole.toFixed(0)} ms`);
      step(`(g) ${round} of ${rounds}: bare ${base.whole.toFixed(0)} ms, ${said.join(', ')}`);
    }
    const named = measured.map(({ name, first, rounds: all }) => ({ name, first, rounds: all }));
    return { bare, packages: named, minor: cluster.minor };
  } finally {
    await cluster.close();
  }
}

/** Milliseconds since 1970, with a fraction: the clock of the kubelet's stamps. */
const now = () => performance.timeOrigin + performance.now();

/** The stamps of the first and the last line of a container, as the kubelet wrote them. */
async function stampsOf(cluster, pod) {
  const query = 'container=claude&follow=true&timestamps=true';
  const log = await cluster.api.get(`/api/v1/namespaces/${cluster.namespace}/pods/${pod}/log?${query}`);
  const stamps = [...String(log).matchAll(/^(\S+Z) /gm)].map(([, stamp]) => millis(stamp));
  const [first, last] = [stamps[0], stamps.at(-1)];
  if (first === undefined || last === undefined) throw new Problem(`(g): pod ${pod} has printed nothing.`);
  return { first, last };
}

/** A stamp of nanoseconds in milliseconds, with its fraction. */
function millis(stamp) {
  const [, seconds, fraction = '0'] = /^([^.]+?)(?:\.(\d+))?Z$/.exec(stamp) ?? [];
  return Date.parse(`${seconds}Z`) + Number(`0.${fraction}`) * 1e3;
}

async function ofRun(cluster, adapter) {
  const agent = { id: `agent-${randomUUID()}` };
  const { ctx, output } = hostRun(
    { kubeconfig: cluster.kubeconfigs.recommended },
    { agent, env: CLI, config: { resources: RESOURCES } },
  );
  const from = now();
  const running = adapter.execute(ctx).then((result) => ({ result, resolved: now() }));
  running.catch(() => {});
  const [, pod] = await eventually(() => /Pod running: (\S+)/.exec(output.stdout), SOON);
  // As soon as the run is at its container, so that the pod is still there.
  const stamps = await stampsOf(cluster, pod);
  const { result, resolved } = await running;
  if (result.exitCode !== 0) throw new Problem(`(g): a run failed: ${result.errorMessage}`);
  return { start: stamps.first - from, end: resolved - stamps.last, whole: resolved - from };
}

/** A Job of the same CLI with the volumes and the security context of a run's, and with a Secret. */
async function ofBare(cluster) {
  const { namespace, api } = cluster;
  const name = `bare-${randomUUID()}`;
  const { spec } = await api.get(`/api/v1/namespaces/${namespace}/pods/${cluster.hostPod}`);
  const secret = `${name}-secret`;
  const jobs = `/apis/batch/v1/namespaces/${namespace}/jobs`;
  const from = now();
  const job = await api.post(jobs, {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, labels: cluster.labels },
    spec: {
      backoffLimit: 0,
      template: {
        spec: {
          restartPolicy: 'Never',
          automountServiceAccountToken: false,
          terminationGracePeriodSeconds: 0,
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 1000,
            runAsGroup: 1000,
            fsGroup: 1000,
            fsGroupChangePolicy: 'OnRootMismatch',
            seccompProfile: { type: 'RuntimeDefault' },
          },
          tolerations: [{ operator: 'Exists' }],
          containers: [
            {
              name: 'claude',
              image: spec.containers[0].image,
              imagePullPolicy: 'IfNotPresent',
              command: ['sh', '-c', 'claude < /tmp/prompt/prompt.txt'],
              env: Object.keys(CLI).map((key) => ({
                name: key,
                valueFrom: { secretKeyRef: { name: secret, key } },
              })),
              resources: RESOURCES,
              securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
              volumeMounts: [
                { name: 'data', mountPath: '/paperclip' },
                { name: 'prompt', mountPath: '/tmp/prompt', readOnly: true },
              ],
            },
          ],
          volumes: [
            { name: 'data', persistentVolumeClaim: { claimName: 'paperclip-data' } },
            {
              name: 'prompt',
              secret: { secretName: secret, items: [{ key: 'prompt', path: 'prompt.txt' }] },
            },
          ],
        },
      },
    },
  });
  await api.post(`/api/v1/namespaces/${namespace}/secrets`, {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      name: secret,
      ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name, uid: job.metadata.uid }],
    },
    stringData: { ...CLI, prompt: 'x' },
  });
  const pods = `/api/v1/namespaces/${namespace}/pods?labelSelector=job-name%3D${name}`;
  const pod = await eventually(
    async () => {
      const [found] = (await api.get(pods)).items;
      return found?.status.phase === 'Succeeded' && found;
    },
    { ...SOON, every: 50 },
  );
  const { first, last } = await stampsOf(cluster, pod.metadata.name);
  await api.delete(`${jobs}/${name}`, { propagationPolicy: 'Background' });
  return { start: first - from, whole: last - from };
}
