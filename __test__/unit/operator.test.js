import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { text as readText } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { operate } from '../../js/operator.js';
import { temporaryFolder } from '../support/temporary.js';

const program = fileURLToPath(new URL('../../js/bin.js', import.meta.url));

/**
 * Runs a command; nothing of this process's environment reaches it.
 *
 * @param {string[]} argv
 */
async function run(...argv) {
  const seen = { out: '', err: '' };
  const code = await operate(argv, {
    write: (text) => (seen.out += text),
    warn: (text) => (seen.err += text),
    env: {},
  });
  return { code, ...seen };
}

/** @param {string} contents */
function file(contents) {
  const name = path.join(temporaryFolder('operator'), 'config.json');
  writeFileSync(name, contents);
  return name;
}

describe('the command line', () => {
  it.each([[[]], [['--help']]])('explains itself with %j', async (argv) => {
    expect(await run(...argv)).toEqual({
      code: 0,
      out: expect.stringMatching(/doctor[^]*runs[^]*--json/),
      err: '',
    });
  });

  it.each([
    [['dr'], /^unknown command "dr"\n/],
    [['runs', 'all'], /^unknown command "runs all"\n/],
    [['runs', '--name'], /^Unknown option '--name'/],
    [['runs', '--config', '/no/such/file'], /^ENOENT/],
    [['runs', '--config', file('[1]')], /config\.json: a JSON object is needed\n$/],
    [['doctor', '--config', file('secret')], /config\.json: a JSON object is needed\n$/],
    [
      ['runs', '--kubeconfig', '/no/such/kubeconfig', '--namespace', 'n'],
      /^cannot list the Jobs of namespace n: .+\n$/,
    ],
    [['runs', '--namespace', 'n', '--config', file('{"timeoutSec": -1}')], /timeoutSec/],
    [
      ['doctor', '--kubeconfig', '/no/such/kubeconfig'],
      /^Paperclip's pod is not known: give its name with --pod/,
    ],
  ])('of %j fails with 2 and one reason', async (argv, message) => {
    expect(await run(...argv)).toEqual({ code: 2, out: '', err: expect.stringMatching(message) });
  });
});

describe('the program', () => {
  /** @param {import('node:child_process').StdioOptions} stdio */
  const start = (stdio) => spawn(process.execPath, [program, '--help'], { stdio });

  it('ends in silence where its reader has seen enough', async () => {
    const child = start(['ignore', 'pipe', 'pipe']);
    child.stdout?.destroy();
    const seen = readText(/** @type {import('node:stream').Readable} */ (child.stderr));
    const [code] = await once(child, 'exit');
    expect([code, await seen]).toEqual([0, '']);
  });

  it.runIf(existsSync('/dev/full'))('says in one line that it cannot write', async () => {
    const full = openSync('/dev/full', 'w');
    const child = start(['ignore', full, 'pipe']);
    const seen = readText(/** @type {import('node:stream').Readable} */ (child.stderr));
    const [code] = await once(child, 'exit');
    closeSync(full);
    expect([code, await seen]).toEqual([2, expect.stringMatching(/^cannot write: ENOSPC.+\n$/)]);
  });
});

describe('doctor', () => {
  it('without a cluster fails with 1 and says what to do', async () => {
    const { code, out } = await run('doctor', '--kubeconfig', '/no/such/kubeconfig', '--pod', 'paperclip-0');
    expect(code).toBe(1);
    expect(out).toMatch(
      /^error {2}Cannot reach Kubernetes API: .+\n {7}→ .+\nfail: 1 errors, 0 warnings, 0 ok\n$/m,
    );
  });

  it('as JSON is one document', async () => {
    const options = ['--kubeconfig', '/no/such/kubeconfig', '--pod', 'paperclip-0', '--json'];
    const { code, out } = await run('doctor', ...options);
    expect([code, JSON.parse(out)]).toEqual([
      1,
      expect.objectContaining({
        status: 'fail',
        checks: [expect.objectContaining({ code: 'k8s_api_unreachable' })],
      }),
    ]);
  });
});
