// npm run build: the release build of the addon, with whatever it needs.
import { buildAddon, checkPrerequisites, installDependencies, main } from './lib.mjs';

await main(async () => {
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
});
