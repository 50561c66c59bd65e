import path from 'node:path';

import { binding } from './binding.js';
import { errText } from './errors.js';
import { optionalHostHelper } from './host-utils.js';
import * as mailbox from './mailbox.js';
import { prepare } from './prepare.js';
import { homeDir, requestOf } from './request.js';
import { placeSkill } from './skill-files.js';
import { isShuttingDown, watchForShutdown } from './shutdown.js';

/**
 * Runs one agent run as a Kubernetes Job. All of it happens in the native half, off this thread. What crosses back
 * before the result are chunks of log, and messages that only the host's own helpers can answer.
 *
 * @type {import('../index.js').ClaudeK8sAdapter['execute']}
 */
export const execute = createExecute();

/**
 * `execute` with another environment for the native half than this process's own, read at the start of each run.
 *
 * @param {{hostEnv?: () => NodeJS.ProcessEnv}} [options]
 * @returns {import('../index.js').ClaudeK8sAdapter['execute']}
 */
export function createExecute({ hostEnv = () => process.env } = {}) {
  return async (ctx) => {
    /** Whether the native half may have begun the run. */
    const reached = { native: false };
    try {
      return await runOnce(ctx, hostEnv(), reached);
    } catch (error) {
      // A rejection would leave the host without a word on what it may do with the task.
      return JSON.parse(binding.failedAtTheHost(errText(error), reached.native));
    }
  };
}

/**
 * @param {import('@paperclipai/adapter-utils').AdapterExecutionContext} ctx
 * @param {NodeJS.ProcessEnv} hostEnv
 * @param {{native: boolean}} reached
 */
async function runOnce(ctx, hostEnv, reached) {
  // Created at once: the runs of an agent start in the order of these calls.
  const control = new binding.RunControl(typeof ctx.agent?.id === 'string' ? ctx.agent.id : undefined);
  const abort = () => {
    if (!isShuttingDown()) control.cancel();
  };
  /** @type {AbortSignal | undefined} */
  let signal;
  try {
    // Hosts of the same major line differ in what they pass: all of these may be absent.
    const given =
      /** @type {{signal?: AbortSignal, onCancellationReady?: () => unknown, onRuntimeProgress?: (update: {phase: string, message: string}) => unknown}} */ (
        ctx
      );
    signal = given.signal;
    const { onCancellationReady, onRuntimeProgress } = given;
    watchForShutdown();
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
    await answered('onCancellationReady', onCancellationReady?.(), signal);
    const request = requestOf(ctx, hostEnv);
    reached.native = true;
    return /** @type {import('@paperclipai/adapter-utils').AdapterExecutionResult} */ (
      await mailbox.execute(request, control, {
        log: (stream, text) => ctx.onLog(stream, text),
        meta: (meta) => ctx.onMeta?.({ ...forHost(meta), context: withoutToken(ctx.context) }),
        event: (event) => announced(ctx, event),
        prepare: () => prepare(ctx).then(JSON.stringify),
        link: (source, target) => placeSkill(source, target, sharedFolder(hostEnv), hostHome(hostEnv)),
        progress: (message) => onRuntimeProgress?.({ phase: 'adapter_startup', message }),
      })
    );
  } finally {
    // The control must outlive the run: by its end the native half learns that this environment is gone.
    control.release();
    signal?.removeEventListener('abort', abort);
  }
}

/**
 * Gives the host an event of the run; resolves to false where the host takes none.
 *
 * @param {import('@paperclipai/adapter-utils').AdapterExecutionContext} ctx
 * @param {unknown} event
 */
async function announced(ctx, event) {
  const { onEvent } = /** @type {{onEvent?: (event: unknown) => unknown}} */ (ctx);
  if (typeof onEvent !== 'function') return false;
  await onEvent.call(ctx, event);
  return true;
}

/** How long the host may take to answer, in milliseconds: as long as the native half waits. */
const HOST_ANSWER_LIMIT = 120_000;

/**
 * The host's answer, unless it takes too long; undefined once the run is cancelled.
 *
 * @template T
 * @param {string} who
 * @param {T} answer
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<Awaited<T> | undefined>}
 */
async function answered(who, answer, signal) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const late = new Promise((_, reject) => {
    const text = `${who} did not answer within ${HOST_ANSWER_LIMIT / 1000}s`;
    timer = setTimeout(() => reject(new Error(text)), HOST_ANSWER_LIMIT);
  });
  /** @type {() => void} */
  let abort = () => {};
  const cancelled = new Promise((resolve) => {
    abort = () => resolve(undefined);
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
  });
  try {
    return await /** @type {Promise<Awaited<T> | undefined>} */ (Promise.race([answer, late, cancelled]));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
}

/**
 * The folder that pods share with the host, as the prompt bundle is made there; undefined where they get the bundle only.
 *
 * @param {NodeJS.ProcessEnv} hostEnv
 */
function sharedFolder(hostEnv) {
  return hostEnv.PAPERCLIP_K8S_VOLUME?.trim() === 'scoped' ? undefined : hostHome(hostEnv);
}

/**
 * The folder below which the native half makes prompt bundles.
 *
 * @param {NodeJS.ProcessEnv} hostEnv
 */
function hostHome(hostEnv) {
  return path.resolve(hostEnv.PAPERCLIP_HOME?.trim() || path.join(homeDir(), '.paperclip'));
}

/**
 * The context without the token with which a run reaches the host's tools: the host shows it to people.
 *
 * @param {any} context
 */
function withoutToken(context) {
  const tools = context?.paperclipRuntimeTools;
  if (typeof tools !== 'object' || tools === null || !('bearerToken' in tools)) return context;
  const { bearerToken: _, ...paperclipRuntimeTools } = tools;
  return { ...context, paperclipRuntimeTools };
}

/**
 * The meta without its environment, unless the host has a helper that redacts it: the host shows both to people.
 *
 * @param {any} meta
 */
function forHost({ env, ...meta }) {
  const redact = optionalHostHelper('redactEnvForLogs');
  // A reattached run has none: another host created its Job.
  return redact && env ? { ...meta, env: redact(env) } : meta;
}
