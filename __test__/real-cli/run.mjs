// npm run test:cli: the real claude CLI in a pod, against a stand-in for the Messages API inside that pod.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { down, openCluster, up } from '../../tools/kubernetes/index.mjs';
import {
  Problem,
  buildAddon,
  buildSimulator,
  checkPrerequisites,
  installDependencies,
  main,
  root,
  step,
} from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';
import { installClaude, version } from './install.mjs';

const USAGE = `npm run test:cli -- [options] [-- vitest's own]
  --cluster NAME   embedded, real or both (default: both); a real cluster that is not up is raised and ended`;
const LOGS = path.join(root, 'target', 'real-cli');

await main(async () => {
  const { clusters, help, rest } = readOptions();
  if (help) {
    console.log(USAGE);
    return 0;
  }
  checkPrerequisites();
  await installDependencies();
  await buildAddon();
  await buildSimulator();
  step(`The claude CLI ${version} from npm`);
  await installClaude();
  const failed = [];
  for (const name of clusters) if (!(await suite(name, rest))) failed.push(name);
  return failed.length === 0 ? 0 : 1;
});

function readOptions() {
  try {
    const { values, positionals } = parseArgs({
      options: { cluster: { type: 'string', default: 'both' }, help: { type: 'boolean', short: 'h' } },
      allowPositionals: true,
    });
    const clusters = { embedded: ['embedded'], real: ['real'], both: ['embedded', 'real'] }[values.cluster];
    if (!clusters) throw new Problem(`--cluster ${values.cluster}: embedded, real or both is needed.`);
    return { clusters, help: values.help, rest: positionals };
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(`${error.message}\n${USAGE}`);
  }
}

/** Runs the specs on one cluster; whether all passed. */
async function suite(name, rest) {
  const logs = path.join(LOGS, name);
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const ours = name === 'real' && !isUp();
  try {
    if (ours) await up();
    const good = await specs(`real CLI, ${name} cluster`, {
      projects: ['real-cli'],
      folder: logs,
      args: rest,
      env: { REAL_CLI_CLUSTER: name, REAL_CLI_LOGS: logs },
    });
    if (good) {
      rmSync(logs, { recursive: true, force: true });
    } else {
      if (name === 'real') await openCluster().leaveLogs(path.join(logs, 'components'));
      console.log(`  logs: ${logs}`);
    }
    return good;
  } catch (error) {
    // The other cluster's turn comes all the same.
    console.error(error);
    console.log(`real CLI, ${name} cluster: could not be run\n  logs: ${logs}`);
    return false;
  } finally {
    if (ours) await down();
  }
}

function isUp() {
  try {
    openCluster();
    return true;
  } catch (error) {
    if (error instanceof Problem) return false;
    throw error;
  }
}
