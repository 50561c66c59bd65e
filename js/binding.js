import { loadAddon } from './addon.js';

/**
 * The native half. Node loads an addon once a process, so that a host that reloads the entry file of the same version keeps
 * the one instance and the runs it has under way. Another version has an addon of its own beside it: there the cluster
 * alone keeps an agent to one run.
 *
 * @type {typeof import('./generated/binding.js')}
 */
export const binding = loadAddon();
