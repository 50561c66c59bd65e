// The rows of the benchmark table and the figures of each row.

/**
 * The work of each row: `runs` at once, each printing `lines` lines of 1.2 KB (and a result) at `perSecond` lines per
 * second, from `startDelayMs` after the start of its container on, as the CLI does. `quick` is the same in small. `reach`
 * is what this package must not exceed.
 */
export const ROWS = {
  a: {
    title: 'one run of 10 s',
    work: { runs: 1, lines: 90, perSecond: 10, startDelayMs: 1_000 },
    quick: { runs: 1, lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: { resolveP99Ms: 50, ownRequests: 7 },
  },
  b: {
    title: '200 runs at once, 1,000 lines each at 50 lines/s',
    work: { runs: 200, lines: 1_000, perSecond: 50, startDelayMs: 1_000 },
    quick: { runs: 20, lines: 100, perSecond: 50, startDelayMs: 200 },
    reach: {
      resolveP99Ms: 100,
      cpuOfRunsSeconds: 3,
      rssOverIdleMb: 150,
      loopP99Ms: 5,
      loopMaxMs: 25,
      ownRequests: 7,
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
};

/** A point of row (e); its largest is row (d). */
function growth(runs) {
  return {
    title: `growth: ${runs} ${runs === 1 ? 'run' : 'runs'}, 100 lines each at 10 lines/s`,
    work: { runs, lines: 100, perSecond: 10, startDelayMs: 1_000 },
    quick: { runs: Math.min(runs, 20), lines: 20, perSecond: 20, startDelayMs: 200 },
    reach: {},
  };
}

/** The figures of a row, in the order of the table. */
export const FIGURES = {
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
