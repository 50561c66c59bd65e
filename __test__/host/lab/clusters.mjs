// The cluster behind the host, chosen by name. Each kind has the same members:
//
//   describe       one line that names it
//   namespace      where the Jobs run
//   podName        the pod that the host takes for its own
//   kubeconfig     the text of the kubeconfig that the agents get
//   home           PAPERCLIP_HOME of the host, on the claim `paperclip-data`: the same path in the host and in the pods
//   folder         the folder on this machine behind `home`
//   mount          the mount that the host needs for that: the folder `from` at `at` (none if the paths are the same)
//   config         what the adapterConfig of every agent needs beside the kubeconfig
//   get(path)      one read of the Kubernetes API, parsed
//   stop(folder)   writes its logs and objects to `folder` and ends what was started here
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

import { Problem, root } from '../../../tools/dev/lib.mjs';
import { startCluster } from '../../../tools/simulator/cluster.mjs';
import { isRoot } from './system.mjs';

const kinds = { embedded, real };

/** @param {string} kind */
export function clusterOf(kind) {
  const raise = kinds[kind];
  if (!raise) throw new Problem(`--cluster ${kind}: unknown; there are ${Object.keys(kinds).join(' and ')}.`);
  return raise;
}

/** Pods are processes of this user with the paths of this machine, so the volume's folder is the host's home. */
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
    home: volume,
    folder: volume,
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

/** The cluster of `npm run cluster:up`. It keeps running; the host has its own folder on the volume. */
async function real() {
  const module = path.join(root, 'tools', 'kubernetes', 'index.mjs');
  if (!existsSync(module)) throw new Problem('--cluster real: this checkout has no folder cluster/.');
  if (!isRoot)
    throw new Problem(
      '--cluster real: only root can show the host the volume at /paperclip, as its pods see it.',
    );
  const cluster = (await import(module)).openCluster();
  if (cluster.unshared) throw new Problem(`--cluster real: ${cluster.unshared}.`);
  const get = async (where) => JSON.parse(await cluster.kubectl('get', '--raw', where));
  const own = mkdtempSync(path.join(cluster.volume, 'host-'));
  chmodSync(own, 0o755);
  return {
    describe: `real cluster, ${cluster.type} ${cluster.name}`,
    namespace: cluster.namespace,
    podName: cluster.hostPod,
    kubeconfig: readFileSync(cluster.accounts['paperclip-recommended'], 'utf8'),
    home: path.join('/paperclip', path.basename(own)),
    folder: own,
    mount: { from: cluster.volume, at: '/paperclip' },
    // The node is this machine, which has less than the default requests of a few Jobs.
    config: { 'resources.requests.cpu': '10m', 'resources.requests.memory': '32Mi' },
    get,
    async stop(logs) {
      await leaveObjects({ get, namespace: cluster.namespace }, logs);
      for (const name of readdirSync(cluster.logs).filter((file) => file.endsWith('.log'))) {
        copyFileSync(path.join(cluster.logs, name), path.join(logs, `cluster-${name}`));
      }
      rmSync(own, { recursive: true, force: true });
    },
  };
}

/** The Jobs, pods and events of the namespace. */
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
