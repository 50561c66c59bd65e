// A host in a process of its own: runs one run of the built addon and prints what it tells as JSON lines.
// argv: {cluster: {kubeconfig, namespace}, options: what hostRun takes, listen: also listen for SIGTERM}
import { createServerAdapter } from '../../index.js';
import { hostRun } from './host.js';

const { cluster, options, listen } = JSON.parse(process.argv[2]);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

if (listen) {
  process.once('SIGTERM', () => {
    say({ heard: 'SIGTERM' });
    // A host that drains for a while before it leaves by itself.
    setTimeout(() => process.exit(7), 1_500);
  });
}
const { ctx } = hostRun(cluster, {
  ...options,
  onLog: async (stream, chunk) => say({ stream, chunk }),
});
const result = await createServerAdapter().execute(ctx);
say({ result });
