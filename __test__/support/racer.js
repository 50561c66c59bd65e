// A host process for races with another one: on a message it starts a run for each of the agents named, all at once, and
// reports each created Job and how each run ended.
import { createServerAdapter } from '../../index.js';
import { hostRun } from './host.js';

const adapter = createServerAdapter();
/** What cancels each run under way, by agent. @type {Map<string, AbortController>} */
const underWay = new Map();
const answer = (/** @type {object} */ message) => process.send?.(message);

/** @typedef {{start?: string[], stop?: string[], kubeconfig: string, task?: string, config?: object}} Order by agents */
process.on('message', async (/** @type {Order} */ { start, stop, kubeconfig, task, config }) => {
  for (const agent of stop ?? []) underWay.get(agent)?.abort();
  if (!start) return;
  await Promise.all(
    start.map(async (agent) => {
      const cancel = new AbortController();
      underWay.set(agent, cancel);
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
        if (chunk.includes('Created K8s Job')) answer({ agent, created: true });
      };
      const result = await adapter
        .execute(ctx)
        .catch((error) => ({ errorCode: null, errorMessage: `rejected: ${error.message}` }));
      underWay.delete(agent);
      answer({
        agent,
        errorCode: result.errorCode ?? null,
        errorMessage: result.errorMessage,
        waited: output.stdout.includes('Waiting for another host'),
      });
    }),
  );
});
answer({ ready: true });
