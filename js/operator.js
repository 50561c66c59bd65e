// What operators run in a terminal: `npx paperclip-adapter-claude-k8s doctor` and `… runs`.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { binding } from './binding.js';
import { testEnvironment } from './environment.js';
import { type } from './identity.js';
import { printable } from './printable.js';
import { requestOf } from './request.js';

const USAGE = `paperclip-adapter-claude-k8s COMMAND [options]

  doctor   checks what agent runs need: API, permissions, Secret, shared volume
  runs     lists the Jobs of this adapter: agent, task, state, age, and what holds or ended them

  --kubeconfig FILE   the cluster (its current context); without it the one that this process runs in
  --namespace NAME    where the Jobs are (default: that of Paperclip's pod)
  --pod NAME          doctor: Paperclip's pod, the model of every Job (default: the pod that this process runs in)
  --config FILE       an agent's adapterConfig as JSON; the options above win
  --json              for programs

Exit code: 0, or 1 where a check failed, or 2 where the command could not be carried out.`;

const OPTIONS = /** @type {const} */ ({
  kubeconfig: { type: 'string' },
  namespace: { type: 'string' },
  pod: { type: 'string' },
  config: { type: 'string' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean' },
});

/**
 * Carries out a command.
 *
 * @param {string[]} argv without the program
 * @param {{write: (text: string) => void, warn: (text: string) => void, env?: NodeJS.ProcessEnv, now?: number}} io `now` in
 *   milliseconds since 1970
 * @returns {Promise<number>} the exit code
 */
export async function operate(argv, { write, warn, env = process.env, now = Date.now() }) {
  const print = (/** @type {string} */ text) => write(`${printable(text)}\n`);
  try {
    const { values, positionals } = parseArgs({ args: argv, options: OPTIONS, allowPositionals: true });
    const [command, ...rest] = positionals;
    if (values.version) print(version());
    else if (values.help || (command === undefined && argv.length === 0)) print(USAGE);
    else if (command === 'doctor' && rest.length === 0) return await doctor(values, env, print);
    else if (command === 'runs' && rest.length === 0) await runs(values, env, now, print);
    else throw new Error(`unknown command "${positionals.join(' ')}"\n\n${USAGE}`);
    return 0;
  } catch (error) {
    warn(`${printable(error instanceof Error ? error.message : String(error))}\n`);
    return 2;
  }
}

/** @typedef {{[name in keyof typeof OPTIONS]?: any}} Values */

/**
 * @param {Values} values
 * @param {NodeJS.ProcessEnv} env
 * @param {(text: string) => void} print
 */
async function doctor(values, env, print) {
  const { pod, namespace } = values;
  const config = configOf(values);
  // Where the native half looks for its own pod.
  const hostEnv = {
    ...env,
    ...(pod && { HOSTNAME: pod, POD_NAME: pod }),
    ...(namespace && { POD_NAMESPACE: namespace }),
  };
  if (!hostEnv.HOSTNAME?.trim() && !hostEnv.POD_NAME?.trim()) {
    throw new Error("Paperclip's pod is not known: give its name with --pod, or run the command in it");
  }
  const { status, checks } = await testEnvironment({ adapterType: type, config, hostEnv });
  if (values.json) {
    print(JSON.stringify({ version: version(), node: process.version, status, checks }, undefined, 2));
  } else {
    print(`paperclip-adapter-claude-k8s ${version()}, Node ${process.version}`);
    for (const { level, message, detail, hint } of checks) {
      print(`${level === 'info' ? 'ok' : level}`.padEnd(7) + message);
      if (detail) print(`       ${detail}`);
      if (hint) print(`       → ${hint}`);
    }
    const count = (/** @type {string} */ level) => checks.filter((check) => check.level === level).length;
    print(`${status}: ${count('error')} errors, ${count('warn')} warnings, ${count('info')} ok`);
  }
  return status === 'fail' ? 1 : 0;
}

/**
 * @typedef {object} Row a Job, as `src/forensics/overview.rs` reads it
 * @property {string} job
 * @property {string | null} agent
 * @property {string | null} agentName
 * @property {string | null} task
 * @property {string | null} createdAt RFC 3339
 * @property {string} state
 * @property {string | null} cause
 */

/**
 * @param {Values} values
 * @param {NodeJS.ProcessEnv} env
 * @param {number} now
 * @param {(text: string) => void} print
 */
async function runs(values, env, now, print) {
  const rows = /** @type {Row[]} */ (await binding.overview(requestOf({ config: configOf(values) }, env)));
  if (values.json) return print(JSON.stringify(rows, undefined, 2));
  if (rows.length === 0) return print('No Jobs of this adapter.');
  const table = [
    ['JOB', 'AGENT', 'TASK', 'STATE', 'AGE', 'CAUSE'],
    ...rows.map((row) => [
      row.job,
      row.agentName ?? row.agent ?? '-',
      row.task ?? '-',
      row.state,
      row.createdAt ? age(now - Date.parse(row.createdAt)) : '-',
      row.cause ?? '',
    ]),
  ].map((cells) => cells.map((cell) => printable(cell).replaceAll('\n', ' ')));
  const widths = (table[0] ?? []).map((_, column) =>
    Math.max(...table.map((cells) => cells[column]?.length ?? 0)),
  );
  for (const cells of table)
    print(
      cells
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
}

/**
 * The agent's configuration that the options stand for.
 *
 * @param {Values} values
 * @returns {Record<string, unknown>}
 */
function configOf({ config, kubeconfig, namespace }) {
  return {
    ...(config && readConfig(config)),
    ...(kubeconfig && { kubeconfig }),
    ...(namespace && { namespace }),
  };
}

/** @param {string} file @returns {Record<string, unknown>} */
function readConfig(file) {
  const text = readFileSync(file, 'utf8');
  try {
    const config = JSON.parse(text);
    if (config && typeof config === 'object' && !Array.isArray(config)) return config;
  } catch {
    // The parser's message would show a piece of the file, which may hold secrets.
  }
  throw new Error(`${file}: a JSON object is needed`);
}

/** The age of a Job as kubectl writes it. @param {number} milliseconds */
function age(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1_000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3_600)}h` : `${Math.floor(seconds / 86_400)}d`;
}

/** @returns {string} */
function version() {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
}
