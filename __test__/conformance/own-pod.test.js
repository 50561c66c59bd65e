// What the agent has of Paperclip's own pod: variables, files, names, scheduling. Each own pod of these specs runs: it
// prints what its container has, and so does the agent of a run that takes that pod for its model.
import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as k8s from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createExecute } from '../../js/execute.js';
import { agentLines, environmentOf, eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';
import { ownNamespace } from './support/namespaces.js';
import { adapter, runsOn } from './support/runs.js';
import { watch } from './support/watch.js';

let cluster;
let namespace;
let runs;
let image;

/** What only the server needs (docs/security.md): an agent has it empty where an `envFrom` may bring it. */
const OF_THE_SERVER = {
  BETTER_AUTH_SECRET: 'signs',
  DATABASE_URL: 'postgres://u:p@h/x',
  DATABASE_MIGRATION_URL: 'postgres://u:p@h/x',
};

const SOON = { within: 120_000, every: 100 };

beforeAll(async () => {
  cluster = await conformanceCluster();
  namespace = await ownNamespace(cluster);
  runs = runsOn(cluster, namespace.name);
  const { spec } = await cluster.api.get(`/api/v1/namespaces/${cluster.namespace}/pods/${cluster.hostPod}`);
  ({ image } = spec.containers[0]);
  await make(
    'secrets',
    'Secret',
    'db',
    { password: 'p$(A)w', 'tls.crt': 'CERT', admin: 'hidden' },
    'stringData',
  );
  await make(
    'secrets',
    'Secret',
    'all',
    { A: 'of the Secret $(B)', B: 'b', HIDDEN: 'shown', ...OF_THE_SERVER },
    'stringData',
  );
  await make('configmaps', 'ConfigMap', 'map', { A: 'of the map', D: 'd', 'app.ini': '[app]\n' }, 'data');
});

afterAll(async () => {
  await namespace?.remove();
  await cluster?.close();
});

const make = (plural, kind, name, data, field) =>
  cluster.api.post(`${namespace.core}/${plural}`, {
    apiVersion: 'v1',
    kind,
    metadata: { name },
    [field]: data,
  });

const secret = (name, key, more) => ({ valueFrom: { secretKeyRef: { name, key, ...more } } });
const field = (fieldPath) => ({ valueFrom: { fieldRef: { fieldPath } } });
const resource = (name, more) => ({ valueFrom: { resourceFieldRef: { resource: name, ...more } } });
const CLAIM = { name: 'store', persistentVolumeClaim: { claimName: 'paperclip-data' } };
/** Puts a file into a folder of the claim before the host's container starts. */
const filled = (folder) => ({
  name: `fill-${folder}`,
  image: 'busybox:1.36',
  imagePullPolicy: 'IfNotPresent',
  command: [
    'sh',
    '-c',
    `mkdir -p /all/${folder} && chmod 777 /all/${folder} && echo ${folder} > /all/${folder}/mark`,
  ],
  volumeMounts: [{ name: 'store', mountPath: '/all' }],
});

/**
 * Own pods: `container` is the host's, `pod` the rest of the spec. `env` are values that both containers have, `files` what
 * they read below the paths that are mounted; `differs` what the agent has otherwise, as docs/pod.md says.
 *
 * @typedef {{name: string, container?: any, pod?: any, metadata?: any, podName?: string, beside?: any[], paths?: string[],
 *   env?: Record<string, string | undefined>, files?: Record<string, string>, differs?: Record<string, unknown>,
 *   same?: string[], said?: RegExp}} OwnPod
 */

/** @type {OwnPod[]} */
const OWN_PODS = [
  {
    name: 'references among literals, in their order',
    container: {
      env: [
        { name: 'OWN_EARLY', value: 'x$(OWN_PASSWORD)' },
        { name: 'OWN_PASSWORD', ...secret('db', 'password') },
        { name: 'OWN_URL', value: 'postgres://u:$(OWN_PASSWORD)@h/x?a=$$(OWN_PASSWORD)&b=$' },
        { name: 'OWN_TWICE', value: 'first' },
        { name: 'OWN_OF_TWICE', value: '$(OWN_TWICE)' },
        { name: 'OWN_TWICE', ...secret('db', 'tls.crt') },
        { name: 'OWN_ABSENT', ...secret('none', 'key', { optional: true }) },
        { name: 'OWN_EMPTY', value: '' },
      ],
    },
    env: {
      OWN_EARLY: 'x$(OWN_PASSWORD)',
      OWN_URL: 'postgres://u:p$(A)w@h/x?a=$(OWN_PASSWORD)&b=$',
      OWN_TWICE: 'CERT',
      OWN_OF_TWICE: 'first',
      OWN_ABSENT: undefined,
      OWN_EMPTY: '',
    },
  },
  {
    name: 'envFrom with prefixes, hidden by an empty value',
    container: {
      envFrom: [
        { secretRef: { name: 'all' } },
        { prefix: 'OWN_', configMapRef: { name: 'map' } },
        { secretRef: { name: 'none', optional: true } },
      ],
      env: [
        { name: 'HIDDEN', value: '' },
        { name: 'OWN_OF_BOTH', value: '$(A)-$(OWN_A)-$(OWN_D)' },
      ],
    },
    env: {
      A: 'of the Secret $(B)',
      HIDDEN: '',
      OWN_A: 'of the map',
      OWN_OF_BOTH: 'of the Secret $(B)-of the map-d',
    },
    // No variable of a shell has a dot in its name.
    differs: {
      'OWN_app.ini': undefined,
      BETTER_AUTH_SECRET: '',
      DATABASE_URL: '',
      DATABASE_MIGRATION_URL: '',
    },
  },
  {
    name: 'fields of the pod and resources of the container',
    metadata: { labels: { 'example.com/tier': 'gold' }, annotations: { note: 'a "note" $(OWN_TIER) $$' } },
    container: {
      resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { cpu: '1', memory: '256Mi' } },
      env: [
        { name: 'OWN_TIER', ...field("metadata.labels['example.com/tier']") },
        { name: 'OWN_NOTE', ...field("metadata.annotations['note']") },
        { name: 'OWN_POD', ...field('metadata.name') },
        { name: 'OWN_NAMESPACE', ...field('metadata.namespace') },
        { name: 'OWN_NODE', ...field('spec.nodeName') },
        { name: 'OWN_MEMORY', ...resource('limits.memory', { containerName: 'paperclip' }) },
        { name: 'OWN_CPU', ...resource('limits.cpu') },
        { name: 'OWN_BESIDE', ...resource('limits.cpu', { containerName: 'beside' }) },
      ],
    },
    beside: [
      { name: 'beside', resources: { requests: { cpu: '1m' }, limits: { cpu: '2', memory: '32Mi' } } },
    ],
    env: {
      OWN_TIER: 'gold',
      OWN_NOTE: 'a "note" $(OWN_TIER) $$',
      OWN_MEMORY: String(256 << 20),
      OWN_CPU: '1',
    },
    differs: { OWN_POD: expect.stringMatching(/^ac-/), OWN_BESIDE: undefined },
    said: /OWN_BESIDE of Paperclip's container left out: it is a resource of another container/,
  },
  {
    name: 'some keys of a Secret under other names, and one by its subPath',
    container: {
      volumeMounts: [
        { name: 'creds', mountPath: '/etc/creds', readOnly: true },
        { name: 'creds', mountPath: '/etc/own-ca.pem', subPath: 'ca.pem' },
        { name: 'absent', mountPath: '/etc/absent' },
      ],
    },
    pod: {
      securityContext: { runAsUser: 1000, fsGroup: 1000 },
      volumes: [
        {
          name: 'creds',
          secret: {
            secretName: 'db',
            defaultMode: 0o400,
            items: [
              { key: 'tls.crt', path: 'ca.pem', mode: 0o440 },
              { key: 'password', path: 'deep/er/pw' },
            ],
          },
        },
        { name: 'absent', secret: { secretName: 'none', optional: true } },
      ],
    },
    paths: ['/etc/creds', '/etc/own-ca.pem', '/etc/absent'],
    files: { '1/ca.pem': 'CERT', '1/deep/er/pw': 'p$(A)w', 2: 'CERT' },
  },
  {
    name: 'a projection of a Secret, a ConfigMap and the pod itself',
    container: { volumeMounts: [{ name: 'both', mountPath: '/etc/both' }] },
    pod: {
      volumes: [
        {
          name: 'both',
          projected: {
            sources: [
              { secret: { name: 'db', items: [{ key: 'tls.crt', path: 'tls/ca.pem' }] } },
              { configMap: { name: 'map', items: [{ key: 'app.ini', path: 'app.ini' }] } },
              { downwardAPI: { items: [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }] } },
            ],
          },
        },
      ],
    },
    paths: ['/etc/both'],
    files: { '1/tls/ca.pem': 'CERT', '1/app.ini': '[app]\n' },
    differs: { '1/name': undefined },
    said: /files at \/etc\/both of Paperclip's container left out: they describe Paperclip's own pod/,
  },
  {
    name: 'a volume of the downward API beside one of a ConfigMap',
    container: {
      volumeMounts: [
        { name: 'info', mountPath: '/etc/info' },
        { name: 'map', mountPath: '/etc/map' },
      ],
    },
    pod: {
      volumes: [
        {
          name: 'info',
          downwardAPI: { items: [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }] },
        },
        { name: 'map', configMap: { name: 'map', defaultMode: 0o444 } },
      ],
    },
    paths: ['/etc/map'],
    files: { '1/A': 'of the map', '1/D': 'd', '1/app.ini': '[app]\n' },
    said: /files at \/etc\/info of Paperclip's container left out/,
  },
  {
    name: 'name servers of its own',
    pod: {
      dnsPolicy: 'None',
      dnsConfig: {
        nameservers: ['10.1.2.3'],
        searches: ['corp.example'],
        options: [{ name: 'ndots', value: '2' }],
      },
      hostAliases: [{ ip: '10.9.9.9', hostnames: ['api.corp.example'] }],
      enableServiceLinks: false,
    },
    paths: ['/etc/resolv.conf'],
    same: ['dnsPolicy', 'dnsConfig', 'hostAliases', 'enableServiceLinks'],
  },
  {
    name: 'a container behind a native sidecar and a proxy',
    metadata: { annotations: { 'kubectl.kubernetes.io/default-container': 'server' } },
    container: { name: 'server', env: [{ name: 'OWN_SERVER', value: '1' }] },
    pod: {
      initContainers: [
        {
          name: 'mesh',
          image: 'busybox:1.36',
          imagePullPolicy: 'IfNotPresent',
          restartPolicy: 'Always',
          command: ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 0.1; done'],
        },
      ],
    },
    beside: [{ name: 'istio-proxy', env: [{ name: 'OWN_PROXY', value: '1' }] }],
    env: { OWN_SERVER: '1', OWN_PROXY: undefined },
  },
  {
    name: 'a name that is longer than a hostname can be',
    podName: `${'my-company-production-release-of-the-agents-'.repeat(2)}paperclip-6d4f9c7b8d-`,
    container: { env: [{ name: 'OWN_LITERAL', value: 'of the long one' }] },
    env: { OWN_LITERAL: 'of the long one' },
  },
  {
    name: 'a folder of the claim at /paperclip',
    container: { volumeMounts: [{ name: 'store', mountPath: '/paperclip/', subPath: 'one-tenant' }] },
    pod: { initContainers: [filled('one-tenant'), filled('another')], volumes: [CLAIM] },
    paths: ['/paperclip/mark', '/paperclip/another/mark'],
    files: { 1: 'one-tenant\n', 2: 'NotFound' },
  },
  {
    name: 'a folder of the claim that a variable names',
    container: {
      env: [
        { name: 'OWN_STAGE', value: 'prod' },
        { name: 'OWN_TENANT', value: '$(OWN_STAGE)-tenant' },
      ],
      volumeMounts: [{ name: 'store', mountPath: '/paperclip', subPathExpr: '$(OWN_TENANT)' }],
    },
    pod: { initContainers: [filled('prod-tenant')], volumes: [CLAIM] },
    env: { OWN_TENANT: 'prod-tenant' },
    paths: ['/paperclip/mark'],
    files: { 1: 'prod-tenant\n' },
  },
  {
    name: 'nodes, tolerations and spread of its own',
    pod: {
      nodeSelector: { 'kubernetes.io/os': 'linux' },
      tolerations: [{ key: 'agents', operator: 'Exists', effect: 'NoSchedule' }],
      topologySpreadConstraints: [
        {
          maxSkew: 5,
          topologyKey: 'kubernetes.io/hostname',
          whenUnsatisfiable: 'ScheduleAnyway',
          labelSelector: { matchLabels: { app: 'paperclip' } },
        },
      ],
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: [
              { matchExpressions: [{ key: 'kubernetes.io/os', operator: 'In', values: ['linux'] }] },
            ],
          },
        },
      },
    },
    same: ['nodeSelector', 'affinity', 'tolerations', 'topologySpreadConstraints'],
  },
];

/** What is the run's, the pod's or the shell's, whatever the own pod has. */
const OF_THE_RUN =
  /^(PAPERCLIP_|CLAUDE_STAND_IN_|(ANTHROPIC_CUSTOM_HEADERS|HOME|HOSTNAME|PWD|OLDPWD|SHLVL|_)$)/;
const inherited = (env) => Object.fromEntries(Object.entries(env).filter(([name]) => !OF_THE_RUN.test(name)));

/**
 * Makes an own pod, and resolves to its name and to what its container printed.
 *
 * @param {OwnPod} given
 */
async function ownPod({ container = {}, pod = {}, metadata, podName = 'own-', beside = [], paths = [] }) {
  const name = `${podName}${randomBytes(4).toString('hex')}`;
  const env = [
    { name: 'CLAUDE_STAND_IN_SCENARIO', value: 'echo-env' },
    { name: 'CLAUDE_STAND_IN_DELAY_MS', value: '1' },
    { name: 'CLAUDE_STAND_IN_FILES', value: paths.join(':') },
    ...(container.env ?? []),
  ];
  const others = beside.map((more) => ({
    image: 'busybox:1.36',
    imagePullPolicy: 'IfNotPresent',
    command: ['true'],
    ...more,
  }));
  const host = {
    name: 'paperclip',
    image,
    imagePullPolicy: 'IfNotPresent',
    command: ['claude'],
    ...container,
    env,
  };
  await cluster.api.post(`${namespace.core}/pods`, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, ...metadata },
    spec: {
      restartPolicy: 'Never',
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 1,
      ...pod,
      containers: [...others, host],
    },
  });
  const where = `${namespace.core}/pods/${name}`;
  const ended = await eventually(async () => {
    const now = await cluster.api.get(where);
    const state = now.status.containerStatuses?.find((each) => each.name === host.name)?.state;
    return state?.terminated && now;
  }, SOON);
  const stdout = await cluster.api.get(`${where}/log?container=${host.name}`);
  return { spec: ended.spec, name, seen: echoed({ stdout }) };
}

/** The environment and the files in the output of the scenario `echo-env`. */
function echoed(output) {
  const events = agentLines(output).flatMap((line) => (line.startsWith('{') ? [JSON.parse(line)] : []));
  const { env, files = {} } = JSON.parse(events.find(({ type }) => type === 'result').result);
  return { env, files };
}

/** Plays a run of a host in this pod; resolves to its pod's spec, too. */
async function playIn({ name }) {
  const hostEnv = {
    ...process.env,
    HOSTNAME: name.slice(0, 63).replace(/[-.]+$/, ''),
    POD_NAME: name,
    PAPERCLIP_NAMESPACE: namespace.name,
  };
  const { ctx, output } = runs.prepare({ scenario: 'echo-env', config: { inheritScheduling: true } });
  const done = createExecute({ hostEnv: () => hostEnv })(ctx);
  const { spec } = await eventually(async () => (await runs.pods(ctx.agent.id))[0], SOON);
  const result = await done;
  await runs.nothingLeft({ agentId: ctx.agent.id, output });
  expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
  return { spec, output, seen: echoed(output) };
}

describe.concurrent('a run has of its host', () => {
  it.each(OWN_PODS)('$name', async (given) => {
    const { env = {}, files = {}, differs = {}, same = [], said } = given;
    const own = await ownPod(given);
    for (const [name, value] of Object.entries(env)) expect(own.seen.env[name], name).toBe(value);
    expect(own.seen.files).toMatchObject(files);
    const run = await playIn(own);
    const changed = (of) =>
      Object.fromEntries(Object.entries({ ...of, ...differs }).filter(([key]) => key in of));
    const agent = inherited(run.seen.env);
    const sealed = /^PAPERCLIP_SEALED_/;
    expect(Object.keys(run.seen.env).filter((name) => sealed.test(name))).toEqual([]);
    expect(agent).toEqual(changed(inherited(own.seen.env)));
    expect(run.seen.files).toEqual(changed(own.seen.files));
    for (const key of same) expect(run.spec[key], key).toEqual(own.spec[key]);
    expect(run.output.stdout).toMatch(said ?? /^\[paperclip\] Created K8s Job/m);
  });
});

/** The recipes of docs/pod.md, each with the last heading before it, and whether the operator has to grant it. */
const page = readFileSync(new URL('../../docs/pod.md', import.meta.url), 'utf8');
const RECIPES = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(({ index, 1: text }) => {
  const section = page.slice(page.lastIndexOf('\n### ', index), index);
  return {
    heading: /^### (.*)$/m.exec(section)?.[1],
    config: /** @type {any} */ (k8s.loadYaml(text)),
    isGranted: section.includes('PAPERCLIP_K8S_POD_TEMPLATE=any'),
  };
});
const GRANT = { PAPERCLIP_K8S_POD_TEMPLATE: 'any' };

/** What the environment test says of a configuration: each check of the Job, and whether it is good. */
async function checksOf(config, grants = {}) {
  const test = environmentOf(cluster.kubeconfigs.recommended);
  const hostEnv = { ...process.env, ...grants };
  const { checks } = await adapter.testEnvironment(
    /** @type {any} */ ({ ...test, config: { ...test.config, ...config }, hostEnv }),
  );
  return checks.filter(({ code }) => /^k8s_(job|config)_/.test(code));
}

/** The names in a list of named objects, or mount paths. */
const keyOf = (item) => item.mountPath ?? item.name;

/** Asserts that everything of an overlay is in the template of a Job: objects by field, lists of named objects by name. */
function expectMerged(overlay, merged, at = '') {
  if (Array.isArray(overlay)) {
    for (const [index, item] of overlay.entries()) {
      const key = item !== null && typeof item === 'object' ? keyOf(item) : undefined;
      const found = key === undefined ? merged : merged?.find((each) => keyOf(each) === key);
      if (key === undefined) expect(merged, at).toContainEqual(item);
      // Its value is in the run's Secret.
      else if (item.value !== undefined && found?.valueFrom?.secretKeyRef) expect(found.name).toBe(item.name);
      else expectMerged(item, found, `${at}[${index}]`);
    }
  } else if (overlay !== null && typeof overlay === 'object') {
    for (const [key, value] of Object.entries(overlay)) expectMerged(value, merged?.[key], `${at}.${key}`);
  } else {
    expect(String(merged), at).toBe(String(overlay));
  }
}

describe.concurrent('a recipe of docs/pod.md', () => {
  it.each(RECIPES)('is taken by the API server: $heading', async ({ config, isGranted }) => {
    const grants = isGranted ? GRANT : {};
    expect(await checksOf(config, grants)).toMatchObject([{ code: 'k8s_job_accepted', level: 'info' }]);
    if (isGranted) expect(await checksOf(config)).toMatchObject([{ code: 'k8s_config_invalid' }]);
    const abort = new AbortController();
    const id = `agent-${randomUUID()}`;
    const selector = encodeURIComponent(`paperclip.io/agent-id=${id}`);
    const jobs = await watch(
      cluster,
      `/apis/batch/v1/namespaces/${namespace.name}/jobs?labelSelector=${selector}`,
    );
    const { ctx, output } = runs.prepare({ agent: { id }, config, signal: abort.signal });
    const done = createExecute({ hostEnv: () => ({ ...process.env, ...grants }) })(ctx);
    const { spec } = (await jobs.until(({ object }) => object.spec.parallelism !== 0)).object;
    jobs.stop();
    abort.abort();
    await done;
    const { podTemplate, podAnnotations, nodeSelector, tolerations, ...more } = config;
    expect(more).toEqual({});
    const pairs = (text = '') =>
      Object.fromEntries(
        text
          .split('\n')
          .filter(Boolean)
          .map((line) => line.split('=')),
      );
    const { metadata = {}, spec: pod = {} } = podTemplate
      ? /** @type {any} */ (k8s.loadYaml(podTemplate))
      : {};
    expectMerged(
      { ...metadata, annotations: { ...metadata.annotations, ...pairs(podAnnotations) } },
      spec.template.metadata,
    );
    expectMerged(pod, spec.template.spec);
    expect(spec.template.spec.nodeSelector ?? {}).toEqual(pairs(nodeSelector));
    for (const toleration of JSON.parse(tolerations ?? '[]')) {
      expect(spec.template.spec.tolerations).toContainEqual(toleration);
    }
    await runs.nothingLeft({ agentId: id, output });
  });

  it('is of each kind that the page promises', () => {
    const kinds = ['Tainted', 'Karpenter', 'Istio', 'Docker', 'GPU', '/tmp', 'second volume'];
    for (const kind of kinds) expect(RECIPES.map(({ heading }) => heading).join('\n')).toContain(kind);
  });
});

describe.concurrent('a pod template that is wrong', () => {
  it.each([
    ['spec.containers[0].volumeMount', { containers: [{ name: 'claude', volumeMount: [] }] }],
    ['spec.tolerations[0].tolerationSeconds', { tolerations: [{ key: 'a', tolerationSeconds: 'soon' }] }],
    ['spec.containers[0].command', { containers: [{ name: 'claude', command: ['true'] }] }],
    ['spec.restartPolicy', { restartPolicy: 'OnFailure' }],
    ['spec.serviceAccountName', { serviceAccountName: 'paperclip' }],
    ['spec.initContainers[0].image', { initContainers: [{ name: 'dind' }] }],
  ])('is named by its path before anything is created: %s', async (path, spec) => {
    const config = { podTemplate: { spec } };
    const { result, agentId } = await runs.play({ config });
    expect(result).toMatchObject({ resultJson: { k8sErrorCode: 'k8s_config_invalid' } });
    expect(result.errorMessage).toContain(`podTemplate.${path}`);
    expect(await runs.jobs(agentId)).toEqual([]);
    const checks = await checksOf(config);
    expect(checks).toMatchObject([{ code: 'k8s_config_invalid', level: 'error' }]);
    expect(checks[0].message).toContain(`podTemplate.${path}`);
  });
});
