// What the adaptations and the bridge share about the call under test.

/** Runs of the code under test that have not settled. */
let pending = 0;
let lastTouched = 0;

export const state = {
  /** Called when something crosses the bridge. */
  touch() {
    lastTouched = performance.now();
  },
  /** For how long nothing has crossed the bridge, in milliseconds. */
  quietFor: () => performance.now() - lastTouched,
  isIdle: () => pending === 0,
};

/**
 * Counts a call under test until it settles.
 *
 * @template T
 * @param {() => Promise<T>} call
 * @returns {Promise<T>}
 */
export async function underTest(call) {
  pending += 1;
  try {
    return await call();
  } finally {
    pending -= 1;
  }
}
