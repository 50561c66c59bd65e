// The measured host, in a separate process: starts the runs of one row at once, with one package, and prints the cost as
// JSON.
// argv: {entry: URL of the package's entry file, kubeconfig, namespace, home, work: an entry of rows.mjs, limitMs}
// With `work.silentSeconds` the parent sends a message once all logs are followed; the figures of that time answer it.
import { randomUUID } from 'node:crypto';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
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
/** Resident bytes while the runs go on, where the row asks whether they grow. @type {number[]} */
const resident = [];
const late = (us) => {
  delays[delivered++] = Math.max(us, 0);
};
/** Milliseconds spent on the check of the lines; the check never waits, so this is its processor time. */
let checkMs = 0;
const runs = Array.from({ length: work.runs }, () => newRun());

// The idle cost of the process: the package is loaded, nothing has run, the meter is on.
let meter = monitorEventLoopDelay({ resolution: METER_MS });
/** The longest delays in milliseconds, where there was more than one meter. */
const longest = [0];
// The meter costs more than a thousand silent runs: their row is measured without it, and so is its idle time.
if (!work.silentSeconds) meter.enable();
await setTimeout(200);
const idleCpu = await cpuOf(() => setTimeout(work.silentSeconds ? 3 * IDLE_MS : IDLE_MS));
const idleRss = rss();
const idleDescriptors = descriptors();
meter.enable();
meter.reset();
if (work.silentSeconds) process.once('message', () => silence().then((figures) => process.send?.(figures)));
const watching = work.onLogMs && setInterval(() => resident.push(process.memoryUsage.rss()), 100).unref();

let finished = 0;
const cpu = await cpuOf(() => Promise.race([all(), setTimeout(limitMs, undefined, { ref: false })]));
meter.disable();
clearInterval(watching);

const counts = { delivered: 0, doubled: 0, damaged: 0, lost: 0 };
for (const { receiver } of runs) {
  for (const [name, count] of Object.entries(receiver.finish())) counts[name] += count;
}
delays.subarray(0, delivered).sort();
const delay = (share) =>
  delivered ? delays[Math.min(delivered - 1, Math.ceil(delivered * share) - 1)] / 1e3 : null;
const peakRssMb = peakRss() / 1e6;
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
  peakRssMb,
  loopP99Ms: overMeter(meter.percentile(99)),
  loopMaxMs: Math.max(overMeter(meter.max), ...longest),
  lineP50Ms: delay(0.5),
  lineP99Ms: delay(0.99),
  ...(work.onLogMs && slowness()),
  ...(work.silentSeconds && { coldPageUs: await coldPage() }),
  ...counts,
});
// Open handles (such as the log streams of the existing package) must not keep this process alive.
process.stdout.write(message, () => process.exit(0));

/** A run as the host starts it. */
function newRun() {
  const receiver = new Receiver(work.lines, late);
  /** When `onLog` was first called with the agent's output, when it last returned, and for how long it ran. */
  const host = { began: 0, ended: 0, busyMs: 0 };
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
      if (!work.onLogMs || chunk.startsWith('[paperclip]')) return;
      await setTimeout(work.onLogMs);
      host.began ||= began;
      host.ended = performance.now();
      host.busyMs += host.ended - began;
    },
    onMeta: async () => {},
  };
  return { ctx, receiver, host };
}

/**
 * Of a slow host: for how long, at worst, its `onLog` had nothing to do between its first call and its last return, which is
 * the lag that is not its own; and by how much more memory the process had in the last quarter of that time than in the
 * first.
 */
function slowness() {
  const span = ({ host }) => host.ended - host.began;
  const idle = runs.map((run) => Math.max(span(run) - run.host.busyMs, 0));
  const quarter = Math.ceil(resident.length / 4);
  const most = (samples) => Math.max(0, ...samples) / 1e6;
  return {
    hostIdleMs: Math.max(...idle),
    hostIdlePercent: 100 * Math.max(...runs.map((run, n) => idle[n] / span(run))),
    rssGrowthMb: most(resident.slice(-quarter)) - most(resident.slice(0, quarter)),
  };
}

/** What the process uses while all of its runs are silent. */
async function silence() {
  meter.disable();
  longest.push(overMeter(meter.max));
  const before = delivered;
  const used = await cpuOf(() => setTimeout(work.silentSeconds * 1e3));
  const overIdle = used.cpuSeconds - (idleCpu.cpuSeconds / idleCpu.wallSeconds) * used.wallSeconds;
  const figures = {
    seconds: used.wallSeconds,
    silentCpuMs: (overIdle * 1e3) / work.runs / (used.wallSeconds / 60),
    silentRssKb: (process.memoryUsage.rss() - idleRss) / 1e3 / work.runs,
    silentDescriptors: descriptors() - idleDescriptors - work.runs,
    broken: delivered > before,
  };
  // One that is enabled again counts the time between as a delay.
  meter = monitorEventLoopDelay({ resolution: METER_MS });
  meter.enable();
  return figures;
}

/**
 * How long it takes, in microseconds, to touch a page of memory that was not touched for a second. The memory of a silent run
 * is like that whenever it has something to say.
 */
async function coldPage() {
  const page = 4_096;
  const memory = Buffer.alloc(64e6, 1);
  const pages = 1_000;
  const took = [];
  for (let round = 0; round < 3; round++) {
    await setTimeout(1_000);
    let sum = 0;
    let at = round;
    const began = performance.now();
    for (let n = 0; n < pages; n++) {
      // Every page another one, in no order that a processor foresees, and another line of each.
      at = (at + 6_151) % Math.floor(memory.length / page);
      sum += memory[at * page + (n % 64) * 64];
    }
    took.push(((performance.now() - began) * 1e3) / pages);
    if (sum < pages) throw new Error('the memory is not as it was filled');
  }
  return took.toSorted((a, b) => a - b)[1];
}

/** A delay in milliseconds without the meter's own interval. */
function overMeter(ns) {
  return Math.max(ns / 1e6 - METER_MS, 0);
}

/** How many descriptors this process has open; 0 where that is not known. */
function descriptors() {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return 0;
  }
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
