import { createRequire } from 'node:module';

/**
 * The addon that was built with the feature `compat`, and so exports the helpers of 0.1.49 too. In the tests of this
 * folder and of 0.1.49 it stands in for the one of `js/binding.js` (see `plugin.mjs`).
 *
 * @type {any}
 */
export const binding = createRequire(import.meta.url)('../../target/parity/addon/binding.cjs');
