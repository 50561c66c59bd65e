// A cluster of the user's own, as `cluster:up -- --existing` uses it: what is missing is said at once, a spec passes there,
// and nothing that was there before is touched. The real cluster of these specs plays the user's.
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { root } from '../../tools/dev/lib.mjs';
import { home } from '../../tools/kubernetes/cache.mjs';
import { openCluster } from '../../tools/kubernetes/index.mjs';
import { kubectlProgram } from '../../tools/kubernetes/programs.mjs';
import { conformanceCluster } from './support/clusters.js';

const name = `existing-${randomBytes(4).toString('hex')}`;
/** A namespace of the user's, which was there before. */
const theirs = `user-${randomBytes(4).toString('hex')}`;

let cluster;
let programs;

beforeAll(async () => {
  cluster = await conformanceCluster();
});

afterAll(async () => {
  await cluster?.api.delete(`/api/v1/namespaces/${theirs}`).catch(() => {});
  await cluster?.close();
  rmSync(path.join(home, 'run', name), { recursive: true, force: true });
});

beforeEach(({ skip }) => {
  skip(
    cluster.name === 'embedded',
    'its pods are processes of this machine: no node lacks an image or a folder',
  );
  skip(openCluster().type !== 'node', 'images are imported into the node of cluster:up alone');
});

/** Runs a program with a kubeconfig as its user's; resolves to its exit code and what it printed. */
async function ours(script, args = [], { kubeconfig = cluster.kubeconfigs.admin } = {}) {
  programs ??= path.dirname(await kubectlProgram());
  const env = {
    ...process.env,
    KUBECONFIG: kubeconfig,
    PAPERCLIP_TEST_CLUSTER: name,
    PATH: `${programs}${path.delimiter}${process.env.PATH}`,
  };
  return new Promise((resolve) => {
    execFile(process.execPath, [path.join(root, script), ...args], { cwd: root, env }, (error, out, err) =>
      resolve({ code: error ? error.code : 0, out, said: `${out}${err}` }),
    );
  });
}

const up = (options) => ours('tools/kubernetes/up.mjs', ['--existing'], options);

/** The user's objects, with the version of each, and what is said of the node. */
async function before() {
  const core = `/api/v1/namespaces/${theirs}`;
  const kinds = ['secrets', 'configmaps', 'serviceaccounts'];
  const lists = await Promise.all(kinds.map((kind) => cluster.api.get(`${core}/${kind}`)));
  const versions = lists.flatMap(({ items }) =>
    items.map(({ metadata }) => `${metadata.name} ${metadata.uid} ${metadata.resourceVersion}`),
  );
  const { items } = await cluster.api.get('/api/v1/nodes');
  return { versions, nodes: items.map(({ metadata, spec }) => [metadata.labels, spec]) };
}

describe('a cluster of the user', () => {
  it('that permits too little is left alone, and each missing permission is a line', async () => {
    const { code, said } = await up({ kubeconfig: cluster.kubeconfigs.recommended });
    expect(code, said).not.toBe(0);
    expect(said).toMatch(/^--existing: this account may not create namespaces\.$/m);
    expect(said).not.toMatch(/^\s+at /m);
  });

  it('is used and left as it was', async () => {
    await cluster.api.post('/api/v1/namespaces', {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: theirs },
    });
    await cluster.api.post(`/api/v1/namespaces/${theirs}/secrets`, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'paperclip-secrets' },
      stringData: { ANTHROPIC_API_KEY: 'of the user' },
    });
    const was = await before();

    let raised = await up();
    const missing = /has no image \S+ \(\S+\): load (\S+\.tar) there/.exec(raised.said);
    if (missing) {
      // A new node has not got the image. The archive that is named is enough.
      expect(raised.said.match(/^--existing: /gm), raised.said).toHaveLength(1);
      await openCluster().importArchive(missing[1]);
      raised = await up();
    }
    expect(raised.code, raised.said).toBe(0);
    const namespace = /namespace +(paperclip-test-\w+)/.exec(raised.out)?.[1];
    expect(namespace).toBeDefined();

    const spec = ['run', '--project', 'conformance', '__test__/conformance/api.test.js', '-t', 'of a name'];
    const played = await ours('node_modules/vitest/vitest.mjs', spec);
    expect(played.code, played.said).toBe(0);
    expect(played.said).toContain('1 passed');

    const ended = await ours('tools/kubernetes/down.mjs');
    expect(ended.code, ended.said).toBe(0);
    const label = encodeURIComponent(`paperclip.io/test-namespace=${namespace}`);
    for (const kind of ['namespaces', 'persistentvolumes']) {
      expect((await cluster.api.get(`/api/v1/${kind}?labelSelector=${label}`)).items).toEqual([]);
    }
    expect(await before()).toEqual(was);
  });
});
