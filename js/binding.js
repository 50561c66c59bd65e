import { createRequire } from 'node:module';

/**
 * The native half. Loaded with `require`, so that a host that reloads the entry file keeps the one instance and
 * the runs it has under way.
 *
 * @type {typeof import('./generated/binding.js')}
 */
export const binding = createRequire(import.meta.url)('./generated/binding.cjs');
