import { binding } from './binding.js';
import { errText } from './errors.js';
import { ensurePaperclipSkillSymlink, optionalHostHelper } from './host-utils.js';
import { prepare } from './prepare.js';
import { requestOf } from './request.js';
import { watchForShutdown } from './shutdown.js';

/**
 * Runs one agent run as a Kubernetes Job. All of it happens in the native half, off this thread; what crosses
 * back are whole chunks of log, and questions that only the host's own helpers can answer.
 *
 * @type {import('../index.js').ClaudeK8sAdapter['execute']}
 */
export async function execute(ctx) {
  const control = new binding.RunControl();
  const abort = () => control.cancel();
  // Hosts of the same major line differ in what they pass: all of these may be absent.
  const { signal, onCancellationReady } =
    /** @type {{signal?: AbortSignal, onCancellationReady?: () => unknown}} */ (ctx);
  watchForShutdown();
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort();
  try {
    await onCancellationReady?.();
    return /** @type {import('@paperclipai/adapter-utils').AdapterExecutionResult} */ (
      await binding.execute(
        requestOf(ctx),
        control,
        settled((stream, text) => ctx.onLog(/** @type {'stdout' | 'stderr'} */ (stream), text)),
        settled((meta) => ctx.onMeta?.({ ...forHost(meta), context: ctx.context })),
        () => prepare(ctx).then(JSON.stringify),
        settled((source, target) => ensurePaperclipSkillSymlink(source, target)),
      )
    );
  } finally {
    // The control must outlive the run: it is also how the native half learns that this environment is gone.
    signal?.removeEventListener('abort', abort);
    control.release();
  }
}

/**
 * A host callback that neither throws nor rejects: it resolves to the text of its error, if any.
 *
 * @template {unknown[]} Args
 * @param {(...args: Args) => unknown} callback
 * @returns {(...args: Args) => Promise<string | undefined>}
 */
function settled(callback) {
  return async (...args) => {
    try {
      await callback(...args);
      return undefined;
    } catch (error) {
      return errText(error);
    }
  };
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
