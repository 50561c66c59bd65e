// The two clusters that every spec runs against, with one small interface. Where they differ by nature (a real node
// enforces limits, the embedded one simulates it), the difference is here and not in the specs.
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { isRelease } from '../../../tools/kubernetes/debian.mjs';
import { openCluster } from '../../../tools/kubernetes/index.mjs';
import { TERMINATED_PODS } from '../../../tools/kubernetes/node.mjs';
import { accounts, labelsOf } from '../../../tools/kubernetes/objects.mjs';
import { kubectlProgram } from '../../../tools/kubernetes/programs.mjs';
import { startCluster } from '../../../tools/simulator/cluster.mjs';
import { eventually } from '../../support/host.js';
import { apiOf } from './api.js';
import { grantRoles, makeVolume } from './namespaces.js';
import { makePolicy, mutatingVersion } from './policies.js';

const EXISTING = 'paperclip-existing';
const RECOMMENDED = 'paperclip-recommended';
/** Nothing listens there: the image cannot be pulled, and no request leaves this machine. */
const UNPULLABLE = '127.0.0.1:9/missing/agent:1';

/**
 * @typedef {object} ConformanceCluster
 * @property {'embedded' | 'real'} name
 * @property {string} namespace
 * @property {number} minor of the API server's version
 * @property {string} [foreign] why its components, nodes and settings are left alone, where it is a user's own cluster
 * @property {string} [unchangeable] why no policy can change its objects, where it is a user's own cluster
 * @property {Record<string, string>} labels of everything without a namespace that a spec makes: what carries them is
 *   removed with the cluster's other objects
 * @property {Awaited<ReturnType<typeof apiOf>>} api as administrator
 * @property {{admin: string, existing: string, recommended: string, wrong: string}} kubeconfigs
 * @property {string} home PAPERCLIP_HOME, on the shared volume
 * @property {string} unpullable an image that cannot be pulled
 * @property {number} [terminatedPods] how many pods that have ended the cluster keeps, where that is known
 * @property {(...args: string[]) => Promise<string>} kubectl as administrator
 * @property {{env: Record<string, string>, now: (pod: () => Promise<object>) => Promise<void>}} outOfMemory the
 *   environment of a run that is to exceed its memory limit, and what makes its pod do so
 * @property {{pause: () => Promise<void>, resume: () => Promise<void>, kill: () => Promise<void>,
 *   start: () => Promise<void>}} kubelet paused, it keeps its connections and answers nothing
 * @property {{restart: (options?: {compact?: boolean, meanwhile?: () => Promise<void>}) => Promise<void>}} apiServer answers
 *   again when the promise resolves; `compact` drops the history of all objects while it is away, `meanwhile` is done then
 * @property {(name: string, rule: import('./policies.js').Rule) => Promise<() => Promise<unknown>>} policy makes an
 *   admission policy, which is active some time later, and resolves to what removes it; see `enforce`
 * @property {(namespace: string) => Promise<string | undefined>} volumeFor makes the volume for the claim of another
 *   namespace, where one is needed, and resolves to its name; see `ownNamespace`
 * @property {(namespace: string) => Promise<void>} grant gives the accounts their Roles in another namespace
 * @property {() => Promise<void>} close
 */

/** The cluster that this process is to test: CONFORMANCE_CLUSTER. @returns {Promise<ConformanceCluster>} */
export async function conformanceCluster() {
  const open = { embedded, real }[process.env.CONFORMANCE_CLUSTER];
  if (!open) throw new Error('CONFORMANCE_CLUSTER is embedded or real; npm run test:cluster sets it');
  const cluster = await open();
  cluster.minor = Number.parseInt((await cluster.api.get('/version')).minor, 10);
  // This process is the host in its pod.
  mkdirSync(cluster.home, { recursive: true });
  Object.assign(process.env, {
    HOSTNAME: cluster.hostPod,
    PAPERCLIP_NAMESPACE: cluster.namespace,
    PAPERCLIP_HOME: cluster.home,
    PAPERCLIP_API_URL: '',
  });
  return cluster;
}

async function real() {
  const cluster = openCluster();
  const dir = mkdtempSync(path.join(tmpdir(), 'conformance-'));
  const api = await apiOf(cluster.admin);
  const { control } = cluster;
  const ours = () => {
    if (!control) throw new Error('the components of a cluster that cluster:up did not make are left alone');
    return control;
  };
  return {
    name: 'real',
    namespace: cluster.namespace,
    hostPod: cluster.hostPod,
    api,
    kubeconfigs: {
      admin: cluster.admin,
      existing: cluster.accounts[EXISTING],
      recommended: cluster.accounts[RECOMMENDED],
      wrong: wrongToken(cluster.accounts[RECOMMENDED], dir),
    },
    home: path.join(cluster.volume, 'home'),
    unpullable: UNPULLABLE,
    terminatedPods: cluster.type === 'node' ? TERMINATED_PODS : undefined,
    kubectl: cluster.kubectl,
    ...(control ? {} : await limitsOfForeign(api)),
    labels: cluster.labels,
    policy: (name, rule) => makePolicy(api, name, rule, cluster.labels),
    volumeFor: (namespace) => makeVolume(api, cluster.volume, namespace, cluster.labels),
    grant: (namespace) => grantRoles(api, cluster.namespace, namespace),
    outOfMemory: { env: { CLAUDE_STAND_IN_REAL_OOM: '1' }, now: async () => {} },
    kubelet: {
      pause: () => ours().pause('kubelet'),
      resume: () => ours().resume('kubelet'),
      kill: () => ours().kill('kubelet'),
      start: () => ours().start('kubelet'),
    },
    apiServer: {
      restart: async ({ compact = false, meanwhile = async () => {} } = {}) => {
        await ours().stop('kube-apiserver');
        await meanwhile();
        if (compact) await ours().compact();
        await ours().start('kube-apiserver');
        await eventually(() => api.get('/readyz').catch(() => false), { within: 120_000, every: 200 });
      },
    },
    close: async () => {
      api.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** What a user's own cluster cannot show, with the reason of each. */
async function limitsOfForeign(api) {
  const foreign = 'a cluster that cluster:up did not make is not disturbed';
  if (await mutatingVersion(api)) return { foreign };
  return {
    foreign,
    unchangeable: 'this cluster serves no MutatingAdmissionPolicy, as Kubernetes 1.36 and later do',
  };
}

async function embedded() {
  // A real Job controller lags by a second.
  const cluster = await startCluster({ args: ['--condition-lag-ms', '1000'] });
  const api = await apiOf(cluster.kubeconfig);
  const namespaces = [cluster.namespace];
  /** Each permission replaces the one before it, so they are sent one after the other. */
  let granted = Promise.resolve();
  const permit = async (name) => {
    const rules = [];
    for (const namespace of namespaces) {
      for (const rule of accounts()[name]) rules.push({ ...rule, namespace });
    }
    const user = `system:serviceaccount:${cluster.namespace}:${name}`;
    await cluster.post('/simulator/tokens', { token: name, user, rules });
  };
  const account = async (name) => {
    await permit(name);
    const file = path.join(cluster.dir, `${name}.kubeconfig`);
    writeFileSync(file, readFileSync(cluster.kubeconfig, 'utf8').replaceAll(cluster.token, name), {
      mode: 0o600,
    });
    return file;
  };
  const { unpullable } = await cluster.get('/simulator/settings');
  await cluster.post('/simulator/settings', {
    unpullable: [...unpullable, UNPULLABLE],
    // A kubelet's defaults, as on the real node.
    logRotateBytes: 10 << 20,
    logMonitorMs: 10_000,
    storageCheckMs: 10_000,
    kubeletRelistMs: 1_000,
    logCheckMs: 1_000,
    signalsAsFirstProcess: true,
    // As the real cluster of these specs is started.
    nodeMonitorGraceMs: 16_000,
    tolerationSeconds: 20,
    terminatedPodGcThreshold: TERMINATED_PODS,
    quotaLagMs: 2_000,
  });
  const pauseKubelet = async (paused) => void (await cluster.post('/simulator/kubelet', { paused }));
  const recommended = await account(RECOMMENDED);
  // Built where it is not there, and only for the specs that use it.
  let program;
  return {
    name: 'embedded',
    namespace: cluster.namespace,
    hostPod: 'paperclip-0',
    api,
    kubeconfigs: {
      admin: cluster.kubeconfig,
      existing: await account(EXISTING),
      recommended,
      wrong: wrongToken(recommended, cluster.dir),
    },
    home: path.join(cluster.dir, 'paperclip-home'),
    unpullable: UNPULLABLE,
    terminatedPods: TERMINATED_PODS,
    labels: labelsOf(cluster.namespace),
    policy: async (name, { message, ...rule }) => {
      await cluster.post('/simulator/policies', { name, deny: message, ...rule });
      return () => cluster.delete(`/simulator/policies/${name}`);
    },
    volumeFor: async () => undefined,
    grant: async (namespace) => {
      namespaces.push(namespace);
      granted = granted.then(async () => void (await Promise.all([EXISTING, RECOMMENDED].map(permit))));
      await granted;
    },
    kubectl: async (...args) => {
      program ??= isRelease() ? kubectlProgram() : 'kubectl';
      return (await promisify(execFile)(await program, ['--kubeconfig', cluster.kubeconfig, ...args])).stdout;
    },
    outOfMemory: {
      // It holds a little memory and waits.
      env: { CLAUDE_STAND_IN_REAL_OOM: '1', CLAUDE_STAND_IN_OOM_BYTES: '1' },
      now: async (pod) => {
        const { metadata } = await pod();
        await cluster.post(`/simulator/pods/${cluster.namespace}/${metadata.name}/oom`);
      },
    },
    kubelet: {
      pause: () => pauseKubelet(true),
      resume: () => pauseKubelet(false),
      kill: async () => {
        await pauseKubelet(true);
        await cluster.post('/simulator/connections/reset');
        // Our own connections were reset, too.
        await eventually(() => cluster.get('/simulator/settings').catch(() => false));
      },
      start: () => pauseKubelet(false),
    },
    apiServer: {
      // A restart drops the history here in any case.
      restart: async ({ meanwhile = async () => {} } = {}) => {
        await cluster.post('/simulator/restart', { downMs: 6_000 });
        // The answer comes before the restart.
        await eventually(
          () =>
            api.get('/readyz').then(
              () => false,
              () => true,
            ),
          { within: 10_000 },
        );
        await meanwhile();
        await eventually(() => api.get('/readyz').catch(() => false), { within: 30_000 });
      },
    },
    close: async () => {
      api.close();
      await leaveRequests(cluster);
      await cluster.stop();
    },
  };
}

/** Writes the requests that the cluster got beside the output of the runs. */
async function leaveRequests(cluster) {
  const dir = fileURLToPath(new URL('../../../target/conformance/embedded/', import.meta.url));
  mkdirSync(dir, { recursive: true });
  const requests = await cluster.get('/simulator/requests').catch(String);
  writeFileSync(path.join(dir, `requests-${process.pid}.json`), `${JSON.stringify(requests, null, 1)}\n`);
}

/** A copy of a kubeconfig with an unknown token. */
function wrongToken(kubeconfig, dir) {
  const file = path.join(dir, 'wrong-token.kubeconfig');
  const text = readFileSync(kubeconfig, 'utf8').replace(/("?token"?: *"?)[^"\s]+/, '$1unknown-token');
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}
