// A host in a process of its own, for races with another one: it starts a run of each agent it is told, all at once,
// and tells how each of them ended or that its Job was created.
import { createServerAdapter } from '../../index.js';
import { hostRun } from './host.js';

const adapter = createServerAdapter();
/** What cancels each run under way, by agent. */
const under = new Map();

process.on('message', async ({ start, stop, kubeconfig, task, config }) => {
  for (const agent of stop ?? []) under.get(agent)?.abort();
  if (!start) return;
  await Promise.all(
    start.map(async (agent) => {
      const cancel = new AbortController();
      under.set(agent, cancel);
      const { ctx, output } = hostRun(
        { kubeconfig },
        {
          agent: { id: agent },
          context: { taskId: task },
          config,
          signal: cancel.signal,
        },
      );
      const listen = ctx.onLog;
      ctx.onLog = async (stream, chunk) => {
        await listen(stream, chunk);
        if (chunk.includes('Created K8s Job')) process.send({ agent, created: true });
      };
      const result = await adapter
        .execute(ctx)
        .catch((error) => ({ errorMessage: `rejected: ${error.message}` }));
      under.delete(agent);
      process.send({
        agent,
        errorCode: result.errorCode ?? null,
        errorMessage: result.errorMessage,
        waited: output.stdout.includes('Waiting for another host'),
      });
    }),
  );
});
process.send({ ready: true });
