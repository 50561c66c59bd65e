// How the adapter gets into a host that installs none: under the type of one of the host's own adapters, whose package name
// resolves to a module of ours in that host's process.
import { cpSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** The type of the host's own adapter in whose place this one stands. */
export const OLDER_TYPE = 'hermes_local';

/**
 * The variables with which the older host loads the adapter.
 *
 * @param {{folder: string, modules: string, adapter: string}} options a folder that the host can read, the folder of the
 *   host's packages, and the folder of the adapter's package
 */
export function loadedIntoOlder({ folder, modules, adapter }) {
  const copies = path.join(folder, 'older');
  mkdirSync(copies);
  for (const file of ['preload.mjs', 'adapter.mjs'])
    cpSync(fileURLToPath(new URL(file, import.meta.url)), path.join(copies, file));
  return {
    NODE_OPTIONS: `--import ${pathToFileURL(path.join(copies, 'preload.mjs'))}`,
    OLDER_HOST_ENTRY: String(pathToFileURL(path.join(modules, '@paperclipai', 'server', 'dist', 'index.js'))),
    OLDER_HOST_ADAPTER: String(pathToFileURL(path.join(adapter, 'index.js'))),
  };
}
