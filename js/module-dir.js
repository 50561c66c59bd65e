import { fileURLToPath } from 'node:url';

/**
 * The directory from which the host searches for bundled skills. The host tries `../../skills`, then
 * `../../../../../skills`, as from a directory two levels below the package root: the first is in this package, the
 * second beside the folder that holds `node_modules`. The directory need not exist, only its depth counts.
 */
export const moduleDir = fileURLToPath(new URL('./server', import.meta.url));
