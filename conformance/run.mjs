// npm run test:cluster: the same specs on the embedded cluster and on a real one, side by side.
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';

import { openCluster, up } from '../cluster/index.mjs';
import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  main,
  root,
  step,
} from '../scripts/lib.mjs';

const USAGE = `npm run test:cluster -- [options] [-- options of vitest]
  --only CLUSTER   embedded or real (default: both)
The real cluster is the one that npm run cluster:up raises; it is raised here if it is not up, and stays up.`;

await main(async () => {
  const { only, rest } = readOptions();
  checkPrerequisites();
  await installDependencies();
  await buildSimulator();
  await buildAddon();
  const names = only ? [only] : ['embedded', 'real'];
  if (names.includes('real')) await raise();
  step(`Conformance specs on: ${names.join(', ')}`);
  const codes = await Promise.all(names.map((name) => conform(name, rest, names.length > 1)));
  if (names.includes('real') && codes.some(Boolean)) console.log(`Logs of the cluster: ${openCluster().logs}`);
  return codes.some(Boolean) ? 1 : 0;
});

function readOptions() {
  try {
    const { values, positionals } = parseArgs({
      options: { only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
      allowPositionals: true,
    });
    if (values.help) {
      console.log(USAGE);
      process.exit(0);
    }
    if (values.only !== undefined && !['embedded', 'real'].includes(values.only)) {
      throw new Problem(`--only ${values.only}: embedded or real.`);
    }
    return { only: values.only, rest: positionals };
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(`${error.message}\n${USAGE}`);
  }
}

/** A cluster that is up is taken as it is, be it kind's or that of KUBECONFIG; its images and objects are renewed. */
async function raise() {
  let existing = false;
  try {
    existing = openCluster().type === 'existing';
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  await up({ existing });
}

/** One cluster's specs; resolves to the exit code. Two at a time are printed one after the other. */
async function conform(name, options, together) {
  const child = spawn('npx', ['vitest', 'run', '--config', 'conformance/vitest.config.js', ...options], {
    cwd: root,
    env: { ...process.env, CONFORMANCE_CLUSTER: name },
    stdio: together ? ['ignore', 'pipe', 'pipe'] : 'inherit',
  });
  let told = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text) => {
      told += text;
    });
  }
  const [code, signal] = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...end) => resolve(end));
  });
  if (together) process.stdout.write(`\n== ${name}\n${told}`);
  return code ?? signal;
}
