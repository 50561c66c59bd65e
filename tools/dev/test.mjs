// npm test: builds what the tests run against, then runs them all.
import {
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  main,
  run,
  step,
} from './lib.mjs';

await main(async () => {
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
  await buildSimulator();
  step('Rust tests: the core without napi');
  await run('cargo', ['test', '--quiet', '--locked', '--no-default-features', '--features', 'client']);
  step('Rust tests: the embedded cluster');
  await run('cargo', ['test', '--quiet', '--locked', '-p', 'embedded-cluster']);
  step('Tests of the built addon against the embedded cluster');
  await run('npx', [
    'vitest',
    'run',
    '--project',
    'unit',
    '--project',
    'embedded',
    '--project',
    'soak',
    ...process.argv.slice(2),
  ]);
});
