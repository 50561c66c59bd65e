// The measured host, in a separate process: starts the runs of one row at once, with one package, and prints the cost as
// JSON.
// argv: {entry: URL of the package's entry file, kubeconfig, namespace, home, work: {runs, lines, perSecond,
// startDelayMs}, limitMs}
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setImmediate, setTimeout } from 'node:timers/promises';

import { Receiver, scriptOf } from './lines.mjs';

const { entry, kubeconfig, namespace, home, work, limitMs } = JSON.parse(process.argv[2]);
/** Interval of the event-loop meter; it is subtracted from the measured delays. */
const METER_MS = 1;
const IDLE_MS = 1_000;

Object.assign(process.env, { HOSTNAME: 'paperclip-0', PAPERCLIP_NAMESPACE: namespace, PAPERCLIP_HOME: home });
const adapter = (await import(entry)).createServerAdapter();

const clock = await wallClock();
const delays = new Uint32Array(work.runs * (work.lines + 1));
let delivered = 0;
const late = (us) => {
  delays[delivered++] = Math.max(us, 0);
};
/** Milliseconds spent on the check of the lines; the check never waits, so this is its processor time. */
let checkMs = 0;
const runs = Array.from({ length: work.runs }, () => newRun());

// The idle cost of the process: the package is loaded, nothing has run, the meter is on.
const meter = monitorEventLoopDelay({ resolution: METER_MS });
meter.enable();
await setTimeout(200);
const idleCpu = await cpuOf(() => setTimeout(IDLE_MS));
const idleRss = rss();
meter.reset();

let finished = 0;
const cpu = await cpuOf(() => Promise.race([all(), setTimeout(limitMs, undefined, { ref: false })]));
meter.disable();

const counts = { delivered: 0, doubled: 0, damaged: 0, lost: 0 };
for (const { receiver } of runs) {
  for (const [name, count] of Object.entries(receiver.finish())) counts[name] += count;
}
delays.subarray(0, delivered).sort();
const delay = (share) =>
  delivered ? delays[Math.min(delivered - 1, Math.ceil(delivered * share) - 1)] / 1e3 : null;
const overMeter = (ns) => Math.max(ns / 1e6 - METER_MS, 0);
const message = JSON.stringify({
  finished,
  failures: runs.map(failure).filter(Boolean).slice(0, 3),
  failed: runs.filter(failure).length,
  resolved: Object.fromEntries(runs.map(({ ctx, at }) => [ctx.runId, at ?? null])),
  seconds: cpu.wallSeconds,
  cpuSeconds: cpu.cpuSeconds,
  checkSeconds: checkMs / 1e3,
  idleCpuPerSecond: idleCpu.cpuSeconds / idleCpu.wallSeconds,
  idleRssMb: idleRss / 1e6,
  peakRssMb: peakRss() / 1e6,
  loopP99Ms: overMeter(meter.percentile(99)),
  loopMaxMs: overMeter(meter.max),
  lineP50Ms: delay(0.5),
  lineP99Ms: delay(0.99),
  ...counts,
});
// Open handles (such as the log streams of the existing package) must not keep this process alive.
process.stdout.write(message, () => process.exit(0));

/** A run as the host starts it. */
function newRun() {
  const receiver = new Receiver(work.lines, late);
  const ctx = {
    runId: randomUUID(),
    agent: { id: `agent-${randomUUID()}`, companyId: 'company-1', name: 'Ada' },
    runtime: { sessionId: null, sessionParams: null, sessionDisplayId: null, taskKey: null },
    config: { kubeconfig, env: { SIMULATOR_EMIT: scriptOf(work) } },
    context: { taskId: 'task-1' },
    onLog: async (stream, chunk) => {
      const began = performance.now();
      if (stream === 'stdout') receiver.take(chunk, clock());
      checkMs += performance.now() - began;
    },
    onMeta: async () => {},
  };
  return { ctx, receiver };
}

/** Starts each run in another turn of the event loop, as requests reach a host; resolves when the last run has ended. */
async function all() {
  const started = [];
  for (const run of runs) {
    started.push(toItsEnd(run));
    await setImmediate();
  }
  await Promise.all(started);
}

async function toItsEnd(run) {
  try {
    run.result = await adapter.execute(run.ctx);
  } catch (error) {
    run.result = { errorMessage: `rejected: ${error?.message ?? error}` };
  }
  run.at = clock();
  finished += 1;
}

/** Why a run did not succeed; undefined for a run that did. @param {any} run */
function failure({ result }) {
  if (!result) return 'not finished in time';
  return result.exitCode === 0 && !result.errorMessage
    ? undefined
    : (result.errorMessage ?? `exit ${result.exitCode}`);
}

/** Processor time of all threads of this process while `happens` runs. */
async function cpuOf(happens) {
  const began = performance.now();
  const before = process.cpuUsage();
  await happens();
  const { user, system } = process.cpuUsage(before);
  return { cpuSeconds: (user + system) / 1e6, wallSeconds: (performance.now() - began) / 1e3 };
}

/** Resident bytes now. Resets the kernel's record of the peak, where that is possible. */
function rss() {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // Not Linux, or not permitted: the peak then includes the start of the process.
  }
  return process.memoryUsage.rss();
}

function peakRss() {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/**
 * A clock in microseconds since the epoch, finer than `Date`: it waits for the moments at which `Date` advances. Such a
 * moment is seen late or in time, never early, so the largest difference is the most exact.
 */
async function wallClock() {
  let offset = -Infinity;
  for (let i = 0; i < 20; i++) {
    const from = Date.now();
    let now = from;
    let at = 0;
    while (now === from) {
      now = Date.now();
      at = performance.now();
    }
    offset = Math.max(offset, now - at);
    await setTimeout(1);
  }
  return () => (offset + performance.now()) * 1e3;
}
