// npm run test:host: this adapter in the real Paperclip host, seen through its API and its pages.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  main,
  root,
} from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';
import { makeEndings } from './lab/endings.mjs';
import { raiseLab } from './lab/lab.mjs';
import { chromium } from './lab/system.mjs';

const USAGE = `npm run test:host -- [options] [suite …]
  --cluster KIND   embedded (default) or real
  --stay           run no suite: leave cluster and host up to look at, until Ctrl-C
  suite …          only the suites whose file name contains one of these words`;

await main(async () => {
  const { options, suites } = read(process.argv.slice(2));
  if (options.help) {
    console.log(USAGE);
    return 0;
  }
  checkPrerequisites();
  await installDependencies();
  const browser = chromium();
  await buildSimulator();
  await buildAddon();

  const out = path.join(root, 'target', 'host');
  const logs = path.join(out, 'logs');
  const screenshots = path.join(out, 'screenshots');
  for (const folder of [logs, screenshots]) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
  }
  // Whatever the umask, another user has to read what is made here.
  process.umask(0o022);

  // An interrupt ends the suites first, then all that was started, wherever the start has got to.
  const endings = makeEndings();
  let interrupted = false;
  let vitest;
  const onSignal = () => {
    interrupted = true;
    if (vitest) vitest.kill('SIGTERM');
    else endings.run().then(() => process.exit(130));
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, onSignal);

  let failed = true;
  try {
    const facts = { ...(await raiseLab({ kind: options.cluster, logs, endings })), browser, screenshots };
    if (options.stay) {
      console.log(JSON.stringify(facts, null, 2));
      await new Promise(() => {});
    }
    const good = await specs(`host, ${options.cluster} cluster`, {
      projects: ['host'],
      folder: out,
      args: suites,
      env: { HOST_LAB: JSON.stringify(facts) },
      detached: true,
      started: (child) => {
        vitest = child;
      },
    });
    failed = !good;
    return interrupted ? 130 : Number(failed);
  } finally {
    vitest = undefined;
    await endings.run();
    if (failed) console.error(`Logs of host, cluster and browser: ${logs}\nScreenshots: ${screenshots}`);
  }
});

function read(args) {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        cluster: { type: 'string', default: 'embedded' },
        stay: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    return { options: values, suites: positionals };
  } catch (error) {
    throw new Problem(`${error.message}\n${USAGE}`);
  }
}
