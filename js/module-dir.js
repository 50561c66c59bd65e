import { fileURLToPath } from 'node:url';

/**
 * The directory from which the host looks for bundled skills. It tries `../../skills`, then
 * `../../../../../skills`, and expects to start two levels below the package root: the first then
 * means this package, the second the folder around the one that holds `node_modules`. The directory
 * need not exist, only its depth counts.
 */
export const moduleDir = fileURLToPath(new URL('./server', import.meta.url));
