// npm run test:existing -- DIR: the unchanged tests of the existing package 0.1.49, against this binding.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import {
  Problem,
  buildAddon,
  checkPrerequisites,
  installDependencies,
  program,
  root,
  run,
  step,
} from '../../tools/dev/lib.mjs';
import { existingPackage } from './plugin.mjs';

const VERSION = '0.1.49';
/** Published, and the nearest to the version the existing package was developed with. */
const ADAPTER_UTILS = '2026.403.0';
const USAGE = `npm run test:existing -- DIR [options]
  DIR                      a checkout of paperclip-adapter-claude-k8s ${VERSION}
  --adapter-utils VERSION  the host package to run with (default: ${ADAPTER_UTILS})
  --no-build               use the addon that is there
  -t PATTERN               only the tests with such names`;

const OPTIONS = /** @type {const} */ ({
  'adapter-utils': { type: 'string', default: ADAPTER_UTILS },
  'no-build': { type: 'boolean' },
  pattern: { type: 'string', short: 't' },
});

await program(USAGE, { options: OPTIONS, allowPositionals: true }, async ({ values, positionals }) => {
  const checkout = checkoutOf(positionals);
  const { pattern, 'adapter-utils': version } = values;
  checkPrerequisites();
  await installDependencies();
  if (!values['no-build']) await buildAddon();
  const adapterUtils = await installAdapterUtils(version);
  step(`The tests of ${VERSION} with adapter-utils ${version}`);
  // The worker processes inherit it, and are ended too abruptly to tidy up.
  process.env.EXISTING_BRIDGE_DIR = mkdtempSync(path.join(tmpdir(), 'existing-bridge-'));
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
      // Processes, not threads: the code under test listens to a signal.
      pool: 'forks',
      // Real time, and a slow machine.
      testTimeout: 180_000,
      hookTimeout: 60_000,
      // Calls that a test leaves behind end with their process.
      teardownTimeout: 2_000,
      allowOnly: false,
    },
    {
      cacheDir: path.join(root, 'target', 'parity', 'cache'),
      plugins: [existingPackage({ checkout, root, adapterUtils })],
    },
  );
  const failed = report(vitest, pattern);
  await vitest.close();
  rmSync(process.env.EXISTING_BRIDGE_DIR, { recursive: true, force: true });
  return failed;
});

function checkoutOf(positionals) {
  if (positionals.length !== 1) throw new Problem(USAGE);
  const checkout = path.resolve(positionals[0]);
  const manifest = path.join(checkout, 'package.json');
  const found = existsSync(manifest) ? JSON.parse(readFileSync(manifest, 'utf8')).version : undefined;
  if (found !== VERSION || !existsSync(path.join(checkout, 'src'))) {
    throw new Problem(
      `${checkout}: a checkout of version ${VERSION} is needed${found ? `, this is ${found}` : ''}.`,
    );
  }
  return checkout;
}

/** The folder of this version of the host package; installed once below `target/`. */
async function installAdapterUtils(version) {
  const dir = path.join(root, 'target', 'parity', `adapter-utils-${version}`);
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

/** Prints what was adapted and how it went; returns the exit code. */
function report(vitest, pattern) {
  const modules = vitest.state.getTestModules();
  const tests = modules.flatMap((module) => [...module.children.allTests()]);
  const counts = { passed: 0, failed: 0, skipped: 0, pending: 0 };
  const adapted = new Map();
  for (const test of tests) {
    counts[test.result().state] += 1;
    for (const what of test.meta().adapted ?? []) {
      adapted.set(what, [...(adapted.get(what) ?? []), test.fullName]);
    }
  }
  for (const [what, names] of adapted) {
    console.log(`\nAdapted, ${what} (${names.length}):`);
    for (const name of names) console.log(`  ${name}`);
  }
  const errors = vitest.state.getUnhandledErrors();
  const broken = modules.filter((module) => module.errors().length > 0);
  console.log(
    `\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped of ${tests.length}`,
  );
  const whole = pattern !== undefined || counts.passed === tests.length;
  const good = tests.length > 0 && whole && counts.failed === 0 && broken.length === 0 && errors.length === 0;
  return good ? 0 : 1;
}
