import { createExecute } from '../../../js/execute.js';
import { binding } from '../compat.js';
import { openCall } from '../bridge.js';
import { settled } from '../settled.js';
import { underTest } from '../state.js';
import * as k8s from './k8s-client.js';

const STOP_POLL_MS = 200;
const BAIL_MS = 3_000;

const json = (value) => JSON.stringify(value ?? null);

export const { shouldAbortForCancellation } = binding;

export const buildPartialRunError = (exitCode, model, stdout, podState) =>
  binding.buildPartialRunError(exitCode, model, stdout, json(podState));

export const classifyOrphan = (job, { taskId, sessionId }) =>
  binding.classifyOrphan(json(job), taskId, sessionId);

export const describePodTerminatedError = (podName, phase, containerStatuses) => {
  const claude = containerStatuses.find(({ name }) => name === 'claude');
  return binding.describePodTerminatedError(podName, phase, json(claude?.state?.terminated));
};

export const describeTruncationCause = (podState) => binding.describeTruncationCause(json(podState));

export const isK8s404 = (/** @type {any} */ error) =>
  error instanceof Error &&
  ([error['response']?.statusCode, error['response']?.status, error['statusCode']].includes(404) ||
    binding.isNotFoundMessage(error.message));

export const execute = (ctx) =>
  underTest(async () => {
    const { kubeconfig, env } = await openCall(k8s, ctx.config?.kubeconfig);
    return createExecute({ hostEnv: () => env })({ ...ctx, config: { ...ctx.config, kubeconfig } });
  });

/** The log reader that 0.1.49 exports (`docs/contract.md`, "Exported helpers"), over the native log client. */
export const streamPodLogsOnce = (namespace, pod, onLog, kubeconfigPath, sinceSeconds, dedup, stopSignal) =>
  underTest(async () => {
    const { kubeconfig, env } = await openCall(k8s, kubeconfigPath);
    const control = new binding.RunControl();
    let received = '';
    let stopped = false;
    const take = async (stream, chunk) => {
      if (stopped) return;
      received += chunk;
      const fresh = dedup ? dedup.filter(chunk) : chunk;
      if (fresh) await onLog(stream, fresh);
    };
    const order = json({ kubeconfig, hostEnv: env, namespace, pod, sinceSeconds });
    const ended = binding.streamPodLogsOnce(order, control, settled(take)).catch(() => {});
    const timers = [];
    const bailed = new Promise((resolve) => {
      if (!stopSignal) return;
      const poll = setInterval(() => {
        if (!stopSignal.stopped) return;
        clearInterval(poll);
        stopped = true;
        timers.push(setTimeout(resolve, BAIL_MS, 'bailed'));
      }, STOP_POLL_MS);
      timers.push(poll);
    });
    if ((await Promise.race([ended, bailed])) === 'bailed') {
      await settled(onLog)('stderr', '[paperclip] Log stream bail timer fired — forcing return\n');
    }
    timers.forEach(clearTimeout);
    control.cancel();
    control.release();
    return received;
  });
