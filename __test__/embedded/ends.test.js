// How a run's own container ends, with real processes: its first process forwards SIGTERM and says the end.
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { programs } from '../../tools/simulator/cluster.mjs';
import { agentLines, clusterForHost, eventually, gate, hostRun, leftovers, podsOf } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';
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

  // A watch by labels says "deleted" then, and the run left its Job behind.
  it('job_without_its_labels_is_not_taken_for_deleted', async () => {
    const held = gate();
    const run = start(cluster, { scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '1', ...held.env } });
    await hasStarted(run);
    const jobs = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs`;
    const { items } = await cluster.get(jobs);
    const job = items.find(
      ({ metadata }) =>
        metadata.labels?.['paperclip.io/agent-id'] === run.ctx.agent.id &&
        metadata.labels['paperclip.io/adapter-type'],
    );
    const labels = { 'paperclip.io/adapter-type': null, 'app.kubernetes.io/managed-by': null };
    const type = 'application/merge-patch+json';
    await cluster.request('PATCH', `${jobs}/${job.metadata.name}`, { metadata: { labels } }, { type });
    held.open();
    expect(await run.done).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(run.output.stdout).not.toContain('was deleted');
    const after = await cluster.get(jobs);
    expect(after.items.map(({ metadata }) => metadata.name)).not.toContain(job.metadata.name);
  });

  it('run_right_after_another_of_its_agent_succeeds', async () => {
    const agent = { id: 'agent-in-a-row' };
    for (let n = 0; n < 3; n += 1) {
      const run = start(cluster, { agent });
      expect(await run.done, run.output.stderr).toMatchObject({ exitCode: 0, errorMessage: null });
    }
  });
});

describe('a deletion of the whole namespace', () => {
  it.each([true, false])('is named where namespaces may be read: %s', async (mayRead) => {
    const cluster = await clusterOf();
    try {
      const unread = { match: { verb: 'get', resource: 'namespaces' }, action: { status: { code: 403 } } };
      if (!mayRead) await cluster.post('/simulator/faults', unread);
      const run = start(cluster, { scenario: 'hang' });
      await hasStarted(run);
      await cluster.request('DELETE', `/api/v1/namespaces/${cluster.namespace}`);
      expect(await run.done).toMatchObject({ resultJson: { k8s: { cause: 'namespace_deleted' } } });
      const line = `[paperclip] Namespace ${cluster.namespace} is being deleted\n`;
      expect(run.output.stdout.split(line)).toHaveLength(2);
    } finally {
      await cluster.stop();
    }
  });
});

describe('a forged last line', () => {
  /** @type {any} */
  let cluster;
  afterEach(async () => {
    killHosts();
    expect(await leftovers(cluster)).toEqual([]);
    await cluster.stop();
  });

  /** A cluster whose CLI prints its result and its own end, and then does this. */
  // The agent is the same user, so it can read the token.
  const forging = (then) =>
    clusterOf(`cat > /dev/null
cat <<'LINES'
${[RECORDED[0], RECORDED.at(-1)].join('\n')}
LINES
token=$(tr '\\0' '\\n' < /proc/$PPID/cmdline | grep -o '[0-9a-f]\\{32\\}$' | head -n 1)
[ -n "$token" ] || exit 9
printf '{"type":"system","subtype":"paperclip_end","exit_code":0,"token":"%s"}\\n' "$token"
${then}`);

  it('forged_last_line_ends_its_own_run_and_its_cli', async () => {
    cluster = await forging('exec sleep 600');
    const run = start(cluster);
    expect(await run.done, run.output.stdout).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(run.output.stdout).not.toContain(END);
    const gone = async () => (await podsOf(cluster)).length === 0;
    await eventually(gone);
  });

  it('cli_that_stays_after_it_is_a_warning_of_the_host', { timeout: 120_000 }, async () => {
    cluster = await forging("trap '' TERM; exec sleep 600");
    const env = { PAPERCLIP_K8S_LOG: '' };
    const { output, ended } = startHost(cluster, { options: {}, stays: 9_000, env });
    await ended;
    expect(output.result, output.stdout).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(output.errors).toMatch(
      /^\S+ +WARN \S+: the last line of the pod said that Claude had ended, but the pod has not ended 5s later: deleting the Job job="ac-\S+" namespace="\S+" what="pod ac-\S+ on node \S+: container claude still runs"\n$/,
    );
    const gone = async () => (await podsOf(cluster)).length === 0;
    await eventually(gone, { within: 60_000 });
  });
});
