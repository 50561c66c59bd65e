// npm run test:cluster: the same specs on the embedded cluster and on a real one, side by side.
import { rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { openCluster, up } from '../../tools/kubernetes/index.mjs';
import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  main,
  root,
  step,
} from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';

const USAGE = `npm run test:cluster -- [options] [-- options of vitest]
  --only CLUSTER   embedded or real (default: both)
The real cluster is the one that npm run cluster:up raises; it is raised here if it is not up, and stays up.`;

await main(async () => {
  const { only, rest } = readOptions();
  checkPrerequisites();
  await installDependencies();
  await buildSimulator();
  await buildAddon();
  const names = only ? [only] : ['embedded', 'real'];
  if (names.includes('real')) await raise();
  step(`Conformance specs on: ${names.join(', ')}`);
  const folder = path.join(root, 'target', 'conformance');
  rmSync(folder, { recursive: true, force: true });
  const good = await Promise.all(
    names.map((name) =>
      specs(`conformance, ${name} cluster`, {
        projects: ['conformance', 'conformance-disruptions'],
        folder: path.join(folder, name),
        args: rest,
        env: { CONFORMANCE_CLUSTER: name },
        together: names.length > 1,
      }),
    ),
  );
  if (good.every(Boolean)) return 0;
  if (names.includes('real')) await openCluster().leaveLogs(path.join(folder, 'real', 'components'));
  console.log(`What the runs and the clusters told: ${folder}`);
  return 1;
});

function readOptions() {
  try {
    const { values, positionals } = parseArgs({
      options: { only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
      allowPositionals: true,
    });
    if (values.help) {
      console.log(USAGE);
      process.exit(0);
    }
    if (values.only !== undefined && !['embedded', 'real'].includes(values.only)) {
      throw new Problem(`--only ${values.only}: embedded or real.`);
    }
    return { only: values.only, rest: positionals };
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(`${error.message}\n${USAGE}`);
  }
}

/** A cluster that is up is taken as it is, be it kind's or that of KUBECONFIG; its images and objects are renewed. */
async function raise() {
  let existing = false;
  try {
    existing = openCluster().type === 'existing';
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  await up({ existing });
}
