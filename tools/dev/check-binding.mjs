// The generated declarations and loader of the binding are committed; building must not change them.
import { spawnSync } from 'node:child_process';

import { Problem, buildAddon, main, root } from './lib.mjs';

await main(async () => {
  await buildAddon();
  const files = ['js/generated/binding.d.ts', 'js/generated/binding.cjs'];
  const git = (args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  const untracked = git(['ls-files', '--others', '--exclude-standard', '--', ...files]).stdout.trim();
  const changed = git(['diff', '--stat', '--', ...files]).stdout.trim();
  if (untracked || changed) {
    throw new Problem(`commit what the build generated:\n${changed || untracked}`);
  }
  console.log(`${files.join(' and ')} are what the build generates.`);
});
