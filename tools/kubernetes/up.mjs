// npm run cluster:up: a real Kubernetes cluster on this machine, for tests.
import { program } from '../dev/lib.mjs';
import { up } from './index.mjs';

const USAGE = `npm run cluster:up -- [options]
  --existing   use the cluster that KUBECONFIG names, instead of making one: in a namespace of its own, and nothing else
               of that cluster is changed
With a container engine and kind, kind makes the cluster. Else, on Debian 12 as root, it is built from Go modules, which
takes about 12 minutes on two cores the first time. CLUSTER_VERSION=1.34 (to 1.37, the default) picks the version.`;

process.once('SIGINT', () => {
  console.error('Interrupted: npm run cluster:down ends what was begun, and cluster:up goes on with it.');
  process.exit(130);
});

await program(USAGE, { options: { existing: { type: 'boolean' } } }, async ({ values }) => {
  const cluster = await up(values);
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
