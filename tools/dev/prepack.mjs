// npm's hooks `prepare`, `prepack` and `postpack`: a package without an addon would install without a word and fail in the host.
// Packing, or installing from a git address or a folder, builds the addon if there is none. `npm ci` and `npm install` in
// the checkout itself run `prepare` too, and build nothing: their INIT_CWD is the checkout.
//
// A tarball also has a copy of `js` under a name that carries the version, from which the entry loads everything: a host
// that updates the package in place imports only the entry anew. And since it has the addon in it, it has the NOTICE of the
// licences of the addon's crates. `postpack` removes both from the checkout.
import { cpSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { linkedCrates, notice } from './crates.mjs';
import { buildAddon, checkPrerequisites, installDependencies, program, root } from './lib.mjs';

const NOTICE = path.join(root, 'NOTICE');

/**
 * The folder of a version.
 *
 * @param {string} folder of the package
 */
function versionedFolder(folder) {
  const { version } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  return path.join(folder, `v${version}`);
}

/**
 * Copies a package's modules to the folder of its version, without the addon and what only TypeScript reads.
 *
 * @param {string} folder of the package
 */
export function copyToVersion(folder) {
  const to = versionedFolder(folder);
  rmSync(to, { recursive: true, force: true });
  cpSync(path.join(folder, 'js'), to, {
    recursive: true,
    filter: (name) => !/[\\/]generated$|\.d\.c?ts$/.test(name),
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await program('node tools/dev/prepack.mjs', {}, async () => {
    const { npm_lifecycle_event: hook, INIT_CWD: startedIn = root } = process.env;
    if (hook === 'postpack') {
      rmSync(versionedFolder(root), { recursive: true, force: true });
      rmSync(NOTICE, { force: true });
      return;
    }
    if (hook === 'prepare' && realpathSync(startedIn) === realpathSync(root)) return;
    await ensureAddon();
    if (hook !== 'prepack') return;
    copyToVersion(root);
    writeFileSync(NOTICE, notice(linkedCrates()));
  });
}

async function ensureAddon() {
  const isAddon = (/** @type {string} */ name) => name.endsWith('.node');
  if (readdirSync(path.join(root, 'js', 'generated')).some(isAddon)) return;
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
}
