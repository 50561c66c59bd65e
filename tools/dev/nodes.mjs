// npm run test:nodes: the packages of a release, installed from a registry on loopback with no compiler at hand, in every
// supported Node (the npm package `node` ships each as a program); its command; what is said where the addon's package is
// missing; and a newer version, installed under a running process that goes on.
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';

import { currentPlatform } from '../../js/addon.js';
import { serveRegistry } from '../../__test__/support/registry.js';
import { Problem, program, root, run, step, wholeNumber } from './lib.mjs';
import { makePackages } from './packages.mjs';

const MAJORS = [20, 22, 24, 26];
const NAME = 'paperclip-adapter-claude-k8s';
const home = path.join(root, 'target', 'nodes');
/** npm's cache of its own: two builds of one version differ. */
const CACHE = path.join(home, 'cache');

const USAGE = `npm run test:nodes -- [--updates N] [--addons DIR]
  --updates N   how many newer versions are installed under the running process (default 1)
  --addons DIR  where this machine's addon is (default: js/generated); \`npm run build:platform\` writes to target/addons`;

const OPTIONS = /** @type {const} */ ({ updates: { type: 'string' }, addons: { type: 'string' } });

await program(USAGE, { options: OPTIONS }, async ({ values }) => {
  const updates = wholeNumber('--updates', values.updates ?? '1', { least: 1 });
  const { addons } = values;
  const { tarballs } = await makePackages({ addons, out: path.join(home, 'packages') });
  const registry = await serveRegistry(tarballs);
  /** @type {string[]} */
  const failed = [];
  /** @param {string} what @param {boolean} passed @param {string} [seen] */
  const report = (what, passed, seen = '') => {
    step(`${what}: ${passed ? 'ok' : `failed${seen && `: ${seen}`}`}`);
    if (!passed) failed.push(what);
  };
  try {
    const project = await install('installed', registry.url);
    for (const major of MAJORS) {
      const node = await nodeOf(major);
      const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
      if (!version.startsWith(`v${major}.`)) throw new Problem(`${node} is not Node ${major}: ${version}`);
      const { status } = check(node, project, 'inherit');
      report(`Node ${version}`, status === 0, String(status));
    }
    const command = path.join(project, 'node_modules', '.bin', NAME);
    const ran = spawnSync(command, ['runs', '--kubeconfig', '/no/such'], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    report('the command', ran.status === 2 && /^[^\n]*\/no\/such[^\n]*\n$/.test(ran.stderr), ran.stderr);
    const folder = path.join(project, 'node_modules', `${NAME}-${currentPlatform()}`);
    const licences = ['LICENSE', 'NOTICE'].filter((name) => !existsSync(path.join(folder, name)));
    report('licences beside the addon', licences.length === 0, `without ${licences.join(', ')}`);
    const { stderr } = check(
      process.execPath,
      await install('bare', registry.url, ['--omit=optional']),
      'pipe',
    );
    const line = stderr.split('\n').find((each) => each.startsWith('Error: ')) ?? stderr;
    report(`${updates} updates in place`, await survivesUpdates(registry, { updates, addons }));
    report(
      'without the addon',
      new RegExp(`^Error: ${NAME}-\\S+ \\S+ is not installed.*--omit=optional`).test(line),
      line,
    );
  } finally {
    await registry.close();
  }
  console.log(`${MAJORS.length + 4 - failed.length} passed, ${failed.length} failed`);
  return failed.length;
});

/**
 * Installs the package into an empty project, where neither cargo nor a C compiler can be found.
 *
 * @param {string} name of the project's folder
 * @param {string} registry
 * @param {string[]} [options] of npm
 * @returns {Promise<string>} the folder
 */
async function install(name, registry, options = []) {
  const project = path.join(home, name);
  rmSync(project, { recursive: true, force: true });
  mkdirSync(path.join(project, 'bin'), { recursive: true });
  for (const each of ['node', 'npm', 'sh']) symlinkSync(programPath(each), path.join(project, 'bin', each));
  writeFileSync(path.join(project, 'package.json'), '{"private":true,"type":"module"}\n');
  rmSync(CACHE, { recursive: true, force: true });
  await npmInstall(project, registry, options);
  cpSync(path.join(root, '__test__', 'support', 'load-check.mjs'), path.join(project, 'check.mjs'));
  return project;
}

/** Installs the newest version into a project. @param {string} project @param {string} registry @param {string[]} options */
function npmInstall(project, registry, options = []) {
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error', '--no-package-lock'];
  const where = ['--registry', registry, '--cache', CACHE];
  return run('npm', ['install', ...quiet, ...where, ...options, `${NAME}@latest`], {
    cwd: project,
    env: { ...process.env, PATH: path.join(project, 'bin') },
  });
}

/**
 * Whether a process that has the package loaded runs each newer version that is installed under it.
 *
 * @param {Awaited<ReturnType<typeof serveRegistry>>} registry
 * @param {{updates: number, addons?: string | undefined}} options
 */
async function survivesUpdates(registry, { updates, addons }) {
  const project = await install('updated', registry.url);
  cpSync(path.join(root, '__test__', 'support', 'update-check.mjs'), path.join(project, 'update.mjs'));
  const child = spawn(process.execPath, ['update.mjs'], {
    cwd: project,
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: (60 + 30 * updates) * 1_000,
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  let newer = 0;
  for await (const line of createInterface(child.stdout)) {
    if (line !== 'loaded') console.log(line);
    else if (newer === updates) child.stdin.end();
    else {
      newer += 1;
      const out = path.join(home, `newer-${newer}`);
      registry.publish((await makePackages({ addons, out, version: `999.0.${newer}` })).tarballs);
      await npmInstall(project, registry.url);
      child.stdin.write('\n');
    }
  }
  return (await ended) === 0;
}

/** @param {string} node @param {string} project @param {'inherit' | 'pipe'} stdio */
function check(node, project, stdio) {
  return spawnSync(node, ['check.mjs'], { cwd: project, stdio, timeout: 60_000, encoding: 'utf8' });
}

/** Where a program is that the PATH knows. @param {string} name */
function programPath(name) {
  const { stdout } = spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' });
  if (!stdout) throw new Problem(`${name} was not found`);
  return stdout.trim();
}

/** The program of a Node major; installed once below `target/`. @param {number} major */
async function nodeOf(major) {
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
