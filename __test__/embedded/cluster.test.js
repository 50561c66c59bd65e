// The embedded cluster with ordinary clients: @kubernetes/client-node and kubectl.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { Writable } from 'node:stream';
import { promisify } from 'node:util';
import * as k8s from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { startCluster } from '../../tools/simulator/cluster.mjs';
import { eventually } from '../support/host.js';

let cluster;

beforeAll(async () => {
  cluster = await startCluster();
});

afterAll(async () => {
  await cluster.stop();
});

/** A Job that prints, waits and ends. */
function job(name, script = 'echo one; sleep 0.3; echo two') {
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, labels: { suite: 'clients' } },
    spec: {
      backoffLimit: 0,
      template: {
        spec: {
          restartPolicy: 'Never',
          containers: [{ name: 'main', image: 'busybox:1.36', command: ['sh', '-c', script] }],
        },
      },
    },
  };
}

describe('@kubernetes/client-node', () => {
  it('creates a Job, watches it, follows its log and deletes it with its pod', async () => {
    const config = new k8s.KubeConfig();
    config.loadFromFile(cluster.kubeconfig);
    const batch = config.makeApiClient(k8s.BatchV1Api);
    const core = config.makeApiClient(k8s.CoreV1Api);
    const namespace = cluster.namespace;

    const seen = [];
    const watch = await new k8s.Watch(config).watch(
      `/apis/batch/v1/namespaces/${namespace}/jobs`,
      { labelSelector: 'suite=clients' },
      (type, object) => seen.push([type, object.status?.succeeded]),
      () => {},
    );
    await batch.createNamespacedJob({ namespace, body: job('by-client-node') });
    const pod = await eventually(async () => {
      const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'job-name=by-client-node' });
      return items.find((item) => item.status?.phase !== 'Pending');
    });
    let log = '';
    const sink = new Writable({
      write(chunk, _encoding, done) {
        log += chunk;
        done();
      },
    });
    await new k8s.Log(config).log(namespace, pod.metadata?.name ?? '', 'main', sink, { follow: true });
    await eventually(() => log === 'one\ntwo\n');
    await eventually(() => seen.some(([type, succeeded]) => type === 'MODIFIED' && succeeded === 1));
    await batch.deleteNamespacedJob({
      name: 'by-client-node',
      namespace,
      body: { propagationPolicy: 'Background' },
    });
    await eventually(() => seen.some(([type]) => type === 'DELETED'));
    await eventually(async () => {
      const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'job-name=by-client-node' });
      return items.length === 0;
    });
    await expect(batch.readNamespacedJob({ name: 'by-client-node', namespace })).rejects.toThrow(
      /HTTP-Code: 404/,
    );
    watch.abort();
  });
});

// Not every machine has kubectl; the API that it uses is covered by the cluster's tests in Rust.
const kubectlMissing = spawnSync('kubectl', ['version', '--client']).status !== 0;

describe.skipIf(kubectlMissing)('kubectl', () => {
  const run = promisify(execFile);
  const kubectl = (...args) => run('kubectl', ['--kubeconfig', cluster.kubeconfig, ...args]);

  it('applies, gets, follows and deletes', async () => {
    const applying = spawn('kubectl', [
      '--kubeconfig',
      cluster.kubeconfig,
      'apply',
      '--validate=false',
      '-f',
      '-',
    ]);
    applying.stdin.end(JSON.stringify(job('by-kubectl')));
    expect(await new Promise((resolve) => applying.once('exit', resolve))).toBe(0);
    await eventually(async () => {
      const { stdout } = await kubectl(
        'get',
        'pods',
        '-l',
        'job-name=by-kubectl',
        '-o',
        'jsonpath={.items[*].status.phase}',
      );
      return ['Running', 'Succeeded'].includes(stdout);
    });
    expect((await kubectl('logs', '-f', 'job/by-kubectl')).stdout).toBe('one\ntwo\n');
    expect((await kubectl('get', 'jobs')).stdout).toContain('by-kubectl');
    await kubectl('delete', 'job', 'by-kubectl');
    await expect(kubectl('get', 'job', 'by-kubectl')).rejects.toThrow(/NotFound/);
  });
});
