// How a run's own container ends, with real processes: its first process forwards SIGTERM and says the end.
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { programs } from '../../tools/simulator/cluster.mjs';
import { agentLines, clusterForHost, eventually, hostRun, leftovers, podsOf } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';

const adapter = createServerAdapter();
const END = '"subtype":"paperclip_end"';
const RECORDED = readFileSync(
  new URL('../../tools/simulator/fixtures/claude-cli-2.1.197/success.jsonl', import.meta.url),
  'utf8',
)
  .trim()
  .split('\n');

/**
 * A cluster whose `claude` is this shell script, or the fake CLI. A pod's signals go to its first process alone.
 *
 * @param {string} [script]
 */
async function clusterOf(script) {
  const bin = temporaryFolder('bin');
  if (script) {
    writeFileSync(path.join(bin, 'claude'), `#!/bin/sh\n${script}\n`);
    chmodSync(path.join(bin, 'claude'), 0o755);
  }
  const cluster = await clusterForHost({ binDirs: [bin, programs] });
  await cluster.post('/simulator/settings', { signalsAsFirstProcess: true });
  return cluster;
}

function start(cluster, options) {
  const abort = new AbortController();
  const { ctx, output } = hostRun(cluster, { signal: abort.signal, ...options });
  return { ctx, output, abort, done: adapter.execute(ctx) };
}

const hasStarted = ({ output }) => eventually(() => output.stdout.includes('"subtype":"init"'));

describe('the first process of the container', () => {
  let cluster;
  beforeAll(async () => {
    cluster = await clusterOf();
  });
  afterAll(async () => {
    expect(await leftovers(cluster)).toEqual([]);
    await cluster.stop();
  });

  it('end_of_a_success_is_said_and_not_delivered', async () => {
    const run = start(cluster);
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null, summary: 'All done.' });
    expect(run.output.stdout).not.toContain(END);
    expect(run.output.stdout.split('\n').slice(0, -1), 'no line of the newline before it').not.toContain('');
    expect(agentLines(run.output)).toHaveLength(RECORDED.length);
    expect(run.output.stderr).not.toContain('Terminated');
  });

  it('exit_code_of_a_failure_is_kept', async () => {
    const run = start(cluster, { scenario: 'exit-code', env: { CLAUDE_STAND_IN_EXIT_CODE: '7' } });
    expect(await run.done).toMatchObject({ exitCode: 7 });
    expect(run.output.stdout).not.toContain(END);
  });

  it('cli_of_a_deleted_pod_gets_sigterm', async () => {
    const run = start(cluster, { scenario: 'long' });
    await hasStarted(run);
    const [, pod] = /Pod running: (\S+)/.exec(run.output.stdout) ?? [];
    await cluster.post(`/simulator/pods/${cluster.namespace}/${pod}/delete`, {});
    // 137 would be the end of the grace period.
    expect(await run.done).toMatchObject({ exitCode: 143 });
  });

  it('cancel_is_acknowledged_once_the_cli_has_ended', async () => {
    const run = start(cluster, { scenario: 'long' });
    await hasStarted(run);
    run.abort.abort();
    expect(await run.done).toMatchObject({
      errorCode: 'cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
    });
    expect(run.output.stderr).not.toContain('not confirmed');
  });

  it('run_right_after_another_of_its_agent_succeeds', async () => {
    const agent = { id: 'agent-in-a-row' };
    for (let n = 0; n < 3; n += 1) {
      const run = start(cluster, { agent });
      expect(await run.done, run.output.stderr).toMatchObject({ exitCode: 0, errorMessage: null });
    }
  });
});

describe('a forged last line', () => {
  let cluster;
  afterAll(async () => {
    expect(await leftovers(cluster)).toEqual([]);
    await cluster.stop();
  });

  it('forged_last_line_ends_its_own_run_and_its_cli', async () => {
    // The agent is the same user, so it can read the token.
    cluster = await clusterOf(`cat > /dev/null
cat <<'LINES'
${[RECORDED[0], RECORDED.at(-1)].join('\n')}
LINES
token=$(tr '\\0' '\\n' < /proc/$PPID/cmdline | grep -o '[0-9a-f]\\{32\\}$' | head -n 1)
[ -n "$token" ] || exit 9
printf '{"type":"system","subtype":"paperclip_end","exit_code":0,"token":"%s"}\\n' "$token"
exec sleep 600`);
    const run = start(cluster);
    expect(await run.done, run.output.stdout).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(run.output.stdout).not.toContain(END);
    const gone = async () => (await podsOf(cluster)).length === 0;
    await eventually(gone, { within: 20_000 });
  });
});
