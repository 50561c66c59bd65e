// .ci/run: every suite, also after one that failed; a line for each, and what failed; all logs in `target/ci`. Suites that
// compute run one after the other; suites that mostly wait for a cluster or a host share the end of the run in lanes. Builds that
// others wait for late yield to all of them.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';

import { logsOf } from '../kubernetes/index.mjs';
import { Problem, program, root } from './lib.mjs';

/**
 * @typedef {object} Suite
 * @property {string} name
 * @property {string[]} commands run one after the other until one fails
 * @property {number} minutes a suite that takes longer, on two cores and with nothing built, hangs
 * @property {string} [needs] a suite without which this one cannot run; if it is in another lane, it is waited for
 * @property {string} [leaves] the folder below `target/` with the logs of what it started
 * @property {string} [lane] one lane runs beside the other, a lane's suites one after the other. Those without a lane come
 *   first; only the lanes of `AT_ONCE` do not wait for them
 * @property {boolean} [yields] gets a processor only when no other suite wants it
 * @property {boolean} [always] runs to its end also when CI is interrupted
 */
/**
 * @typedef {{passed: boolean, seconds: number, notes: string[], log?: string}} Result `notes`: counts and problems; `log`:
 *   the file with its output
 */

const OUT = path.join(root, 'target', 'ci');
/** The cluster of this checkout: CI neither uses nor ends another one. */
const CLUSTER = `ci-${createHash('sha256').update(root).digest('hex').slice(0, 8)}`;
const REAL = 'real cluster';
const COMPAT = 'helpers of 0.1.49';
const RELEASED = 'addon of a release';
const COMPUTING = 'computing';
const RELEASE = 'release';
/** They need nothing that others build. */
const AT_ONCE = new Set([COMPUTING, RELEASE]);
/** How long a suite has to end what it started. */
const GRACE_MS = 90_000;

/** What fails soonest comes first.
 * @type {Suite[]} */
const SUITES = [
  { name: 'format', commands: ['cargo fmt --all --check', 'npx oxfmt --check'], minutes: 5 },
  { name: 'types', commands: ['npm --silent run typecheck'], minutes: 5 },
  { name: 'build', commands: ['node tools/dev/build.mjs --all'], minutes: 30 },
  {
    name: 'lints',
    commands: [
      'npx oxlint',
      // Without features, for the core and the fuzz targets; and with all of them.
      'cargo clippy --quiet --locked --no-default-features --all-targets -- -D warnings',
      'cargo clippy --quiet --locked --workspace --all-targets -- -D warnings',
      'cargo clippy --quiet --locked --features compat --lib -- -D warnings',
    ],
    minutes: 30,
  },
  { name: 'binding', commands: ['cargo test --quiet --locked --lib node::'], minutes: 15 },
  { name: 'npm test', commands: ['npm --silent test'], minutes: 40 },
  { name: 'declarations', commands: ['node tools/dev/check-binding.mjs'], minutes: 10 },
  {
    name: 'workflows',
    commands: [
      '(cd tools/dev/actionlint && go tool actionlint -color=false ../../../.github/workflows/*.yml)',
      `node tools/dev/release.mjs notes "v$(node -p 'require("./package.json").version')"`,
      'node tools/dev/packages.mjs',
      'node tools/dev/release.mjs papers',
      'node tools/dev/release.mjs publish --dry-run',
    ],
    minutes: 10,
  },
  { name: 'bench in small', commands: ['npm --silent run bench -- --quick --no-build'], minutes: 10 },
  // Builds beside others have a folder of their own: cargo locks the one that it uses.
  {
    name: COMPAT,
    commands: ['CARGO_TARGET_DIR=target/compat-build npm --silent run build:addon:compat'],
    minutes: 60,
    lane: COMPUTING,
    yields: true,
  },
  {
    name: 'vendored',
    commands: ['npm --silent run test:vendored'],
    minutes: 60,
    lane: COMPUTING,
    yields: true,
  },
  { name: REAL, commands: ['npm --silent run cluster:up'], minutes: 40, lane: 'clusters' },
  {
    name: 'conformance',
    commands: ['npm --silent run test:cluster'],
    minutes: 40,
    needs: REAL,
    leaves: 'conformance',
    lane: 'clusters',
  },
  {
    name: 'real CLI',
    commands: ['npm --silent run test:cli'],
    minutes: 15,
    needs: REAL,
    leaves: 'real-cli',
    lane: 'clusters',
  },
  {
    name: 'existing package',
    commands: ['npm --silent run test:existing -- --no-build'],
    minutes: 40,
    needs: COMPAT,
    lane: 'existing',
  },
  // On the embedded cluster: where a real one differs is for the conformance specs to find.
  { name: 'real host', commands: ['npm --silent run test:host'], minutes: 50, leaves: 'host', lane: 'host' },
  {
    name: 'older host',
    commands: ['npm --silent run test:host -- --older'],
    minutes: 15,
    leaves: 'host-older',
    lane: 'host',
  },
  {
    name: 'fuzz',
    commands: ['npm --silent run fuzz -- --minutes 1'],
    minutes: 30,
    lane: 'quiet',
    yields: true,
  },
  {
    name: RELEASED,
    commands: [
      // Debian ships it apart from Python.
      'python3 -m venv target/zig || { apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv target/zig; }',
      'target/zig/bin/pip install --quiet -r tools/dev/zig-requirements.txt',
      // In a folder of its own: cargo lets one build at a time into the other.
      `PATH="$PWD/target/zig/bin:$PATH" CARGO_TARGET_DIR=target/zig-build npm --silent run build:platform`,
    ],
    minutes: 60,
    lane: RELEASE,
    yields: true,
  },
  {
    name: 'every Node',
    commands: ['npm --silent run test:nodes -- --addons target/addons'],
    minutes: 20,
    needs: RELEASED,
    lane: RELEASE,
  },
];
/** @type {Suite} */
const DOWN = {
  name: 'real cluster ends',
  commands: ['npm --silent run cluster:down'],
  minutes: 5,
  always: true,
};

const USAGE = `.ci/run [suite …]
  suite …   only these: ${SUITES.map(({ name }) => name).join(', ')}`;

/** The signal that interrupted CI. @type {NodeJS.Signals | undefined} */
let interrupted;
/** The suites that are running, and what ends each. @type {Set<{suite: Suite, end: (reason: string) => void}>} */
const running = new Set();
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => {
    interrupted ??= signal;
    for (const { suite, end } of running) if (!suite.always) end(signal);
  });
}

await program(USAGE, { allowPositionals: true }, async ({ positionals }) => {
  const suites = choose(positionals);
  rmSync(OUT, { recursive: true, force: true });
  const clusterBuild = suites.some(({ name }) => name === REAL) ? buildCluster() : undefined;
  /** @type {(Suite & Result)[]} */
  const done = [];
  const ends = new Map(suites.map(({ name }) => [name, makeEnd()]));
  const playAll = async (some) => {
    for (const suite of some) {
      if (suite.name === REAL) await clusterBuild?.ended;
      await ends.get(suite.needs)?.reached;
      if (interrupted) break;
      const lacking = done.some(({ name, passed }) => name === suite.needs && !passed);
      const notRun = { passed: false, seconds: 0, notes: [`not run without the ${suite.needs}`] };
      done.push({ ...suite, ...(lacking ? notRun : await play(suite)) });
      ends.get(suite.name)?.reach();
    }
    // Interrupted: what waits for the others is not run either.
    for (const { name } of some) ends.get(name)?.reach();
  };
  const playLane = (name) => playAll(suites.filter(({ lane }) => lane === name));
  const first = playLane(undefined);
  const lanes = new Set(suites.flatMap(({ lane }) => lane ?? []));
  await Promise.all(
    [...lanes].map(async (lane) => {
      if (!AT_ONCE.has(lane)) await first;
      // Two builds of what takes long, one after the other: the suites wait for the cluster.
      if (lane === RELEASE) await clusterBuild?.ended;
      await playLane(lane);
    }),
  );
  await first;
  clusterBuild?.end();
  if (done.some(({ name }) => name === REAL)) {
    done.push({ ...DOWN, ...(await play(DOWN)) });
    if (existsSync(logsOf(CLUSTER)))
      cpSync(logsOf(CLUSTER), path.join(OUT, 'real-cluster'), { recursive: true });
  }
  const order = (suite) => suites.findIndex(({ name }) => name === suite.name);
  done.sort((a, b) => (order(a) + 1 || Infinity) - (order(b) + 1 || Infinity));
  console.log(`\n== all suites\n${done.map(lineOf).join('\n')}`);
  // At the very end: of a long output a reader often has only that.
  for (const { name, passed, log } of done)
    if (!passed && log) console.log(`\n== failed: ${name}\n${failures(log)}`);
  const passed = done.every((suite) => suite.passed) && !interrupted;
  if (!passed)
    console.log(`${interrupted ?? 'Failed'}. Logs of the suites and of all that they started: ${OUT}`);
  return interrupted ? 128 + os.constants.signals[interrupted] : Number(!passed);
});

/**
 * Builds the real cluster's programs beside the first suites, which does not yield: it takes longest from nothing. A build
 * that fails is tried again, and reported, by the suite that raises the cluster.
 */
function buildCluster() {
  mkdirSync(OUT, { recursive: true });
  const log = openSync(path.join(OUT, 'cluster-build.log'), 'a');
  const child = spawn(...shell('npm --silent run cluster:build'), {
    cwd: root,
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  let isOver = false;
  const ended = new Promise((resolve) => {
    const settle = () => {
      isOver = true;
      resolve(undefined);
    };
    child.once('error', settle);
    child.once('close', settle);
  });
  const end = () => {
    if (!isOver) signalGroup(child, 'SIGTERM');
  };
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) process.on(signal, end);
  return { ended, end };
}

/**
 * The program and arguments that run a script. One that yields gets a processor only when no other process wants it: Linux
 * compares the niceness of two processes within a session, and of two sessions that of the sessions.
 *
 * @param {string} script
 * @param {boolean} [yields]
 * @returns {[string, string[]]}
 */
function shell(script, yields = false) {
  if (!yields) return ['sh', ['-c', script]];
  return ['nice', ['-n', '10', 'sh', '-c', `{ echo 10 > /proc/self/autogroup; } 2>/dev/null; ${script}`]];
}

/** The end of a suite, for those that wait for it. */
function makeEnd() {
  let reach = () => {};
  /** @type {Promise<void>} */
  const reached = new Promise((resolve) => {
    reach = resolve;
  });
  return { reached, reach };
}

/** All suites, or those that are named and what they need. */
function choose(names) {
  const unknown = names.find((each) => !SUITES.some(({ name }) => name === each));
  if (unknown) throw new Problem(`${unknown}: there is no such suite.\n${USAGE}`);
  const named = SUITES.filter(({ name }) => names.length === 0 || names.includes(name));
  return SUITES.filter((suite) => named.includes(suite) || named.some(({ needs }) => needs === suite.name));
}

/**
 * Runs a suite, with its output in its folder and on the screen, there at its end if it has a lane.
 *
 * @param {Suite} suite
 * @returns {Promise<Result>}
 */
async function play(suite) {
  console.log(`\n== ${suite.name}${suite.lane ? ' begins' : ''}`);
  const began = Date.now();
  const folder = path.join(OUT, suite.name.replaceAll(/\W+/g, '-'));
  mkdirSync(folder, { recursive: true });
  const log = path.join(folder, 'output.log');
  const left = suite.leaves && path.join(root, 'target', suite.leaves);
  // What an earlier run left there is not this one's.
  if (left) rmSync(left, { recursive: true, force: true });
  const problems = await runToEnd(suite, folder, log);
  if (left && existsSync(left)) {
    cpSync(left, path.join(folder, path.basename(left)), { recursive: true });
  }
  if (suite.lane && existsSync(log)) console.log(`\n== ${suite.name}\n${readFileSync(log, 'utf8')}`);
  const passed = problems.length === 0;
  if (!passed) problems.push(`logs: ${folder}`);
  const notes = [...counts(existsSync(log) ? readFileSync(log, 'utf8') : ''), ...problems];
  const result = { passed, seconds: (Date.now() - began) / 1_000, notes, log };
  console.log(lineOf({ ...suite, ...result }));
  return result;
}

/** Runs the commands of a suite until nothing of them is left; resolves to what went wrong. */
async function runToEnd(suite, folder, log) {
  const mark = `${process.pid} ${suite.name}`;
  const child = spawn(...shell(suite.commands.join(' && '), suite.yields), {
    cwd: root,
    // A process group of its own, so that it can be ended as a whole.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      CI_SUITE: mark,
      EMBEDDED_CLUSTER_LOGS: folder,
      PAPERCLIP_TEST_CLUSTER: CLUSTER,
    },
  });
  const outputs = /** @type {const} */ ([
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ]);
  for (const [from, to] of outputs) {
    from.on('data', (chunk) => {
      if (!suite.lane) to.write(chunk);
      appendFileSync(log, chunk);
    });
  }
  const closed = new Promise((resolve) => {
    child.once('close', resolve);
  });
  /** @type {string[]} */
  const problems = [];
  let killing;
  const end = (reason) => {
    if (killing) return;
    problems.push(reason);
    signalGroup(child, 'SIGTERM');
    killing = setTimeout(() => signalGroup(child, 'SIGKILL'), GRACE_MS);
  };
  const entry = { suite, end };
  running.add(entry);
  const timer = setTimeout(end, suite.minutes * 60_000, `not finished after ${suite.minutes} min`);
  const code = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) => resolve(status ?? signal));
  });
  clearTimeout(timer);
  // npm may end before the processes that it has passed a signal on to.
  if (killing) await untilEmpty(() => (signalGroup(child, 0) ? [child.pid] : []), GRACE_MS + 5_000);
  clearTimeout(killing);
  running.delete(entry);
  if (problems.length === 0 && code !== 0) problems.push(`ended with ${code}`);
  for (const { pid, line } of await untilEmpty(() => marked(mark), 10_000)) {
    problems.push(`left behind: ${pid} ${line}`);
    process.kill(pid, 'SIGKILL');
  }
  await Promise.race([closed, sleep(5_000, undefined, { ref: false })]);
  for (const [stream] of outputs) stream.destroy();
  return problems;
}

/** @param {Suite & Result} suite */
function lineOf({ name, passed, seconds, notes }) {
  const time = `${seconds.toFixed(0)} s`.padStart(6);
  return `${passed ? 'ok    ' : 'FAILED'}  ${name.padEnd(22)} ${time}  ${notes.join('; ')}`;
}

/**
 * What a suite has counted: its own lines if it prints such (see specs.mjs), and cargo's sum; else the sum of cargo's and
 * vitest's. What it says it left out, what was unsteady, and how many causes of failures were named rightly.
 */
function counts(output) {
  const text = stripVTControlCharacters(output);
  const own =
    text.match(/^.+: \d+ passed, \d+ failed, \d+ skipped(?:, \d+ known to differ)? in \d+ s$/gm) ?? [];
  const notes = text.match(/^(left out: .+|unsteady: .+|causes named rightly: .+)$/gm) ?? [];
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const kinds = own.length > 0 ? /^test result: .*$/gm : /^(test result: |\s+Tests  |\d+ passed, ).*$/gm;
  const lines = text.match(kinds) ?? [];
  for (const [, count, what] of lines.join('\n').matchAll(/(\d+) (passed|failed|skipped|ignored)/g)) {
    sum[what === 'ignored' ? 'skipped' : what] += Number(count);
  }
  const counted = `${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`;
  const summed = own.length > 0 ? `Rust: ${counted}` : counted;
  return [...(lines.length > 0 ? [summed] : []), ...own, ...notes];
}

/** What failed, from the output of a suite: vitest's and cargo's own reports of it, and how the output ends. */
function failures(log) {
  const lines = stripVTControlCharacters(existsSync(log) ? readFileSync(log, 'utf8') : '').split('\n');
  const starts =
    /^ FAIL |^test .+ FAILED$|^---- .+ stdout ----$|panicked at|Unhandled |^error(\[E\d+\])?:|^not ok /;
  const kept = new Set();
  lines.forEach((line, at) => {
    if (starts.test(line)) for (let n = 0; n < 10; n++) kept.add(at + n);
  });
  const written = (line) => line.trim() !== '' && !/^⎯+/.test(line);
  const found = lines.filter((line, at) => kept.has(at) && written(line)).slice(0, 60);
  return [...found, '[…]', ...lines.filter(written).slice(-3)].map((line) => line.slice(0, 300)).join('\n');
}

/** The processes, in any group, that have a suite's mark in their environment; known on Linux only. */
function marked(mark) {
  const read = (pid, file) => readFileSync(`/proc/${pid}/${file}`, 'utf8').split('\0');
  return (existsSync('/proc') ? readdirSync('/proc') : [])
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const ours = read(pid, 'environ').includes(`CI_SUITE=${mark}`);
        return ours ? [{ pid: Number(pid), line: read(pid, 'cmdline').join(' ').trim() }] : [];
      } catch {
        // It has ended.
        return [];
      }
    });
}

/** Waits until `find` finds nothing; resolves to what it found last. */
async function untilEmpty(find, ms) {
  const deadline = Date.now() + ms;
  for (;;) {
    const found = find();
    if (found.length === 0 || Date.now() > deadline) return found;
    await sleep(100);
  }
}

/**
 * Signals a process group; returns false if there was no process in it.
 *
 * @param {{pid?: number}} child its first process
 * @param {NodeJS.Signals | 0} signal
 */
function signalGroup({ pid }, signal) {
  if (pid === undefined) return false;
  try {
    process.kill(-pid, signal);
    return true;
  } catch (error) {
    if (error.code === 'ESRCH') return false;
    throw error;
  }
}
