// npm run test:cli: the real claude CLI in a pod, against a stand-in for the Messages API inside that pod.
import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { down, openCluster, up } from '../cluster/index.mjs';
import { Problem, buildAddon, buildSimulator, checkPrerequisites, installDependencies, main, root, step } from '../scripts/lib.mjs';
import { installClaude, version } from './install.mjs';

const USAGE = `npm run test:cli -- [options] [-- vitest's own]
  --cluster NAME   embedded, real or both (default: both); a real cluster that is not up is raised and ended`;
const LOGS = path.join(root, 'real-cli', 'logs');

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

/** Runs the specs on one cluster and prints a line about them; whether all passed. */
async function suite(name, rest) {
  const began = Date.now();
  const logs = path.join(LOGS, name);
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const ours = name === 'real' && !isUp();
  try {
    if (ours) await up();
    const report = path.join(logs, 'report.json');
    const code = await vitest(['--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...rest], {
      REAL_CLI_CLUSTER: name,
      REAL_CLI_LOGS: logs,
    });
    const { passed, failed, skipped } = counts(report);
    const seconds = ((Date.now() - began) / 1000).toFixed(0);
    console.log(`real CLI, ${name} cluster: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`);
    const good = code === 0 && passed > 0;
    if (good) {
      rmSync(logs, { recursive: true, force: true });
    } else {
      if (name === 'real') cpSync(openCluster().logs, path.join(logs, 'components'), { recursive: true });
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

async function vitest(args, env) {
  const program = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const child = spawn(process.execPath, [program, 'run', '--config', path.join(root, 'real-cli', 'vitest.config.js'), ...args], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
}

function counts(report) {
  try {
    const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = JSON.parse(readFileSync(report, 'utf8'));
    return { passed, failed, skipped };
  } catch {
    // It did not come so far.
    return { passed: 0, failed: 0, skipped: 0 };
  }
}
