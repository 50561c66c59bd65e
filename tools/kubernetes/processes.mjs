// Processes that outlive the script that started them. One is known by its id, its start time and the boot, so that
// an id that the system has given to another process since is never taken for ours.
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
 * Starts a program in a session of its own, with its output appended to a file.
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
    // It is to stay when a suite of `.ci/run` is over, which looks for its mark in what was left running.
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

/** What tells a running process from any other. */
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

/** Ends a recorded process: by SIGTERM, and by SIGKILL when that took longer than `grace` ms. */
export async function stop(process, grace = 5_000) {
  const gone = () => !isAlive(process);
  if (grace > 0 && signal(process, 'SIGTERM')) {
    // A stopped process hears of it only when it goes on.
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
