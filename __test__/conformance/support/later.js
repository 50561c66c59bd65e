// Specs of what is right and not done yet.
import { it } from 'vitest';

/**
 * A spec that the product does not meet yet: it passes as long as its body fails, and fails once that passes, so that the
 * mark is taken off.
 *
 * @param {string} issue title of the issue that will mend it
 * @param {string} title
 * @param {(context: import('vitest').TestContext) => Promise<void>} body
 * @param {{on?: 'embedded' | 'real'}} [options] `on`: only this cluster shows what is wrong; on the other it is a usual spec
 */
export function later(issue, title, body, { on } = {}) {
  if (on !== undefined && on !== process.env.CONFORMANCE_CLUSTER) return void it(title, body);
  it(`${title} (later: ${issue})`, async (context) => {
    const failure = await body(context).then(
      () => undefined,
      (error) => error,
    );
    if (failure === undefined) {
      throw new Error(`this passes now: take the mark of the issue "${issue}" off the spec`);
    }
    // A spec that is skipped is skipped.
    if (failure.code === 'VITEST_PENDING') throw failure;
  });
}
