import { binding } from './binding.js';
import { start } from './desk.js';
import { optionalHostHelper } from './host-utils.js';
import { prepare } from './prepare.js';
import { prepareClaudePromptBundle } from './prompt-cache.js';
import { requestOf } from './request.js';
import { isShuttingDown, watchForShutdown } from './shutdown.js';

/**
 * Runs one agent run as a Kubernetes Job. All of it happens in the native half, off this thread; what crosses
 * back are whole chunks of log, and questions that only the host's own helpers can answer.
 *
 * @type {import('../index.js').ClaudeK8sAdapter['execute']}
 */
export const execute = createExecute();

/**
 * `execute` with another environment for the native half than this process's own, asked for at each run.
 *
 * @param {{hostEnv?: () => NodeJS.ProcessEnv}} [options]
 * @returns {import('../index.js').ClaudeK8sAdapter['execute']}
 */
export function createExecute({ hostEnv = () => process.env } = {}) {
  return (ctx) => runOnce(ctx, hostEnv());
}

/**
 * @param {import('@paperclipai/adapter-utils').AdapterExecutionContext} ctx
 * @param {NodeJS.ProcessEnv} hostEnv
 */
async function runOnce(ctx, hostEnv) {
  // Made at once: the runs of an agent start in the order of these calls.
  const control = new binding.RunControl(typeof ctx.agent?.id === 'string' ? ctx.agent.id : undefined);
  const abort = () => {
    if (!isShuttingDown()) control.cancel();
  };
  // Hosts of the same major line differ in what they pass: all of these may be absent.
  const { signal, onCancellationReady } =
    /** @type {{signal?: AbortSignal, onCancellationReady?: () => unknown}} */ (ctx);
  watchForShutdown();
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort();
  try {
    await onCancellationReady?.();
    return /** @type {import('@paperclipai/adapter-utils').AdapterExecutionResult} */ (
      await start(requestOf(ctx, hostEnv), control, {
        log: (stream, text) => ctx.onLog(stream, text),
        meta: (meta) => ctx.onMeta?.({ ...forHost(meta), context: ctx.context }),
        prepare: () => prepare(ctx).then(JSON.stringify),
        bundle,
      })
    );
  } finally {
    // The control must outlive the run: it is also how the native half learns that this environment is gone.
    signal?.removeEventListener('abort', abort);
    control.release();
  }
}

/**
 * Has the bundle of a run made. What it tells on the way is told by the run, in its order.
 *
 * @param {string} order
 */
async function bundle(order) {
  /** @type {Array<[string, string]>} */
  const told = [];
  const made = await prepareClaudePromptBundle({
    ...JSON.parse(order),
    onLog: (stream, text) => told.push([stream, text]),
  });
  return JSON.stringify({ bundle: made, told });
}

/**
 * The environment in a run's meta is shown to people: it goes there only through the host's own redaction.
 *
 * @param {any} meta
 */
function forHost({ env, ...meta }) {
  const redact = optionalHostHelper('redactEnvForLogs');
  // A reattached run has none: its Job was made by another host.
  return redact && env ? { ...meta, env: redact(env) } : meta;
}
