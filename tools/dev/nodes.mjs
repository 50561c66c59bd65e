// npm run test:nodes: the built package in every supported Node (the npm package `node` ships each as a program).
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { Problem, program, root, run, step } from './lib.mjs';

const MAJORS = [20, 22, 24, 26];

await program('npm run test:nodes', {}, async () => {
  const home = path.join(root, 'target', 'nodes');
  const failed = [];
  for (const major of MAJORS) {
    const node = await nodeOf(major, home);
    const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
    if (!version.startsWith(`v${major}.`)) throw new Problem(`${node} is not Node ${major}: ${version}`);
    const { status } = spawnSync(node, [path.join(root, '__test__', 'support', 'load-check.mjs')], {
      stdio: 'inherit',
      timeout: 60_000,
    });
    step(`Node ${version}: ${status === 0 ? 'ok' : `failed (${status})`}`);
    if (status !== 0) failed.push(version);
  }
  console.log(`${MAJORS.length - failed.length} passed, ${failed.length} failed`);
  return failed.length;
});

/** The program of a Node major; installed once below `target/`. */
async function nodeOf(major, home) {
  if (process.versions.node.startsWith(`${major}.`)) return process.execPath;
  const dir = path.join(home, String(major));
  const node = path.join(dir, 'node_modules', 'node', 'bin', 'node');
  if (!existsSync(node)) {
    mkdirSync(dir, { recursive: true });
    writeFileSync(path.join(dir, 'package.json'), '{"private":true}\n');
    await run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', `node@${major}`], {
      cwd: dir,
    });
  }
  return node;
}
