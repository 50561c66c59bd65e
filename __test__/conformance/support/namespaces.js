// Namespaces of a spec's own, for what concerns all objects of a namespace: quotas, limit ranges, pod security.
import { randomBytes } from 'node:crypto';

import { accounts } from '../../../tools/kubernetes/objects.mjs';
import { eventually } from '../../support/host.js';

const RBAC = 'rbac.authorization.k8s.io/v1';

/**
 * Makes a namespace in which runs of the same host can work. It ends with `remove`.
 *
 * @param {import('./clusters.js').ConformanceCluster} cluster
 * @param {{labels?: Record<string, string>}} [options] labels of the namespace
 */
export async function ownNamespace(cluster, { labels } = {}) {
  const { api } = cluster;
  const name = `${cluster.namespace}-${randomBytes(4).toString('hex')}`;
  await api.post('/api/v1/namespaces', {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name, labels: { ...cluster.labels, ...labels } },
  });
  const core = `/api/v1/namespaces/${name}`;
  const volume = await cluster.volumeFor(name);
  const claim = {
    apiVersion: 'v1',
    kind: 'PersistentVolumeClaim',
    metadata: { name: 'paperclip-data' },
    spec: {
      accessModes: ['ReadWriteMany'],
      storageClassName: 'test-host-path',
      resources: { requests: { storage: '10Gi' } },
      ...(volume ? { volumeName: volume } : {}),
    },
  };
  await api.post(`${core}/persistentvolumeclaims`, claim);
  await api.post(`${core}/secrets`, {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name: 'paperclip-secrets' },
    stringData: { ANTHROPIC_API_KEY: 'sk-ant-test' },
  });
  await cluster.grant(name);
  await eventually(
    async () => {
      const bound =
        (await api.get(`${core}/persistentvolumeclaims/paperclip-data`)).status?.phase === 'Bound';
      return bound && api.get(`${core}/serviceaccounts/default`).catch(() => false);
    },
    { within: 60_000, every: 100 },
  );
  return {
    name,
    core,
    remove: async () => {
      await api.delete(`/api/v1/namespaces/${name}`);
      if (volume) await api.delete(`/api/v1/persistentvolumes/${volume}`);
    },
  };
}

/** Makes a volume in the same folder of the node, for the claim of another namespace; resolves to its name. */
export async function makeVolume(api, folder, namespace, labels) {
  const name = `${namespace}-data`;
  await api.post('/api/v1/persistentvolumes', {
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: { name, labels },
    spec: {
      capacity: { storage: '10Gi' },
      accessModes: ['ReadWriteMany'],
      storageClassName: 'test-host-path',
      persistentVolumeReclaimPolicy: 'Retain',
      hostPath: { path: folder, type: 'DirectoryOrCreate' },
      claimRef: { namespace, name: 'paperclip-data' },
    },
  });
  return name;
}

/** Gives the accounts of one namespace their Roles in another. */
export async function grantRoles(api, from, namespace) {
  const base = `/apis/${RBAC}/namespaces/${namespace}`;
  for (const [name, rules] of Object.entries(accounts())) {
    await api.post(`${base}/roles`, { apiVersion: RBAC, kind: 'Role', metadata: { name }, rules });
    await api.post(`${base}/rolebindings`, {
      apiVersion: RBAC,
      kind: 'RoleBinding',
      metadata: { name },
      subjects: [{ kind: 'ServiceAccount', name, namespace: from }],
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name },
    });
  }
}
