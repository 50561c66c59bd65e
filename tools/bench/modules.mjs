// Row (f): the cargo bench of the pure modules.
import { spawn } from 'node:child_process';

import { Problem, root } from '../dev/lib.mjs';

/** Lines in one iteration of the bench (`LINES` there). */
const LINES = 10_000;

/**
 * Runs the bench; resolves to the parts of its table that are reported.
 *
 * @returns {Promise<{benches: Array<{name: string, median: string, rates: string[], allocations?: number}>}>}
 */
export async function measureModules({ quick }) {
  const args = [
    'bench',
    '--quiet',
    '--locked',
    '--no-default-features',
    '--bench',
    'modules',
    '--',
    '--color',
    'never',
  ];
  args.push(
    ...(quick ? ['--sample-count', '5', '--max-time', '0.2'] : ['--min-time', '2', '--max-time', '4']),
  );
  const child = spawn('cargo', args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part) => (text += part));
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Problem(`failed (exit ${code}): cargo ${args.join(' ')}`);
  const benches = parseTable(text);
  if (benches.length === 0) throw new Problem(`cannot read the table of the bench:\n${text}`);
  return { benches };
}

/** The median column of divan's table: time, rates and the number of allocations, by the path of names. */
function parseTable(text) {
  const benches = [];
  const path = [];
  let heading = '';
  for (const line of text.split('\n')) {
    const [first, , median] = line
      .replace(/^[│ ]*/, '')
      .split('│')
      .map((cell) => cell.trim());
    const named = /^(?<branch>[│ ]*)[├╰]─ (?<name>\S+)(?<rest>.*)/.exec(line);
    if (named) {
      const { branch, name, rest } = /** @type {Record<string, string>} */ (named.groups);
      path.splice(branch.length / 3, Infinity, name);
      const time = rest.split('│')[2]?.trim();
      if (time) benches.push({ name: path.join(' '), median: time, rates: [] });
      heading = '';
    } else if (/^[\w ]+:$/.test(first)) {
      heading = first;
    } else if (benches.length > 0 && median) {
      const bench = benches.at(-1);
      if (!heading) bench.rates.push(median);
      else if (heading === 'alloc:' && bench.allocations === undefined) bench.allocations = Number(median);
    }
  }
  return benches;
}

/** The reach in MB/s, by the first word of a name. */
const REACH = { split: 1_000, split_and_parse: 300, split_resume_and_parse: 300 };
const MB = { 'B/s': 1e-6, 'KB/s': 1e-3, 'MB/s': 1, 'GB/s': 1e3 };

/** The rows of (f), with their headers. */
export function moduleLines({ benches }) {
  return [
    ['', 'reach', 'median', 'rates', 'allocations'],
    ...benches.map(({ name, median, rates, allocations = 0 }) => {
      const lines = rates.length > 1;
      const reach = Object.entries(REACH).find(([begin]) => name.split(' ')[0] === begin)?.[1];
      const [rate, unit] = rates[0]?.split(' ') ?? [];
      const reached = reach ? `≥ ${reach} MB/s ${Number(rate) * MB[unit] >= reach ? '✓' : '✗'}` : '';
      const each = lines ? `${(allocations / LINES).toFixed(2)} a line` : String(allocations);
      return [
        name,
        reached,
        median,
        rates.join(', ').replaceAll('item', lines ? 'lines' : 'manifests'),
        each,
      ];
    }),
  ];
}
