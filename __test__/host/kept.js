// The table of what the host does with each ending, in `docs/host-endings.md`: the suites print what they saw, compare it with
// what is kept there, and write it with `npm run test:host -- --write …`.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FILE = path.join(fileURLToPath(new URL('../..', import.meta.url)), 'docs', 'host-endings.md');

/** What was seen of a task, in one cell. @param {import('./tasks.js').Seen | Error} seen */
export function cellOf(seen) {
  if (seen instanceof Error) return `not seen: ${seen.message}`;
  const { run, issue, retry, next, last } = seen;
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
    next ? `comment: ${next.status}, ${last}` : `comment: starts nothing, ${last}`,
  ].join(' · ');
}

/** @param {import('./tasks.js').Seen['retry']} retry */
function retryText({ kind, afterMs, atNotBefore }) {
  if (kind === 'none') return 'no retry';
  if (kind === 'at once') return 'retry at once';
  return atNotBefore ? 'retry then' : `retry ${offset(afterMs ?? 0)}`;
}

/** A time from the end of the run on, as a person would say it. */
function offset(ms) {
  const seconds = Math.round(ms / 1_000);
  if (seconds < 100) return `+${Math.round(seconds / 10) * 10} s`;
  if (seconds < 6_000) return `+${Math.round(seconds / 60)} min`;
  return `+${Math.round(seconds / 3_600)} h`;
}

/** A table without its times: they differ from day to day. */
export const timeless = (text) => text.replaceAll(/\+\d+ (s|min|h)\b/g, '+T');

/** A Markdown table. @param {string[]} head @param {string[][]} rows */
export function tableOf(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const mark = (section, what) => `<!-- ${section}: ${what} -->`;

/** The kept table of a section, or undefined. @param {string} section */
export function kept(section) {
  if (!existsSync(FILE)) return undefined;
  const [, rest] = readFileSync(FILE, 'utf8').split(`${mark(section, 'begin')}\n`);
  return rest?.split(`\n${mark(section, 'end')}`)[0];
}

/** Keeps a table, if the suite was asked to. @param {string} section @param {string} table */
export function keep(section, table) {
  if (!process.env.WRITE_HOST_ENDINGS) return;
  const text = readFileSync(FILE, 'utf8');
  const before = `${mark(section, 'begin')}\n${kept(section)}\n`;
  if (!text.includes(before)) throw new Error(`docs/host-endings.md has no section ${section}`);
  writeFileSync(
    FILE,
    text.replace(before, () => `${mark(section, 'begin')}\n${table}\n`),
  );
}
