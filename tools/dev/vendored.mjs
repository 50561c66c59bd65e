// npm run test:vendored: the way in which images get the package without a registry: clone, build, pack, and install the
// tarball beside the host's package. The clone is of the last commit.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';

import { Problem, checkPrerequisites, program, root, run, step } from './lib.mjs';

const NAME = 'paperclip-adapter-claude-k8s';
const QUIET = ['--no-audit', '--no-fund', '--loglevel=error'];

await program('npm run test:vendored', {}, async () => {
  checkPrerequisites();
  const home = path.join(root, 'target', 'vendored');
  const [clone, bundled] = ['clone', 'bundled'].map((name) => path.join(home, name));
  rmSync(home, { recursive: true, force: true });
  mkdirSync(home, { recursive: true });
  await run('git', ['clone', '--quiet', '--depth=1', `file://${root}`, clone]);
  // The crates are kept from one time to the next, in a folder of their own: in the checkout's each build of the clone takes the
  // place of the addon, which suites beside this one use. Without optimizations, of which nothing here depends.
  const target = path.join(root, 'target', 'vendored-build');
  const env = { ...process.env, CARGO_TARGET_DIR: target, CARGO_PROFILE_RELEASE_OPT_LEVEL: '0' };
  const options = { cwd: clone, env };
  step('Building it');
  await run('npm', ['ci', ...QUIET], options);
  const { devDependencies } = JSON.parse(readFileSync(path.join(clone, 'package.json'), 'utf8'));
  const host = `@paperclipai/adapter-utils@${devDependencies['@paperclipai/adapter-utils']}`;
  await run('npm', ['pack', '--silent', '--pack-destination', home, host], options);
  const [hostTarball] = tarballs(home);
  await run('npm', ['install', '--no-save', ...QUIET, path.join(home, hostTarball)], options);
  await run('npm', ['run', '--silent', 'build'], options);
  await run('npm', ['pack', '--silent'], options);
  const changes = spawnSync('git', ['status', '--porcelain'], { cwd: clone, encoding: 'utf8' }).stdout;
  if (changes) throw new Problem(`the build changed the checkout:\n${changes}`);
  step('Installing its tarball beside the host');
  const install = ['install', '--prefix', bundled, '--omit=dev', '--no-save', '--legacy-peer-deps', ...QUIET];
  const files = [path.join(home, hostTarball), ...tarballs(clone).map((name) => path.join(clone, name))];
  mkdirSync(bundled);
  await run('npm', [...install, ...files], { cwd: bundled });
  const entry = path.join(bundled, 'node_modules', NAME, 'index.js');
  if (!existsSync(path.join(path.dirname(entry), 'NOTICE'))) throw new Problem('the tarball has no NOTICE');
  const code = `const { createServerAdapter } = await import(${JSON.stringify(entry)});
    const { status } = await createServerAdapter().testEnvironment({
      adapterType: 'claude_k8s', config: { kubeconfig: '/no/such/kubeconfig' } });
    console.log(status);`;
  const { stdout, stderr } = spawnSync('node', ['--input-type=module', '--eval', code], { encoding: 'utf8' });
  if (stdout.trim() !== 'fail') throw new Problem(`the installed package does not run:\n${stdout}${stderr}`);
  console.log('1 passed, 0 failed');
});

/** @param {string} folder */
function tarballs(folder) {
  return readdirSync(folder).filter((name) => name.endsWith('.tgz'));
}
