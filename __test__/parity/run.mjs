// npm run test:existing: the unchanged tests of the existing package 0.1.49, against an addon that also exports its
// helpers, after our own tests of how these helpers are called.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import {
  Problem,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  root,
  run,
  step,
} from '../../tools/dev/lib.mjs';
import { home } from '../../tools/kubernetes/cache.mjs';
import { judge } from './differences.mjs';
import { compatAddon, existingPackage } from './plugin.mjs';

const VERSION = '0.1.49';
/**
 * The host packages to run with: the published version that is nearest to the one that the existing package was developed
 * with, and the one that this package is developed with.
 */
const ADAPTER_UTILS = ['2026.403.0', packageJson(root).devDependencies['@paperclipai/adapter-utils']];
/** Everything that this program builds or installs. */
const OUT = path.join(root, 'target', 'parity');
/** Where a checkout is looked for when none is named. */
const CACHED = path.join(home, `existing-package-v${VERSION}`);
const USAGE = `npm run test:existing -- [DIR] [options]
  DIR                      a checkout of paperclip-adapter-claude-k8s ${VERSION}; else EXISTING_PACKAGE names one, else
                           ${CACHED} is one, else its tests are left out
  --adapter-utils VERSION  the host package to run with (default: ${ADAPTER_UTILS.join(' and ')})
  --no-build               use the addon that is there
  -t PATTERN               only the tests with such names`;

const OPTIONS = /** @type {const} */ ({
  'adapter-utils': { type: 'string' },
  'no-build': { type: 'boolean' },
  pattern: { type: 'string', short: 't' },
});

await program(USAGE, { options: OPTIONS, allowPositionals: true }, async ({ values, positionals }) => {
  if (positionals.length > 1) throw new Problem(USAGE);
  const checkout = checkoutOf(positionals[0]);
  const { pattern, 'adapter-utils': only } = values;
  checkPrerequisites();
  await installDependencies();
  if (!values['no-build']) {
    step('Building the addon with the helpers of the existing package');
    await run('npm', ['run', '--silent', 'build:addon:compat']);
    await buildSimulator();
  }
  if (pattern === undefined && only === undefined) {
    step('Our own tests of these helpers');
    await run('npx', ['vitest', 'run', '--project', 'parity']);
  }
  if (checkout === undefined) {
    console.log(`left out: the tests of ${VERSION}, no checkout of it is at hand`);
    return 0;
  }
  if (only !== undefined) {
    const adapterUtils = await installAdapterUtils(only);
    step(`The tests of ${VERSION} with adapter-utils ${only}`);
    return (await runTheirs(checkout, { version: only, adapterUtils, pattern })) ? 0 : 1;
  }
  // They wait for real time, and so run side by side.
  const codes = await Promise.all(ADAPTER_UTILS.map((version) => runApart(checkout, version, pattern)));
  return codes.every((code) => code === 0) ? 0 : 1;
});

/** Runs the tests with one host package in a process of its own, and prints at its end what that printed. */
async function runApart(checkout, version, pattern) {
  const options = ['--no-build', '--adapter-utils', version, ...(pattern ? ['-t', pattern] : [])];
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), checkout, ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => (output += text));
  }
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  process.stdout.write(output);
  return code;
}

/** Runs the tests of the checkout with this host package; resolves to whether all went as they must. */
async function runTheirs(checkout, { version, adapterUtils, pattern }) {
  // The worker processes inherit it, and are killed before they can tidy up.
  process.env.EXISTING_BRIDGE_DIR = mkdtempSync(path.join(tmpdir(), 'existing-bridge-'));
  const began = Date.now();
  const { startVitest } = await import('vitest/node'); // installed by now
  const vitest = await startVitest(
    'test',
    [],
    {
      root: checkout,
      config: false,
      watch: false,
      globals: true,
      include: ['src/**/*.test.ts'],
      testNamePattern: pattern,
      setupFiles: [path.join(root, '__test__', 'parity', 'setup.js')],
      // Processes, not threads: the code under test listens for a signal.
      pool: 'forks',
      // Real time, on a slow machine.
      testTimeout: 180_000,
      hookTimeout: 120_000,
      // Calls that a test leaves under way end with their process.
      teardownTimeout: 2_000,
      allowOnly: false,
    },
    {
      cacheDir: path.join(OUT, `cache-${version}`),
      plugins: [compatAddon(), existingPackage({ checkout, adapterUtils })],
    },
  );
  const good = report(vitest, { version, pattern, seconds: (Date.now() - began) / 1_000 });
  await vitest.close();
  rmSync(process.env.EXISTING_BRIDGE_DIR, { recursive: true, force: true });
  return good;
}

/** The checkout to test with: the one that is named, or the cached one if it is there. */
function checkoutOf(argument) {
  const named = argument ?? process.env.EXISTING_PACKAGE;
  if (!named && !existsSync(CACHED)) return undefined;
  const checkout = path.resolve(named || CACHED);
  const found = existsSync(path.join(checkout, 'package.json')) ? packageJson(checkout).version : undefined;
  if (found !== VERSION || !existsSync(path.join(checkout, 'src'))) {
    throw new Problem(
      `${checkout}: a checkout of version ${VERSION} is needed${found ? `, this is ${found}` : ''}.`,
    );
  }
  return checkout;
}

/** The folder of this version of the host package; installed once below `target/`. */
async function installAdapterUtils(version) {
  const dir = path.join(OUT, `adapter-utils-${version}`);
  const installed = path.join(dir, 'node_modules', '@paperclipai', 'adapter-utils');
  if (!existsSync(path.join(installed, 'package.json'))) {
    step(`Installing adapter-utils ${version}`);
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    writeFileSync(path.join(dir, 'package.json'), '{"private":true}\n');
    const quiet = ['--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error'];
    await run('npm', ['install', ...quiet, `@paperclipai/adapter-utils@${version}`], { cwd: dir });
  }
  return installed;
}

function packageJson(folder) {
  return JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
}

/** Prints what was adapted and how it went; returns whether all went as they must. */
function report(vitest, { version, pattern, seconds }) {
  const modules = vitest.state.getTestModules();
  const tests = modules.flatMap((module) => [...module.children.allTests()]);
  /** @type {Map<string, string[]>} */
  const adapted = new Map();
  for (const test of tests) {
    for (const what of test.meta().adapted ?? []) {
      adapted.set(what, [...(adapted.get(what) ?? []), test.fullName]);
    }
  }
  for (const [what, names] of adapted) {
    console.log(`\nAdapted, ${what} (${names.length}):`);
    for (const name of names) console.log(`  ${name}`);
  }
  const states = tests.map((test) => ({ name: test.fullName, state: test.result().state }));
  const { passed, failed, skipped, known, problems } = judge(states, { version, pattern });
  for (const { test, reason } of known) console.log(`\nKnown to differ: ${test}\n  ${reason}`);
  for (const problem of problems) console.log(`\n${problem}`);
  const errors = vitest.state.getUnhandledErrors();
  const broken = modules.filter((module) => module.errors().length > 0);
  const differing = known.length > 0 ? `, ${known.length} known to differ` : '';
  console.log(
    `\ntests of ${VERSION}, adapter-utils ${version}: ` +
      `${passed} passed, ${failed} failed, ${skipped} skipped${differing} in ${seconds.toFixed(0)} s`,
  );
  return tests.length > 0 && problems.length === 0 && broken.length === 0 && errors.length === 0;
}
