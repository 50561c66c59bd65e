// npm run soak: many runs with random faults in one process, on what the last `npm test` built.
import { program, wholeNumber } from './lib.mjs';

const USAGE = `npm run soak -- [options]
  --runs N          how many runs (default 2000)
  --seed N          repeats the plan of an earlier soak (default: a random one)
  --concurrency N   runs at the same time (default 32)`;

/** How much a process may grow between the first fifth of the runs and the last, in MiB. */
const GROWTH = { heap: 4, rss: 32 };

const OPTIONS = /** @type {const} */ ({
  runs: { type: 'string', default: '2000' },
  seed: { type: 'string' },
  concurrency: { type: 'string', default: '32' },
});

await program(USAGE, { options: OPTIONS }, async ({ values }) => {
  const runs = wholeNumber('--runs', values.runs, { least: 10 });
  const seed = wholeNumber('--seed', values.seed ?? String(Math.floor(Math.random() * 2 ** 32)));
  const concurrency = wholeNumber('--concurrency', values.concurrency, { least: 1 });
  const { soak } = await import('../../__test__/soak/soak.mjs');
  const { problems, kinds, marks, seconds, requests } = await soak({
    runs,
    seed,
    concurrency,
    measureAfter: [Math.round(runs / 5), Math.round((3 * runs) / 5), runs],
    log: console.log,
  });
  const [, first] = marks;
  const last = marks[marks.length - 1];
  for (const [what, most] of Object.entries(GROWTH)) {
    const grown = last[what] - first[what];
    console.log(`${what}: ${marks.map((mark) => mark[what]).join(' → ')} MiB`);
    if (grown > most)
      problems.push(`${what} grew by ${grown.toFixed(1)} MiB from run ${first.runs} to run ${runs}`);
  }
  console.table(kinds);
  for (const problem of problems) console.error(problem);
  console.log(
    `${runs} runs in ${seconds.toFixed(0)} s, ${requests} requests, seed ${seed}: ${problems.length} problems`,
  );
  return problems.length === 0 ? 0 : 1;
});
