// npm run build: the release build of the addon, with everything it needs.
import { buildAddon, checkPrerequisites, installDependencies, program } from './lib.mjs';

await program('npm run build', {}, async () => {
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
});
