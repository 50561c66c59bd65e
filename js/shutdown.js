import { isMainThread } from 'node:worker_threads';

import { binding } from './binding.js';

/**
 * @typedef {object} Shutdown
 * @property {Set<{shutdown(): Promise<string[]>}>} copies the native halves that have had runs
 * @property {boolean} begun whether the host has been told to stop
 */

/**
 * Shared by every copy of this module in the process. A reloaded copy has the same native half and must not listen a
 * second time; one that was installed from another folder has its own.
 */
const SHARED = Symbol.for('paperclip-adapter-claude-k8s.sigterm');

const shared = /** @type {Record<symbol, Shutdown | undefined>} */ (/** @type {unknown} */ (globalThis));

/**
 * From the first run on, a SIGTERM deletes the Jobs under way (unless a run says `hostShutdown: leave` or
 * `retainJobs`).
 */
export function watchForShutdown() {
  if (!isMainThread) return;
  const known = shared[SHARED];
  const shutdown = known ?? { copies: new Set(), begun: false };
  shutdown.copies.add(binding);
  if (known) return;
  shared[SHARED] = shutdown;
  // First in line, so that the listeners of the host still count when ours is called: `once` listeners leave
  // the list as they are called.
  process.prependOnceListener('SIGTERM', async () => {
    shutdown.begun = true;
    // A host that listens shuts down by itself; raising the signal again would kill it in the middle of that.
    const alone = process.listenerCount('SIGTERM') === 0;
    await Promise.allSettled([...shutdown.copies].map((copy) => copy.shutdown()));
    if (alone) process.kill(process.pid, 'SIGTERM');
  });
}

/**
 * Whether the host has been told to stop. From then on its aborts are no cancels: it closes its runs, then finds that
 * it holds them no longer and aborts them. Jobs that are to go are gone by then; the others are to stay.
 */
export function isShuttingDown() {
  return shared[SHARED]?.begun ?? false;
}
