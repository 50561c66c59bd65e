// npm run build: the release build of the addon, with everything it needs.
import { buildAddon, buildSimulator, checkPrerequisites, installDependencies, program } from './lib.mjs';

const USAGE = `npm run build -- [--all]
  --all  the simulator too`;

await program(
  USAGE,
  { options: /** @type {const} */ ({ all: { type: 'boolean' } }) },
  async ({ values: { all } }) => {
    checkPrerequisites();
    await installDependencies();
    await buildAddon();
    if (all) await buildSimulator();
  },
);
