// A host process: makes runs of the built addon and prints their output as JSON lines.
// argv: {cluster: {kubeconfig, namespace}, options: what hostRun takes, runs: how many at once (1), listen: also
// listen for SIGTERM, abort: and abort the runs while shutting down, before: a folder with another copy of the
// package, which makes a run first, stays: for how many ms the process lives on after its runs, events: the host has
// onEvent}
import path from 'node:path';

import { createServerAdapter } from '../../index.js';
import { hostRun } from './host.js';

const { cluster, options, runs = 1, listen, abort, before, stays = 0, events } = JSON.parse(process.argv[2]);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const controller = new AbortController();
if (listen) {
  process.once('SIGTERM', () => {
    say({ heard: 'SIGTERM' });
    if (abort) setTimeout(() => controller.abort(new Error('lease lost')), 200);
    // A host that drains for a while before it exits by itself.
    setTimeout(() => process.exit(7), 3_000);
  });
}
if (before) {
  const copy = (await import(path.join(before, 'index.js'))).createServerAdapter();
  await copy.execute(hostRun(cluster, { onLog: async () => {} }).ctx);
}
await Promise.all(
  Array.from({ length: runs }, async (_, run) => {
    // Each of several runs has its own agent.
    const agent = runs > 1 && options.agent ? { agent: { id: `${options.agent.id}-${run}` } } : {};
    const { ctx } = hostRun(cluster, {
      ...options,
      ...agent,
      onLog: async (stream, chunk) => say({ run, stream, chunk }),
      signal: controller.signal,
      ...(events && { onEvent: async (event) => say({ run, event }) }),
    });
    try {
      say({ run, result: await createServerAdapter().execute(ctx) });
    } catch (error) {
      say({ run, error: String(error?.message ?? error) });
    }
  }),
);
if (stays) await new Promise((resolve) => setTimeout(resolve, stays));
