// A host in a process of its own: runs one run of the built addon and prints what it tells as JSON lines.
// argv: {cluster: {kubeconfig, namespace}, options: what hostRun takes, listen: also listen for SIGTERM,
// abort: and abort the run while shutting down, before: a folder with another copy of the package, which runs a run of its own first}
import path from 'node:path';

import { createServerAdapter } from '../../index.js';
import { hostRun } from './host.js';

const { cluster, options, listen, abort, before } = JSON.parse(process.argv[2]);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const controller = new AbortController();
if (listen) {
  process.once('SIGTERM', () => {
    say({ heard: 'SIGTERM' });
    if (abort) setTimeout(() => controller.abort(new Error('lease lost')), 200);
    // A host that drains for a while before it leaves by itself.
    setTimeout(() => process.exit(7), 1_500);
  });
}
if (before) {
  const copy = (await import(path.join(before, 'index.js'))).createServerAdapter();
  await copy.execute(hostRun(cluster, { onLog: async () => {} }).ctx);
}
const { ctx } = hostRun(cluster, {
  ...options,
  onLog: async (stream, chunk) => say({ stream, chunk }),
  signal: controller.signal,
});
const result = await createServerAdapter().execute(ctx);
say({ result });
