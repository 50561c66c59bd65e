// Gives tests the addon with the helpers of 0.1.49, and the tests of 0.1.49 our modules in place of its own.
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const SHIPPED = path.join(root, 'js', 'binding.js');
const WITH_HELPERS = path.join(root, '__test__', 'parity', 'compat.js');

/** The global (a registered symbol) that a loop over promise turns becomes a call of. */
export const TURNS = 'existing.turns';
const LOOP = /for \(let (\w+) = 0; \1 < (\d+); \1\+\+\) await Promise\.resolve\(\);/g;

/** Module of the existing package (below `src/`) → ours. */
const OURS = {
  'ui-parser': '__test__/parity/modules/ui-parser.js',
  'cli/format-event': 'js/print.js',
  'server/config-schema': 'js/config-schema.js',
  'server/execute': '__test__/parity/modules/execute.js',
  'server/job-manifest': '__test__/parity/modules/job-manifest.js',
  'server/k8s-client': '__test__/parity/modules/k8s-client.js',
  'server/log-dedup': '__test__/parity/modules/log-dedup.js',
  'server/models': 'js/models.js',
  'server/parse': '__test__/parity/modules/parse.js',
  'server/prompt-cache': '__test__/parity/modules/prompt-cache.js',
  'server/session': 'js/session.js',
  'server/skills': 'js/skills.js',
  'server/test': 'js/environment.js',
};

/** In the tests of 0.1.49 this module of ours gets that one in the place of `js/prepare.js`. */
const EXECUTE = path.join(root, 'js', 'execute.js');
const PREPARE = path.join(root, '__test__', 'parity', 'modules', 'prepare.js');

const HOST = '@paperclipai/adapter-utils';

/**
 * Puts the addon that is built with the feature `compat` in the place of the shipped one.
 *
 * @returns {import('vitest/config').Plugin}
 */
export function compatAddon() {
  return {
    name: 'compat-addon',
    enforce: 'pre',
    resolveId(source, importer) {
      const file = importer && source.startsWith('.') && path.resolve(path.dirname(importer), source);
      return file === SHIPPED ? WITH_HELPERS : null;
    },
  };
}

/**
 * @param {{checkout: string, adapterUtils: string}} where the existing package, and the installed host package to run
 *   with
 * @returns {import('vitest/config').Plugin}
 */
export function existingPackage({ checkout, adapterUtils }) {
  const src = path.join(checkout, 'src');
  const isTheirs = (file) => file !== undefined && path.resolve(file).startsWith(src + path.sep);
  return {
    name: 'existing-package',
    enforce: 'pre',
    resolveId(source, importer) {
      if (source === HOST || source.startsWith(`${HOST}/`)) {
        return path.join(adapterUtils, 'dist', `${source.slice(HOST.length + 1) || 'index'}.js`);
      }
      if (importer === EXECUTE && source === './prepare.js') return PREPARE;
      if (importer === undefined || !isTheirs(importer)) return null;
      if (!source.startsWith('.')) {
        return source.startsWith('node:') ? null : this.resolve(source, path.join(root, 'package.json'));
      }
      const module = path.relative(src, path.resolve(path.dirname(importer), source)).replace(/\.js$/, '');
      const ours = OURS[module.split(path.sep).join('/')];
      if (!ours)
        throw new Error(
          `${path.relative(checkout, importer)} imports ${source}: there is no such module here`,
        );
      return path.join(root, ours);
    },
    transform(code, id) {
      if (!isTheirs(id)) return null;
      const adapted = code.replace(LOOP, `await globalThis[Symbol.for('${TURNS}')]();`);
      return adapted === code ? null : { code: adapted, map: null };
    },
  };
}
