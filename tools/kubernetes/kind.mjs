// A cluster made by kind, for machines with a container engine.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';

import { step } from '../dev/lib.mjs';
import { output } from './command.mjs';

/** Writes a key and compacts etcd up to it, in etcd's own container; see `compact` of a node of processes. */
const COMPACT = `
etcdctl() {
  crictl exec "$(crictl ps --quiet --name '^etcd$')" etcdctl --endpoints=https://127.0.0.1:2379 \\
    --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/server.crt \\
    --key=/etc/kubernetes/pki/etcd/server.key "$@"
}
revision=$(etcdctl put /paperclip-test/compacted x --write-out=fields | sed -n 's/^"Revision" : //p')
etcdctl compact --physical "$revision"
`;

/** The container engine that kind would use, if kind is installed and the engine answers. */
export function containerEngine() {
  const answers = (command, ...args) =>
    spawnSync(command, args, { stdio: 'ignore', timeout: 10_000 }).status === 0;
  if (!answers('kind', 'version')) return undefined;
  return ['docker', 'podman'].find((engine) => answers(engine, 'info'));
}

/** Makes the cluster; returns an administrator's kubeconfig. */
export async function startKind(state, save) {
  const { dir, engine } = state;
  state.kind = `paperclip-${state.name}`;
  save();
  const config = path.join(dir, 'kind.yaml');
  // The folder has the same path here and on the node: the host is a process here, its Jobs run there.
  const node = {
    role: 'control-plane',
    extraMounts: [{ hostPath: state.volume, containerPath: state.volume }],
  };
  writeFileSync(
    config,
    JSON.stringify({ kind: 'Cluster', apiVersion: 'kind.x-k8s.io/v1alpha4', nodes: [node] }),
  );
  const kubeconfig = path.join(dir, 'admin.kubeconfig');
  step(`Making the cluster with kind and ${engine}`);
  await kind(state, 'create', 'cluster', '--config', config, '--kubeconfig', kubeconfig, '--wait', '300s');
  return kubeconfig;
}

/** Removes the cluster. */
export async function stopKind(state) {
  await kind(state, 'delete', 'cluster', '--kubeconfig', path.join(state.dir, 'admin.kubeconfig'));
}

/** Loads an archive's image into the node. */
export async function loadImage(state, archive) {
  await kind(state, 'load', 'image-archive', archive);
}

/** Stops and starts components for tests, like `nodeControl`. */
export function kindControl(state) {
  const run = (...command) => output(state.engine, ['exec', `${state.kind}-control-plane`, ...command]);
  const kill = (name, signal) => run('pkill', `-${signal}`, '-x', name.slice(0, 15));
  const isStatic = (name) => name.startsWith('kube-') || name === 'etcd';
  const manifest = (name) => `/etc/kubernetes/manifests/${name}.yaml`;
  return {
    pause: (name) => kill(name, 'STOP'),
    resume: (name) => kill(name, 'CONT'),
    // The kubelet runs the control plane from manifest files: without its file a component is stopped.
    stop: (name) =>
      isStatic(name)
        ? run('mv', manifest(name), `/etc/kubernetes/${name}.off`)
        : run('systemctl', 'stop', name),
    kill: (name) => kill(name, 'KILL'),
    compact: () => run('sh', '-euc', COMPACT),
    start: async (name) => {
      if (!isStatic(name)) return void (await run('systemctl', 'start', name));
      await run('sh', '-c', `mv /etc/kubernetes/${name}.off ${manifest(name)} 2>/dev/null || true`);
    },
  };
}

function kind(state, ...args) {
  return output('kind', [...args, '--name', state.kind], {
    env: { KIND_EXPERIMENTAL_PROVIDER: state.engine },
  });
}
