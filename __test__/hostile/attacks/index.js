// Every attack, in batches: those of a batch run at once, beside quiet runs.
import { CALLBACKS } from './callbacks.js';
import { CONFIGURATION } from './configuration.js';
import { OUTPUT } from './output.js';
import { FLOODS, READERS } from './readers.js';
import { WIRE } from './wire.js';

/**
 * @typedef {object} Attack
 * @property {string} name
 * @property {'harmed' | 'guard'} before what it did to the version before this suite: `harmed` where it was seen to succeed
 * @property {(host: import('../host.mjs').HostileHost) => void | Promise<void>} play rejects where the attack succeeds
 */

/** @type {Record<string, Attack[]>} */
export const BATCHES = {
  'what an agent prints': OUTPUT,
  'lines and results that take memory': FLOODS,
  'callbacks that never settle': CALLBACKS,
  'what an agent configures and plants': CONFIGURATION,
  'what stands between host and cluster': WIRE,
  'what people see of the output': READERS,
};
