// The host and the Node it needs, from npm, once per version.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { step } from '../../../tools/dev/lib.mjs';
import { cacheFolder, finished } from './system.mjs';
import { HOST_PACKAGE, NODE_MAJOR, NPM_MAJOR } from './versions.mjs';

/**
 * The installed host: `node` is the program that runs it, `cli` its entry, `bin` a folder with `node` and `npm` for
 * its PATH, `modules` the folder of its packages.
 *
 * @param {string} version
 */
export async function installHost(version) {
  const name = `host-${version}-node${NODE_MAJOR}-npm${NPM_MAJOR}`;
  const folder = path.join(cacheFolder(), name);
  if (!existsSync(folder)) {
    const packages = [`node@${NODE_MAJOR}`, `npm@${NPM_MAJOR}`, `${HOST_PACKAGE}@${version}`];
    step(`Installing from npm: ${packages.join(', ')} (1.6 GB, once, into ${folder})`);
    // Made in a temporary folder and renamed, so that an interrupted installation is never used.
    const aside = mkdtempSync(path.join(cacheFolder(), `.${name}-`));
    try {
      writeFileSync(path.join(aside, 'package.json'), '{"private":true}\n');
      await finished('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...packages], {
        cwd: aside,
      });
      mkdirSync(path.join(aside, 'bin'));
      symlinkSync('../node_modules/node/bin/node', path.join(aside, 'bin', 'node'));
      symlinkSync('../node_modules/npm/bin/npm-cli.js', path.join(aside, 'bin', 'npm'));
      await finished('chmod', ['-R', 'a+rX', aside]);
      renameSync(aside, folder);
    } catch (error) {
      rmSync(aside, { recursive: true, force: true });
      // Another process may have been faster.
      if (!existsSync(folder)) throw error;
    }
  }
  const bin = path.join(folder, 'bin');
  return {
    bin,
    node: path.join(bin, 'node'),
    cli: path.join(folder, 'node_modules', HOST_PACKAGE, 'dist', 'index.js'),
    modules: path.join(folder, 'node_modules'),
  };
}
