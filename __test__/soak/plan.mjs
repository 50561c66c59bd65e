// The plan of a soak: what happens to each run, drawn from a seed. Data only, the same for the same seed.

/** Numbers in 0..1 from a 32-bit seed (mulberry32). */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const whole = (random, from, to) => from + Math.floor(random() * (to - from + 1));
const one = (random, list) => list[whole(random, 0, list.length - 1)];

/**
 * @typedef {object} Run
 * @property {string} kind
 * @property {string} name of its agent
 * @property {string} scenario of the fake CLI
 * @property {object[]} admits results that are right
 * @property {Record<string, string>} [env]
 * @property {object} [config]
 * @property {'runner' | 'unwatching'} [account]
 * @property {number} [prompt] characters
 * @property {number} [ticks] that the scenario `long` prints
 * @property {any[]} [faults]
 * @property {any[]} [strikes]
 * @property {any} [storm]
 * @property {number} [noImageForMs]
 * @property {boolean} [lines] false if its lines are not those of a recording
 * @property {boolean} [noise] whether some of its lines are not events
 * @property {string} [onLog] how the host's `onLog` behaves
 */

/** The result of a run that succeeds. */
export const success = { exitCode: 0, errorMessage: null };
/** The result of a run whose container ended without one. */
export const truncated = (exitCode, message) => ({ errorCode: 'claude_truncated', exitCode, message });
const long = (ticks) => ({ scenario: 'long', ticks, env: { CLAUDE_STAND_IN_SECONDS: String(ticks / 2) } });
const onLog = (action, times) => ({
  faults: [{ match: { verb: 'get', resource: 'pods/log' }, action, times }],
});

/** A pod that is ended in the middle of its run. */
function ended(action, exitCode, message, body) {
  return (random) => ({
    ...long(4),
    strikes: [{ after: `tick ${whole(random, 1, 3)} of`, pod: action, body }],
    // If its container has just exited with 0, the rest of its log is lost with the pod.
    admits: [truncated(exitCode, message), truncated(0, message)],
  });
}

/** A run that ends by itself, not well. */
const fails = (scenario, admits, more) => () => ({ scenario, admits: [admits], ...more });

/**
 * What can happen to a run, with its weight. A run whose `strikes` come too late (it had ended) must be a success; all
 * others must have one of the results in `admits`, by default success.
 *
 * @type {Record<string, [number, (random: () => number) => Partial<Run>]>}
 */
const kinds = {
  nothing: [14, () => ({ scenario: 'success' })],
  'nothing, for a while': [6, (random) => long(whole(random, 1, 4))],
  'many lines': [
    3,
    (random) => ({
      scenario: 'flood',
      env: { CLAUDE_STAND_IN_LINES: String(whole(random, 500, 2_000)), CLAUDE_STAND_IN_LINE_BYTES: '400' },
    }),
  ],
  'odd output': [
    3,
    (random) => ({
      scenario: one(random, ['no-newline', 'stderr-noise', 'binary']),
      lines: false,
      noise: true,
    }),
  ],
  'a prompt Secret': [5, () => ({ scenario: 'success', prompt: 120_000 })],
  'a wrong key': [1, fails('auth', { exitCode: 1, message: 'Invalid API key' })],
  'an overloaded model': [1, fails('overload', { exitCode: 1, message: '529' })],
  'no more turns': [1, fails('max-turns', { exitCode: 1 })],
  'an exit code': [2, fails('exit-code', { exitCode: 3 }, { lines: false })],
  'a kill': [2, fails('truncated', truncated(137, 'SIGKILL'), { lines: false, noise: true })],
  'a crash': [2, fails('crash', { exitCode: 139 }, { lines: false, noise: true })],
  'an empty answer': [1, fails('empty-llm', { exitCode: 1, errorCode: 'llm_api_error' }, { lines: false })],
  'a log that ends early': [
    4,
    (random) => ({
      ...long(4),
      ...onLog({ cut: { afterLines: whole(random, 1, 4) } }, whole(random, 1, 3)),
    }),
  ],
  'a log that is reset': [
    6,
    (random) => ({
      ...long(4),
      ...onLog({ cut: { afterLines: whole(random, 1, 4), reset: true } }, whole(random, 1, 4)),
    }),
  ],
  'a log that is reset in a line': [
    4,
    (random) => ({
      ...long(4),
      ...onLog({ cut: { afterBytes: whole(random, 1, 4_000), reset: true } }, whole(random, 1, 4)),
    }),
  ],
  'a log that is an error text': [
    3,
    (random) => ({
      ...long(2),
      ...onLog({ logText: 'unable to retrieve container logs for containerd://0a1b' }, whole(random, 1, 2)),
    }),
  ],
  'a log that is refused': [
    4,
    (random) => ({
      ...long(3),
      ...onLog({ status: { code: one(random, [403, 429, 500, 503]) } }, whole(random, 1, 3)),
    }),
  ],
  'a log that stands still': [1, () => ({ ...long(2), ...onLog({ stall: { afterLines: 2 } }, 1) })],
  'an eviction': [2, ended('evict', 143, 'TerminationByKubelet')],
  'a preemption': [2, ended('preempt', 143, 'PreemptionByScheduler')],
  'a taint': [1, ended('taint', 143, 'DeletionByTaintManager')],
  'a deleted pod': [2, ended('delete', 143, 'deleted by an unknown API client')],
  'an OOM kill': [2, ended('oom', 137, 'OOMKilled')],
  'a signal': [2, ended('kill', 139, 'exit code 139', { signal: 'SIGSEGV' })],
  'a deleted Job': [
    4,
    (random) => ({
      ...long(4),
      strikes: [
        { after: one(random, ['Created K8s Job', 'Pod running', 'tick 1 of', 'tick 3 of']), job: 'delete' },
      ],
      // If its container has just exited, the rest of its log is lost with the pod.
      admits: [
        { errorCode: 'k8s_job_deleted_externally' },
        { exitCode: 0, message: 'the Job was deleted before its log was read to the end' },
      ],
    }),
  ],
  'a cancel by the host': [
    4,
    (random) => ({
      ...long(4),
      strikes: [
        {
          after: one(random, ['Skills bundled', 'Created K8s Job', 'Pod running', 'tick 2 of']),
          host: 'abort',
        },
      ],
      admits: [{ errorCode: 'cancelled' }],
    }),
  ],
  'a time limit': [
    2,
    () => ({
      scenario: 'hang',
      lines: false,
      config: { timeoutSec: 0.5, graceSec: 0 },
      admits: [{ errorCode: 'timeout', timedOut: true }],
    }),
  ],
  'a deletion that fails at first': [
    3,
    (random) => ({
      scenario: 'success',
      faults: [
        {
          match: { verb: 'delete', resource: 'jobs' },
          action: one(random, [{ refuse: true }, { status: { code: 503 } }]),
          times: 1,
        },
      ],
    }),
  ],
  'an image that is pulled late': [2, () => ({ scenario: 'success', noImageForMs: 600 })],
  'an image that is not pulled': [
    2,
    () => ({
      scenario: 'success',
      noImageForMs: 600_000,
      config: { imagePullGraceSec: 0.2 },
      lines: false,
      admits: [{ errorCode: 'k8s_pod_schedule_failed', message: 'mage pull failed' }],
    }),
  ],
  'a slow host': [2, () => ({ ...long(2), onLog: 'slow' })],
  'a host that rejects': [2, (random) => ({ ...long(2), onLog: one(random, ['rejects', 'throws']) })],
  'a Job that is kept for a while': [
    2,
    () => ({ scenario: 'success', config: { retainJobs: true, ttlSecondsAfterFinished: 15 } }),
  ],
  'no watch': [3, (random) => ({ ...long(whole(random, 1, 3)), account: 'unwatching' })],
};

/** Faults that hit all runs that are under way. */
const storms = [
  () => ({ restart: 150 }),
  () => ({ reset: true }),
  () => ({ reset: true, compact: true }),
  (random) => ({ faults: [{ action: { status: { code: one(random, [429, 500, 503]) } }, forMs: 250 }] }),
  () => ({ faults: [{ action: { refuse: true }, forMs: 250 }] }),
  (random) => ({ faults: [{ action: { delayMs: whole(random, 50, 400) }, forMs: 1_000 }] }),
  (random) => ({
    reset: true,
    faults: [
      {
        match: { verb: 'watch' },
        times: whole(random, 1, 4),
        action: one(random, [
          { expireWatch: true },
          { garbage: true },
          { garbage: 'json' },
          { cut: { afterLines: 2, reset: true } },
          { cut: { afterLines: 1 } },
          { status: { code: 429, retryAfter: 1 } },
          { status: { code: 500 } },
        ]),
      },
    ],
  }),
];

/**
 * The plan of a soak.
 *
 * @param {number} seed
 * @param {number} runs
 * @returns {Run[]}
 */
export function planOf(seed, runs) {
  const random = generator(seed);
  const all = Object.entries(kinds);
  const total = all.reduce((sum, [, [weight]]) => sum + weight, 0);
  return Array.from({ length: runs }, (_, index) => {
    let at = random() * total;
    const [kind, [, make]] = all.find(([, [weight]]) => (at -= weight) < 0) ?? all[0];
    /** @type {Run} */
    const run = {
      scenario: 'success',
      admits: [success],
      kind,
      name: `soak-${String(index).padStart(6, '0')}`,
      ...make(random),
    };
    if (random() < 0.03) run.storm = one(random, storms)(random);
    return run;
  });
}
