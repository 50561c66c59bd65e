import { loadAddon } from './addon.js';

/**
 * The native half. Node loads an addon once a process, so that a host that reloads the entry file keeps the one instance
 * and the runs it has under way.
 *
 * @type {typeof import('./generated/binding.js')}
 */
export const binding = loadAddon();
