// Admission policies by which an administrator refuses or changes what a run makes, on both clusters.
import { randomBytes } from 'node:crypto';

import { eventually } from '../../support/host.js';
import { ApiFailure } from './api.js';

/**
 * @typedef {object} Rule
 * @property {'jobs' | 'pods'} resource
 * @property {Record<string, string>} labels of the objects it covers; they must tell the spec's objects from all others
 * @property {string} [message] of a rule that refuses
 * @property {{op: 'add' | 'replace', path: string, value: unknown}[]} [patch] of a rule that changes
 */

const KINDS = {
  jobs: { group: 'batch', path: '/apis/batch/v1', kind: 'Job' },
  pods: { group: '', path: '/api/v1', kind: 'Pod' },
};

/**
 * Makes a rule and resolves once the API server follows it, to what removes it.
 *
 * @param {import('./clusters.js').ConformanceCluster} cluster
 * @param {Rule} rule
 */
export async function enforce(cluster, rule) {
  const name = `test-${randomBytes(5).toString('hex')}`;
  const remove = await cluster.policy(name, rule);
  // A policy takes a moment to be active.
  await eventually(() => follows(cluster, rule), { within: 60_000, every: 200 });
  return { name, remove };
}

/**
 * Creates a policy with its binding on a real cluster.
 *
 * @param {Awaited<ReturnType<typeof import('./api.js').apiOf>>} api
 * @param {string} name
 * @param {Rule} rule
 * @param {Record<string, string>} labels of what is made
 */
export async function makePolicy(api, name, { resource, labels: matchLabels, message, patch }, labels) {
  const { version, kind } = patch
    ? { version: (await mutatingVersion(api)) ?? 'v1', kind: 'MutatingAdmissionPolicy' }
    : { version: 'v1', kind: 'ValidatingAdmissionPolicy' };
  const base = `/apis/admissionregistration.k8s.io/${version}`;
  const { group } = KINDS[resource];
  const object = (suffix, spec) => ({
    apiVersion: `admissionregistration.k8s.io/${version}`,
    kind: `${kind}${suffix}`,
    metadata: { name, labels },
    spec,
  });
  const policy = {
    failurePolicy: 'Fail',
    matchConstraints: {
      objectSelector: { matchLabels },
      resourceRules: [
        { apiGroups: [group], apiVersions: ['v1'], operations: ['CREATE'], resources: [resource] },
      ],
    },
    ...(patch
      ? {
          reinvocationPolicy: 'Never',
          mutations: [{ patchType: 'JSONPatch', jsonPatch: { expression: expressionOf(patch) } }],
        }
      : { validations: [{ expression: 'false', message }] }),
  };
  const plural = patch ? 'mutatingadmissionpolic' : 'validatingadmissionpolic';
  await api.post(`${base}/${plural}ies`, object('', policy));
  const binding = { policyName: name, ...(patch ? {} : { validationActions: ['Deny'] }) };
  await api.post(`${base}/${plural}ybindings`, object('Binding', binding));
  return async () => {
    await api.delete(`${base}/${plural}ybindings/${name}`);
    await api.delete(`${base}/${plural}ies/${name}`);
  };
}

/** The version in which the API server serves policies that change objects; undefined where it serves none. */
export async function mutatingVersion(api) {
  for (const version of ['v1', 'v1beta1']) {
    const { resources } = await api.get(`/apis/admissionregistration.k8s.io/${version}`).catch((error) => {
      if (error.code !== 404) throw error;
      return { resources: [] };
    });
    if (resources.some(({ name }) => name === 'mutatingadmissionpolicies')) return version;
  }
  return undefined;
}

/** A JSON patch as an expression of the Common Expression Language. */
function expressionOf(patch) {
  const steps = patch.map(
    ({ op, path, value }) =>
      `JSONPatch{op: ${JSON.stringify(op)}, path: ${JSON.stringify(path)}, value: ${literal(value)}}`,
  );
  return `[${steps.join(', ')}]`;
}

/** Values of different types may stand side by side only as `dyn`. */
function literal(value) {
  if (Array.isArray(value)) return `[${value.map((item) => `dyn(${literal(item)})`).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).map(
    ([key, member]) => `${JSON.stringify(key)}: dyn(${literal(member)})`,
  );
  return `{${members.join(', ')}}`;
}

/**
 * Whether the API server follows a rule: it is asked to make an object, and not to keep it.
 *
 * @param {import('./clusters.js').ConformanceCluster} cluster
 * @param {Rule} rule
 */
async function follows(cluster, { resource, labels, message, patch }) {
  const { path, kind } = KINDS[resource];
  const containers = [{ name: 'probe', image: 'busybox:1.36' }];
  const pod = {
    restartPolicy: 'Never',
    containers,
    initContainers: [{ ...containers[0], name: 'init' }],
    volumes: [{ name: 'prompt', emptyDir: {} }],
  };
  const object = {
    apiVersion: path.replace(/^\/apis?\//, ''),
    kind,
    metadata: { name: `probe-${randomBytes(5).toString('hex')}`, labels },
    spec: kind === 'Job' ? { template: { spec: pod } } : pod,
  };
  const where = `${path}/namespaces/${cluster.namespace}/${resource}?dryRun=All`;
  const answer = await cluster.api.post(where, object).catch((error) => error);
  if (answer instanceof ApiFailure && message !== undefined) return answer.body.message?.includes(message);
  if (answer instanceof Error) throw answer;
  return patch?.every((step) => shows(answer, step));
}

/** Whether an object has what a step of a patch adds. The API server adds defaults: containers are known by their names. */
function shows(object, { path, value }) {
  const key = path.split('/').at(-1) ?? '';
  const named = Array.isArray(value) ? value : /^(\d+|-)$/.test(key) ? [value] : undefined;
  const texts = named?.map(({ name }) => `"name":${JSON.stringify(name)}`) ?? [
    `${JSON.stringify(key)}:${JSON.stringify(value)}`,
  ];
  const seen = JSON.stringify(object);
  return texts.every((text) => seen.includes(text));
}
