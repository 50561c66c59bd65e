// Runs on the embedded cluster and on a real one. No spec here disturbs the run of another.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { agentLines, environmentOf, eventually } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';
import { conformanceCluster } from './support/clusters.js';
import {
  adapter,
  expectOnce,
  expectRecording,
  expectTicks,
  floodCounter,
  running,
  runsOn,
} from './support/runs.js';

let cluster;
let runs;

beforeAll(async () => {
  cluster = await conformanceCluster();
  runs = runsOn(cluster);
});

afterAll(async () => {
  killHosts();
  await cluster?.close();
});

const seconds = (n) => ({ CLAUDE_STAND_IN_SECONDS: String(n) });
const check = ({ checks }, code) => checks.find((one) => one.code === code)?.level;

// The longest first: the others fit into its time.
describe.concurrent('a run', () => {
  it('of 90 s succeeds and is logged as it happens', async () => {
    const { output, result } = await runs.play({ scenario: 'long', env: seconds(90) });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(expectTicks(output)).toBeGreaterThan(170);
    const at = (text) => output.chunks.find(({ chunk }) => chunk.includes(text)).at;
    expect(at('tick 170 of') - at('tick 1 of')).toBeGreaterThan(75_000);
    expect(output.stdout).not.toContain('reconnecting');
  });

  it('with 200,000 lines has each of them once and whole', async () => {
    const counter = floodCounter();
    const { result } = await runs.play({
      scenario: 'flood',
      env: {
        CLAUDE_STAND_IN_LINES: '200000',
        CLAUDE_STAND_IN_LINE_BYTES: '1',
        // A host that is behind by a whole file of the log loses it; at this rate a busy machine is not.
        CLAUDE_STAND_IN_RATE: '4000',
      },
      onLog: counter.take,
    });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    counter.expectAll(200_000);
  });

  it('that succeeds resolves with every field and logs every line once', async () => {
    const { output, result } = await runs.play();
    expect(result).toMatchObject({
      exitCode: 0,
      signal: null,
      timedOut: false,
      errorMessage: null,
      usage: { inputTokens: 240, cachedInputTokens: 128, outputTokens: 84 },
      costUsd: 0.003364,
      summary: 'All done.',
      clearSession: false,
    });
    expect(result).not.toHaveProperty('errorCode');
    expectRecording(output, 'success');
  });

  it('gets prompt, environment and arguments unchanged', async () => {
    const prompt = `Say "hi"; it's $HOME \`pwd\` \\ /tmp/x\n  – naïve ✓`;
    const { result } = await runs.play({
      scenario: 'echo-env',
      env: { GREETING: "it's 'quoted' $HOME" },
      config: { promptTemplate: prompt, extraArgs: ['--x', "a 'b' $c"] },
    });
    expect(result.errorMessage).toBeNull();
    const seen = JSON.parse(result.summary);
    expect(seen.prompt).toBe(prompt);
    expect(seen.env.GREETING).toBe("it's 'quoted' $HOME");
    expect(seen.env.ANTHROPIC_API_KEY, "the host pod's, through its Secret").toMatch(/^sk-ant-/);
    expect(seen.argv.slice(-2)).toEqual(['--x', "a 'b' $c"]);
  });

  it.each(['no-newline', 'binary', 'stderr-noise', 'slow-result'])('plays %s', async (scenario) => {
    const { output, result } = await runs.play({ scenario, env: seconds(1) });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(agentLines(output).length).toBeGreaterThan(3);
  });

  it('gets lines whole that are longer than the node stores at a time', async () => {
    const { output, result } = await runs.play({ scenario: 'big-line' });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    const long = agentLines(output).filter((line) => line.includes('line of '));
    expect(long.map((line) => Number(/line of (\d+) bytes/.exec(line)?.[1]))).toEqual(
      long.map((line) => Buffer.byteLength(line)),
    );
    expect(long.map((line) => Buffer.byteLength(line))).toEqual([16_383, 16_384, 16_385, 1 << 20, 5 << 20]);
    expectOnce(output);
  });

  /** @type {[string, {exitCode: number, errorCode?: string, message?: RegExp}][]} */
  const endings = [
    ['auth', { exitCode: 1, message: /Invalid API key/ }],
    ['overload', { exitCode: 1, message: /529 Overloaded/ }],
    ['max-turns', { exitCode: 1, message: /error_max_turns/ }],
    ['empty-llm', { exitCode: 1, errorCode: 'llm_api_error' }],
    ['crash', { exitCode: 139 }],
    ['truncated', { exitCode: 137, errorCode: 'claude_truncated', message: /SIGKILL/ }],
  ];
  it.each(endings)('that ends as %s reports that', async (scenario, { exitCode, errorCode, message }) => {
    const { result, output } = await runs.play({ scenario });
    expect(result).toMatchObject({ exitCode, timedOut: false, ...(errorCode ? { errorCode } : {}) });
    if (message) expect(result.errorMessage).toMatch(message);
    expectOnce(output);
  });

  it.each([1, 3, 64, 255])('whose CLI exits with %i has that exit code', async (code) => {
    const { result, output } = await runs.play({
      scenario: 'exit-code',
      env: { CLAUDE_STAND_IN_EXIT_CODE: String(code) },
    });
    expect(result.exitCode).toBe(code);
    expectRecording(output, 'success');
  });

  it('that exceeds its memory limit is killed and reports that', async () => {
    const { env, now } = cluster.outOfMemory;
    const run = runs.start({ scenario: 'oom', env, config: { resources: { limits: { memory: '64Mi' } } } });
    await now(() => runs.podOf(run));
    const result = await run.done;
    expect(result).toMatchObject({ errorCode: 'claude_truncated', exitCode: 137 });
    expect(result.errorMessage).toContain('OOMKilled');
    expectOnce(run.output);
    await runs.nothingLeft(run);
  });

  it('whose image cannot be pulled reports that', async () => {
    const { output, result } = await runs.play({ config: { image: cluster.unpullable } });
    expect(result.errorCode).toBe('k8s_pod_schedule_failed');
    expect(result.errorMessage).toMatch(/^Pod scheduling failed: Image pull failed for "claude": /);
    const { summary } = /** @type {any} */ (result.resultJson ?? {}).k8s;
    expect(output.stderr).toContain(`[paperclip] ${result.errorMessage?.replace(`; ${summary}`, '')}`);
  });

  it('that fits no node reports that', async () => {
    const { result } = await runs.play({ config: { nodeSelector: 'gpu=yes' } });
    expect(result.errorCode).toBe('k8s_pod_schedule_failed');
    expect(result.errorMessage).toMatch(
      /^Pod scheduling failed: Pod unschedulable: 0\/\d+ nodes are available/,
    );
  });

  it('that fits no node waits for the configured time', async () => {
    const began = Date.now();
    const { result } = await runs.play({ config: { nodeSelector: 'gpu=yes', unschedulableGraceSec: 8 } });
    expect(result.errorCode).toBe('k8s_pod_schedule_failed');
    expect(Date.now() - began).toBeGreaterThan(8_000);
  });

  it('whose Job is deleted with kubectl is explained', async () => {
    const run = runs.start({ scenario: 'hang' });
    await runs.podOf(run);
    const job = await runs.jobOf(run);
    await cluster.kubectl('-n', cluster.namespace, 'delete', 'job', job.metadata.name);
    const result = await run.done;
    // The CLI gets the SIGTERM, and the run waits for its end.
    expect(result).toMatchObject({ errorCode: 'k8s_job_deleted_externally', exitCode: 143 });
    expect(result.errorMessage).toContain('the pod was deleted by an unknown API client');
    expect(result.errorMessage).toContain(`job=${job.metadata.name}, ns=${cluster.namespace}`);
    expectOnce(run.output);
    await runs.nothingLeft(run);
  });

  it('whose Job is deleted in the foreground is explained', async () => {
    const run = runs.start({ scenario: 'hang' });
    await runs.podOf(run);
    const { metadata } = await runs.jobOf(run);
    const where = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${metadata.name}`;
    await cluster.api.delete(where, { propagationPolicy: 'Foreground' });
    const result = await run.done;
    expect(result).toMatchObject({ errorCode: 'k8s_job_deleted_externally', exitCode: 143, timedOut: false });
    expect(result.errorMessage).toContain('the pod was deleted by an unknown API client');
    expectOnce(run.output);
    await runs.nothingLeft(run);
  });

  it('whose Job is deleted as an orphan says that its pod is at work', async () => {
    const run = runs.start({ scenario: 'hang' });
    const pod = await runs.podOf(run);
    const { metadata } = await runs.jobOf(run);
    const where = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs/${metadata.name}`;
    await cluster.api.delete(where, { propagationPolicy: 'Orphan' });
    const result = await run.done;
    expect(result).toMatchObject({ errorCode: 'k8s_job_deleted_externally', exitCode: null });
    expect(run.output.stderr).toContain(
      `the pod of Job ${metadata.name} was not asked to end with its Job — its agent is still working`,
    );
    const [left] = await runs.pods(run.agentId);
    expect(left.metadata).toMatchObject({ uid: pod.metadata.uid });
    expect(left.status.phase).toBe('Running');
    const next = await adapter.execute({ ...runs.prepare().ctx, agent: run.ctx.agent });
    expect(next.errorCode, 'its next run would work beside it').toBe('k8s_concurrent_run_blocked');
    await cluster.api.delete(`/api/v1/namespaces/${cluster.namespace}/pods/${pod.metadata.name}`);
    await runs.nothingLeft(run);
  });

  it('whose pod is deleted reports who deleted it', async () => {
    const run = runs.start({ scenario: 'hang' });
    const pod = await runs.podOf(run);
    await cluster.kubectl('-n', cluster.namespace, 'delete', 'pod', '--wait=false', pod.metadata.name);
    const result = await run.done;
    expect(result).toMatchObject({ exitCode: 143, timedOut: false });
    expect(result.errorMessage).toContain('the pod was deleted by an unknown API client');
    expectOnce(run.output);
    await runs.nothingLeft(run);
  });

  it('whose pod is evicted through the API reports the eviction', async () => {
    const run = runs.start({ scenario: 'hang' });
    const { metadata } = await runs.podOf(run);
    await cluster.api.post(`/api/v1/namespaces/${cluster.namespace}/pods/${metadata.name}/eviction`, {
      apiVersion: cluster.minor < 22 ? 'policy/v1beta1' : 'policy/v1',
      kind: 'Eviction',
      metadata: { name: metadata.name, namespace: cluster.namespace },
    });
    const result = await run.done;
    expect(result).toMatchObject({ exitCode: 143, timedOut: false });
    // The condition that says "evicted" is written from 1.26 on; before, an eviction looks like any deletion.
    expect(result.errorMessage).toContain(
      cluster.minor < 26
        ? 'the pod was deleted by an unknown API client'
        : 'the pod was evicted through the Eviction API',
    );
    await runs.nothingLeft(run);
  });

  it('at its deadline is a timeout', async () => {
    const { output, result } = await runs.play({
      scenario: 'hang',
      config: { timeoutSec: 15, graceSec: 30 },
    });
    expect(result).toMatchObject({
      errorCode: 'timeout',
      timedOut: true,
      errorMessage: expect.stringMatching(
        /^Timed out after 15s; Job \S+: the run took longer than it may, at (or before )?\S+Z$/,
      ),
    });
    expect(running(output)).toBe(true);
    expectOnce(output);
  });

  it('that is retained is deleted after its time to live', async () => {
    const run = runs.start({ config: { retainJobs: true, ttlSecondsAfterFinished: 5 } });
    expect((await run.done).errorMessage).toBeNull();
    const job = await runs.jobOf(run);
    expect(job.spec.ttlSecondsAfterFinished).toBe(5);
    expectRecording(run.output, 'success');
    await runs.nothingLeft(run);
  });

  it('that is cancelled is acknowledged once its CLI has ended', async () => {
    const abort = new AbortController();
    const run = runs.start({ scenario: 'hang', signal: abort.signal });
    await runs.podOf(run);
    abort.abort();
    const result = await run.done;
    expect(result).toMatchObject({
      errorCode: 'cancelled',
      errorMessage: 'Run cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
    });
    // By the pod's own last line, about a second before its status says so.
    await eventually(() =>
      runs.stopped(run.agentId).then(
        () => true,
        () => false,
      ),
    );
    expectOnce(run.output);
    await runs.nothingLeft(run);
  });

  it('that is cancelled while its CLI ignores SIGTERM is acknowledged after the kill', async () => {
    const abort = new AbortController();
    const run = runs.start({ scenario: 'stubborn', signal: abort.signal });
    await runs.podOf(run);
    abort.abort();
    const result = await run.done;
    expect(result).toMatchObject({
      errorCode: 'cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
    });
    await runs.stopped(run.agentId);
    await runs.nothingLeft(run);
  });

  it('is the only one of its agent', async () => {
    const run = runs.start({ scenario: 'long', env: seconds(12) });
    await runs.podOf(run);
    const { ctx } = runs.prepare({ context: { taskId: 'other' } });
    const second = await adapter.execute({ ...ctx, agent: run.ctx.agent });
    expect(second.errorCode).toBe('k8s_concurrent_run_blocked');
    expect((await run.done).errorMessage).toBeNull();
    expectTicks(run.output);
    await runs.nothingLeft(run);
  });
});

describe.concurrent('a large prompt', () => {
  const prompt = 'päng! '.repeat(60_000);

  it('is passed in a Secret that is deleted with the run', async () => {
    const { result } = await runs.play({ scenario: 'echo-env', config: { promptTemplate: prompt } });
    expect(result.errorMessage).toBeNull();
    expect(JSON.parse(result.summary).prompt).toBe(prompt.trim());
  });

  it('is garbage-collected with its Job if that is deleted from outside', async () => {
    const run = runs.start({ scenario: 'hang', config: { promptTemplate: prompt } });
    await runs.podOf(run);
    const job = await runs.jobOf(run);
    const [secret] = await runs.secrets(job.metadata.name);
    expect(secret.metadata.ownerReferences).toMatchObject([{ kind: 'Job', uid: job.metadata.uid }]);
    await cluster.kubectl('-n', cluster.namespace, 'delete', 'job', job.metadata.name);
    expect((await run.done).errorCode).toBe('k8s_job_deleted_externally');
    await runs.nothingLeft(run);
  });

  it('of a retained run is garbage-collected with the Job', async () => {
    const run = runs.start({
      scenario: 'echo-env',
      config: { promptTemplate: prompt, retainJobs: true, ttlSecondsAfterFinished: 5 },
    });
    expect((await run.done).errorMessage).toBeNull();
    await runs.nothingLeft(run);
  });
});

/** The host of these specs runs beside the cluster: agents are given an address that leads nowhere from a pod. */
const HOST_IS_NO_POD = ['warn k8s_pod_differs'];

describe.concurrent('with the Role of existing installations', () => {
  const as = 'existing';

  it('a run succeeds, and one of them logs that watching is not permitted', async () => {
    const { output, result } = await runs.play({ as });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expectRecording(output, 'success');
    const other = await runs.play({ as, scenario: 'truncated' });
    expect(other.result).toMatchObject({ errorCode: 'claude_truncated', exitCode: 137 });
    // Logged by the first run of this Role.
    const lines = runs.outputs[as].flatMap(
      ({ stdout }) => stdout.match(/Watching Jobs and Pods is not permitted/g) ?? [],
    );
    expect(lines.length).toBe(1);
  });

  it('a large prompt is refused for the right reason', async () => {
    const { result } = await runs.play({ as, config: { promptTemplate: 'x'.repeat(200_000) } });
    expect(result.errorCode).toBe('k8s_prompt_secret_create_failed');
    expect(result.errorMessage).toContain(
      `secrets is forbidden: User "system:serviceaccount:${cluster.namespace}:paperclip-existing" cannot create ` +
        `resource "secrets" in API group "" in the namespace "${cluster.namespace}"`,
    );
  });

  it('a Job that is deleted during the run is explained', async () => {
    const run = runs.start({ as, scenario: 'hang' });
    await runs.podOf(run);
    const job = await runs.jobOf(run);
    await cluster.kubectl('-n', cluster.namespace, 'delete', 'job', job.metadata.name);
    const result = await run.done;
    expect(result.errorCode).toBe('k8s_job_deleted_externally');
    expect(result.errorMessage).toContain(`job=${job.metadata.name}`);
    await runs.nothingLeft(run);
  });

  it('the environment test warns of what is missing', async () => {
    const kubeconfig = cluster.kubeconfigs.existing;
    const found = await adapter.testEnvironment(environmentOf(kubeconfig));
    const missing = found.checks
      .filter(({ level }) => level !== 'info')
      .map(({ code, level }) => `${level} ${code}`);
    expect(missing).toEqual([
      'error k8s_rbac_secret_create',
      'error k8s_rbac_secret_delete',
      'warn k8s_rbac_job_patch',
      'warn k8s_rbac_job_watch',
      'warn k8s_rbac_pod_watch',
      ...HOST_IS_NO_POD,
    ]);
    expect(check(found, 'k8s_pvc_rwx')).toBe('info');
  });
});

describe.concurrent('with the recommended Role', () => {
  it('the environment test finds everything', async () => {
    const kubeconfig = cluster.kubeconfigs.recommended;
    const { status, checks } = await adapter.testEnvironment(environmentOf(kubeconfig));
    const noticed = checks
      .filter(({ level }) => level !== 'info')
      .map(({ code, level }) => `${level} ${code}`);
    expect(noticed).toEqual(HOST_IS_NO_POD);
    expect(status).toBe('warn');
  });
});

describe.concurrent('with a wrong token', () => {
  it('no run starts, and the error has the reason', async () => {
    const { ctx } = runs.prepare({ as: 'wrong' });
    await expect(adapter.execute(ctx)).resolves.toMatchObject({
      errorCode: 'k8s_api_unreachable',
      errorMessage: expect.stringMatching(
        /^Cannot read Paperclip's own pod: HTTP-Code: 401 Message: Unauthorized; /,
      ),
    });
    expect(await runs.jobs(ctx.agent.id)).toEqual([]);
  });

  it('the environment test reports it', async () => {
    const kubeconfig = cluster.kubeconfigs.wrong;
    const { status, checks } = await adapter.testEnvironment(environmentOf(kubeconfig));
    expect(status).toBe('fail');
    expect(JSON.stringify(checks)).toMatch(/401|Unauthorized/);
  });
});

describe.concurrent('a host process', () => {
  it('deletes Job and Secret at SIGTERM if so configured', async () => {
    const { child, run, ended } = host({
      scenario: 'hang',
      config: { promptTemplate: 'x'.repeat(120_000), hostShutdown: 'delete' },
    });
    await runs.podOf(run);
    expect(await runs.secrets((await runs.jobOf(run)).metadata.name)).toHaveLength(1);
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
    await runs.nothingLeft(run);
  });

  it('leaves the Job at SIGTERM if so configured, and the next host attaches to it', async () => {
    const { child, run, ended } = host({
      scenario: 'long',
      env: seconds(20),
      config: { hostShutdown: 'leave' },
    });
    await runs.podOf(run);
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
    await attach(run);
  });

  it.each(['recommended', 'existing'])(
    'that is killed leaves its run to the next one (%s Role)',
    async (as) => {
      const { child, run, ended } = host({ as, scenario: 'long', env: seconds(20) });
      await runs.podOf(run);
      child.kill('SIGKILL');
      await ended;
      await attach(run, { as });
    },
  );

  it('that is killed before its run ends leaves a Job that blocks no later run', async () => {
    const { child, run, ended } = host({
      scenario: 'long',
      env: seconds(8),
      config: { ttlSecondsAfterFinished: 5 },
    });
    await runs.podOf(run);
    child.kill('SIGKILL');
    await ended;
    await runs.nothingLeft(run);
    const next = await runs.play({ agent: { id: run.agentId } });
    expect(next.result.errorMessage).toBeNull();
  });
});

/** Starts a host process with one run. */
function host(options) {
  const agentId = `agent-${randomUUID()}`;
  const { as = 'recommended', config, ...rest } = options;
  const { ctx } = runs.prepare({ as, config });
  const { env: _env, kubeconfig, ...resolved } = ctx.config;
  const { child, output, ended } = startHost(
    { kubeconfig: String(kubeconfig), namespace: cluster.namespace },
    { options: { ...rest, config: resolved, agent: { id: agentId } } },
  );
  return { child, ended, run: { output, agentId } };
}

/** A new run of the agent attaches to its live Job and follows it to the end, from the first line on. */
async function attach({ agentId }, { as } = /** @type {{as?: string}} */ ({})) {
  await eventually(async () => (await runs.jobs(agentId)).length === 1);
  const { output, result } = await runs.play({ as, agent: { id: agentId } });
  expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
  expect(output.stdout).toMatch(
    /\[paperclip\] Reattaching to in-flight K8s Job \S+ in namespace \S+ \(prior run \S+\)/,
  );
  expect(expectTicks(output)).toBeGreaterThan(30);
}
