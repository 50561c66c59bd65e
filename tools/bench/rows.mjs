// The rows of the benchmark table and the figures of each row.

/**
 * @typedef {object} Work
 * @property {number} runs at once
 * @property {number} lines of 1.2 KB that each prints, before a result
 * @property {number} perSecond lines per second
 * @property {number} startDelayMs from the start of its container to its first line, as the CLI takes it
 * @property {number} [onLogMs] how long the host's `onLog` takes for a chunk
 * @property {number} [silentSeconds] how long the runs are measured while none prints; they are silent as long, and for
 *   `startDelayMs` besides, within which all of them must have started
 * @property {number} [limitMs] the time limit of the measurement, the silence aside
 */
/**
 * @typedef {object} Row
 * @property {string} title
 * @property {Work} work
 * @property {Work} quick the same in small
 * @property {Record<string, number>} reach what this package must not exceed
 * @property {boolean} [once] a long row: measured once, and this package alone
 */
/** @type {Record<string, Row>} */
export const ROWS = {
  a: {
    title: 'one run of 10 s',
    work: { runs: 1, lines: 90, perSecond: 10, startDelayMs: 1_000 },
    quick: { runs: 1, lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: { exitP99Ms: 50, ownRequests: 8.1 },
  },
  b: {
    title: '200 runs at once, 1,000 lines each at 50 lines/s',
    work: { runs: 200, lines: 1_000, perSecond: 50, startDelayMs: 1_000 },
    quick: { runs: 20, lines: 100, perSecond: 50, startDelayMs: 200 },
    reach: {
      exitP99Ms: 100,
      cpuOfRunsSeconds: 3,
      rssOverIdleMb: 150,
      loopP99Ms: 5,
      loopMaxMs: 25,
      ownRequests: 7.1,
      logConnections: 200,
    },
  },
  c: {
    title: 'one run with 200,000 lines at 20,000 lines/s',
    work: { runs: 1, lines: 200_000, perSecond: 20_000, startDelayMs: 1_000 },
    quick: { runs: 1, lines: 20_000, perSecond: 20_000, startDelayMs: 200 },
    reach: { cpuOfRunsSeconds: 1.2, rssOverIdleMb: 60 },
  },
  d: {
    title: '1,000 runs at once, 100 lines each at 10 lines/s',
    work: { runs: 1_000, lines: 100, perSecond: 10, startDelayMs: 1_000 },
    quick: { runs: 50, lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: { loopMaxMs: 50 },
  },
  e1: growth(1),
  e10: growth(10),
  e100: growth(100),
  h1: {
    title: 'scale: 5,000 runs at once, 20 lines each at 10 lines/s',
    work: { runs: 5_000, lines: 20, perSecond: 10, startDelayMs: 1_000, limitMs: 400_000 },
    quick: { runs: 200, lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: { loopMaxMs: 50, rssKbPerRun: 200, ownRequests: 7.1 },
    once: true,
  },
  h2: {
    title: 'scale: 2,000 runs, silent for 10 min',
    work: {
      runs: 2_000,
      lines: 1,
      perSecond: 10,
      startDelayMs: 60_000,
      silentSeconds: 600,
      limitMs: 300_000,
    },
    quick: { runs: 100, lines: 1, perSecond: 10, startDelayMs: 3_000, silentSeconds: 2 },
    reach: { loopMaxMs: 50, silentCpuMs: 0.2, silentRssKb: 200, silentConnections: 3 },
    once: true,
  },
  i1: slowHost(1, { runs: 1, lines: 60_000 }, { runs: 1, lines: 6_000 }),
  i10: slowHost(10, { runs: 10, lines: 6_000 }, { runs: 2, lines: 600 }),
  i100: slowHost(100, { runs: 100, lines: 600 }, { runs: 2, lines: 60 }),
};

/** A point of row (i): 72 MB that the pods print faster than the host takes them, which needs 10 s for its own share. */
function slowHost(onLogMs, work, quick) {
  const pace = { perSecond: 20_000 / work.runs, startDelayMs: 500, onLogMs };
  return {
    title: `a slow host: \`onLog\` takes ${onLogMs} ms, ${work.runs} ${work.runs === 1 ? 'run' : 'runs'}, ${work.lines.toLocaleString('en-US')} lines each`,
    work: { ...work, ...pace },
    quick: { ...quick, ...pace, startDelayMs: 200 },
    reach: { hostIdlePercent: 2, rssOverIdleMb: 60, rssGrowthMb: 10 },
  };
}

/** A point of row (e); its largest is row (d). */
function growth(runs) {
  return {
    title: `growth: ${runs} ${runs === 1 ? 'run' : 'runs'}, 100 lines each at 10 lines/s`,
    work: { runs, lines: 100, perSecond: 10, startDelayMs: 1_000 },
    quick: { runs: Math.min(runs, 20), lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: {},
  };
}

/** The figures of a row, in the order of the table; each row has those that it measures. */
export const FIGURES = {
  exitP50Ms: { title: "the container's end to resolved, p50", unit: 'ms' },
  exitP99Ms: { title: "the container's end to resolved, p99", unit: 'ms' },
  resolveP50Ms: { title: 'Complete to resolved, p50', unit: 'ms' },
  resolveP99Ms: { title: 'Complete to resolved, p99', unit: 'ms' },
  lineP50Ms: { title: 'line written to `onLog`, p50', unit: 'ms' },
  lineP99Ms: { title: 'line written to `onLog`, p99', unit: 'ms' },
  cpuSeconds: { title: 'CPU of the host, meters included', unit: 's' },
  cpuOverIdleSeconds: { title: 'CPU of the host over idle', unit: 's' },
  checkSeconds: { title: 'of this, the check of the lines', unit: 's' },
  cpuOfRunsSeconds: { title: 'CPU of the host over idle, without the check', unit: 's' },
  cpuMsPerRun: { title: 'the same per run', unit: 'ms' },
  rssOverIdleMb: { title: 'peak memory over idle', unit: 'MB' },
  rssKbPerRun: { title: 'peak memory over idle per run', unit: 'KB' },
  loopP99Ms: { title: 'event-loop delay, p99', unit: 'ms' },
  loopMaxMs: { title: 'event-loop delay, max', unit: 'ms' },
  requests: { title: 'API requests per run', unit: '' },
  ownRequests: { title: 'of these, neither watch nor log', unit: '' },
  connections: { title: 'open connections, most', unit: '' },
  logConnections: { title: 'of these, log streams', unit: '' },
  hostIdleMs: { title: '`onLog` idle while output waited, most of a run', unit: 'ms' },
  hostIdlePercent: { title: 'the same, of the time that it took', unit: '%' },
  rssGrowthMb: { title: 'memory, last quarter less the first', unit: 'MB' },
  silentCpuMs: { title: 'CPU of a silent run per minute', unit: 'ms' },
  silentRssKb: { title: 'memory of a silent run', unit: 'KB' },
  coldPageUs: { title: 'for comparison: touching a page of memory that is not in use', unit: 'µs' },
  silentConnections: { title: 'connections of silent runs, beyond their logs', unit: '' },
  silentDescriptors: { title: 'descriptors of silent runs, beyond their logs', unit: '' },
  silentLogRequests: { title: 'log requests of all silent runs per minute', unit: '' },
  silentRequests: { title: 'their other requests per minute', unit: '' },
  lost: { title: 'lines lost', unit: '', exact: true },
  doubled: { title: 'lines doubled', unit: '', exact: true },
  damaged: { title: 'lines damaged', unit: '', exact: true },
  failed: { title: 'runs that did not succeed', unit: '', exact: true },
  seconds: { title: 'time for all of it', unit: 's' },
};
/** These must be 0 in every row. */
export const MUST_BE_ZERO = ['lost', 'doubled', 'damaged', 'failed'];

/** The figures of row (g) in milliseconds: name, title, and the most that the median may be for this package. */
export const REAL_FIGURES = /** @type {const} */ ([
  ['start', '`execute` to the first line of `claude`', undefined],
  ['startOver', 'the same, over the bare Job', 150],
  ['end', "the container's last line to resolved", 100],
  ['whole', '`execute` to resolved', undefined],
  ['wholeOver', 'the same, over the bare Job', 250],
]);
