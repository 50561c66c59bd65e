// npm run test:cli: the real claude CLI in a pod, against a fake Messages API inside that pod.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';

import { Problem, prepare, program, root, step } from '../../tools/dev/lib.mjs';
import { specs } from '../../tools/dev/specs.mjs';
import { down, openCluster, up } from '../../tools/kubernetes/index.mjs';
import { installClaude, version } from './install.mjs';

const USAGE = `npm run test:cli -- [options] [-- options of vitest]
  --cluster NAME   embedded, real or both (default: both); a real cluster that is not up is raised and ended`;
const CLUSTERS = { embedded: ['embedded'], real: ['real'], both: ['embedded', 'real'] };
const LOGS = path.join(root, 'target', 'real-cli');

const OPTIONS = /** @type {const} */ ({ cluster: { type: 'string', default: 'both' } });
await program(USAGE, { options: OPTIONS, allowPositionals: true }, async ({ values, positionals }) => {
  const clusters = CLUSTERS[values.cluster];
  if (!clusters) throw new Problem(`--cluster ${values.cluster}: embedded, real or both.`);
  await prepare();
  step(`The claude CLI ${version} from npm`);
  await installClaude();
  const failed = [];
  for (const name of clusters) if (!(await suite(name, positionals))) failed.push(name);
  return failed.length === 0 ? 0 : 1;
});

/** Runs the specs on one cluster; returns whether all passed. */
async function suite(name, vitestArgs) {
  const logs = path.join(LOGS, name);
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const ours = name === 'real' && !isUp();
  try {
    if (ours) await up();
    const unshared = name === 'real' ? openCluster().unshared : undefined;
    if (unshared) {
      console.log(`real CLI, real cluster: left out, because ${unshared}`);
      return true;
    }
    const good = await specs(`real CLI, ${name} cluster`, {
      projects: ['real-cli'],
      folder: logs,
      args: vitestArgs,
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
    // The specs still run on the other cluster.
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
