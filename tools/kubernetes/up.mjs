// npm run cluster:up: a real Kubernetes cluster on this machine, for tests.
import { parseArgs } from 'node:util';

import { Problem, main } from '../dev/lib.mjs';
import { up } from './index.mjs';

const USAGE = `npm run cluster:up -- [options]
  --existing   use the cluster that KUBECONFIG names, instead of making one
Where a container engine and kind are there, kind makes the cluster; else it is built from Debian's packages, which
needs root and takes a few minutes the first time.`;

await main(async () => {
  const options = readOptions();
  if (options.help) {
    console.log(USAGE);
    return;
  }
  const cluster = await up(options);
  console.log(`
The cluster is up (${{ node: 'single node', kind: 'kind', existing: 'KUBECONFIG' }[cluster.type]}).
  namespace     ${cluster.namespace}, host pod ${cluster.hostPod}, volume ${cluster.volume}
  administrator ${cluster.admin}
${Object.entries(cluster.accounts)
  .map(([name, file]) => `  ${name.padEnd(13)} ${file}`)
  .join('\n')}
  logs          ${cluster.logs}
npm run cluster:down ends it.`);
});

function readOptions() {
  try {
    return parseArgs({ options: { existing: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
      .values;
  } catch (error) {
    throw new Problem(`${error.message}\n${USAGE}`);
  }
}
