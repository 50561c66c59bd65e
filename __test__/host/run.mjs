// npm run test:host: this adapter in the real Paperclip host, seen through its API and its pages.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';

import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  program,
  root,
} from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';
import { makeEndings } from './lab/endings.mjs';
import { raiseLab } from './lab/lab.mjs';
import { chromium } from './lab/system.mjs';

const USAGE = `npm run test:host -- [options] [suite …]
  --cluster KIND   embedded (default) or real
  --older          in the oldest host that the adapter supports, with suites of its own
  --part PART      only the suites that install the adapter, replace it or stop the host (restarted), or only the others (shared)
  --write          keep the tables that the suites see in docs/host-endings.md
  --stay           run no suite: leave cluster and host running until Ctrl-C
  suite …          only the suites whose file name contains one of these words`;

const OPTIONS = /** @type {const} */ ({
  cluster: { type: 'string', default: 'embedded' },
  older: { type: 'boolean' },
  part: { type: 'string' },
  stay: { type: 'boolean' },
  write: { type: 'boolean' },
});

/** The projects of each part, which may run beside the others: each has a host, a cluster and a folder of its own. */
const PARTS = {
  all: ['host-install', 'host', 'host-shared'],
  restarted: ['host-install', 'host'],
  shared: ['host-shared'],
  older: ['older-host'],
};

await program(
  USAGE,
  { options: OPTIONS, allowPositionals: true },
  async ({ values: options, positionals }) => {
    const { cluster: kind, older } = options;
    const part = older ? 'older' : (options.part ?? 'all');
    const projects = PARTS[part];
    if (!projects) throw new Problem(`--part ${part}: restarted or shared.`);
    checkPrerequisites();
    await installDependencies();
    const browser = chromium();
    await buildSimulator();
    await buildAddon();

    const out = path.join(root, 'target', part === 'all' ? 'host' : `host-${part}`);
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
      const facts = { ...(await raiseLab({ kind, older, logs, endings })), browser, screenshots };
      if (options.stay) {
        console.log(JSON.stringify(facts, null, 2));
        await new Promise(() => {});
      }
      const good = await specs(`${part === 'all' ? 'host' : `${part} host`}, ${kind} cluster`, {
        projects,
        folder: out,
        args: positionals,
        env: { HOST_LAB: JSON.stringify(facts), ...(options.write && { WRITE_HOST_ENDINGS: '1' }) },
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
  },
);
