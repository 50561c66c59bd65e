// Everything that the suites need: cluster, registry, host.
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { step } from '../../../tools/dev/lib.mjs';
import { makePackages } from '../../../tools/dev/packages.mjs';
import { serveRegistry } from '../../support/registry.js';
import { clusterOf } from './clusters.mjs';
import { startControl } from './control.mjs';
import { makeHost } from './host.mjs';
import { installHost } from './install.mjs';
import { OLDER_TYPE, loadedIntoOlder } from './older/index.mjs';
import { copyOfFakeCli, makeScenes } from './scenes.mjs';
import { cacheFolder, finished, hostUser } from './system.mjs';
import { HOST_VERSION, OLDER_HOST_VERSION } from './versions.mjs';

/** The type under which a host installs the adapter. */
const TYPE = 'claude_k8s';

/**
 * Starts the lab; resolves to plain data for the suites.
 *
 * @param {{kind: string, logs: string, older?: boolean, endings: ReturnType<typeof import('./endings.mjs').makeEndings>}} options
 *   the cluster, the folder for logs, whether the host is the older one, and where each part registers how it is ended
 */
export async function raiseLab({ kind, logs, older = false, endings }) {
  const raise = clusterOf(kind);
  const user = hostUser();
  const give = (file) => {
    const { uid, gid } = user;
    if (uid !== undefined && gid !== undefined) chownSync(file, uid, gid);
  };
  const installed = await installHost(older ? OLDER_HOST_VERSION : HOST_VERSION);
  const folder = mkdtempSync(path.join(tmpdir(), 'paperclip-host-'));
  await endings.add(async () => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);

  step('Packing the package');
  const { tarballs, name, version } = await makePackages({ out: path.join(folder, 'tarballs') });
  const registry = await serveRegistry(tarballs);
  await endings.add(registry.close);

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
  // The package in a separate folder beside its dependencies, like a developer's copy.
  const makeLocal = async () => {
    const local = path.join(folder, 'local');
    mkdirSync(local);
    const manifest = path.join(local, 'package.json');
    writeFileSync(manifest, '{"private":true}\n');
    give(manifest);
    give(local);
    await finished('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', tarballs.at(-1)], {
      cwd: local,
      env: { ...npm, PATH: `${installed.bin}:/usr/bin:/bin`, HOME: userHome },
      ...user,
    });
    return path.join(local, 'node_modules', name);
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
    env: {
      ...npm,
      ...mark,
      HOSTNAME: cluster.podName,
      POD_NAMESPACE: cluster.namespace,
      ...(older && loadedIntoOlder({ folder, modules: installed.modules, adapter: await makeLocal() })),
    },
  });
  await endings.add(host.stop);
  const kubeconfig = path.join(userHome, 'kubeconfig');
  writeFileSync(kubeconfig, cluster.kubeconfig, { mode: 0o600 });
  give(kubeconfig);
  await host.start();

  let isTaken = false;
  const control = await startControl({
    // Of several suites that need the adapter, the first that asks installs it.
    'install/is-first': () => {
      const isFirst = !isTaken;
      isTaken = true;
      return isFirst;
    },
    'host/start': () => host.start(),
    'host/end': ({ signal }) => host.end(signal),
    // An empty file on the volume, for processes in pods that wait for it.
    'volume/touch': ({ file }) => writeFileSync(path.join(cluster.folder, file), '', { mode: 0o644 }),
    'cluster/get': ({ path: where }) => cluster.get(where),
    ...scenes.orders,
    'registry/asked': () => registry.asked,
    // Publishes the package as the newest: the one that was packed, or one of another version whose form has this key.
    'registry/publish': async ({ version: other, key }) => {
      if (!other) return registry.publish(tarballs);
      const out = path.join(folder, `tarballs-${other}`);
      const edit = (unpacked) => changeForm(path.join(unpacked, `v${other}`, 'adapter.js'), key);
      return registry.publish((await makePackages({ out, version: other, edit })).tarballs);
    },
    // The addons that the host has loaded.
    'host/addons': () => {
      const maps = readFileSync(`/proc/${host.pid()}/maps`, 'utf8');
      return [...new Set(maps.match(/[^/\s]+\.node\b/g))].filter((file) => file.startsWith(name));
    },
    'local/make': makeLocal,
  });
  await endings.add(control.stop);
  return {
    url: host.url,
    type: older ? OLDER_TYPE : TYPE,
    control: control.url,
    kind,
    namespace: cluster.namespace,
    home: cluster.home,
    config: { kubeconfig, ...cluster.config },
    cli: copyOfFakeCli(folder),
    modules: installed.modules,
    logs,
    packed: { name, version },
  };
}

/** Makes an adapter describe its form by one field with this key. */
function changeForm(file, key) {
  const source = readFileSync(file, 'utf8');
  const field = { key, label: key, type: 'text' };
  const changed = source.replace(
    /^ {4}getConfigSchema,$/m,
    `getConfigSchema: () => (${JSON.stringify({ fields: [field] })}),`,
  );
  if (changed === source) throw new Error(`${file}: the form was not found`);
  writeFileSync(file, changed);
}

/** The variables for npm's access to its registry. */
function ofNpm(env) {
  const wanted =
    /^(https?_proxy|no_proxy|npm_config_(https?_proxy|proxy|noproxy|cafile)|NODE_EXTRA_CA_CERTS)$/i;
  return Object.fromEntries(Object.entries(env).filter(([name]) => wanted.test(name)));
}
