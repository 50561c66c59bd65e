// Formats the results: medians over the repetitions with their spread, and the ratio to the other package.
import { moduleLines } from './modules.mjs';
import { FIGURES, MUST_BE_ZERO, REAL_FIGURES, ROWS } from './rows.mjs';

const MODULES = '(f) the pure modules, on one core';

/** The value at a share of sorted numbers; null of none. */
export function percentile(sorted, share) {
  return sorted.length
    ? sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * share) - 1))]
    : null;
}

/** Median, least and most of the finite numbers; null of none. */
function spread(values) {
  const sorted = values.filter((value) => Number.isFinite(value)).toSorted((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length / 2;
  const median = (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
  return { median, min: sorted[0], max: sorted.at(-1) };
}

function number(value) {
  const digits = value === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString('en-US', { maximumFractionDigits: digits, minimumFractionDigits: 0 });
}

function formatted(of) {
  if (!of) return '–';
  return of.min === of.max
    ? number(of.median)
    : `${number(of.median)} (${number(of.min)}..${number(of.max)})`;
}

/** The lines of one row: `[figure, reach, each package…, ratio]`. */
function lines(row, packages) {
  const { reach } = ROWS[row];
  const known = Object.entries(FIGURES).filter(([name]) =>
    packages.flat().some((m) => m[name] !== undefined),
  );
  return known.map(([name, { title, unit }]) => {
    const each = packages.map((repetitions) => spread(repetitions.map((measured) => measured[name])));
    const [ours] = each;
    const limit = MUST_BE_ZERO.includes(name) ? 0 : reach[name];
    const reached = limit === undefined || !ours ? '' : ours.median <= limit ? '✓' : '✗';
    const cells = [
      unit ? `${title} (${unit})` : title,
      limit === undefined ? '' : `≤ ${number(limit)} ${reached}`,
    ];
    cells.push(...each.map(formatted));
    if (packages.length > 1) cells.push(ratio(packages, name));
    return cells;
  });
}

/** The second package's figure divided by the first's, repetition by repetition. */
function ratio([ours, theirs], name) {
  const pairs = ours.map((measured, i) => theirs[i]?.[name] / measured[name]);
  const of = spread(pairs);
  return of && !MUST_BE_ZERO.includes(name) ? `${formatted(of)} ×` : '';
}

function notes(row, packages, names) {
  return packages.flatMap((repetitions, index) => {
    const all = repetitions.flatMap((measured, i) =>
      measured.notes.map((note) => `${names[index]}, ${i + 1}: ${note}`),
    );
    return all;
  });
}

function headers(results) {
  const names = results.packages.map(({ name }) => name);
  return ['', 'reach', ...names, ...(names.length > 1 ? ['ratio'] : [])];
}

/** What the cluster used in a row, which shows whether it kept its schedule. */
function clusterLine(packages, names) {
  const parts = packages.map((repetitions, i) => {
    const of = (key) => formatted(spread(repetitions.map((measured) => measured[key])));
    return `${names[i]}: ${of('clusterCpuSeconds')} s CPU, wrote late by ${of('clusterLateP99Ms')} ms (p99)`;
  });
  return `The cluster itself: ${parts.join('; ')}.`;
}

function heading(row, results) {
  const { title, quick } = ROWS[row];
  const small = `${quick.runs} × ${quick.lines} lines at ${quick.perSecond}/s instead`;
  return `(${row}) ${title}${results.quick ? ` — quick: ${small}` : ''}`;
}

/** Pads the columns to equal widths. */
function aligned(table) {
  const widths = table[0].map((_, i) => Math.max(...table.map((cells) => cells[i].length)));
  return table.map((cells) => `  ${cells.map((cell, i) => cell.padEnd(widths[i])).join('  ')}`.trimEnd());
}

/** The results for a terminal. */
export function asText(results) {
  const names = results.packages.map(({ name }) => name);
  const out = [summary(results)];
  for (const [row, packages] of Object.entries(results.rows)) {
    out.push('', heading(row, results), ...aligned([headers(results), ...lines(row, packages)]));
    out.push(
      `  ${clusterLine(packages, names)}`,
      ...notes(row, packages, names).map((note) => `  ! ${note}`),
    );
  }
  if (results.modules) out.push('', MODULES, ...aligned(moduleLines(results.modules)));
  return out.join('\n');
}

/** The results for docs/benchmarks.md. */
export function asMarkdown(results) {
  const names = results.packages.map(({ name }) => name);
  const line = (cells) => `| ${cells.join(' | ')} |`;
  const table = (/** @type {string[][]} */ [head = [], ...rows]) => [
    line(head),
    line(head.map(() => '---')),
    ...rows.map(line),
  ];
  const out = [summary(results)];
  for (const [row, packages] of Object.entries(results.rows)) {
    out.push(
      '',
      `### ${heading(row, results)}`,
      '',
      ...table([headers(results), ...lines(row, packages)]),
      '',
    );
    out.push(clusterLine(packages, names));
    out.push(...notes(row, packages, names).map((note) => `- ${note}`));
  }
  if (results.modules) out.push('', `### ${MODULES}`, '', ...table(moduleLines(results.modules)));
  return out.join('\n');
}

function summary({ date, repetitions, machine, packages }) {
  const who = packages
    .map(({ name, version }) => (name === version ? name : `${name} = ${version}`))
    .join(', ');
  return (
    `${date.slice(0, 10)}, ${machine.cores} cores of ${machine.cpu}, ${machine.memoryGb} GiB, ${machine.system}, ` +
    `Node ${machine.node}, commit ${machine.commit}; ${who}. Median (least..most) of ${repetitions} repetitions.`
  );
}

/** Row (g) as Markdown: medians with their spread, in milliseconds. */
export function realTable({ bare, packages, machine, minor }) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  const head = ['ms', 'reach', 'a bare Job', ...packages.map(({ name }) => name)];
  const rows = REAL_FIGURES.map(([key, title, reach]) => {
    const each = packages.map(({ rounds }) => spread(rounds.map((round) => round[key])));
    const mark = each[0] && reach !== undefined && each[0].median <= reach ? '✓' : '✗';
    const cells = [title, reach === undefined ? '' : `≤ ${reach} ${mark}`];
    return line([...cells, formatted(spread(bare.map((round) => round[key]))), ...each.map(formatted)]);
  });
  const first = packages.map(({ name, first: { whole } }) => `${name} ${number(whole)}`);
  return [
    `Kubernetes 1.${minor}, ${machine.cores} cores, Node ${machine.node}, commit ${machine.commit}. Median (least..most) of ` +
      `${bare.length} rounds. The first run of the process, from \`execute\` to resolved: ${first.join(', ')} ms.`,
    '',
    line(head),
    line(head.map(() => '---')),
    ...rows,
  ].join('\n');
}
