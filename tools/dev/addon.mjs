// npm run build:addon: this machine's addon and its declarations, in `js/generated`. A suite beside another reads that folder
// while this one builds, so each file is made elsewhere and takes its place whole, and only if it is another.
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';

import { program, root, run } from './lib.mjs';

const USAGE = `npm run build:addon -- [--debug]
  --debug  without optimizations`;

await program(
  USAGE,
  { options: /** @type {const} */ ({ debug: { type: 'boolean' } }) },
  async ({ values: { debug } }) => {
    const target = path.join(root, 'target');
    mkdirSync(target, { recursive: true });
    const made = mkdtempSync(path.join(target, 'addon-'));
    try {
      await run(path.join(root, 'node_modules', '.bin', 'napi'), [
        ...[
          'build',
          '--platform',
          '--output-dir',
          path.relative(root, made),
          '--no-js',
          '--dts',
          'binding.d.ts',
        ],
        ...(debug ? [] : ['--release']),
      ]);
      publish(made, path.join(root, 'js', 'generated'));
    } finally {
      rmSync(made, { recursive: true });
    }
  },
);

/** Moves the files of a folder into another one of the same file system, but for those that it has already. */
function publish(from, to) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from)) {
    const [made, there] = [from, to].map((folder) => path.join(folder, name));
    if (!bytesOf(there)?.equals(readFileSync(made))) renameSync(made, there);
  }
}

/** A file's bytes, or undefined where there is none. */
function bytesOf(file) {
  try {
    return readFileSync(file);
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}
