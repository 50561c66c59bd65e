// What the lab needs of the machine: a user that is not root, a browser, free ports, folders.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdirSync } from 'node:fs';
import net from 'node:net';
import { homedir } from 'node:os';
import path from 'node:path';

import { Problem, step } from '../../../tools/dev/lib.mjs';
import { listenOnLoopback } from '../../support/server.js';

export const isRoot = process.getuid?.() === 0;

/** The user of the host if this process is root: PostgreSQL refuses to run as root. */
const USER = 'paperclip-test';

/**
 * The user that runs the host: `{uid, gid}` for `spawn`, or empty if this process is not root and the host runs as its
 * user. As root the user is made if missing, by Debian's `useradd`, without home, password or shell.
 *
 * @returns {{uid?: number, gid?: number}}
 */
export function hostUser() {
  if (!isRoot) return {};
  const known = () => {
    const { status, stdout } = spawnSync('getent', ['passwd', USER], { encoding: 'utf8' });
    if (status !== 0) return undefined;
    const [, , uid, gid] = stdout.split(':');
    return { uid: Number(uid), gid: Number(gid) };
  };
  const before = known();
  if (before) return before;
  step(`Adding the system user ${USER}, who runs the host`);
  const { status, stderr } = spawnSync(
    'useradd',
    [
      '--system',
      '--user-group',
      '--no-create-home',
      '--home-dir',
      '/nonexistent',
      '--shell',
      '/usr/sbin/nologin',
      USER,
    ],
    { encoding: 'utf8' },
  );
  const made = status === 0 ? known() : undefined;
  if (!made) throw new Problem(`cannot add the user ${USER}: ${stderr?.trim() || 'useradd is missing'}`);
  return made;
}

/** Chromium's program: the one of PAPERCLIP_HOST_CHROMIUM or the PATH, else installed from Debian (as root). */
export function chromium() {
  const find = () =>
    [
      process.env.PAPERCLIP_HOST_CHROMIUM,
      ...['chromium', 'chromium-browser', 'google-chrome'].map(onPath),
    ].find(Boolean);
  const found = find();
  if (found) return found;
  if (!isRoot || !onPath('apt-get')) {
    throw new Problem(
      'Chromium was not found: install it (Debian: apt-get install chromium), then try again.',
    );
  }
  const apt = (...args) => {
    const { status, stdout, stderr } = spawnSync('apt-get', ['-qq', ...args], {
      encoding: 'utf8',
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    });
    if (status !== 0) throw new Problem(`apt-get ${args.join(' ')} failed:\n${stdout}${stderr}`);
  };
  step('Installing from Debian: chromium (and fonts-dejavu-core)');
  apt('update');
  apt('install', '-y', '--no-install-recommends', 'chromium', 'fonts-dejavu-core');
  const installed = find();
  if (!installed) throw new Problem('the package chromium left no program `chromium` on the PATH');
  return installed;
}

function onPath(name) {
  for (const dir of (process.env.PATH ?? '').split(path.delimiter).filter(Boolean)) {
    const program = path.join(dir, name);
    try {
      accessSync(program, constants.X_OK);
      return program;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** A port of 127.0.0.1 that was free a moment ago. */
export async function freePort() {
  const server = net.createServer();
  const port = await listenOnLoopback(server);
  await new Promise((resolve) => {
    server.close(resolve);
  });
  return port;
}

/** The folder of installed hosts, kept between runs: outside every checkout, readable by the host's user. */
export function cacheFolder() {
  const folder =
    process.env.PAPERCLIP_HOST_CACHE ??
    path.join(
      isRoot ? '/var/cache' : (process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache')),
      'paperclip-adapter-claude-k8s',
    );
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  return folder;
}

/** The running commands. */
const commands = new Set();

/** Runs a command to its end and resolves to its stdout; rejects with what it printed unless it succeeds. */
export function finished(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    // A new process group, which `endCommands` ends as a whole.
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, ...options });
    commands.add(child);
    let output = '';
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.once('error', (error) => {
      commands.delete(child);
      reject(error);
    });
    child.once('close', (code, signal) => {
      commands.delete(child);
      if (code === 0) resolve(stdout);
      else
        reject(
          new Problem(
            `failed (${signal ?? `exit ${code}`}): ${[command, ...args].join(' ')}\n${output.trim()}`,
          ),
        );
    });
  });
}

/** Ends the running commands; their promises reject. */
export function endCommands() {
  for (const { pid } of commands) process.kill(-pid, 'SIGTERM');
}
