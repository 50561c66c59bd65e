// The Paperclip host as a process: start, stop, kill. One data folder through all of them.
import { spawn } from 'node:child_process';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

import { Problem } from '../../../tools/dev/lib.mjs';
import { freePort } from './system.mjs';

/** Longest wait for a start and for an end, in milliseconds. */
const START = 120_000;
const END = 60_000;

/**
 * @param {{installed: {node: string, bin: string, cli: string}, user: {uid?: number, gid?: number}, home: string,
 *   folder: string, mount?: {from: string, at: string}, userHome: string, env: Record<string, string>, log: string}} options
 *   `home` is PAPERCLIP_HOME, `folder` the folder behind it, `mount` the mount that the host needs for that, `userHome`
 *   the HOME of the user, `log` the file for all output
 */
export async function makeHost({ installed, user, home, folder, mount, userHome, env, log }) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const data = path.join(home, 'instances', 'default', 'db');
  const postmaster = path.join(folder, path.relative(home, data), 'postmaster.pid');
  configure(path.join(folder, 'instances', 'default'), {
    home,
    data,
    port,
    databasePort: await freePort(),
    user,
  });

  const madeMountPoint = mount && !existsSync(mount.at);
  if (madeMountPoint) mkdirSync(mount.at);
  const [command, ...args] = [
    ...(mount ? seeing(mount, user) : []),
    ...[installed.node, installed.cli, 'run', '-d', home],
  ];
  const options = {
    cwd: userHome,
    env: {
      PATH: [installed.bin, '/usr/local/bin', '/usr/bin', '/bin'].join(path.delimiter),
      HOME: userHome,
      LANG: 'C.UTF-8',
      PAPERCLIP_HOME: home,
      HOST: '127.0.0.1',
      PORT: String(port),
      // Nothing is to leave this machine, and no browser is to open.
      DO_NOT_TRACK: '1',
      PAPERCLIP_UPDATE_CHECK: '0',
      PAPERCLIP_ANNOUNCEMENTS_ENABLED: 'false',
      PAPERCLIP_OPEN_ON_LISTEN: 'false',
      // The shortest time between two of its sweeps, which also start the runs that it has scheduled.
      HEARTBEAT_SCHEDULER_INTERVAL_MS: '10000',
      ...env,
    },
    // A new process group: Ctrl-C goes to the script, which then ends the host in order.
    detached: true,
    // With a mount, the process becomes the user only after mounting.
    ...(mount ? {} : user),
  };

  /** @type {import('node:child_process').ChildProcess | undefined} */
  let child;
  let ended = Promise.resolve();

  async function start() {
    if (child) throw new Error('the host is running');
    const output = openSync(log, 'a');
    const started = spawn(command, args, { ...options, stdio: ['ignore', output, output] });
    closeSync(output);
    child = started;
    ended = new Promise((resolve) => {
      const over = (how) => {
        child = undefined;
        resolve(how);
      };
      started.once('exit', (code, signal) => over(signal ?? code));
      started.once('error', (error) => over(error.message));
    });
    const deadline = Date.now() + START;
    while (!(await healthy(url))) {
      if (child !== started)
        throw new Problem(`the host ended while it started (${await ended}): see ${log}`);
      if (Date.now() > deadline)
        throw new Problem(`the host was not healthy within ${START / 1000} s: see ${log}`);
      await pause(250);
    }
  }

  /** Sends a signal and waits for the process to end; resolves to its exit code or signal. */
  async function end(/** @type {NodeJS.Signals} */ signal = 'SIGTERM') {
    if (!child) return undefined;
    const running = child;
    running.kill(signal);
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, END, 'late');
    });
    const how = await Promise.race([ended, late]);
    clearTimeout(timer);
    if (how === 'late') {
      running.kill('SIGKILL');
      await ended;
      throw new Error(`the host did not end within ${END / 1000} s of ${signal}`);
    }
    return how;
  }

  /** Ends the host, and its database if a killed host left it behind. */
  async function stop() {
    await end().catch((error) => console.error(error.message));
    const pid = existsSync(postmaster) ? Number(readFileSync(postmaster, 'utf8').split('\n')[0]) : 0;
    if (pid > 0 && serves(pid, data)) {
      // PostgreSQL's fast shutdown.
      process.kill(pid, 'SIGINT');
      for (let left = 100; left > 0 && serves(pid, data); left -= 1) await pause(100);
      if (serves(pid, data)) process.kill(pid, 'SIGKILL');
    }
    if (madeMountPoint) rmdirSync(mount.at);
  }

  return { url, start, end, stop, pid: () => child?.pid };
}

/** What `paperclipai onboard` would write, with free ports and without backups. */
function configure(instance, { home, data, port, databasePort, user }) {
  const below = (...parts) => path.join(home, 'instances', 'default', ...parts);
  const config = {
    $meta: { version: 1, updatedAt: new Date().toISOString(), source: 'onboard' },
    database: {
      mode: 'embedded-postgres',
      embeddedPostgresDataDir: data,
      embeddedPostgresPort: databasePort,
      backup: { enabled: false, dir: below('data', 'backups') },
    },
    logging: { mode: 'file', logDir: below('logs') },
    server: {
      deploymentMode: 'local_trusted',
      exposure: 'private',
      bind: 'loopback',
      host: '127.0.0.1',
      port,
    },
    telemetry: { enabled: false },
    updates: { checkEnabled: false },
    storage: { provider: 'local_disk', localDisk: { baseDir: below('data', 'storage') } },
    secrets: { provider: 'local_encrypted', localEncrypted: { keyFilePath: below('secrets', 'master.key') } },
  };
  mkdirSync(instance, { recursive: true });
  const file = path.join(instance, 'config.json');
  writeFileSync(file, JSON.stringify(config, null, 2));
  if (user.uid === undefined) return;
  for (const made of [file, instance, path.dirname(instance)]) chownSync(made, user.uid, user.gid);
}

/**
 * Runs what follows where `at` is the folder `from`, as the user: a mount that no other process sees, same process id.
 *
 * @param {{from: string, at: string}} mount
 * @param {{uid?: number, gid?: number}} user
 */
function seeing({ from, at }, { uid, gid }) {
  const script =
    'mount --bind "$0" "$1" && exec setpriv --reuid "$2" --regid "$3" --clear-groups -- "${@:4}"';
  return [
    'unshare',
    '--mount',
    '--propagation',
    'private',
    '--',
    'bash',
    '-c',
    script,
    from,
    at,
    String(uid),
    String(gid),
  ];
}

/** Whether a process is the database of this folder: the system may have given the id to another process since. */
function serves(pid, folder) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(folder);
  } catch {
    return false;
  }
}

async function healthy(url) {
  try {
    const response = await fetch(`${url}/api/health`, { signal: AbortSignal.timeout(2_000) });
    const health = /** @type {{status?: string}} */ (await response.json());
    return response.ok && health.status === 'ok';
  } catch {
    return false;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}
