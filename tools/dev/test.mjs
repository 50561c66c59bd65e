// npm test: every test that needs nothing but this checkout. What fails soonest comes first, and the first failure
// ends it.
import path from 'node:path';

import {
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  root,
  run,
  step,
} from './lib.mjs';
import { specs } from './specs.mjs';

const USAGE = `npm test -- [--addon] [files and options of vitest]
  --addon  only the tests of the built addon`;
const PROJECTS = ['unit', 'embedded', 'soak', 'hostile'];

await program(USAGE, { allowPositionals: true, strict: false }, async () => {
  checkPrerequisites();
  await installDependencies();
  const args = process.argv.slice(2);
  if (!args.includes('--addon')) {
    step('Rust tests of the core, without the addon');
    await run('cargo', ['test', '--quiet', '--locked', '--no-default-features', '--features', 'client']);
    step('Rust tests of the simulator');
    await run('cargo', ['test', '--quiet', '--locked', '-p', 'embedded-cluster']);
  }
  await buildAddon();
  await buildSimulator();
  step('Tests of the built addon against the simulator');
  const good = await specs('addon', {
    projects: PROJECTS,
    folder: path.join(root, 'target', 'addon-tests'),
    // Most of their time is waiting, so two files run side by side even on one processor.
    options: ['--maxWorkers=2'],
    args: args.filter((each) => each !== '--addon'),
  });
  return good ? 0 : 1;
});
