// Real time for tests that were written for a fake clock: the code under test waits in native threads, which no fake
// clock moves. Every adaptation is noted on its test.
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, vi } from 'vitest';

import { state } from './state.js';
import { TURNS } from './plugin.mjs';

const STEP_MS = 10;
/** How long promise turns become: at least this long, and until the bridge has been quiet for a while. */
const TURNS_MS = { least: 1_000, quiet: 500, most: 15_000 };

/** How long after a shutdown the adapter creates no Job (`SHUTDOWN_CLOSED` of src/run/timing.rs), and a second. */
const SHUTDOWN_MS = 61_000;

let task;
/** When a test last emitted a SIGTERM. */
let stoppedAt = -Infinity;
beforeEach(async (context) => {
  task = context.task;
  // After a SIGTERM 0.1.49 still starts runs at once; this adapter does so when the process lives on for a minute.
  const left = stoppedAt + SHUTDOWN_MS - performance.now();
  if (left > 0) {
    note('begun when the shutdown of an earlier test was over');
    await sleep(left);
  }
});

// Not a listener, because the adapter counts the listeners.
const { emit } = process;
process.emit = function emitAndNote(event, ...args) {
  if (event === 'SIGTERM') stoppedAt = performance.now();
  return emit.call(this, event, ...args);
};

function note(what) {
  if (!task) throw new Error(`${what} outside of a test`);
  task.meta.adapted = [...new Set([...(task.meta.adapted ?? []), what])];
}

vi.useFakeTimers = () => {
  // A clock that `beforeEach` fakes is noted on the test that follows.
  note('fake clock left real');
  return vi;
};

vi.advanceTimersByTimeAsync = async (ms) => {
  note('advanced time waited for');
  const until = performance.now() + ms;
  while (!state.isIdle() && performance.now() < until) await sleep(STEP_MS);
  return vi;
};

// The rest of the fake clock has no meaning here.
for (const name of Object.keys(vi)) {
  if (
    /^(advanceTimers|run(All|OnlyPending)|setSystemTime|setTimerTickMode)/.test(name) &&
    name !== 'advanceTimersByTimeAsync'
  ) {
    vi[name] = () => {
      throw new Error(`vi.${name} is not adapted`);
    };
  }
}

globalThis[Symbol.for(TURNS)] = async () => {
  note('loop over promise turns became a wait');
  const from = performance.now();
  const elapsed = () => performance.now() - from;
  while (elapsed() < TURNS_MS.least || (state.quietFor() < TURNS_MS.quiet && elapsed() < TURNS_MS.most)) {
    await sleep(STEP_MS);
  }
};
