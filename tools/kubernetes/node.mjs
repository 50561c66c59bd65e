// A single-node cluster of plain processes: etcd, the control plane, containerd and a kubelet, built from Go modules.
//
// containerd and the kubelet have their own mount namespace, in which their fixed paths (/var/lib/kubelet, /var/log/pods,
// /run/containerd …) are folders of the cluster. So they disturb no other node on this machine, and their mounts end
// with the last process of the namespace. A bridge without an address on this machine connects the pods with each
// other: they cannot connect to anything outside, and there is no address translation.
import { randomBytes } from 'node:crypto';
import { once as event } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:https';
import { createServer } from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';

import { Problem, step } from '../dev/lib.mjs';
import { makeCertificates } from './certificates.mjs';
import { output } from './command.mjs';
import { checkRelease } from './debian.mjs';
import { kubeconfig } from './kubeconfig.mjs';
import { PAUSE_IMAGE } from './objects.mjs';
import { isAlive, recorded, signal, start, stop } from './processes.mjs';
import { programs } from './programs.mjs';
import { clusterVersion } from './versions.mjs';
import { until } from './wait.mjs';

/** The API server connects to the kubelet by this name, hence on loopback: a node's address must not be a loopback one. */
const NODE = 'localhost';
/** The fixed paths of the node's programs, and the name of each in the cluster's folder. */
const PRIVATE = {
  '/run/containerd': 'run-containerd',
  '/var/lib/cni': 'cni-state',
  '/var/lib/kubelet': 'kubelet',
  '/var/log/containers': 'container-links',
  '/var/log/pods': 'pod-logs',
};
/** Kernel settings that a kubelet makes. It is shown these values as already set, so that it changes nothing. */
const KERNEL = {
  'vm/overcommit_memory': '1',
  'vm/panic_on_oom': '0',
  'kernel/panic': '10',
  'kernel/panic_on_oops': '1',
  'kernel/keys/root_maxkeys': '1000000',
  'kernel/keys/root_maxbytes': '25000000',
};
/** So that the loss of a node takes a minute and not six: how long it may be silent, and what its pods tolerate. */
const NODE_MONITOR_GRACE = '16s';
/** How many pods that have ended stay: more than the specs have at once, and so few that one of them can exceed it. */
export const TERMINATED_PODS = 100;
const NODE_LOSS = [
  '--default-not-ready-toleration-seconds=20',
  '--default-unreachable-toleration-seconds=20',
];
const SOCKET = '/run/containerd/containerd.sock';
/** The components, in the order in which they are stopped. */
const COMPONENTS = [
  'kubelet',
  'kube-scheduler',
  'kube-controller-manager',
  'kube-apiserver',
  'etcd',
  'containerd',
  'holder',
];

/** Throws a Problem if such a cluster cannot run here. */
export function checkMachine() {
  checkRelease();
  if (process.getuid?.() !== 0) {
    throw new Problem('a cluster without a container engine needs root: for mounts, namespaces and cgroups.');
  }
}

/**
 * Starts a cluster. It calls `save` after each addition to `state` that `stopNode` needs.
 *
 * @param {{dir: string, node?: object}} state
 * @param {() => void} save
 * @returns {Promise<string>} an administrator's kubeconfig
 */
export async function startNode(state, save) {
  checkMachine();
  const { dir } = state;
  const version = clusterVersion();
  const built = await programs(version.minor);
  step('Starting the control plane, containerd and the kubelet');
  const file = (...parts) => path.join(dir, ...parts);
  const cert = (name) => file('certificates', name);
  for (const folder of ['logs', 'etc', 'etcd', 'containerd', ...Object.values(PRIVATE)])
    mkdirSync(file(folder), { recursive: true });
  await makeCertificates(file('certificates'));

  const id = randomBytes(4).toString('hex');
  const ports = await freePorts(['etcd', 'etcdPeer', 'api', 'kubelet']);
  const node = {
    name: NODE,
    version: version.patch,
    programs: built,
    api: `https://127.0.0.1:${ports.api}`,
    etcd: `https://127.0.0.1:${ports.etcd}`,
    bridge: `pc-${id}`,
    cgroup: `paperclip-${id}`,
    /** Folders of this machine that this cluster made. */
    made: Object.keys(PRIVATE).flatMap(makeFolder),
    /** The command and the process of each component. */
    components: {},
  };
  state.node = node;
  save();

  const users = {
    admin: ['admin', 'system:masters'],
    'kube-controller-manager': ['system:kube-controller-manager'],
    'kube-scheduler': ['system:kube-scheduler'],
    kubelet: [`system:node:${NODE}`, 'system:nodes'],
  };
  const ca = readFileSync(cert('ca.crt')).toString('base64');
  const tokens = Object.entries(users).map(([name, [user, group]]) => {
    const token = randomBytes(24).toString('hex');
    writeFileSync(file('etc', `${name}.kubeconfig`), kubeconfig({ api: node.api, ca, token, user: name }), {
      mode: 0o600,
    });
    return `${token},${user},${user}${group ? `,"${group}"` : ''}\n`;
  });
  writeFileSync(file('etc', 'tokens.csv'), tokens.join(''), { mode: 0o600 });

  // The processes in the namespace see what this one mounts; it then only waits.
  const script = [
    ...Object.entries(PRIVATE).map(([at, name]) => `mount --bind "$DIR/${name}" ${at}`),
    ...Object.entries(KERNEL).map(([key, value]) => {
      const own = file('etc', `kernel-${key.replaceAll('/', '-')}`);
      writeFileSync(own, `${value}\n`);
      return `mount --bind "${own}" /proc/sys/${key}`;
    }),
    'touch "$DIR/etc/mounted"',
    'exec sleep 2147483647',
  ];
  await launch(state, save, 'holder', {
    command: ['unshare', '--mount', '--propagation', 'private', 'sh', '-euc', script.join('\n')],
    env: { DIR: dir },
  });
  await until(() => existsSync(file('etc', 'mounted')), {
    within: 10_000,
    every: 20,
    what: 'the mounts of the node',
  });
  node.mountNamespace = readlinkSync(`/proc/${node.components.holder.process.pid}/ns/mnt`);
  makeCgroup(node.cgroup);
  save();

  const { etcd } = node;
  const peer = `https://127.0.0.1:${ports.etcdPeer}`;
  await launch(state, save, 'etcd', {
    command: [
      built.etcd,
      ...['--name=node', `--data-dir=${file('etcd')}`, '--logger=zap', '--log-outputs=stderr'],
      ...[`--listen-client-urls=${etcd}`, `--advertise-client-urls=${etcd}`],
      ...[
        `--listen-peer-urls=${peer}`,
        `--initial-advertise-peer-urls=${peer}`,
        `--initial-cluster=node=${peer}`,
      ],
      ...['', 'peer-'].flatMap((kind) => [
        `--${kind}cert-file=${cert('etcd.crt')}`,
        `--${kind}key-file=${cert('etcd.key')}`,
        `--${kind}trusted-ca-file=${cert('ca.crt')}`,
        `--${kind}client-cert-auth`,
      ]),
    ],
  });
  await launch(state, save, 'kube-apiserver', {
    command: [
      built['kube-apiserver'],
      ...[`--etcd-servers=${etcd}`, `--etcd-cafile=${cert('ca.crt')}`],
      ...[
        `--etcd-certfile=${cert('apiserver-client.crt')}`,
        `--etcd-keyfile=${cert('apiserver-client.key')}`,
      ],
      ...['--bind-address=127.0.0.1', `--secure-port=${ports.api}`],
      ...[`--tls-cert-file=${cert('apiserver.crt')}`, `--tls-private-key-file=${cert('apiserver.key')}`],
      ...[`--client-ca-file=${cert('ca.crt')}`, `--token-auth-file=${file('etc', 'tokens.csv')}`],
      ...['--authorization-mode=Node,RBAC', '--enable-admission-plugins=NodeRestriction'],
      ...[`--kubelet-certificate-authority=${cert('ca.crt')}`, '--kubelet-preferred-address-types=Hostname'],
      `--kubelet-client-certificate=${cert('apiserver-client.crt')}`,
      `--kubelet-client-key=${cert('apiserver-client.key')}`,
      '--service-account-issuer=https://kubernetes.default.svc',
      `--service-account-key-file=${cert('service-accounts.pub')}`,
      `--service-account-signing-key-file=${cert('service-accounts.key')}`,
      // As installers set it: what a namespace admits is for PodSecurity to say.
      '--allow-privileged=true',
      ...['--service-cluster-ip-range=10.96.0.0/24', '--endpoint-reconciler-type=none'],
      ...NODE_LOSS,
      ...(version.gates.length ? [`--feature-gates=${version.gates.join()}`] : []),
      ...(version.apis.length ? [`--runtime-config=${version.apis.join()}`] : []),
      '--profiling=false',
    ],
  });
  await until(
    async () => {
      // It gives up if etcd is slow to start.
      if (!isAlive(node.components['kube-apiserver'].process))
        await launch(state, save, 'kube-apiserver', node.components['kube-apiserver']);
      // Polled as the controller manager, which gives up if this is refused for 10 s: the API server creates the roles
      // that allow it some time after it answers.
      const as = ['--kubeconfig', file('etc', 'kube-controller-manager.kubeconfig')];
      await output(built.kubectl, [...as, 'get', '--raw', '/healthz', '--request-timeout=5s']);
      return true;
    },
    { within: 180_000, every: 500, what: 'the API server and its roles' },
  );
  const client = (name) => [
    `--kubeconfig=${file('etc', `${name}.kubeconfig`)}`,
    '--leader-elect=false',
    '--bind-address=127.0.0.1',
  ];
  await launch(state, save, 'kube-controller-manager', {
    command: [
      built['kube-controller-manager'],
      ...[...client('kube-controller-manager'), '--secure-port=0'],
      ...[
        `--root-ca-file=${cert('ca.crt')}`,
        `--service-account-private-key-file=${cert('service-accounts.key')}`,
      ],
      '--use-service-account-credentials=true',
      `--node-monitor-grace-period=${NODE_MONITOR_GRACE}`,
      `--terminated-pod-gc-threshold=${TERMINATED_PODS}`,
    ],
  });
  await launch(state, save, 'kube-scheduler', {
    command: [built['kube-scheduler'], ...[...client('kube-scheduler'), '--secure-port=0']],
  });
  writeFileSync(file('etc', 'containerd.toml'), containerdConfig(dir, built));
  mkdirSync(file('etc', 'cni'), { recursive: true });
  writeFileSync(file('etc', 'cni', '10-bridge.conflist'), JSON.stringify(network(node.bridge), null, 2));
  await launch(state, save, 'containerd', {
    inNode: true,
    command: [built.containerd, '--config', file('etc', 'containerd.toml')],
    // containerd finds its shim by name.
    env: { PATH: `${path.dirname(built['containerd-shim-runc-v2'])}:${process.env.PATH}` },
  });
  writeFileSync(file('etc', 'resolv.conf'), 'nameserver 127.0.0.1\n');
  writeFileSync(
    file('etc', 'kubelet.json'),
    JSON.stringify(kubeletConfig(file, ports.kubelet, node), null, 2),
  );
  await until(() => inNode(state, ['test', '-S', SOCKET]), { within: 30_000, what: 'containerd' });
  await launch(state, save, 'kubelet', {
    inNode: true,
    command: [
      built.kubelet,
      ...[`--config=${file('etc', 'kubelet.json')}`, `--kubeconfig=${file('etc', 'kubelet.kubeconfig')}`],
      `--hostname-override=${NODE}`,
    ],
  });
  return file('etc', 'admin.kubeconfig');
}

/**
 * Ends everything that `startNode` started, and the processes that those started. Empty folders that it made on this
 * machine stay while another cluster is up.
 */
export async function stopNode({ node, dir }) {
  if (!node) return;
  const processOf = (name) => node.components[name]?.process;
  // The kubelet first: it would restart what is ended next.
  await stop(processOf('kubelet'));
  await Promise.all(['kube-scheduler', 'kube-controller-manager'].map((name) => stop(processOf(name))));
  await stop(processOf('kube-apiserver'));
  await stop(processOf('etcd'));
  // Containers, then their shims: the processes in the node's mount namespace that are not components.
  await until(() => killAll(cgroupProcesses(node.cgroup)) === 0, {
    within: 20_000,
    every: 50,
    what: 'all containers to end',
  });
  const known = new Set(['containerd', 'holder'].map((name) => processOf(name)?.pid));
  const isShim = (pid) =>
    !known.has(pid) && node.mountNamespace !== undefined && namespaceOf(pid) === node.mountNamespace;
  await until(() => killAll(processIds().filter(isShim)) === 0, {
    within: 20_000,
    every: 50,
    what: 'all shims to end',
  });
  await stop(processOf('containerd'));
  await stop(processOf('holder'), 0);
  await removeCgroup(node.cgroup);
  if (existsSync(`/sys/class/net/${node.bridge}`)) {
    await output(node.programs.busybox, ['ip', 'link', 'delete', node.bridge]);
  }
  // Removing a folder also removes what other clusters have mounted on it in their namespaces.
  const others = readdirSync(path.dirname(dir)).filter((name) =>
    existsSync(path.join(dir, '..', name, 'state.json')),
  );
  for (const folder of others.length > 1 ? [] : node.made.toReversed()) {
    try {
      rmdirSync(folder);
    } catch (error) {
      if (!['ENOENT', 'ENOTEMPTY', 'EBUSY'].includes(error.code)) throw error;
    }
  }
}

/** Whether every component runs. */
export function isNodeAlive({ node }) {
  return COMPONENTS.every((name) => isAlive(node?.components[name]?.process));
}

/** Imports an archive's image into the node's containerd. */
export async function importImage(state, archive) {
  const { ctr } = state.node.programs;
  await inNode(state, [
    ctr,
    '--namespace',
    'k8s.io',
    'images',
    'import',
    '--snapshotter',
    snapshotter(state.dir),
    archive,
  ]);
}

/** Stops and starts components for tests. Each call resolves when it is done, not when the cluster has noticed. */
export function nodeControl(state, save) {
  const find = (name) => {
    const component = state.node.components[name];
    if (!component) throw new Error(`${name}: there are ${COMPONENTS.join(', ')}`);
    return component;
  };
  return {
    /** Sends SIGSTOP: the component keeps its connections and does not answer. */
    pause: async (name) => void signal(find(name).process, 'SIGSTOP'),
    resume: async (name) => void signal(find(name).process, 'SIGCONT'),
    stop: (name) => stop(find(name).process),
    kill: (name) => stop(find(name).process, 0),
    /** Drops the history of all objects: whoever watched meanwhile has to list again. */
    compact: () => compact(state),
    /** Starts it as before, on the same port. */
    start: async (name) => {
      if (!isAlive(find(name).process)) await launch(state, save, name, find(name));
    },
  };
}

/**
 * Starts a component and records it in the state.
 *
 * @param {any} state
 * @param {() => void} save
 * @param {string} name
 * @param {{command: string[], env?: Record<string, string>, inNode?: boolean}} options
 */
async function launch(state, save, name, { command, env, inNode: inside = false }) {
  const { dir, node } = state;
  const [program, ...args] = inside ? [...enter(state), ...command] : command;
  const process = await start(program, args, { log: path.join(dir, 'logs', `${name}.log`), env });
  node.components[name] = { command, env, inNode: inside, process };
  save();
}

/**
 * Compacts etcd up to now, and first writes a key that no API server knows: an API server that starts later has nothing as
 * old as what its clients have seen.
 */
async function compact({ dir, node }) {
  const key = Buffer.from('/paperclip-test/compacted').toString('base64');
  const { header } = await askEtcd({ dir, node }, 'put', { key, value: '' });
  await askEtcd({ dir, node }, 'compaction', { revision: header.revision, physical: true });
}

/** One request to etcd's JSON gateway; resolves to the parsed answer. */
async function askEtcd({ dir, node }, what, body) {
  const file = (name) => readFileSync(path.join(dir, 'certificates', name));
  const call = request(new URL(`/v3/kv/${what}`, node.etcd), {
    method: 'POST',
    ca: file('ca.crt'),
    cert: file('apiserver-client.crt'),
    key: file('apiserver-client.key'),
  });
  call.end(JSON.stringify(body));
  const [response] = await event(call, 'response');
  const answer = await text(response);
  if (response.statusCode !== 200) throw new Error(`etcd, ${what}: ${response.statusCode} ${answer}`);
  return JSON.parse(answer);
}

function enter({ node }) {
  return ['nsenter', `--mount=/proc/${node.components.holder.process.pid}/ns/mnt`, '--'];
}

async function inNode(state, command) {
  const [program, ...args] = [...enter(state), ...command];
  await output(program, args);
  return true;
}

function containerdConfig(dir, built) {
  const bins = ['bridge', 'host-local', 'loopback'].map((name) => path.dirname(built[name]));
  return `version = 3
root = ${JSON.stringify(path.join(dir, 'containerd'))}
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "${SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "${snapshotter(dir)}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "${PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Lowering the score of a sandbox below our own is refused where this machine is itself a container.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ${JSON.stringify(bins)}
    conf_dir = ${JSON.stringify(path.join(dir, 'etc', 'cni'))}
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = ${JSON.stringify(built.runc)}
`;
}

/** An overlay cannot be mounted on an overlay, which the root of a container is. */
function snapshotter(dir) {
  const OVERLAYFS = 0x794c7630;
  return statfsSync(dir).type === OVERLAYFS ? 'native' : 'overlayfs';
}

function network(bridge) {
  return {
    cniVersion: '0.4.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge,
        isGateway: false,
        ipMasq: false,
        ipam: {
          type: 'host-local',
          dataDir: '/var/lib/cni/networks',
          ranges: [[{ subnet: '10.244.0.0/16' }]],
        },
      },
    ],
  };
}

function kubeletConfig(file, port, node) {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    address: '127.0.0.1',
    port,
    containerRuntimeEndpoint: `unix://${SOCKET}`,
    volumePluginDir: file('etc', 'volume-plugins'),
    // Since 1.35 a kubelet refuses version 1 of cgroups, which some machines still have, unless told otherwise.
    failCgroupV1: false,
    readOnlyPort: 0,
    healthzPort: 0,
    tlsCertFile: file('certificates', 'kubelet.crt'),
    tlsPrivateKeyFile: file('certificates', 'kubelet.key'),
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: false },
      x509: { clientCAFile: file('certificates', 'ca.crt') },
    },
    authorization: { mode: 'AlwaysAllow' },
    cgroupDriver: 'cgroupfs',
    cgroupRoot: `/${node.cgroup}`,
    enforceNodeAllocatable: [],
    failSwapOn: false,
    makeIPTablesUtilChains: false,
    clusterDNS: ['10.96.0.10'],
    clusterDomain: 'cluster.local',
    resolvConf: file('etc', 'resolv.conf'),
    // How full this machine's disk is must not decide whether pods and images stay.
    evictionHard: {
      'memory.available': '50Mi',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
    },
    imageGCHighThresholdPercent: 100,
    // The node is to be ready soon after its start.
    nodeStatusUpdateFrequency: '2s',
    serializeImagePulls: false,
    eventRecordQPS: 0,
    kubeAPIQPS: 50,
    kubeAPIBurst: 100,
  };
}

/** Makes a folder on this machine; returns the parts of its path that did not exist. */
function makeFolder(folder) {
  const missing = [];
  for (let at = folder; !existsSync(at); at = path.dirname(at)) missing.unshift(at);
  mkdirSync(folder, { recursive: true });
  return missing;
}

/** Finds a free port of loopback for each name, holding all of them until the last is found. */
async function freePorts(names) {
  const servers = await Promise.all(
    names.map(async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await event(server, 'listening');
      return server;
    }),
  );
  const ports = Object.fromEntries(names.map((name, index) => [name, servers[index].address().port]));
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** The mounted cgroup hierarchies: one per controller, or the single one of version 2. */
function cgroupHierarchies() {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === 'cgroup' || type === 'cgroup2')
    .map(([, at]) => at);
}

function makeCgroup(name) {
  for (const at of cgroupHierarchies()) {
    mkdirSync(path.join(at, name), { recursive: true });
    // Without this a new cpuset is empty, and nothing can run in it.
    for (const key of ['cpuset.cpus', 'cpuset.mems']) {
      if (existsSync(path.join(at, key)) && existsSync(path.join(at, name, key))) {
        writeFileSync(path.join(at, name, key), readFileSync(path.join(at, key)));
      }
    }
  }
}

/** A cgroup and all below it, the deepest first. */
function cgroupTree(dir) {
  if (!existsSync(dir)) return [];
  const below = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [...below.flatMap((entry) => cgroupTree(path.join(dir, entry.name))), dir];
}

function cgroupProcesses(name) {
  const found = new Set();
  for (const at of cgroupHierarchies()) {
    for (const dir of cgroupTree(path.join(at, name))) {
      try {
        for (const pid of readFileSync(path.join(dir, 'cgroup.procs'), 'utf8').split('\n'))
          if (pid) found.add(Number(pid));
      } catch (error) {
        if (!['ENOENT', 'ENODEV', 'EOPNOTSUPP'].includes(error.code)) throw error;
      }
    }
  }
  return [...found];
}

async function removeCgroup(name) {
  for (const at of cgroupHierarchies()) {
    await until(
      () => {
        for (const dir of cgroupTree(path.join(at, name))) rmdirSync(dir);
        return true;
      },
      { within: 10_000, every: 50, what: `the cgroup ${path.join(at, name)} to be empty` },
    );
  }
}

/** Kills all of them; returns their number. */
function killAll(pids) {
  for (const pid of pids) signal(recorded(pid), 'SIGKILL');
  return pids.length;
}

function processIds() {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function namespaceOf(pid) {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return undefined;
  }
}
