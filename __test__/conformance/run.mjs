// npm run test:cluster: the same specs on the embedded cluster and on a real one, side by side.
import { rmSync } from 'node:fs';
import path from 'node:path';

import { Problem, prepare, program, root, step } from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';
import { openCluster, up } from '../../tools/kubernetes/index.mjs';

const USAGE = `npm run test:cluster -- [options] [-- options of vitest]
  --only CLUSTER   embedded or real (default: both)
The real cluster is the one of npm run cluster:up. If it is not up, it is raised here and stays up.`;
const CLUSTERS = ['embedded', 'real'];

await program(USAGE, { options: { only: { type: 'string' } }, allowPositionals: true }, async (parsed) => {
  const { only } = parsed.values;
  const names = only === undefined ? CLUSTERS : [only];
  if (!names.every((name) => CLUSTERS.includes(name))) throw new Problem(`--only ${only}: embedded or real.`);
  await prepare();
  if (names.includes('real')) await raise();
  step(`Conformance specs on: ${names.join(', ')}`);
  const folder = path.join(root, 'target', 'conformance');
  rmSync(folder, { recursive: true, force: true });
  const good = await Promise.all(
    names.map((name) =>
      specs(`conformance, ${name} cluster`, {
        projects: ['conformance', 'conformance-disruptions', 'conformance-logs', 'conformance-nodes'],
        folder: path.join(folder, name),
        args: parsed.positionals,
        env: { CONFORMANCE_CLUSTER: name },
        together: names.length > 1,
      }),
    ),
  );
  if (good.every(Boolean)) return 0;
  if (names.includes('real')) await openCluster().leaveLogs(path.join(folder, 'real', 'components'));
  console.log(`Output of the runs and logs of the clusters: ${folder}`);
  return 1;
});

/** Raises the real cluster. One that is up already is kept, kind's or KUBECONFIG's; its images and objects are renewed. */
async function raise() {
  let existing = false;
  try {
    existing = openCluster().type === 'existing';
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  await up({ existing });
}
