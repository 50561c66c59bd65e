// Runs projects of vitest.config.js that are not part of `npm test`, with a summary line at the end.
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

import { root } from './lib.mjs';

/**
 * Specs on clusters and hosts depend on when others do their part. A file that failed runs once more, alone, and what passes
 * then is named `unsteady`: a fault to mend, most often of the spec. More files than this at once are not chance.
 */
const MOST_UNSTEADY = 3;

/**
 * A file of vitest's report.
 *
 * @typedef {{name: string, status: string, assertionResults: {fullName: string, status: string}[]}} FileReport
 */

/**
 * Runs vitest and prints `NAME: 3 passed, 0 failed, 0 skipped in 12 s`, and a line `unsteady: …` for each test that passed
 * only alone.
 *
 * @param {string} name of the suite in that line
 * @param {{projects: string[], folder: string, options?: string[], args?: string[], env?: Record<string, string>,
 *   together?: boolean, detached?: boolean, started?: (child: import('node:child_process').ChildProcess) => void}} how
 *   `folder` gets `report.json`; `options` are vitest's; `args` are a developer's files and options, with which nothing runs
 *   twice; `together` with other suites the output goes to `output.log` and is printed at the end, unmixed
 * @returns {Promise<boolean>} whether all passed
 */
export async function specs(
  name,
  { projects, folder, options = [], args = [], env, together = false, detached = false, started },
) {
  const began = Date.now();
  mkdirSync(folder, { recursive: true });
  const log = path.join(folder, 'output.log');
  rmSync(log, { force: true });
  const vitest = async (report, more) => {
    const file = path.join(folder, report);
    rmSync(file, { force: true });
    const child = spawn(
      process.execPath,
      [
        path.join(root, 'node_modules', 'vitest', 'vitest.mjs'),
        'run',
        ...projects.flatMap((each) => ['--project', each]),
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${file}`,
        ...options,
        ...more,
      ],
      {
        cwd: root,
        env: { ...process.env, ...env },
        stdio: together ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
        detached,
      },
    );
    started?.(child);
    if (together) {
      // Written as it arrives: an interrupted suite never gets to print it.
      for (const stream of [child.stdout, child.stderr])
        stream?.on('data', (chunk) => appendFileSync(log, chunk));
    }
    const code = await new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, signal) => resolve(status ?? signal));
    });
    return { code, files: filesOf(file) };
  };

  let { code, files } = await vitest('report.json', args);
  /** @type {string[]} */
  let unsteady = [];
  const broken = files.filter(isBroken);
  // Other numbers than 1 are signals, or vitest's own failures.
  if (code === 1 && args.length === 0 && broken.length > 0 && broken.length <= MOST_UNSTEADY) {
    const again = await vitest(
      'again.json',
      broken.map(({ name: file }) => path.relative(root, file)),
    );
    files = renewed(files, again.files);
    code = again.code;
    if (code === 0) unsteady = broken.flatMap(namesOfFailed);
  }
  if (together && existsSync(log)) process.stdout.write(`\n== ${name}\n${readFileSync(log, 'utf8')}`);
  const { passed, failed, skipped } = counts(files);
  const seconds = ((Date.now() - began) / 1000).toFixed(0);
  console.log(`${name}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`);
  for (const each of unsteady) console.log(`unsteady: ${each}`);
  return code === 0 && passed > 0 && failed === 0;
}

/**
 * The files of a report; none if vitest ended before it wrote the report.
 *
 * @returns {FileReport[]}
 */
function filesOf(report) {
  return existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')).testResults : [];
}

/**
 * The files of a run with those that ran again in the place of their first reports.
 *
 * @param {FileReport[]} files
 * @param {FileReport[]} again
 */
export function renewed(files, again) {
  const now = new Map(again.map((file) => [file.name, file]));
  return files.map((file) => now.get(file.name) ?? file);
}

/** Whether a file failed, be it as a whole. */
export function isBroken({ status, assertionResults }) {
  return status === 'failed' || assertionResults.some((each) => each.status === 'failed');
}

/** The tests of a file that failed, or the file. @param {FileReport} file */
export function namesOfFailed({ name, assertionResults }) {
  const file = path.relative(root, name);
  const failed = assertionResults.filter(({ status }) => status === 'failed');
  return failed.length > 0 ? failed.map(({ fullName }) => `${file} > ${fullName}`) : [file];
}

/** The tests of these files by how they ended; a file that failed as a whole counts as one. @param {FileReport[]} files */
export function counts(files) {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) {
    const failedBefore = sum.failed;
    for (const { status } of file.assertionResults) {
      if (status === 'passed' || status === 'failed') sum[status] += 1;
      else sum.skipped += 1;
    }
    if (isBroken(file) && sum.failed === failedBefore) sum.failed += 1;
  }
  return sum;
}
