/**
 * Polls until `check` gives something truthy and resolves to it. An error of `check` counts as "not yet".
 *
 * @template T
 * @param {() => T | Promise<T>} check
 * @param {{within?: number, every?: number, what?: string}} [options] times in ms
 * @returns {Promise<T>}
 */
export async function until(check, { within = 60_000, every = 100, what = String(check) } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    let problem;
    try {
      const seen = await check();
      if (seen) return seen;
    } catch (error) {
      problem = error;
    }
    if (Date.now() > deadline) {
      throw new Error(
        `waited ${within / 1000} s in vain for ${what}${problem ? `: ${problem.message}` : ''}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}
