import { isMainThread } from 'node:worker_threads';

import { binding } from './binding.js';

/**
 * The native halves that have had runs, shared by every copy of this module in the process. A reloaded copy has the
 * same one and must not listen a second time; one that was installed from another folder has its own.
 */
const COPIES = Symbol.for('paperclip-adapter-claude-k8s.sigterm');

/**
 * From the first run on, a SIGTERM deletes the Jobs under way (unless a run says `hostShutdown: leave` or
 * `retainJobs`).
 */
export function watchForShutdown() {
  if (!isMainThread) return;
  const shared = /** @type {Record<symbol, Set<{shutdown(): Promise<string[]>}> | undefined>} */ (
    /** @type {unknown} */ (globalThis)
  );
  const listening = shared[COPIES];
  const copies = listening ?? new Set();
  copies.add(binding);
  if (listening) return;
  shared[COPIES] = copies;
  // First in line, so that the listeners of the host still count when ours is called: `once` listeners leave
  // the list as they are called.
  process.prependOnceListener('SIGTERM', async () => {
    // A host that listens shuts down by itself; raising the signal again would kill it in the middle of that.
    const alone = process.listenerCount('SIGTERM') === 0;
    await Promise.allSettled([...copies].map((copy) => copy.shutdown()));
    if (alone) process.kill(process.pid, 'SIGTERM');
  });
}
