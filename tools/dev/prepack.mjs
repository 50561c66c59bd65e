// npm's hooks `prepack` and `prepare`: a package without an addon would install without a word and fail in the host.
// Packing, or installing from a git address or a folder, builds the addon if there is none. `npm ci` and `npm install` in
// the checkout itself run `prepare` too, and build nothing: their INIT_CWD is the checkout.
import { readdirSync, realpathSync } from 'node:fs';
import path from 'node:path';

import { buildAddon, checkPrerequisites, installDependencies, program, root } from './lib.mjs';

await program('node tools/dev/prepack.mjs', {}, async () => {
  const { npm_lifecycle_event: hook, INIT_CWD: startedIn = root } = process.env;
  if (hook === 'prepare' && realpathSync(startedIn) === realpathSync(root)) return;
  const isAddon = (/** @type {string} */ name) => name.endsWith('.node');
  if (readdirSync(path.join(root, 'js', 'generated')).some(isAddon)) return;
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
});
