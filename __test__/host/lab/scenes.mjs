// Clusters of single tasks: each can be broken without the others noticing. They share the volume of the host.
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

import { programs, startCluster } from '../../../tools/simulator/cluster.mjs';

/** The account under which the runs act, and on which faults act. */
const RUNNER = 'system:serviceaccount:paperclip:runner';

/**
 * @param {{folder: string, volume: string, user: {uid?: number, gid?: number}}} options where the clusters keep their
 *   files, the folder of the host's volume, and the user of the host
 */
export function makeScenes({ folder, volume, user }) {
  /** @type {Map<string, {cluster: Awaited<ReturnType<typeof startCluster>>, dir: string}>} */
  const scenes = new Map();
  const of = (id) => {
    const scene = scenes.get(id);
    if (!scene) throw new Error(`no such cluster: ${id}`);
    return scene;
  };
  /** A file that the host's user can read, and no other. */
  const forHost = (file, text) => {
    writeFileSync(file, text, { mode: 0o600 });
    if (user.uid !== undefined && user.gid !== undefined) chownSync(file, user.uid, user.gid);
    return file;
  };

  async function start({ id, settings }) {
    const dir = path.join(folder, id);
    mkdirSync(path.join(dir, 'pvc', 'paperclip'), { recursive: true });
    chmodSync(dir, 0o755);
    symlinkSync(volume, path.join(dir, 'pvc', 'paperclip', 'paperclip-data'));
    const cluster = await startCluster({ args: ['--dir', dir] });
    scenes.set(id, { cluster, dir });
    await cluster.post('/simulator/tokens', {
      token: 'runner-token',
      user: RUNNER,
      rules: [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }],
    });
    if (settings) await cluster.post('/simulator/settings', settings);
    const admin = readFileSync(cluster.kubeconfig, 'utf8');
    return {
      namespace: cluster.namespace,
      kubeconfig: forHost(
        path.join(folder, `${id}.kubeconfig`),
        admin.replace(/token: .+/, 'token: runner-token'),
      ),
    };
  }

  async function stop({ id }) {
    const { cluster, dir } = of(id);
    scenes.delete(id);
    await cluster.stop();
    rmSync(dir, { recursive: true, force: true });
  }

  return {
    orders: {
      'scene/start': start,
      'scene/stop': stop,
      'scene/request': ({ id, method, path: where, body, type }) =>
        of(id).cluster.request(method, where, body, type && { type }),
      'scene/file': ({ name, text }) => forHost(path.join(folder, name), text),
    },
    stop: async () => {
      for (const id of scenes.keys()) await stop({ id });
    },
  };
}

/** A copy of the fake CLI that every user can run: the host's own adapter runs it as a process of the host. */
export function copyOfFakeCli(folder) {
  const file = path.join(folder, 'claude');
  copyFileSync(path.join(programs, 'claude'), file);
  chmodSync(file, 0o755);
  return file;
}
