// The generated declarations of the addon are committed: building must not change them.
import { spawnSync } from 'node:child_process';

import { Problem, buildAddon, program, root } from './lib.mjs';

await program('node tools/dev/check-binding.mjs', {}, async () => {
  await buildAddon();
  const file = 'js/generated/binding.d.ts';
  const git = (args) =>
    spawnSync('git', [...args, '--', file], { cwd: root, encoding: 'utf8' }).stdout.trim();
  const changed = git(['diff', '--stat']) || git(['ls-files', '--others', '--exclude-standard']);
  if (changed) throw new Problem(`commit what the build generated:\n${changed}`);
  console.log(`${file} is what the build generates.`);
});
