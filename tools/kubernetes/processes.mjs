// Processes that outlive the script that started them. Each is identified by its id, its start time and the boot: an id
// that the system has since given to another process is not mistaken for it.
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';

import { until } from './wait.mjs';

/**
 * @typedef {object} Recorded
 * @property {number} pid
 * @property {string | undefined} started in clock ticks since the boot
 * @property {string} boot
 */

/**
 * Starts a program in a new session, with its output appended to a file.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{log: string, env?: Record<string, string>}} options `env` adds to ours
 * @returns {Promise<Recorded>}
 */
export async function start(command, args, { log, env }) {
  const file = openSync(log, 'a');
  const child = spawn(command, args, {
    detached: true,
    // It outlives the suite of `.ci/run` that started it, which reports processes with its mark as left behind.
    env: { ...process.env, CI_SUITE: undefined, ...env },
    stdio: ['ignore', file, file],
  });
  closeSync(file);
  await new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  child.unref();
  return recorded(child.pid);
}

/** Identifies a running process. */
export function recorded(pid) {
  return { pid, started: startTime(pid), boot: bootId() };
}

/** Whether a recorded process still runs. */
export function isAlive(process) {
  return Boolean(process) && process.boot === bootId() && startTime(process.pid) === process.started;
}

/** Sends a signal to a recorded process, unless it has ended. */
export function signal(process, name) {
  if (!isAlive(process)) return false;
  try {
    globalThis.process.kill(process.pid, name);
    return true;
  } catch (error) {
    if (error.code === 'ESRCH') return false;
    throw error;
  }
}

/** Ends a recorded process: with SIGTERM, and with SIGKILL after `grace` ms. */
export async function stop(process, grace = 5_000) {
  const gone = () => !isAlive(process);
  if (grace > 0 && signal(process, 'SIGTERM')) {
    // A process that SIGSTOP has stopped gets the signal only after SIGCONT.
    signal(process, 'SIGCONT');
    if (
      await until(gone, { within: grace, every: 20 }).then(
        () => true,
        () => false,
      )
    )
      return;
  }
  signal(process, 'SIGKILL');
  await until(gone, { within: 10_000, every: 20, what: `process ${process?.pid} to end` });
}

function bootId() {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

function startTime(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The program's name stands in parentheses and may contain anything.
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' ? undefined : fields[18];
  } catch {
    return undefined;
  }
}
