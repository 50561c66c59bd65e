// Runs projects of vitest.config.js that are not part of `npm test`, with a summary line at the end.
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

import { root } from './lib.mjs';

/**
 * Runs vitest and prints `NAME: 3 passed, 0 failed, 0 skipped in 12 s`.
 *
 * @param {string} name of the suite in that line
 * @param {{projects: string[], folder: string, args?: string[], env?: Record<string, string>, together?: boolean,
 *   detached?: boolean, started?: (child: import('node:child_process').ChildProcess) => void}} options `folder` gets
 *   `report.json`; `together` with other suites the output goes to `output.log` and is printed at the end, unmixed
 * @returns {Promise<boolean>} whether all passed
 */
export async function specs(
  name,
  { projects, folder, args = [], env, together = false, detached = false, started },
) {
  const began = Date.now();
  mkdirSync(folder, { recursive: true });
  const report = path.join(folder, 'report.json');
  const log = path.join(folder, 'output.log');
  rmSync(report, { force: true });
  const vitest = [
    path.join(root, 'node_modules', 'vitest', 'vitest.mjs'),
    'run',
    ...projects.flatMap((each) => ['--project', each]),
  ];
  const child = spawn(
    process.execPath,
    [...vitest, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...args],
    {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: together ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
      detached,
    },
  );
  started?.(child);
  if (together) {
    rmSync(log, { force: true });
    // Written as it arrives: an interrupted suite never gets to print it.
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk) => appendFileSync(log, chunk));
  }
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => resolve(status ?? signal));
  });
  if (together && existsSync(log)) process.stdout.write(`\n== ${name}\n${readFileSync(log, 'utf8')}`);
  const { passed, failed, skipped } = counts(report);
  const seconds = ((Date.now() - began) / 1000).toFixed(0);
  console.log(`${name}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`);
  return code === 0 && passed > 0;
}

function counts(report) {
  try {
    const { numPassedTests, numFailedTests, numPendingTests } = JSON.parse(readFileSync(report, 'utf8'));
    return { passed: numPassedTests, failed: numFailedTests, skipped: numPendingTests };
  } catch {
    // vitest ended before it wrote the report.
    return { passed: 0, failed: 0, skipped: 0 };
  }
}
