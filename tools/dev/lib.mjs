// What every program of this repository starts with: options, prerequisites, dependencies and builds. Node builtins
// only: it runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** A problem that the user can mend: printed in one line, without a stack. */
export class Problem extends Error {}

/**
 * @typedef {{type: 'string' | 'boolean', short?: string, default?: string}} Option one option of the command line
 */
/**
 * @template {Record<string, Option>} Options
 * @typedef {{[Name in keyof Options]: Options[Name]['type'] extends 'boolean' ? boolean | undefined
 *   : Options[Name] extends {default: string} ? string : string | undefined}} Values
 */

/**
 * Runs a program to its exit code. A Problem becomes its one line; `--help` prints the usage, and so does an option
 * that does not exist.
 *
 * @template {Record<string, Option>} [const Options={}]
 * @param {string} usage
 * @param {{options?: Options, allowPositionals?: boolean, strict?: boolean}} config as `parseArgs` takes it
 * @param {(parsed: {values: Values<Options>, positionals: string[]}) => Promise<number | void>} body resolves to the
 *   exit code, 0 if it is left out
 */
export async function program(usage, config, body) {
  try {
    const options = { ...config.options, help: { type: 'boolean', short: 'h' } };
    const parsed = /** @type {any} */ (parse(usage, { ...config, options }));
    if (parsed.values.help) console.log(usage);
    else process.exitCode = (await body(parsed)) ?? 0;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}

function parse(usage, config) {
  try {
    return parseArgs(config);
  } catch (error) {
    throw new Problem(`${error.message}\n${usage}`);
  }
}

/**
 * A whole number from the command line, or a Problem.
 *
 * @param {string} option its name, with `--`
 * @param {string} text
 * @param {{least?: number, most?: number}} [range]
 */
export function wholeNumber(option, text, { least = 0, most = Number.MAX_SAFE_INTEGER } = {}) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most) {
    const range = most === Number.MAX_SAFE_INTEGER ? `from ${least} on` : `from ${least} to ${most}`;
    throw new Problem(`${option} ${text}: a whole number ${range} is needed`);
  }
  return value;
}

/** Installs and builds what a program needs before its own work: the dependencies, the simulator, the addon. */
export async function prepare() {
  checkPrerequisites();
  await installDependencies();
  await buildSimulator();
  await buildAddon();
}

/** Throws a Problem if Node is too old or Rust is missing. */
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

/** Installs the npm dependencies if the lock file is newer than what is installed. */
export async function installDependencies() {
  const installed = path.join(root, 'node_modules', '.package-lock.json');
  const lock = path.join(root, 'package-lock.json');
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  step('Installing npm dependencies');
  await run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  utimesSync(installed, new Date(), new Date());
}

/** Builds the addon (release). Cargo decides whether there is anything to do. */
export async function buildAddon() {
  step('Building the addon (the first time takes a few minutes)');
  await run('npm', ['run', '--silent', 'build:addon']);
  if (!readdirSync(path.join(root, 'js', 'generated')).some((name) => name.endsWith('.node'))) {
    throw new Problem('the build left no .node file: see its output above');
  }
}

/** Builds the programs of the simulator (release); returns the folder that they are in. */
export async function buildSimulator() {
  step('Building the simulator');
  await run('cargo', ['build', '--quiet', '--release', '--locked', '-p', 'embedded-cluster']);
  return path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'release');
}

/** Prints one line of progress. */
export function step(text) {
  console.log(`▸ ${text}`);
}
