// The cluster behind the host, chosen by name. Each kind gives the same few things:
//
//   describe       one line for people
//   namespace      where the Jobs run
//   podName        the pod that stands for the host's own
//   kubeconfig     the text of the kubeconfig that the agents get
//   volume         the folder on this machine that the claim `paperclip-data` stands for
//   home           PAPERCLIP_HOME of the host: this path leads to the volume in the host as it does in the pods
//   config         what the adapterConfig of every agent has to say beside the kubeconfig
//   get(path)      one read of the Kubernetes API, parsed
//   stop(folder)   leaves what it knows in `folder` and ends what was started here
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem, root } from '../../scripts/lib.mjs';
import { startCluster } from '../../simulator/cluster.mjs';
import { isRoot } from './system.mjs';

const kinds = { embedded, real };

/** @param {string} kind */
export function clusterOf(kind) {
  const raise = kinds[kind];
  if (!raise) throw new Problem(`--cluster ${kind}: unknown; there are ${Object.keys(kinds).join(' and ')}.`);
  return raise;
}

/** Pods are processes of this user and see the machine's own paths, so the volume's folder is the host's home. */
async function embedded({ folder }) {
  const dir = path.join(folder, 'cluster');
  mkdirSync(dir, { recursive: true });
  chmodSync(dir, 0o755);
  const cluster = await startCluster({ args: ['--dir', dir] });
  const volume = path.join(dir, 'pvc', cluster.namespace, 'paperclip-data');
  return {
    describe: `embedded cluster, ${cluster.url}`,
    namespace: cluster.namespace,
    podName: 'paperclip-0',
    kubeconfig: readFileSync(cluster.kubeconfig, 'utf8'),
    volume,
    home: volume,
    config: {},
    get: cluster.get,
    async stop(logs) {
      await leaveObjects(cluster, logs);
      const requests = await cluster.get('/simulator/requests').catch((error) => ({ error: error.message }));
      writeFileSync(path.join(logs, 'cluster-requests.json'), `${JSON.stringify(requests, null, 1)}\n`);
      await cluster.stop();
      writeFileSync(path.join(logs, 'cluster.log'), cluster.errors());
    },
  };
}

/** The cluster of `npm run cluster:up`. It is left as it is found, but for what runs leave on its volume. */
async function real() {
  const module = path.join(root, 'cluster', 'index.mjs');
  if (!existsSync(module)) throw new Problem('--cluster real: this checkout has no folder cluster/.');
  if (!isRoot) throw new Problem('--cluster real: only root can show the host the volume at /paperclip, as its pods see it.');
  const cluster = (await import(module)).openCluster();
  const get = async (where) => JSON.parse(await cluster.kubectl('get', '--raw', where));
  return {
    describe: `real cluster, ${cluster.type} ${cluster.name}`,
    namespace: cluster.namespace,
    podName: cluster.hostPod,
    kubeconfig: readFileSync(cluster.accounts['paperclip-recommended'], 'utf8'),
    volume: cluster.volume,
    home: '/paperclip',
    // The node is this machine: the default requests of a few Jobs are more than it has.
    config: { 'resources.requests.cpu': '10m', 'resources.requests.memory': '32Mi' },
    get,
    async stop(logs) {
      await leaveObjects({ get, namespace: cluster.namespace }, logs);
      for (const name of readdirSync(cluster.logs).filter((file) => file.endsWith('.log'))) {
        copyFileSync(path.join(cluster.logs, name), path.join(logs, `cluster-${name}`));
      }
    },
  };
}

/** What is in the namespace now: Jobs, pods and events. */
async function leaveObjects({ get, namespace }, logs) {
  const found = {};
  for (const [name, where] of [
    ['jobs', `/apis/batch/v1/namespaces/${namespace}/jobs`],
    ['pods', `/api/v1/namespaces/${namespace}/pods`],
    ['events', `/api/v1/namespaces/${namespace}/events`],
  ]) {
    found[name] = await get(where).then(
      (list) => list.items,
      (error) => error.message,
    );
  }
  writeFileSync(path.join(logs, 'cluster-objects.json'), `${JSON.stringify(found, null, 1)}\n`);
}
