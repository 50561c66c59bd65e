// Everything that the suites need: cluster, registry, host.
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { step } from '../../../tools/dev/lib.mjs';
import { clusterOf } from './clusters.mjs';
import { startControl } from './control.mjs';
import { makeHost } from './host.mjs';
import { installHost } from './install.mjs';
import { pack, startRegistry } from './registry.mjs';
import { copyOfFakeCli, makeScenes } from './scenes.mjs';
import { cacheFolder, finished, hostUser } from './system.mjs';

/**
 * Starts the lab; resolves to plain data for the suites.
 *
 * @param {{kind: string, logs: string, endings: ReturnType<typeof import('./endings.mjs').makeEndings>}} options the
 *   cluster, the folder for logs, and where each part registers how it is ended
 */
export async function raiseLab({ kind, logs, endings }) {
  const raise = clusterOf(kind);
  const user = hostUser();
  const give = (file) => {
    const { uid, gid } = user;
    if (uid !== undefined && gid !== undefined) chownSync(file, uid, gid);
  };
  const installed = await installHost();
  const folder = mkdtempSync(path.join(tmpdir(), 'paperclip-host-'));
  await endings.add(async () => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);

  step('Packing the package');
  const packed = await pack(path.join(folder, 'tarballs'));
  const registry = await startRegistry(packed);
  await endings.add(registry.stop);

  const cluster = await raise({ folder });
  await endings.add(() => cluster.stop(logs));
  give(cluster.folder);

  const sceneFolder = path.join(folder, 'scenes');
  mkdirSync(sceneFolder);
  const scenes = makeScenes({ folder: sceneFolder, volume: cluster.folder, user });
  await endings.add(scenes.stop);

  step(`Starting the host (${cluster.describe})`);
  const userHome = path.join(folder, 'home');
  mkdirSync(userHome);
  give(userHome);
  // npm's cache outlives the run, so that npm only revalidates what it has.
  const npmCache = path.join(cacheFolder(), user.uid === undefined ? 'npm' : `npm-${user.uid}`);
  mkdirSync(npmCache, { recursive: true });
  give(npmCache);
  const npm = {
    ...ofNpm(process.env),
    npm_config_registry: registry.url,
    npm_config_cache: npmCache,
    npm_config_update_notifier: 'false',
  };
  // This mark is how `.ci/run` finds what a suite left running, and the host starts a database.
  const { CI_SUITE } = process.env;
  /** @type {Record<string, string>} */
  const mark = CI_SUITE ? { CI_SUITE } : {};
  const host = await makeHost({
    installed,
    user,
    home: cluster.home,
    folder: cluster.folder,
    mount: cluster.mount,
    userHome,
    log: path.join(logs, 'host.log'),
    env: { ...npm, ...mark, HOSTNAME: cluster.podName, POD_NAMESPACE: cluster.namespace },
  });
  await endings.add(host.stop);
  const kubeconfig = path.join(userHome, 'kubeconfig');
  writeFileSync(kubeconfig, cluster.kubeconfig, { mode: 0o600 });
  give(kubeconfig);
  await host.start();

  const control = await startControl({
    'host/start': () => host.start(),
    'host/end': ({ signal }) => host.end(signal),
    // An empty file on the volume, for processes in pods that wait for it.
    'volume/touch': ({ name }) => writeFileSync(path.join(cluster.folder, name), '', { mode: 0o644 }),
    'cluster/get': ({ path: where }) => cluster.get(where),
    ...scenes.orders,
    'registry/asked': () => registry.asked,
    // The package in a separate folder beside its dependencies, like a developer's copy.
    'local/make': async ({ name }) => {
      const local = path.join(folder, name);
      mkdirSync(local);
      const manifest = path.join(local, 'package.json');
      writeFileSync(manifest, '{"private":true}\n');
      give(manifest);
      give(local);
      await finished('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', packed[0].file], {
        cwd: local,
        env: { ...npm, PATH: `${installed.bin}:/usr/bin:/bin`, HOME: userHome },
        ...user,
      });
      return path.join(local, 'node_modules', packed[0].manifest.name);
    },
  });
  await endings.add(control.stop);
  return {
    url: host.url,
    control: control.url,
    kind,
    namespace: cluster.namespace,
    home: cluster.home,
    config: { kubeconfig, ...cluster.config },
    cli: copyOfFakeCli(folder),
    modules: installed.modules,
    logs,
    packed: packed.map(({ manifest }) => ({ name: manifest.name, version: manifest.version })),
  };
}

/** The variables for npm's access to its registry. */
function ofNpm(env) {
  const wanted =
    /^(https?_proxy|no_proxy|npm_config_(https?_proxy|proxy|noproxy|cafile)|NODE_EXTRA_CA_CERTS)$/i;
  return Object.fromEntries(Object.entries(env).filter(([name]) => wanted.test(name)));
}
