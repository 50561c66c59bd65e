// The table of what the host does with each ending, in `docs/host-endings.md`: the suites print what they saw, compare it with
// what is kept there, and write it with `npm run test:host -- --write …`.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FILE = path.join(fileURLToPath(new URL('../..', import.meta.url)), 'docs', 'host-endings.md');

/** What was seen of a task, in one cell. @param {import('./tasks.js').Seen | Error} seen */
export function cellOf(seen) {
  if (seen instanceof Error) return `not seen: ${seen.message}`;
  const { run, issue, retry, next } = seen;
  const { errorFamily, retryNotBefore } = run.resultJson ?? {};
  return [
    [run.status, run.errorCode && `\`${run.errorCode}\``, errorFamily && `(${errorFamily})`]
      .filter(Boolean)
      .join(' '),
    ...(retryNotBefore
      ? [`not before ${offset(Date.parse(retryNotBefore) - Date.parse(run.finishedAt))}`]
      : []),
    issue,
    retryText(retry),
    next ? `comment: ${next.status}` : 'comment: starts nothing',
  ].join(' · ');
}

/** @param {import('./tasks.js').Seen['retry']} retry */
function retryText({ kind, afterMs, atNotBefore }) {
  if (kind === 'none') return 'no retry';
  if (kind === 'at once') return 'retry at once';
  return atNotBefore ? 'retry then' : `retry ${offset(afterMs ?? 0)}`;
}

/** The row of a host that is asked to end, and what its run is called if the host is first. */
export const STOPPED = 'host stops in order';
const STOPPED_RUN = 'interrupted `server_shutdown_interrupted`';

/** A time from the end of the run on, as a person would say it. */
function offset(ms) {
  const seconds = Math.round(ms / 1_000);
  if (seconds < 100) return `+${Math.round(seconds / 10) * 10} s`;
  if (seconds < 6_000) return `+${Math.round(seconds / 60)} min`;
  return `+${Math.round(seconds / 3_600)} h`;
}

/**
 * What of a cell does not depend on when the task was looked at: the run and its code. The host may add a family. Where it is
 * asked to end it marks a run, and ends the processes of claude_local; which of the two comes first is chance.
 */
const lasting = (cell, name) => {
  const text = cell.split(' · ')[0].replace(/ \(.*\)$/, '');
  return name === STOPPED ? text.replace(/^failed `adapter_failed`$/, STOPPED_RUN) : text;
};

/** A Markdown table. @param {string[]} head @param {string[][]} rows */
export function tableOf(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const mark = (section, what) => `<!-- ${section}: ${what} -->`;

/** The kept table of a section. @param {string} section */
function kept(section) {
  const [, rest] = readFileSync(FILE, 'utf8').split(`${mark(section, 'begin')}\n`);
  const table = rest?.split(`\n${mark(section, 'end')}`)[0];
  if (table === undefined) throw new Error(`docs/host-endings.md has no section ${section}`);
  return table;
}

/**
 * The cells of a kept row after its name, if there is such a row.
 *
 * @param {string} section
 * @param {string} name
 */
function keptRow(section, name) {
  const cells = kept(section)
    .split('\n')
    .map((line) => line.slice(2, -2).split(' | '))
    .find(([first]) => first === name);
  return cells?.slice(1);
}

/**
 * Where the rows of a table differ from those that are kept, in what lasts. A row that is not kept yet is said, not compared.
 *
 * @param {string} section
 * @param {string[][]} rows
 */
export function changes(section, rows) {
  return rows.flatMap(([name, ...cells]) => {
    const before = keptRow(section, name);
    if (!before) console.log(`docs/host-endings.md has no row "${name}": npm run test:host -- --write`);
    // A dash is a cell that was not seen yet.
    const [was, is] = [before ?? cells, cells].map((row) =>
      row.map((cell, index) => (before?.[index] === '–' ? '–' : lasting(cell, name))).join(' | '),
    );
    return was === is ? [] : [`${name}: ${was} -> ${is}`];
  });
}

/** Keeps a table, if the suite was asked to. @param {string} section @param {string} table */
export function keep(section, table) {
  if (!process.env.WRITE_HOST_ENDINGS) return;
  const at = (content) => `${mark(section, 'begin')}\n${content}\n${mark(section, 'end')}`;
  const text = readFileSync(FILE, 'utf8');
  writeFileSync(
    FILE,
    text.replace(at(kept(section)), () => at(table)),
  );
}
