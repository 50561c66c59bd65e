import { isMainThread } from 'node:worker_threads';

import { binding } from './binding.js';

/**
 * @typedef {object} Shutdown
 * @property {Set<{shutdown(): Promise<string[]>}>} copies the native halves that have had runs
 * @property {boolean} begun whether the host has received a SIGTERM
 */

/**
 * Shared by every copy of this module in the process. A reloaded copy has the same native half and must not listen a
 * second time; a copy that is installed in another folder has a native half of its own.
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
  // The first listener, so that the host's own still count when this one is called: a `once` listener leaves the list
  // when it is called.
  process.prependOnceListener('SIGTERM', async () => {
    shutdown.begun = true;
    // A host that listens shuts down by itself. Raising the signal again would kill it in the middle of that.
    const alone = process.listenerCount('SIGTERM') === 0;
    await Promise.allSettled([...shutdown.copies].map((copy) => copy.shutdown()));
    if (alone) process.kill(process.pid, 'SIGTERM');
  });
}

/**
 * Whether the host has received a SIGTERM. From then on an abort does not cancel a run: a host that shuts down closes
 * its runs, then finds that it holds them no longer and aborts them. By then the Jobs that have to go are deleted, and
 * the others must stay.
 */
export function isShuttingDown() {
  return shared[SHARED]?.begun ?? false;
}
