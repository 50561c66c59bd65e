// npm run soak -- [--runs N] [--seed N] [--concurrency N]: many runs with random faults in one process, against what the
// last `npm test` built. The same seed gives the same plan.
import { parseArgs } from 'node:util';

import { Problem, main } from './lib.mjs';

/** How much a process may grow between the first fifth of the runs and the last, in MiB. */
const GROWTH = { heap: 4, rss: 32 };

await main(async () => {
  const number = (name, text, least) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < least)
      throw new Problem(`--${name} ${text}: a whole number from ${least} on is needed`);
    return value;
  };
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '2000' },
      seed: { type: 'string' },
      concurrency: { type: 'string', default: '32' },
    },
  });
  const runs = number('runs', values.runs, 10);
  const seed = number('seed', values.seed ?? Math.floor(Math.random() * 2 ** 32), 0);
  const concurrency = number('concurrency', values.concurrency, 1);
  const { soak } = await import('../../__test__/soak/soak.mjs');
  const rest = [Math.round(runs / 5), Math.round((3 * runs) / 5), runs];
  const { problems, kinds, marks, seconds, requests } = await soak({
    runs,
    seed,
    concurrency,
    rest,
    say: console.log,
  });
  for (const [what, most] of Object.entries(GROWTH)) {
    const grown = marks.at(-1)[what] - marks[1][what];
    console.log(`${what}: ${marks.map((mark) => mark[what]).join(' → ')} MiB`);
    if (grown > most)
      problems.push(`${what} grew by ${grown.toFixed(1)} MiB from run ${marks[1].runs} to run ${runs}`);
  }
  console.table(kinds);
  for (const problem of problems) console.error(problem);
  console.log(
    `${runs} runs in ${seconds.toFixed(0)} s, ${requests} requests, seed ${seed}: ${problems.length} problems`,
  );
  return problems.length === 0 ? 0 : 1;
});
