// npm run fuzz: feeds mutated output of agents to all that reads it, every target at once for the same time.
import { spawn } from 'node:child_process';
import path from 'node:path';

import { program, root, run, step, wholeNumber } from './lib.mjs';

const USAGE = `npm run fuzz -- [options]
  --minutes N   for how long (default 60)
  --seed N      repeats the inputs of an earlier run (default: a random one)`;

const OPTIONS = /** @type {const} */ ({
  minutes: { type: 'string', default: '60' },
  seed: { type: 'string' },
});

/** Runs a target; resolves to its exit code. @param {string} command @param {(string | number)[]} args */
const play = (command, args) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args.map(String), { cwd: root, stdio: 'inherit' });
    child.once('error', reject);
    child.once('close', resolve);
  });

await program(USAGE, { options: OPTIONS }, async ({ values }) => {
  const seconds = 60 * wholeNumber('--minutes', values.minutes, { least: 1 });
  const seed = wholeNumber('--seed', values.seed ?? String(Math.floor(Math.random() * 2 ** 32)));
  step(`Fuzzing for ${seconds / 60} min, seed ${seed}`);
  // A debug build, which stops at an overflow.
  const features = ['--no-default-features', '--features', 'client'];
  const cargo = ['--quiet', '--locked', ...features, '--example', 'fuzz'];
  await run('cargo', ['build', ...cargo]);
  const fuzz = path.join(
    process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'),
    'debug',
    'examples',
    'fuzz',
  );
  const codes = await Promise.all([
    ...['framing', 'resume', 'events'].map((target) =>
      play(fuzz, [target, '--seconds', seconds, '--seed', seed]),
    ),
    play(process.execPath, ['fuzz/parsers.mjs', seconds, seed]),
  ]);
  return codes.every((code) => code === 0) ? 0 : 1;
});
