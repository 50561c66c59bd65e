// The generated declarations of the addon are committed: building must not change them. A build of what is built already
// must not touch a file: suites beside it read them.
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';

import { Problem, buildAddon, program, root } from './lib.mjs';

await program('node tools/dev/check-binding.mjs', {}, async () => {
  await buildAddon();
  const built = filesOf('js/generated');
  await buildAddon();
  const touched = filesOf('js/generated').filter((now) => !built.includes(now));
  if (touched.length > 0) throw new Problem(`a second build has replaced ${touched.join(', ')}`);
  const file = 'js/generated/binding.d.ts';
  const git = (args) =>
    spawnSync('git', [...args, '--', file], { cwd: root, encoding: 'utf8' }).stdout.trim();
  const changed = git(['diff', '--stat']) || git(['ls-files', '--others', '--exclude-standard']);
  if (changed) throw new Problem(`commit what the build generated:\n${changed}`);
  console.log(`${file} is what the build generates.`);
});

/** The files of a folder, each with what changes when it is replaced or written. @param {string} folder */
function filesOf(folder) {
  return readdirSync(path.join(root, folder)).map((name) => {
    const { ino, mtimeMs } = statSync(path.join(root, folder, name));
    return `${name} (inode ${ino}, written ${new Date(mtimeMs).toISOString()})`;
  });
}
