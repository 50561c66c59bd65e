// npm test: every test that needs nothing but this checkout. What fails soonest comes first, and the first failure
// ends it.
import {
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  run,
  step,
} from './lib.mjs';

const USAGE = `npm test -- [files and options of vitest]`;
const PROJECTS = ['unit', 'embedded', 'soak', 'hostile'];

await program(USAGE, { allowPositionals: true, strict: false }, async () => {
  checkPrerequisites();
  await installDependencies();
  step('Rust tests of the core, without the addon');
  await run('cargo', ['test', '--quiet', '--locked', '--no-default-features', '--features', 'client']);
  step('Rust tests of the simulator');
  await run('cargo', ['test', '--quiet', '--locked', '-p', 'embedded-cluster']);
  await buildAddon();
  await buildSimulator();
  step('Tests of the built addon against the simulator');
  const projects = PROJECTS.flatMap((name) => ['--project', name]);
  // Most of their time is waiting, so two files run side by side even on one processor.
  await run('npx', ['vitest', 'run', '--maxWorkers=2', ...projects, ...process.argv.slice(2)]);
});
