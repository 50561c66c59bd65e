// The objects that every cluster starts with: a namespace like that of a Paperclip installation.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem, root } from '../dev/lib.mjs';
import { kubeconfig } from './kubeconfig.mjs';
import { until } from './wait.mjs';

/** The namespace in a cluster that `up` made; in one of the user's it has a name of its own. */
export const NAMESPACE = 'paperclip';
/** HOSTNAME in the host's pod. */
export const HOST_POD = 'paperclip-0';
/** The image of a Job's init container. */
export const BUSYBOX_IMAGE = 'docker.io/library/busybox:1.36';
/** The image that holds a pod's namespaces, on the node of Debian's packages. */
export const PAUSE_IMAGE = 'docker.io/paperclip/pause:test';
export const AGENT_IMAGE = 'docker.io/paperclip/agent:test';

/** The labels of everything that is made for the tests: what carries them may be deleted. */
export const labelsOf = (namespace) => ({ 'paperclip.io/test-namespace': namespace });

/** The Role that the docs of versions up to 0.1.49 give: no watch, no patch, no right to make Secrets. */
const EXISTING_ROLE = [
  { apiGroups: ['batch'], resources: ['jobs'], verbs: ['create', 'get', 'list', 'delete'] },
  { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list'] },
  { apiGroups: [''], resources: ['pods/log'], verbs: ['get'] },
  { apiGroups: [''], resources: ['persistentvolumeclaims'], verbs: ['get'] },
  { apiGroups: [''], resources: ['secrets'], verbs: ['get'] },
];

/** Names of the service accounts, with the rules of each. */
export function accounts() {
  return { 'paperclip-existing': EXISTING_ROLE, 'paperclip-recommended': recommendedRole() };
}

const RULE =
  /- apiGroups: \[(.*)\]\n\s+resources: \[(.*)\]\n\s+verbs: \[(.*)\].*\n(?:\s+resourceNames: \[(.*)\]\n)?/g;

/** The rules of the Role in `deploy/base/role.yaml`, read from there. */
export function recommendedRole() {
  const yaml = readFileSync(path.join(root, 'deploy', 'base', 'role.yaml'), 'utf8');
  const list = (text) => text.split(',').map((word) => word.trim().replaceAll(/["']/g, ''));
  const rules = [...yaml.matchAll(RULE)].map(([, apiGroups, resources, verbs, names]) => {
    const rule = { apiGroups: list(apiGroups), resources: list(resources), verbs: list(verbs) };
    return names ? Object.assign(rule, { resourceNames: list(names) }) : rule;
  });
  if (!rules.some(({ verbs }) => verbs.includes('watch'))) {
    throw new Problem('deploy/base/role.yaml grants no watch, or is written in another way.');
  }
  return rules;
}

/** A namespace. @param {string} name @param {Record<string, string>} labels */
export const namespaceManifest = (name, labels) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  // Whatever a cluster enforces where nothing is said: the specs set labels of their own where they test that.
  metadata: { name, labels: { ...labels, 'pod-security.kubernetes.io/enforce': 'privileged' } },
});

/**
 * The manifests.
 *
 * @param {{namespace: string, volume: string, agentImage: string}} options `volume` is the folder of the node behind the
 *   shared claim
 */
export function manifests({ namespace, volume, agentImage }) {
  const labels = labelsOf(namespace);
  const named = (kind, name, rest = {}, apiVersion = 'v1') => ({
    apiVersion,
    kind,
    metadata: { name, namespace, ...rest.metadata, labels: { ...labels, ...rest.metadata?.labels } },
    ...Object.fromEntries(Object.entries(rest).filter(([key]) => key !== 'metadata')),
  });
  const rbac = 'rbac.authorization.k8s.io/v1';
  const volumeName = `${namespace}-data`;
  return [
    namespaceManifest(namespace, labels),
    {
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: volumeName, labels },
      spec: {
        capacity: { storage: '10Gi' },
        accessModes: ['ReadWriteMany'],
        storageClassName: 'test-host-path',
        persistentVolumeReclaimPolicy: 'Retain',
        hostPath: { path: volume, type: 'DirectoryOrCreate' },
        claimRef: { namespace, name: 'paperclip-data' },
      },
    },
    named('PersistentVolumeClaim', 'paperclip-data', {
      spec: {
        accessModes: ['ReadWriteMany'],
        storageClassName: 'test-host-path',
        volumeName,
        resources: { requests: { storage: '10Gi' } },
      },
    }),
    named('Secret', 'paperclip-secrets', { stringData: { ANTHROPIC_API_KEY: 'sk-ant-test' } }),
    named('Pod', HOST_POD, {
      metadata: { labels: { app: 'paperclip' } },
      spec: {
        terminationGracePeriodSeconds: 0,
        automountServiceAccountToken: false,
        // The specs taint its node.
        tolerations: [{ operator: 'Exists' }],
        containers: [
          {
            name: 'paperclip',
            image: agentImage,
            imagePullPolicy: 'IfNotPresent',
            command: ['sleep', '2147483647'],
            env: [
              { name: 'PAPERCLIP_API_URL', value: 'http://127.0.0.1:3100' },
              {
                name: 'ANTHROPIC_API_KEY',
                valueFrom: { secretKeyRef: { name: 'paperclip-secrets', key: 'ANTHROPIC_API_KEY' } },
              },
            ],
            volumeMounts: [{ name: 'data', mountPath: '/paperclip' }],
          },
        ],
        volumes: [{ name: 'data', persistentVolumeClaim: { claimName: 'paperclip-data' } }],
      },
    }),
    ...Object.entries(accounts()).flatMap(([name, rules]) => [
      named('ServiceAccount', name),
      // Newer clusters do not make tokens by themselves; this makes one in every version.
      named('Secret', `${name}-token`, {
        metadata: { annotations: { 'kubernetes.io/service-account.name': name } },
        type: 'kubernetes.io/service-account-token',
      }),
      named('Role', name, { rules }, rbac),
      named(
        'RoleBinding',
        name,
        {
          subjects: [{ kind: 'ServiceAccount', name, namespace }],
          roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name },
        },
        rbac,
      ),
    ]),
  ];
}

/**
 * Makes every object that is missing, waits until all are usable, and writes a kubeconfig per account.
 *
 * @param {(args: string[], input?: string) => Promise<string>} kubectl as administrator
 * @param {{namespace: string, volume: string, agentImage: string, into: string}} options `into` is the folder for the
 *   kubeconfigs
 * @returns {Promise<Record<string, string>>} account → file
 */
export async function makeObjects(kubectl, { namespace, volume, agentImage, into }) {
  const items = manifests({ namespace, volume, agentImage });
  const apply = (list) =>
    kubectl(['apply', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items: list }));
  const isPod = ({ kind }) => kind === 'Pod';
  await apply(items.filter((item) => !isPod(item)));
  // A pod is refused until its namespace has the default account, and delayed for a while if its claim is not bound.
  await until(() => kubectl(['-n', namespace, 'get', 'serviceaccount', 'default']), {
    what: 'the default service account',
  });
  const claim = [
    '-n',
    namespace,
    'get',
    'persistentvolumeclaim',
    'paperclip-data',
    '-o',
    'jsonpath={.status.phase}',
  ];
  await until(async () => (await kubectl(claim)) === 'Bound', { what: 'the volume claim to be bound' });
  await apply(items.filter(isPod));
  await kubectl(['-n', namespace, 'wait', '--for=condition=Ready', '--timeout=180s', `pod/${HOST_POD}`]);
  const view = JSON.parse(await kubectl(['config', 'view', '--raw', '--minify', '--flatten', '-o', 'json']));
  const { server: api, 'certificate-authority-data': ca } = view.clusters[0].cluster;
  const files = {};
  for (const name of Object.keys(accounts())) {
    const token = await until(
      async () =>
        JSON.parse(await kubectl(['-n', namespace, 'get', 'secret', `${name}-token`, '-o', 'json'])).data
          ?.token,
      { what: `the token of ${name}` },
    );
    files[name] = path.join(into, `${name}.kubeconfig`);
    const text = kubeconfig({
      api,
      ca,
      token: Buffer.from(token, 'base64').toString(),
      user: name,
      namespace,
    });
    writeFileSync(files[name], text, { mode: 0o600 });
  }
  return files;
}
