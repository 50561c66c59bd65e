// .ci/run: every suite, one after the other, whatever became of the one before; a line about each; all logs in
// `target/ci`.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';

import { logsOf } from '../kubernetes/index.mjs';
import { Problem, main, root } from './lib.mjs';

const OUT = path.join(root, 'target', 'ci');
/** This checkout's own cluster: nobody else's is used, and none is ended. */
const CLUSTER = `ci-${createHash('sha256').update(root).digest('hex').slice(0, 8)}`;
const REAL = 'real cluster';
/** How long a suite that is ended has to end what it started. */
const GRACE_MS = 90_000;

/**
 * What fails soonest comes first. `minutes`: a suite that takes longer, on two cores and with nothing built, hangs.
 * `leaves`: folders below `target/` with logs of what it started. `needs`: a suite without which this one is none.
 */
const SUITES = [
  { name: 'format', run: 'cargo fmt --all --check', minutes: 5 },
  {
    name: 'lints',
    run: 'cargo clippy --quiet --locked --workspace --all-targets -- -D warnings',
    minutes: 20,
  },
  {
    name: 'lints without features',
    run: 'cargo clippy --quiet --locked --no-default-features --all-targets -- -D warnings',
    minutes: 10,
  },
  // Neither napi nor the Kubernetes client.
  { name: 'core', run: 'cargo test --quiet --locked --no-default-features', minutes: 15 },
  { name: 'npm test', run: 'npm --silent test', minutes: 40 },
  { name: 'declarations', run: 'node tools/dev/check-binding.mjs', minutes: 10 },
  { name: 'types', run: 'npm --silent run typecheck', minutes: 5 },
  { name: 'every Node', run: 'npm --silent run test:nodes', minutes: 10 },
  { name: 'bench in small', run: 'npm --silent run bench -- --quick --no-build', minutes: 10 },
  { name: REAL, run: 'npm --silent run cluster:up', minutes: 40 },
  {
    name: 'conformance',
    run: 'npm --silent run test:cluster',
    minutes: 20,
    needs: REAL,
    leaves: 'conformance',
  },
  { name: 'real CLI', run: 'npm --silent run test:cli', minutes: 15, needs: REAL, leaves: 'real-cli' },
  // On the embedded cluster: what a real one does otherwise is for the conformance specs to find.
  { name: 'real host', run: 'npm --silent run test:host', minutes: 30, leaves: 'host' },
];
const DOWN = { name: 'real cluster ends', run: 'npm --silent run cluster:down', minutes: 5, always: true };

/** The signal that ends it all, once there was one. */
let interrupted;
/** The suite that is running, and what ends it. */
let current;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    interrupted ??= signal;
    if (!current?.suite.always) current?.end(signal);
  });
}

await main(async () => {
  const suites = choose(process.argv.slice(2));
  rmSync(OUT, { recursive: true, force: true });
  const done = [];
  for (const suite of suites) {
    if (interrupted) break;
    const lacks = done.some(({ name, good }) => name === suite.needs && !good);
    const without = { good: false, seconds: 0, told: [`not run without the ${suite.needs}`] };
    done.push({ ...suite, ...(lacks ? without : await play(suite)) });
  }
  if (done.some(({ name }) => name === REAL)) {
    done.push({ ...DOWN, ...(await play(DOWN)) });
    if (existsSync(logsOf(CLUSTER)))
      cpSync(logsOf(CLUSTER), path.join(OUT, 'real-cluster'), { recursive: true });
  }
  console.log(`\n== all suites\n${done.map(lineOf).join('\n')}`);
  const good = done.every((suite) => suite.good) && !interrupted;
  if (!good)
    console.log(`${interrupted ?? 'Failed'}. Logs of the suites and of all that they started: ${OUT}`);
  return interrupted ? 128 + os.constants.signals[interrupted] : Number(!good);
});

/** All suites, or those that are named and what they need. */
function choose(words) {
  const unknown = words.find((word) => !SUITES.some(({ name }) => name === word));
  if (unknown) {
    throw new Problem(
      `${unknown}: there is no such suite. There are: ${SUITES.map(({ name }) => name).join(', ')}`,
    );
  }
  const named = SUITES.filter(({ name }) => words.length === 0 || words.includes(name));
  return SUITES.filter((suite) => named.includes(suite) || named.some(({ needs }) => needs === suite.name));
}

/** Runs a suite, with its output on the screen and in its folder; `told` are its counts and its problems. */
async function play(suite) {
  const { name, run, minutes, leaves } = suite;
  console.log(`\n== ${name}`);
  const began = Date.now();
  const folder = path.join(OUT, name.replaceAll(/\W+/g, '-'));
  mkdirSync(folder, { recursive: true });
  const log = path.join(folder, 'output.log');
  // What an earlier run left there is not this one's.
  if (leaves) rmSync(path.join(root, 'target', leaves), { recursive: true, force: true });
  const mark = `${process.pid} ${name}`;
  const [program, ...args] = run.split(' ');
  const child = spawn(program, args, {
    cwd: root,
    // A group of its own, which is ended as a whole.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, CI_SUITE: mark, EMBEDDED_CLUSTER_LOGS: folder, PAPERCLIP_TEST_CLUSTER: CLUSTER },
  });
  for (const [from, to] of [
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ]) {
    from.on('data', (chunk) => {
      to.write(chunk);
      appendFileSync(log, chunk);
    });
  }
  const closed = new Promise((resolve) => {
    child.once('close', resolve);
  });
  const problems = [];
  let killing;
  const end = (reason) => {
    if (killing) return;
    problems.push(reason);
    signalGroup(child, 'SIGTERM');
    killing = setTimeout(signalGroup, GRACE_MS, child, 'SIGKILL');
  };
  current = { suite, end };
  const timer = setTimeout(end, minutes * 60_000, `not over after ${minutes} min`);
  const code = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) => resolve(status ?? signal));
  });
  clearTimeout(timer);
  // npm may go before those that it has passed a signal on to.
  if (killing) await none(() => (signalGroup(child, 0) ? [child.pid] : []), GRACE_MS + 5_000);
  clearTimeout(killing);
  current = undefined;
  if (problems.length === 0 && code !== 0) problems.push(`ended with ${code}`);
  for (const { pid, line } of await none(() => marked(mark), 10_000)) {
    problems.push(`left behind: ${pid} ${line}`);
    process.kill(pid, 'SIGKILL');
  }
  await Promise.race([closed, sleep(5_000, undefined, { ref: false })]);
  for (const stream of [child.stdout, child.stderr]) stream.destroy();
  if (leaves && existsSync(path.join(root, 'target', leaves))) {
    cpSync(path.join(root, 'target', leaves), path.join(folder, leaves), { recursive: true });
  }
  const good = problems.length === 0;
  if (!good) problems.push(`logs: ${folder}`);
  const told = [...counts(existsSync(log) ? readFileSync(log, 'utf8') : ''), ...problems];
  const result = { good, seconds: (Date.now() - began) / 1_000, told };
  console.log(lineOf({ ...suite, ...result }));
  return result;
}

function lineOf({ name, good, seconds, told }) {
  const time = `${seconds.toFixed(0)} s`.padStart(6);
  return `${good ? 'ok    ' : 'FAILED'}  ${name.padEnd(22)} ${time}  ${told.join('; ')}`;
}

/** What a suite has counted: its own lines where it prints such (see specs.mjs), else what cargo and vitest told. */
function counts(output) {
  const text = stripVTControlCharacters(output);
  const own = text.match(/^.+: \d+ passed, \d+ failed, \d+ skipped in \d+ s$/gm);
  if (own) return own;
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const lines = text.match(/^(test result: |\s+Tests  |\d+ passed, ).*$/gm) ?? [];
  for (const [, count, what] of lines.join('\n').matchAll(/(\d+) (passed|failed|skipped|ignored)/g)) {
    sum[what === 'ignored' ? 'skipped' : what] += Number(count);
  }
  return lines.length > 0 ? [`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`] : [];
}

/** The processes, in whatever group, that have a suite's mark in their environment; known on Linux only. */
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

/** Waits until `look` finds nothing; resolves to what it found last. */
async function none(look, ms) {
  const deadline = Date.now() + ms;
  for (;;) {
    const found = look();
    if (found.length === 0 || Date.now() > deadline) return found;
    await sleep(100);
  }
}

/** Whether there was anybody to be told. */
function signalGroup({ pid }, signal) {
  try {
    process.kill(-pid, signal);
    return true;
  } catch (error) {
    if (error.code === 'ESRCH') return false;
    throw error;
  }
}
