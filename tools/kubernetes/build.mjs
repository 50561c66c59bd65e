// Builds the programs of a cluster and raises none: `.ci/run` does so beside its first suites.
import { program } from '../dev/lib.mjs';
import { checkMachine } from './node.mjs';
import { containerEngine } from './kind.mjs';
import { programs } from './programs.mjs';

const USAGE = `npm run cluster:build
Builds what npm run cluster:up starts, unless kind would make the cluster.`;

await program(USAGE, {}, async () => {
  if (containerEngine()) return;
  checkMachine();
  await programs();
});
