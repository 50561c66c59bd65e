// The two clusters that the real CLI runs in, each with a `claude` that is the real program behind the fake
// API. The commands that the adapter puts into the pod just call `claude`.
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { packages } from '../../tools/kubernetes/debian.mjs';
import { busyboxFiles, programFiles } from '../../tools/kubernetes/image.mjs';
import { openCluster } from '../../tools/kubernetes/index.mjs';
import { programs, startCluster } from '../../tools/simulator/cluster.mjs';
import { installClaude, version } from './install.mjs';
import { asProcesses, asSidecars, bundleOfServer } from './mcp.js';

/**
 * @typedef {object} CliCluster
 * @property {string} namespace
 * @property {string} hostPod
 * @property {string} kubeconfig of an account with the recommended Role
 * @property {string} volume the folder on this machine that is /paperclip in a pod
 * @property {string} hostKey the API key in the host's pod
 * @property {object} config added to every run's configuration
 * @property {Record<string, string>} env added to every run's environment
 * @property {string} marker part of the command line of every process of these pods
 * @property {(path: string) => Promise<object>} get asks the API server as administrator
 * @property {() => string} problems the cluster's error output
 * @property {(servers: {name: string, token: string}[]) => Promise<{ports: number[], config: object, close: () => void}>}
 *   mcpServers starts MCP servers that a run reaches at these ports of loopback; `config` is added to that of the run
 * @property {() => Promise<void>} close
 */

/** The cluster that REAL_CLI_CLUSTER names. @returns {Promise<CliCluster>} */
export async function cliCluster() {
  const open = { embedded, real }[process.env.REAL_CLI_CLUSTER];
  if (!open) throw new Error('REAL_CLI_CLUSTER is embedded or real; npm run test:cli sets it');
  return open(await installClaude());
}

const wrapper = (api, claude) => `#!/bin/sh\nexec ${api} -- ${claude} "$@"\n`;

async function embedded(claude) {
  const bin = mkdtempSync(path.join(tmpdir(), 'real-cli-'));
  // This name distinguishes its processes from those of another test of the same CLI.
  const ours = path.join(bin, 'the-real-claude');
  symlinkSync(claude, ours);
  writeFileSync(path.join(bin, 'claude'), wrapper(path.join(programs, 'anthropic-api'), ours), {
    mode: 0o755,
  });
  const temporary = path.join(bin, 'tmp');
  mkdirSync(temporary);
  const cluster = await startCluster({ binDirs: [bin] });
  return {
    namespace: cluster.namespace,
    hostPod: 'paperclip-0',
    kubeconfig: cluster.kubeconfig,
    volume: path.join(cluster.dir, 'pvc', cluster.namespace, 'paperclip-data'),
    hostKey: 'sk-ant-embedded',
    config: {},
    env: {
      // A real pod has its own /tmp; here it is the machine's.
      CLAUDE_CODE_TMPDIR: temporary,
      // Pods run as this user here, and the CLI does not skip permissions for root outside a sandbox.
      ...(process.getuid?.() === 0 ? { IS_SANDBOX: '1' } : {}),
    },
    marker: ours,
    get: cluster.get,
    problems: cluster.errors,
    mcpServers: async (servers) => asProcesses(await bundleOfServer(), servers),
    close: async () => {
      await cluster.stop();
      rmSync(bin, { recursive: true, force: true });
    },
  };
}

async function real(claude) {
  const cluster = openCluster();
  const image = `docker.io/paperclip/claude:${version}`;
  const before = new Set(readdirSync(cluster.volume));
  await cluster.addImage({
    name: image,
    files: [
      ...busyboxFiles(path.join(await packages(), 'bin/busybox')),
      // The shell that the CLI starts; the programs it runs come from busybox.
      ...programFiles('/bin/bash', '/bin/bash'),
      ...programFiles('/opt/claude/claude', claude),
      ...programFiles('/opt/claude/anthropic-api', path.join(programs, 'anthropic-api')),
      { to: '/usr/local/bin/claude', content: wrapper('/opt/claude/anthropic-api', '/opt/claude/claude') },
      // Arguments contain paths of the host, and its file system has the volume elsewhere.
      { to: cluster.volume, link: '/paperclip' },
    ],
  });
  return {
    namespace: cluster.namespace,
    hostPod: cluster.hostPod,
    kubeconfig: cluster.accounts['paperclip-recommended'],
    volume: cluster.volume,
    hostKey: 'sk-ant-test',
    config: {
      image,
      resources: { requests: { cpu: '10m', memory: '64Mi' }, limits: { cpu: '2', memory: '2Gi' } },
    },
    env: {},
    marker: '/opt/claude/claude',
    get: async (where) => JSON.parse(await cluster.kubectl('get', '--raw', where)),
    // Its components have their own logs.
    problems: () => '',
    mcpServers: async (servers) => {
      const name = `docker.io/paperclip/mcp:${version}`;
      await cluster.addImage({
        name,
        files: [
          ...programFiles('/opt/mcp/node', process.execPath),
          { to: '/opt/mcp/server.mjs', from: await bundleOfServer() },
        ],
      });
      return asSidecars(name, servers);
    },
    close: async () => {
      for (const name of readdirSync(cluster.volume)) {
        if (!before.has(name)) rmSync(path.join(cluster.volume, name), { recursive: true, force: true });
      }
    },
  };
}

/** A folder on the volume that containers of any user may write to. */
export function sharedFolder(cluster, name) {
  const dir = path.join(cluster.volume, name);
  mkdirSync(dir, { recursive: true });
  chmodSync(dir, 0o777);
  return dir;
}
