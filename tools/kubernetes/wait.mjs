/**
 * Waits until `look` gives something truthy and resolves to it. What it throws counts as "not yet".
 *
 * @template T
 * @param {() => T | Promise<T>} look
 * @param {{within?: number, every?: number, what?: string}} [options] times in ms
 * @returns {Promise<T>}
 */
export async function until(look, { within = 60_000, every = 100, what = String(look) } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    let problem;
    try {
      const seen = await look();
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
