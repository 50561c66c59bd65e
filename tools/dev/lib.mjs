// What every script needs: prerequisites, dependencies and builds, each said in one line. Node builtins only:
// this runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** A problem that the person at the keyboard can mend: told in one line, without a stack. */
export class Problem extends Error {}

/** Runs a script's main function and turns a Problem into its one line. */
export async function main(run) {
  try {
    process.exitCode = (await run()) ?? 0;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}

/** Throws a Problem unless Node and Rust are there. */
export function checkPrerequisites() {
  const [major] = process.versions.node.split('.').map(Number);
  if (major < 20) throw new Problem(`Node 20 or newer is needed; this is Node ${process.versions.node}.`);
  const cargo = spawnSync('cargo', ['--version'], { encoding: 'utf8' });
  if (cargo.error || cargo.status !== 0) {
    throw new Problem(
      'cargo was not found: install Rust stable with rustup (https://rustup.rs), then try again.',
    );
  }
}

/** Runs a command from the project's root with its output shown; a failure is a Problem. */
export async function run(command, args, options = {}) {
  const child = spawn(command, args, { cwd: root, stdio: 'inherit', ...options });
  const [code, signal] = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (...end) => resolve(end));
  });
  if (code !== 0) {
    throw new Problem(`failed (${signal ?? `exit ${code}`}): ${[command, ...args].join(' ')}`);
  }
}

/** Installs the npm dependencies when the lock file is newer than what is installed. */
export async function installDependencies() {
  const installed = path.join(root, 'node_modules', '.package-lock.json');
  const lock = path.join(root, 'package-lock.json');
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  step('Installing npm dependencies');
  // Not `npm ci`: it wants every other platform's optional packages in the lock file, and npm leaves out those whose
  // engines do not admit the Node that wrote it. This takes the locked versions and leaves the lock file alone.
  await run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error']);
  utimesSync(installed, new Date(), new Date());
}

/** Builds the addon (release). Cargo knows whether anything is to do. */
export async function buildAddon() {
  step('Building the addon (the first time takes a few minutes)');
  await run('npm', ['run', '--silent', 'build:addon']);
  if (!readdirSync(path.join(root, 'js', 'generated')).some((name) => name.endsWith('.node'))) {
    throw new Problem('the build left no .node file: see its output above');
  }
}

/** Builds the embedded cluster and the stand-in CLI (release); returns the folder of their programs. */
export async function buildSimulator() {
  step('Building the embedded cluster');
  await run('cargo', ['build', '--quiet', '--release', '--locked', '-p', 'embedded-cluster']);
  return path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');
}

/** One line of progress. */
export function step(text) {
  console.log(`▸ ${text}`);
}
