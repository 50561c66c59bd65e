import { isMainThread } from 'node:worker_threads';

import { binding } from './binding.js';

/** Shared by every copy of this module in the process: a reloaded one must not listen a second time. */
const INSTALLED = Symbol.for('paperclip-adapter-claude-k8s.sigterm');

/**
 * From the first run on, a SIGTERM deletes the Jobs under way (unless a run says `hostShutdown: leave` or
 * `retainJobs`).
 */
export function watchForShutdown() {
  const flags = /** @type {Record<symbol, boolean>} */ (/** @type {unknown} */ (globalThis));
  if (!isMainThread || flags[INSTALLED]) return;
  flags[INSTALLED] = true;
  // First in line, so that the listeners of the host still count when ours is called: `once` listeners leave
  // the list as they are called.
  process.prependOnceListener('SIGTERM', onSigterm);
}

async function onSigterm() {
  // A host that listens shuts down by itself; raising the signal again would kill it in the middle of that.
  const alone = process.listenerCount('SIGTERM') === 0;
  await binding.shutdown();
  if (alone) process.kill(process.pid, 'SIGTERM');
}
