// The programs of a cluster, built from Go modules that are pinned in `modules/`: `kubernetes` has the control plane, the
// kubelet and kubectl, `node` has etcd, containerd, runc and the CNI plugins.
//
// Each program is built once and kept outside the checkout, under its version and a hash of its checksums, so an
// interrupted build continues with the program it stopped at. Nothing but modules is fetched, apart from two Debian
// packages: libseccomp, which runc links statically, and busybox for images.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { Problem, step } from '../dev/lib.mjs';
import { cache, once } from './cache.mjs';
import { output } from './command.mjs';
import { packages } from './debian.mjs';
import { clusterVersion } from './versions.mjs';

const MODULES = fileURLToPath(new URL('./modules/', import.meta.url));
/** The programs of the module `node`: their packages, and how they are built where that is not the usual way. */
const NODE_PROGRAMS = {
  etcd: { from: 'go.etcd.io/etcd/server/v3' },
  containerd: { from: 'github.com/containerd/containerd/v2/cmd/containerd' },
  'containerd-shim-runc-v2': { from: 'github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2' },
  ctr: { from: 'github.com/containerd/containerd/v2/cmd/ctr' },
  bridge: { from: 'github.com/containernetworking/plugins/plugins/main/bridge' },
  'host-local': { from: 'github.com/containernetworking/plugins/plugins/ipam/host-local' },
  loopback: { from: 'github.com/containernetworking/plugins/plugins/main/loopback' },
  // Without the tag no pod starts: containerd gives every container a seccomp profile.
  runc: { from: 'github.com/opencontainers/runc', tags: 'seccomp netgo osusergo', seccomp: true },
};
/** Snapshotters that need headers of file systems, or that no test uses. */
const CONTAINERD_TAGS = 'no_btrfs no_devmapper no_zfs';
const KUBERNETES_PROGRAMS = [
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubelet',
  'kubectl',
];

/**
 * Builds what is missing.
 *
 * @param {string} [minor] of Kubernetes, as in CLUSTER_VERSION
 * @returns {Promise<Record<string, string>>} program → its file; `busybox` is among them
 */
export async function programs(minor) {
  const version = clusterVersion(minor);
  const files = { busybox: path.join(await packages(), 'bin/busybox') };
  for (const [name, how] of Object.entries(NODE_PROGRAMS)) {
    files[name] = await build(name, { module: 'node', modfile: 'go.mod', tags: CONTAINERD_TAGS, ...how });
  }
  for (const name of KUBERNETES_PROGRAMS) files[name] = await kubernetesProgram(name, version);
  // More than a gigabyte, of use only until everything is built.
  rmSync(path.join(cache, 'go-build'), { recursive: true, force: true });
  return files;
}

/** kubectl alone, for conformance on the embedded cluster alone. */
export function kubectlProgram() {
  return kubernetesProgram('kubectl', clusterVersion());
}

function kubernetesProgram(name, version) {
  const from = `k8s.io/kubernetes/cmd/${name}`;
  const ldflags = versionFlags(version);
  return build(name, { module: 'kubernetes', modfile: version.modfile, from, ldflags });
}

/** What the programs report as their version; without it, it would be v0.0.0. */
function versionFlags({ patch }) {
  const [gitMajor, gitMinor] = patch.split('.');
  const values = { gitVersion: `v${patch}`, gitMajor, gitMinor };
  return Object.entries(values)
    .map(([key, value]) => `-X k8s.io/component-base/version.${key}=${value}`)
    .join(' ');
}

async function build(name, { module, modfile, from, tags = '', ldflags = '', seccomp = false }) {
  const folder = path.join(MODULES, module);
  const sums = readFileSync(path.join(folder, modfile.replace(/mod$/, 'sum')));
  const hash = createHash('sha256').update(sums).digest('hex').slice(0, 12);
  const dir = await once(path.join(`${module}-${hash}`, name), async (into) => {
    checkGo(path.join(folder, modfile));
    step(`Building ${name} (once; all programs take about 12 minutes on two cores)`);
    const flags = ['-s -w', ldflags, ...(seccomp ? ['-extldflags -static'] : [])].filter(Boolean).join(' ');
    await output(
      'nice',
      [
        ...['-n', '10', 'go', 'build', `-modfile=${modfile}`, '-trimpath', `-tags=${tags}`],
        ...[`-ldflags=${flags}`, '-o', path.join(into, name), from],
      ],
      { cwd: folder, env: { ...GO, CGO_ENABLED: '0', ...(seccomp && (await seccompEnvironment(into))) } },
    );
    rmSync(path.join(into, PKG_CONFIG), { force: true });
  });
  return path.join(dir, name);
}

/** Set for every build, so that nothing of this machine's settings decides what is built. */
const GO = {
  GOCACHE: path.join(cache, 'go-build'),
  GOFLAGS: '-mod=readonly -buildvcs=false',
  GOTOOLCHAIN: 'local',
  GOWORK: 'off',
};
const PKG_CONFIG = 'pkg-config';

/** runc asks pkg-config for libseccomp. It is unpacked and not installed, so a script of ours answers. */
async function seccompEnvironment(dir) {
  const tree = await packages();
  const library = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
    .map((triple) => path.join(tree, 'usr/lib', triple))
    .find((folder) => existsSync(path.join(folder, 'libseccomp.a')));
  if (!library) throw new Error(`no libseccomp.a below ${tree}`);
  const script = path.join(dir, PKG_CONFIG);
  writeFileSync(
    script,
    `#!/bin/sh\ncase "$*" in\n*--cflags*) echo -I${tree}/usr/include ;;\n*--libs*) echo -L${library} -lseccomp ;;\nesac\n`,
  );
  chmodSync(script, 0o755);
  return { CGO_ENABLED: '1', PKG_CONFIG: script };
}

/** Throws a Problem where Go is missing or older than the module file asks for. */
function checkGo(modfile) {
  const needed = /^go (\S+)$/m.exec(readFileSync(modfile, 'utf8'))?.[1] ?? '1.26';
  const { stdout, status } = spawnSync('go', ['env', 'GOVERSION'], {
    encoding: 'utf8',
    env: { ...process.env, GOTOOLCHAIN: 'local' },
  });
  const found = status === 0 ? stdout.trim().replace(/^go/, '') : undefined;
  if (!found) {
    throw new Problem(
      `Go ${needed} or newer builds the cluster, and there is no go on the PATH: https://go.dev/dl`,
    );
  }
  if (compare(found, needed) < 0) {
    throw new Problem(`Go ${needed} or newer builds the cluster, and this is Go ${found}: https://go.dev/dl`);
  }
}

/** Compares two versions such as 1.26.8 number by number. */
function compare(a, b) {
  const numbers = (version) => version.split('.').map((part) => Number.parseInt(part, 10) || 0);
  const [left, right] = [numbers(a), numbers(b)];
  for (let at = 0; at < 3; at++) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
