// npm run bench: measures what runs cost the host, for this package and the existing one. See docs/benchmarks.md.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  root,
  step,
  wholeNumber,
} from '../dev/lib.mjs';
import { measureModules } from './modules.mjs';
import { asMarkdown, asText, percentile, realTable } from './report.mjs';
import { MUST_BE_ZERO, ROWS } from './rows.mjs';

const USAGE = `npm run bench -- [options]
  --against DIR     also measure the package built in DIR, in turns
  --rows a,b        only these rows: ${Object.keys(ROWS).join(', ')}, f (the pure modules); e, h and i are all of theirs
  --repetitions N   how often each row is measured (default 5)
  --quick           each row in small, once
  --silence N       row (h2): seconds of silence (default 600, with --quick 2)
  --markdown        print the table as Markdown too
  --write           write the table into docs/benchmarks.md
  --from FILE       print the results in FILE instead of measuring
  --cluster real    row (g) instead, beside a bare Job on the cluster of npm run cluster:up (default: 10 repetitions)
  --no-build        measure the addon as it is built`;

const here = path.dirname(fileURLToPath(import.meta.url));
/** The time limit of a measurement. */
const LIMIT_MS = 150_000;
/** A cluster that writes later than this, in the 99th percentile, makes the measurement doubtful. */
const LATE_MS = 25;

const OPTIONS = /** @type {const} */ ({
  against: { type: 'string' },
  rows: { type: 'string' },
  repetitions: { type: 'string' },
  quick: { type: 'boolean' },
  silence: { type: 'string' },
  markdown: { type: 'boolean' },
  write: { type: 'boolean' },
  from: { type: 'string' },
  cluster: { type: 'string' },
  'no-build': { type: 'boolean' },
});

await program(USAGE, { options: OPTIONS }, async ({ values }) => {
  if (values.cluster !== undefined) return real(values);
  const options = chosen(values);
  const results = options.from ? JSON.parse(readFileSync(options.from, 'utf8')) : await measureAll(options);
  if (!options.from) keep(results);
  console.log(`\n${asText(results)}`);
  if (options.markdown) console.log(`\n${asMarkdown(results)}`);
  if (options.write) write(asMarkdown(results));
  // A slow run is only reported, but a failed run or a wrong line is a bug.
  const ours = Object.values(results.rows).flatMap(([measured]) => measured);
  const wrong = MUST_BE_ZERO.filter((name) => ours.some((measured) => measured[name] !== 0));
  if (wrong.length > 0) console.error(`\nNot 0 for this package: ${wrong.join(', ')}`);
  return wrong.length > 0 ? 1 : 0;
});

/** Row (g). A figure that misses its reach is only reported. */
async function real({ cluster, against, repetitions = '10', 'no-build': built }) {
  if (cluster !== 'real') throw new Problem(`--cluster ${cluster}: only real.\n${USAGE}`);
  const packages = packagesOf(against);
  if (!built) {
    await installDependencies();
    await buildAddon();
  }
  const { measureReal } = await import('./real.mjs');
  const measured = await measureReal({
    packages,
    rounds: wholeNumber('--repetitions', repetitions, { least: 1 }),
  });
  const results = { date: new Date().toISOString(), machine: machine(), ...measured };
  keep(results);
  console.log(`\n${realTable(results)}`);
  return 0;
}

function packagesOf(against) {
  const folders = { 'this package': root, ...(against && { existing: path.resolve(against) }) };
  const packages = Object.entries(folders).map(([name, dir]) => Object.assign(entryOf(dir), { name, dir }));
  packages.slice(1).forEach(checkBuilt);
  return packages;
}

function chosen(values) {
  const all = [...Object.keys(ROWS), 'f'];
  const rows = (values.rows?.split(',') ?? all).flatMap((name) =>
    ['e', 'h', 'i'].includes(name) ? all.filter((row) => row.startsWith(name)) : [name],
  );
  const unknown = rows.find((name) => !all.includes(name));
  if (unknown) throw new Problem(`--rows: unknown row ${unknown}.\n${USAGE}`);
  const repetitions = wholeNumber('--repetitions', values.repetitions ?? (values.quick ? '1' : '5'), {
    least: 1,
  });
  return { ...values, rows, repetitions };
}

async function measureAll({ against, rows, repetitions, quick, silence, 'no-build': built }) {
  const silentSeconds = silence && wholeNumber('--silence', silence, { least: 1 });
  checkPrerequisites();
  const packages = packagesOf(against);
  if (!built) {
    await installDependencies();
    await buildSimulator();
    await buildAddon();
  }
  const results = {
    date: new Date().toISOString(),
    quick: quick ?? false,
    repetitions,
    machine: machine(),
    packages: packages.map(({ name, version }) => ({ name, version })),
    rows: /** @type {Record<string, any[][]>} */ ({}),
    modules: /** @type {any} */ (undefined),
  };
  for (const row of rows.filter((name) => name in ROWS)) {
    const { once } = ROWS[row];
    const some = once ? packages.slice(0, 1) : packages;
    const times = once ? 1 : repetitions;
    results.rows[row] = packages.map(() => []);
    const work = { ...(quick ? ROWS[row].quick : ROWS[row].work) };
    if (work.silentSeconds && silentSeconds) work.silentSeconds = silentSeconds;
    for (let repetition = 1; repetition <= times; repetition++) {
      for (const [index, each] of some.entries()) {
        const measured = await measure(each, work);
        results.rows[row][index].push(measured);
        report(row, repetition, times, each.name, measured);
      }
    }
  }
  if (rows.includes('f')) {
    step('(f) the pure modules');
    results.modules = await measureModules({ quick });
  }
  return results;
}

/** The entry file of a package, as the host finds it. */
function entryOf(dir) {
  const file = path.join(dir, 'package.json');
  if (!existsSync(file)) throw new Problem(`--against ${dir}: it has no package.json.`);
  const { name, version, exports } = JSON.parse(readFileSync(file, 'utf8'));
  const entry = exports?.['.'];
  return {
    version: `${name}@${version}`,
    entry: path.join(dir, typeof entry === 'string' ? entry : entry.import),
  };
}

function checkBuilt({ dir, entry }) {
  if (!existsSync(entry) || !existsSync(path.join(dir, 'node_modules'))) {
    throw new Problem(
      `--against ${dir}: it is not built (${path.relative(dir, entry)} and node_modules must be there): ` +
        `install its dependencies and run \`npx tsc\` in it.`,
    );
  }
}

/** Measures one row of one package once, with a new cluster and a new host process. */
async function measure({ entry }, work) {
  const { startCluster } = await import('../simulator/cluster.mjs');
  const cluster = await startCluster({ binDirs: [] });
  try {
    // No log rotation here: a host that is slow must not lose lines to it.
    await cluster.post('/simulator/settings', { logRotateBytes: 2 ** 31 });
    await cluster.post('/simulator/reset-requests');
    const before = processorSeconds(cluster.pid);
    const host = await runHost(cluster, entry, work);
    const clusterCpuSeconds = processorSeconds(cluster.pid) - before;
    const [load, connections, requests] = await Promise.all([
      cluster.get('/simulator/load'),
      cluster.get('/simulator/connections'),
      cluster.get(`/simulator/requests?since=${Number.MAX_SAFE_INTEGER}`),
    ]);
    return figures(work, host, { load, connections, counts: requests.counts, clusterCpuSeconds });
  } finally {
    await cluster.stop();
  }
}

/** @param {any} cluster @param {string} entry @param {import('./rows.mjs').Work} work */
async function runHost(cluster, entry, work) {
  const home = path.join(cluster.dir, 'paperclip-home');
  mkdirSync(home, { recursive: true });
  const { kubeconfig, namespace } = cluster;
  const silentMs = (work.silentSeconds ?? 0) * 1e3;
  const limitMs = (work.limitMs ?? LIMIT_MS) + silentMs;
  const startDelayMs = work.startDelayMs + silentMs;
  const order = {
    entry: pathToFileURL(entry),
    kubeconfig,
    namespace,
    home,
    work: { ...work, startDelayMs },
    limitMs,
  };
  const child = spawn(process.execPath, [path.join(here, 'host.mjs'), JSON.stringify(order)], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let out = '';
  let errors = '';
  child.stdout?.setEncoding('utf8').on('data', (text) => (out += text));
  child.stderr?.setEncoding('utf8').on('data', (text) => (errors = (errors + text).slice(-4_096)));
  // For a host process that does not keep its own limit.
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs + 60_000);
  const closed = new Promise((resolve) => child.once('close', resolve));
  const silent =
    silentMs > 0 && Promise.race([silenceOf(cluster, child, work), closed.then(() => undefined)]);
  const code = await closed;
  clearTimeout(timer);
  try {
    return { ...JSON.parse(out), silent: await silent };
  } catch {
    throw new Problem(
      `the host process exited with ${code} and printed no figures: ${errors || out.slice(-2_000)}`,
    );
  }
}

/** What silent runs cost the host and ask of the cluster: measured once the cluster follows all of their logs. */
async function silenceOf(cluster, child, { runs }) {
  const followed = async () => (await cluster.get('/simulator/connections')).logStreams.length;
  while ((await followed()) < runs) await sleep(2_000);
  // Until the connections of their start are idle.
  await sleep(1_000);
  const counts = async () =>
    (await cluster.get(`/simulator/requests?since=${Number.MAX_SAFE_INTEGER}`)).counts;
  const before = await counts();
  const measured = await new Promise((resolve) => {
    child.once('message', resolve);
    child.send('silence');
  });
  const { connections, logStreams } = await cluster.get('/simulator/connections');
  const after = await counts();
  const perMinute = (wanted) =>
    Object.keys(after).reduce(
      (sum, what) => (wanted(what) ? sum + after[what] - (before[what] ?? 0) : sum),
      0,
    ) /
    (measured.seconds / 60);
  const isLog = (what) => what === 'get pods/log';
  return {
    ...measured,
    // One of them is the connection of this program.
    silentConnections: connections - 1 - logStreams.length,
    silentLogRequests: perMinute(isLog),
    silentRequests: perMinute((what) => !isLog(what)),
  };
}

/** The figures of a measurement, by the names in `FIGURES`. */
function figures(work, host, { load, connections, counts, clusterCpuSeconds }) {
  const { runs } = work;
  /** From each of these moments until its run resolved, in milliseconds, the shortest first. */
  const untilResolved = (moments) =>
    moments
      .map(({ labels, us }) => (host.resolved[labels['paperclip.io/run-id']] - us) / 1e3)
      .filter((ms) => Number.isFinite(ms) && ms > -1_000)
      .toSorted((a, b) => a - b);
  const resolve = untilResolved(load.finished);
  const exit = untilResolved(load.exited);
  const of = (wanted) =>
    Object.entries(counts).reduce((sum, [what, count]) => (wanted(what) ? sum + count : sum), 0) / runs;
  const cpuOverIdleSeconds = host.cpuSeconds - host.idleCpuPerSecond * host.seconds;
  const cpuOfRunsSeconds = cpuOverIdleSeconds - host.checkSeconds;
  const rssOverIdleMb = host.peakRssMb - host.idleRssMb;
  const lateMs = load.emit.p99Us / 1e3;
  const busy = (host.cpuSeconds + clusterCpuSeconds) / host.seconds;
  const notes = [];
  if (lateMs > LATE_MS)
    notes.push(
      `the cluster wrote late (p99 ${lateMs.toFixed(0)} ms): the cluster or the machine was the bottleneck`,
    );
  if (busy > 0.9 * os.availableParallelism())
    notes.push(`host and cluster used ${busy.toFixed(1)} processors: the machine was full`);
  if (host.finished < runs)
    notes.push(`${runs - host.finished} runs had not ended after ${(work.limitMs ?? LIMIT_MS) / 1e3} s`);
  if (host.silent?.broken) notes.push('some runs were not silent any more: they had started too late');
  return {
    exitP50Ms: percentile(exit, 0.5),
    exitP99Ms: percentile(exit, 0.99),
    resolveP50Ms: percentile(resolve, 0.5),
    resolveP99Ms: percentile(resolve, 0.99),
    lineP50Ms: host.lineP50Ms,
    lineP99Ms: host.lineP99Ms,
    cpuSeconds: host.cpuSeconds,
    cpuOverIdleSeconds,
    checkSeconds: host.checkSeconds,
    cpuOfRunsSeconds,
    cpuMsPerRun: (cpuOfRunsSeconds / runs) * 1e3,
    rssOverIdleMb,
    rssKbPerRun: (rssOverIdleMb / runs) * 1e3,
    loopP99Ms: host.loopP99Ms,
    loopMaxMs: host.loopMaxMs,
    requests: of(() => true),
    ownRequests: of((what) => !what.startsWith('watch ') && what !== 'get pods/log'),
    // One of them is the connection of this program.
    connections: connections.most.connections - 1,
    logConnections: connections.most.logStreams,
    hostIdleMs: host.hostIdleMs,
    hostIdlePercent: host.hostIdlePercent,
    rssGrowthMb: host.rssGrowthMb,
    ...host.silent,
    coldPageUs: host.coldPageUs,
    lost: host.lost,
    doubled: host.doubled,
    damaged: host.damaged,
    failed: host.failed,
    failures: host.failures,
    seconds: host.seconds,
    idleCpuPerSecond: host.idleCpuPerSecond,
    idleRssMb: host.idleRssMb,
    clusterCpuSeconds,
    clusterLateP99Ms: lateMs,
    clusterLateMaxMs: load.emit.maxUs / 1e3,
    requestCounts: counts,
    notes,
  };
}

/** The processor time of a process so far; 0 where that is not known. */
function processorSeconds(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ') ?? [];
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}

function machine() {
  const git = spawnSync('git', ['-C', root, 'describe', '--always', '--dirty'], { encoding: 'utf8' });
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGb: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    commit: git.stdout?.trim() || 'unknown',
  };
}

function report(row, repetition, repetitions, name, m) {
  const ms = (value) => (value === null ? '–' : `${value.toFixed(1)} ms`);
  step(
    `(${row}) ${repetition}/${repetitions} ${name}: resolved after p99 ${ms(m.exitP99Ms)}, line p99 ${ms(m.lineP99Ms)}, ` +
      `CPU ${m.cpuSeconds.toFixed(2)} s, +${m.rssOverIdleMb.toFixed(0)} MB, ` +
      `loop p99 ${ms(m.loopP99Ms)} max ${ms(m.loopMaxMs)}, ${m.requests.toFixed(1)} requests/run, ` +
      `lost/doubled/damaged ${m.lost}/${m.doubled}/${m.damaged} (cluster: CPU ${m.clusterCpuSeconds.toFixed(2)} s, ` +
      `late ${ms(m.clusterLateP99Ms)})`,
  );
  for (const note of m.notes) console.log(`  ! ${note}`);
  for (const text of m.failures)
    console.log(`  ! ${m.failed} runs did not succeed, for example: ${text.slice(0, 200)}`);
}

/** Replaces the table in docs/benchmarks.md. */
function write(table) {
  const file = path.join(root, 'docs', 'benchmarks.md');
  const [begin, end] = ['<!-- npm run bench -- --write: begin -->', '<!-- end -->'];
  const text = readFileSync(file, 'utf8');
  const [before, rest] = text.split(begin);
  const after = rest?.split(end)[1];
  if (after === undefined) throw new Problem(`${file}: the marks around the table are missing.`);
  writeFileSync(file, `${before}${begin}\n\n${table}\n\n${end}${after}`);
  step(`Written: ${path.relative(process.cwd(), file)}`);
}

/** Writes the results into a folder that is not committed. */
function keep(results) {
  const dir = path.join(here, 'results');
  mkdirSync(dir, { recursive: true });
  const file = path.join(dir, `${results.date.replaceAll(':', '-')}.json`);
  writeFileSync(file, JSON.stringify(results, null, 1));
  step(`Results: ${path.relative(process.cwd(), file)}`);
}
