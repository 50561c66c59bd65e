// Many runs through the built addon in one process, with faults: every run must have a result that its fault admits and
// log every line once, and nothing may be left in the cluster or in this process.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import v8 from 'node:v8';
import vm from 'node:vm';

import { createServerAdapter } from '../../index.js';
import { binding } from '../../js/binding.js';
import { agentLines, clusterForHost, eventually, hostRun, leftovers, podsOf } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';
import { planOf, success, truncated } from './plan.mjs';

const { vitals } = binding;
v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc');

const RUNNER = 'system:serviceaccount:paperclip:runner';
/** The Role of existing installations. */
const UNWATCHING = [
  { apiGroups: ['batch'], resources: ['jobs'], verbs: ['create', 'delete', 'get', 'list'] },
  { apiGroups: [''], resources: ['pods', 'pods/log'], verbs: ['get', 'list'] },
  { apiGroups: [''], resources: ['secrets'], verbs: ['create', 'delete', 'get'] },
];

/**
 * @param {{runs: number, seed: number, concurrency?: number, measureAfter?: number[], log?: (line: string) => void}} options
 *   `measureAfter`: numbers of runs after which the process is left to become idle and is measured
 * @returns {Promise<{problems: string[], digest: string, seconds: number, kinds: Record<string, object>,
 *   marks: Mark[], requests: number}>}
 */
export async function soak({ runs, seed, concurrency = 32, measureAfter = [runs], log = () => {} }) {
  const plan = planOf(seed, runs);
  const digest = createHash('sha256').update(JSON.stringify(plan)).digest('hex').slice(0, 12);
  log(`${runs} runs, ${concurrency} at once, seed ${seed} (plan ${digest})`);
  const cluster = await clusterForHost();
  const began = performance.now();
  /** @type {{cluster: any, problems: string[], kinds: Record<string, any>, marks: Mark[], storm: number, log: (line: string) => void, accounts?: any}} */
  const state = { cluster, problems: [], kinds: {}, marks: [], storm: -Infinity, log };
  try {
    await cluster.post('/simulator/settings', { imagePullBackoffMs: 200 });
    state.accounts = {
      runner: await account(cluster, 'runner', [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }]),
      unwatching: await account(cluster, 'unwatching', UNWATCHING),
    };
    // One run per account makes what its client keeps forever.
    for (const name of Object.keys(state.accounts)) {
      await play(state, {
        kind: 'a first run',
        name: `soak-first-${name.slice(0, 4)}`,
        scenario: 'success',
        admits: [success],
        account: name,
      });
    }
    state.marks.push(await measureIdle(state, 0));
    let next = 0;
    for (const until of measureAfter) {
      await Promise.all(
        Array.from({ length: concurrency }, async () => {
          while (next < until) {
            const run = plan[next];
            next += 1;
            if (next % 250 === 0) log(`  ${next} runs begun, ${state.problems.length} problems`);
            await play(state, run);
          }
        }),
      );
      state.marks.push(await measureIdle(state, until));
    }
    judge(state);
    const { last } = await asked(cluster, 'GET', '/simulator/requests?since=999999999');
    return {
      problems: state.problems,
      digest,
      seconds: (performance.now() - began) / 1_000,
      kinds: state.kinds,
      marks: state.marks,
      requests: last,
    };
  } finally {
    await cluster.stop();
  }
}

/** A kubeconfig of an account with these rules. */
async function account(cluster, name, rules) {
  await cluster.post('/simulator/tokens', {
    token: name,
    user: `system:serviceaccount:paperclip:${name}`,
    rules,
  });
  const file = path.join(temporaryFolder('soak'), name);
  writeFileSync(file, readFileSync(cluster.kubeconfig, 'utf8').replaceAll(cluster.token, name));
  return file;
}

/** Sends a request, again while the cluster restarts; resolves to undefined if its object does not exist. */
async function asked(cluster, method, where, body) {
  for (let left = 50; ; left -= 1) {
    try {
      return await cluster.request(method, where, body);
    } catch (error) {
      if (/: (404|409) /.test(error.message)) return undefined;
      if (left === 0 || /: 4\d\d /.test(error.message)) throw error;
      await sleep(50);
    }
  }
}

async function play(state, run) {
  const { cluster, problems } = state;
  const tally = (state.kinds[run.kind] ??= { runs: 0, struck: 0, asPlanned: 0 });
  tally.runs += 1;
  const faults = [];
  for (const { match, ...fault } of run.faults ?? []) {
    const { id } = await asked(cluster, 'POST', '/simulator/faults', {
      match: { ...match, name: `ac-${run.name}-*` },
      ...fault,
    });
    faults.push(id);
  }
  const noImage = { forMs: run.noImageForMs };
  if (run.noImageForMs)
    await asked(
      cluster,
      'POST',
      `/simulator/pods/${cluster.namespace}/ac-${run.name}-*/fail-image-for`,
      noImage,
    );
  const began = performance.now();
  const abort = new AbortController();
  const strikes = [...(run.strikes ?? [])];
  const under = [];
  let struck = false;
  let over = false;
  let late = 0;
  const { ctx, output } = hostRun(cluster, {
    scenario: run.scenario,
    env: run.env,
    agent: { id: run.name },
    signal: abort.signal,
    config: {
      kubeconfig: state.accounts[run.account ?? 'runner'],
      ...(run.prompt && { promptTemplate: 'x'.repeat(run.prompt) }),
      ...run.config,
    },
  });
  const listen = ctx.onLog;
  ctx.onLog = async (stream, chunk) => {
    if (over) late += 1;
    if (!chunk.endsWith('\n'))
      problems.push(`${run.name} (${run.kind}): a chunk ends in the middle of a line`);
    await listen(stream, chunk);
    while (strikes.length > 0 && output.stdout.includes(strikes[0].after))
      under.push(strike(strikes.shift()));
    if (run.onLog === 'slow') await sleep(20);
    if (run.onLog === 'rejects') return Promise.reject(new Error('disk full'));
    if (run.onLog === 'throws') throw new Error('disk full');
    return undefined;
  };
  const named = (what) => new RegExp(`\\[paperclip\\] ${what}: (ac-\\S+)`).exec(output.stdout)?.[1];
  const strike = async ({ pod, body, job, host }) => {
    if (host) {
      struck = true;
      abort.abort();
    } else if (job) {
      const where = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${named('Created K8s Job')}`;
      struck = (await asked(cluster, 'DELETE', where, { propagationPolicy: 'Background' })) !== undefined;
    } else {
      const where = `/simulator/pods/${cluster.namespace}/${named('Pod running')}/${pod}`;
      struck = (await asked(cluster, 'POST', where, body)) !== undefined;
    }
  };
  if (run.storm) {
    state.storm = began;
    under.push(blow(cluster, run.storm));
  }
  let result;
  try {
    result = await createServerAdapter().execute(ctx);
  } catch (error) {
    result = { rejected: error.message };
  }
  over = true;
  await Promise.all(under);
  for (const id of faults) await asked(cluster, 'DELETE', `/simulator/faults/${id}`);

  if (struck) tally.struck += 1;
  const wrong = [];
  // In a storm a pod can end and be deleted while no watch is open.
  const unseen = run.strikes && state.storm > began - 3_000;
  const admits = [...run.admits, ...(unseen ? [truncated(null, 'pod state unavailable')] : [])];
  const admitted = admits.some((wanted) => fits(result, wanted));
  const whole = fits(result, success) || fits(result, { exitCode: null, errorMessage: null });
  if (admitted) tally.asPlanned += 1;
  // A strike can come when the run is nearly over; its pod may have been deleted by then.
  else if (!(run.strikes && whole))
    wrong.push(`has the result ${JSON.stringify({ ...result, resultJson: undefined })}`);
  wrong.push(...linesWrong(run, output, whole));
  if (late > 0) wrong.push(`logged ${late} chunks after its result`);
  const context = () =>
    `\n    ${`${output.stdout}${output.stderr}`
      .split('\n')
      .filter((line) => line.startsWith('[paperclip]'))
      .join('\n    ')}`;
  if (wrong.length > 0)
    problems.push(
      `${run.name} (${run.kind}${run.storm ? `, storm ${JSON.stringify(run.storm)}` : ''}): ${wrong.join('; ')}${context()}`,
    );
}

/** Starts a storm. */
async function blow(cluster, { restart, reset, compact, faults = [] }) {
  for (const { match, ...fault } of faults) {
    await asked(cluster, 'POST', '/simulator/faults', { match: { ...match, user: RUNNER }, ...fault });
  }
  if (compact) await asked(cluster, 'POST', '/simulator/compact', {});
  // The answers to these requests may be lost with the connections.
  if (reset) await cluster.post('/simulator/connections/reset').catch(() => {});
  if (restart) await asked(cluster, 'POST', '/simulator/restart', { downMs: restart });
}

/** Whether a result has these keys, and a message with this text. */
function fits(result, wanted) {
  const { message, ...exact } = wanted;
  if (message && !(result.errorMessage ?? '').includes(message)) return false;
  return Object.entries(exact).every(([key, value]) => result[key] === value);
}

const recorded = Object.fromEntries(
  ['success', 'auth', 'overload', 'max-turns'].map((name) => {
    const file = new URL(`../../tools/simulator/fixtures/claude-cli-2.1.197/${name}.jsonl`, import.meta.url);
    return [
      name,
      readFileSync(file, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).type)
        .join(),
    ];
  }),
);

/** What is wrong with the lines that a run logged. */
function linesWrong(run, output, whole) {
  const wrong = [];
  const lines = agentLines(output);
  const events = [];
  for (const line of lines) {
    try {
      events.push(JSON.parse(line));
    } catch {
      if (!run.noise) wrong.push(`has a line that is not an event: ${line.slice(0, 80)}`);
    }
  }
  const uuids = events.map(({ uuid }) => uuid).filter(Boolean);
  if (new Set(uuids).size !== uuids.length)
    wrong.push(`has ${uuids.length - new Set(uuids).size} lines twice`);
  const numbers = (pattern) => {
    const all = lines.flatMap((line) => [...line.matchAll(pattern)].map(([, n]) => Number(n)));
    return [...new Set(all)];
  };
  // The plan cuts a log up to four times, and its storms cut it, too. Where the agent has printed nothing in between, as on
  // a busy machine, that is a log that breaks at the same place: the run goes past it, with a mark.
  const isPassed =
    JSON.stringify(run).includes('"cut"') && output.stdout.includes('breaks off at the same place');
  const inOrder = (list) =>
    list.every((n, index) => (isPassed ? n > (list[index - 1] ?? 0) : n === index + 1));
  if (run.scenario === 'long') {
    const ticks = numbers(/tick (\d+) of/g);
    if (!inOrder(ticks)) wrong.push(`has the ticks ${ticks}`);
    if (whole && !isPassed && ticks.length !== run.ticks)
      wrong.push(`has ${ticks.length} of ${run.ticks} ticks`);
  } else if (run.scenario === 'flood') {
    const seen = numbers(/\\"seq\\":(\d+)/g);
    if (!inOrder(seen) || seen.length !== Number(run.env.CLAUDE_STAND_IN_LINES))
      wrong.push(`has ${seen.length} of its lines`);
  } else if (run.lines !== false) {
    const types = events.map(({ type }) => type).join();
    if (types !== recorded[run.scenario]) wrong.push(`has the events ${types}`);
  } else if (whole && events.at(-1)?.type !== 'result') {
    wrong.push('has no result');
  }
  if (output.stdout.includes('Log gap') && !isPassed) wrong.push('has a gap');
  return wrong;
}

/**
 * @typedef {{runs: number, rss: number, heap: number, external: number, jobs: number, queues: number,
 *   subscriptions: number, watches: number, tasks: number, files: number | undefined,
 *   resources: Record<string, number>}} Mark a measurement of the idle process; memory in MiB
 */

/** Waits until the process is idle, and measures it. */
async function measureIdle(state, runs) {
  const { cluster, problems, log } = state;
  await asked(cluster, 'DELETE', '/simulator/faults');
  const left = async () => {
    const names = [...(await leftovers(cluster)), ...(await podsOf(cluster))].filter((name) =>
      name.startsWith('ac-'),
    );
    return names;
  };
  await eventually(async () => (await left()).length === 0, { within: 120_000, every: 250 }).catch(
    async () => {
      problems.push(`after ${runs} runs the cluster holds ${(await left()).join(', ')}`);
    },
  );
  // Watches stay open for a moment, connections for a minute unless the cluster ends them.
  await eventually(() => vitals().watches === 0, { within: 120_000 }).catch(() => {});
  await cluster.post('/simulator/connections/reset').catch(() => {});
  const tasks = state.marks[0]?.tasks ?? 0;
  await eventually(() => vitals().tasks <= tasks, { within: 60_000 }).catch(() => {});
  for (let round = 0; round < 5; round += 1) {
    collect();
    await sleep(100);
  }
  const resources = {};
  for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1;
  const { rss, heapUsed, external } = process.memoryUsage();
  const mib = (bytes) => Math.round((bytes / 2 ** 20) * 10) / 10;
  const files = process.platform === 'linux' ? readdirSync('/proc/self/fd').length : undefined;
  const mark = {
    runs,
    ...vitals(),
    files,
    resources,
    rss: mib(rss),
    heap: mib(heapUsed),
    external: mib(external),
  };
  log(`  idle after ${runs} runs: ${JSON.stringify(mark)}`);
  return mark;
}

/** Checks what must hold over all runs. */
function judge({ problems, marks, kinds }) {
  const first = marks[0];
  for (const mark of marks) {
    for (const what of ['jobs', 'queues', 'subscriptions', 'watches']) {
      if (mark[what] !== 0) problems.push(`after ${mark.runs} runs there are ${mark[what]} ${what}`);
    }
    for (const what of ['tasks', 'files']) {
      if (mark[what] > first[what])
        problems.push(`${mark[what]} ${what} after ${mark.runs} runs, ${first[what]} after ${first.runs}`);
    }
    for (const [name, count] of Object.entries(mark.resources)) {
      const before = first.resources[name] ?? 0;
      if (count > before)
        problems.push(`${count} × ${name} after ${mark.runs} runs, ${before} after ${first.runs}`);
    }
  }
  // Few strikes may come too late.
  const struck = Object.values(kinds).filter((kind) => kind.struck > 0);
  const all = struck.reduce((sum, kind) => sum + kind.struck, 0);
  const met = struck.reduce((sum, kind) => sum + Math.min(kind.struck, kind.asPlanned), 0);
  if (met < all * 0.9) problems.push(`only ${met} of ${all} strikes met their run`);
}
