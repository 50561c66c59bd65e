// The generated declarations and loader of the addon are committed: building must not change them.
import { spawnSync } from 'node:child_process';

import { Problem, buildAddon, program, root } from './lib.mjs';

await program('node tools/dev/check-binding.mjs', {}, async () => {
  await buildAddon();
  const files = ['js/generated/binding.d.ts', 'js/generated/binding.cjs'];
  const git = (args) =>
    spawnSync('git', [...args, '--', ...files], { cwd: root, encoding: 'utf8' }).stdout.trim();
  const changed = git(['diff', '--stat']) || git(['ls-files', '--others', '--exclude-standard']);
  if (changed) throw new Problem(`commit what the build generated:\n${changed}`);
  console.log(`${files.join(' and ')} are what the build generates.`);
});
