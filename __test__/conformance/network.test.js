// What deploy/agents lets agents' pods reach, where a network plugin enforces NetworkPolicies. That of cluster:up does not, so
// these specs bring one: KUBE_ROUTER names the program (see tools/kubernetes/README.md). As root, with iptables, ipset and ip.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { output } from '../../tools/kubernetes/command.mjs';
import { AGENT_IMAGE } from '../../tools/kubernetes/objects.mjs';
import { eventually } from '../support/host.js';
import { conformanceCluster } from './support/clusters.js';

const POLICY = fileURLToPath(new URL('../../deploy/agents/networkpolicy.yaml', import.meta.url));
const PROGRAM = process.env.KUBE_ROUTER;
const isReal = process.env.CONFORMANCE_CLUSTER === 'real';
const enforced = isReal && PROGRAM !== undefined;
const LACKING = isReal
  ? 'KUBE_ROUTER names no network plugin that enforces policies'
  : 'pods of the embedded cluster are processes of this machine, without a network of their own';

/** Addresses that this machine has for these specs, on the bridge of the pods: none that the plugin takes for a Service's. */
const METADATA = '169.254.169.254';
const PRIVATE = '10.3.0.1';
const PUBLIC = '203.0.113.10';
const CHAINS = ['INPUT', 'FORWARD', 'OUTPUT'];

let cluster;
/** @type {(() => unknown)[]} */
const undo = [];
/** @type {Record<string, {ip: string, pid: string}>} */
const pods = {};

async function pod(name, labels) {
  const where = `/api/v1/namespaces/${cluster.namespace}/pods`;
  const container = {
    name: 'main',
    image: AGENT_IMAGE,
    imagePullPolicy: 'IfNotPresent',
    command: ['sleep', '3600'],
  };
  const spec = { terminationGracePeriodSeconds: 0, restartPolicy: 'Never', containers: [container] };
  const metadata = { generateName: `${name}-`, labels };
  const made = await cluster.api.post(where, { apiVersion: 'v1', kind: 'Pod', metadata, spec });
  undo.push(() => cluster.api.delete(`${where}/${made.metadata.name}`));
  const running = await eventually(async () => {
    const now = await cluster.api.get(`${where}/${made.metadata.name}`);
    return now.status.phase === 'Running' && now;
  });
  pods[name] = { ip: running.status.podIP, pid: processOf(running.metadata.uid) };
}

/** A process of a pod. */
function processOf(uid) {
  const found = readdirSync('/proc').find((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`pod${uid}`);
    } catch {
      // It has ended.
      return false;
    }
  });
  if (found === undefined) throw new Error(`pod ${uid} has no process on this machine`);
  return found;
}

/** A command in the network of a pod, or in this machine's. */
const inNetwork = (name, command) =>
  name === undefined ? command : ['nsenter', '-t', pods[name]?.pid, '-n', ...command];

/** Listens on a port of every address. */
async function listen(name, port) {
  const code = `require('net').createServer((s) => s.on('error', () => {}).end()).listen(${port}, () => console.log('up'))`;
  const [file, ...args] = inNetwork(name, [process.execPath, '-e', code]);
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  undo.push(() => child.kill());
  await once(child.stdout, 'data');
}

/** Whether a connection from a pod is taken. */
async function reaches(name, address, port) {
  const code = `const s = require('net').connect(${port}, '${address}', () => process.exit(0));
    s.setTimeout(1500, () => process.exit(1)).on('error', () => process.exit(1))`;
  const [file, ...args] = inNetwork(name, [process.execPath, '-e', code]);
  const [status] = await once(spawn(file, args, { stdio: 'ignore' }), 'exit');
  return status === 0;
}

/** What reaches what: a line for each connection. */
async function connections() {
  const server = pods.server?.ip;
  const seen = {};
  for (const [from, what, address, port] of [
    ['agent', "Paperclip's API", server, 3100],
    ['agent', 'another port of Paperclip', server, 9999],
    ['agent', 'another pod', pods.other?.ip, 443],
    ['agent', "the cloud's metadata", METADATA, 443],
    ['agent', 'a private network', PRIVATE, 443],
    ['agent', 'the Internet', PUBLIC, 443],
    ['agent', 'another port of the Internet', PUBLIC, 9999],
    ['server', 'an agent', pods.agent?.ip, 8080],
    ['other', 'an agent', pods.agent?.ip, 8080],
    ['other', 'another port of Paperclip', server, 9999],
    ['other', "the cloud's metadata", METADATA, 443],
  ])
    seen[`${from} → ${what}`] = await reaches(from, address, port);
  return seen;
}

/** Gives this machine addresses in the network of the pods, and the pods a way there. */
async function addAddresses() {
  const peer = /@if(\d+):/.exec(
    await output('nsenter', inNetwork('agent', ['ip', '-o', 'link', 'show', 'eth0']).slice(1)),
  )?.[1];
  const veth = readdirSync('/sys/class/net').find(
    (name) => readFileSync(`/sys/class/net/${name}/ifindex`, 'utf8').trim() === peer,
  );
  const bridge = path.basename(readlinkSync(`/sys/class/net/${veth}/master`));
  for (const address of [METADATA, PRIVATE, PUBLIC]) {
    await output('ip', ['address', 'add', `${address}/32`, 'dev', bridge]);
    undo.push(() => output('ip', ['address', 'delete', `${address}/32`, 'dev', bridge]));
  }
  for (const [name, { ip }] of Object.entries(pods)) {
    await output('ip', ['route', 'add', `${ip}/32`, 'dev', bridge]);
    undo.push(() => output('ip', ['route', 'delete', `${ip}/32`, 'dev', bridge]));
    await output('nsenter', inNetwork(name, ['ip', 'route', 'add', 'default', 'dev', 'eth0']).slice(1));
  }
}

/** Starts the plugin with its firewall alone; what it writes into this machine's tables goes with it. */
async function startPlugin() {
  const node = (await cluster.api.get('/api/v1/nodes')).items[0].metadata.name;
  // The plugin knows by this which addresses are pods'.
  await cluster.api.patch(`/api/v1/nodes/${node}`, {
    spec: { podCIDR: '10.244.0.0/16', podCIDRs: ['10.244.0.0/16'] },
  });
  const args = [
    '--run-firewall=true',
    '--run-router=false',
    '--run-service-proxy=false',
    '--iptables-sync-period=2s',
  ];
  const child = spawn(
    PROGRAM ?? '',
    [...args, `--kubeconfig=${cluster.kubeconfigs.admin}`, `--hostname-override=${node}`],
    { stdio: 'ignore' },
  );
  undo.push(async () => {
    child.kill();
    if (child.exitCode === null) await once(child, 'exit');
    for (const chain of CHAINS) {
      const rules = (await output('iptables', ['-S', chain])).split('\n');
      const at = rules
        .filter((line) => !line.startsWith('-P'))
        .findIndex((line) => line.includes('KUBE-ROUTER'));
      if (at >= 0) await output('iptables', ['-D', chain, String(at + 1)]);
    }
    const made = (await output('iptables', ['-S'])).matchAll(/^-N (KUBE-(?:ROUTER|POD-FW|NWPLCY)\S+)$/gm);
    const names = [...made].map(([, name]) => name);
    for (const flag of ['-F', '-X']) for (const name of names) await output('iptables', [flag, name]);
  });
}

describe("an agent's pod under deploy/agents", () => {
  beforeAll(async () => {
    if (!enforced) return;
    cluster = await conformanceCluster();
    await pod('server', { 'app.kubernetes.io/name': 'paperclip' });
    await pod('agent', { 'paperclip.io/adapter-type': 'claude_k8s' });
    await pod('other', {});
    await addAddresses();
    const listeners = { server: [3100, 9999], agent: [8080], other: [443] };
    for (const [name, ports] of Object.entries(listeners)) for (const port of ports) await listen(name, port);
    for (const port of [443, 9999]) await listen(undefined, port);
    await startPlugin();
  });
  afterAll(async () => {
    for (const each of undo.toReversed()) await each();
    await cluster?.close();
  });

  it('reaches Paperclip and the Internet, and nothing reaches it', async ({ skip }) => {
    skip(!enforced, LACKING);
    const before = await connections();
    expect(
      Object.entries(before).filter(([, open]) => !open),
      'without the policy',
    ).toEqual([]);
    await cluster.kubectl('apply', '-n', cluster.namespace, '-f', POLICY);
    undo.push(() => cluster.kubectl('delete', '-n', cluster.namespace, '-f', POLICY));
    await eventually(async () => !(await reaches('other', pods.agent?.ip, 8080)));
    const open = Object.entries(await connections()).filter(([, is]) => is);
    expect(open.map(([what]) => what)).toEqual([
      "agent → Paperclip's API",
      'agent → the Internet',
      'other → another port of Paperclip',
      "other → the cloud's metadata",
    ]);
  });
});
