// Whole runs of the built addon on the embedded cluster: real processes, real HTTPS, real time.
import { AsyncLocalStorage } from 'node:async_hooks';
import { readFileSync, writeFileSync } from 'node:fs';

import { selectPaperclipTaskMarkdown } from '@paperclipai/adapter-utils/server-utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import {
  agentLines,
  clusterForHost,
  environmentOf,
  eventually,
  evidenceOf,
  hostRun,
  leftovers,
} from '../support/host.js';

const adapter = createServerAdapter();
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  expect(await leftovers(cluster)).toEqual([]);
  await cluster.stop();
});

/** Runs a scenario to its result. */
async function play(options) {
  const { ctx, output } = hostRun(cluster, options);
  const result = await adapter.execute(ctx);
  return { ctx, output, result };
}

/** The one Job of an agent, once it is there. */
function jobOf(agentId) {
  const selector = encodeURIComponent(
    `paperclip.io/agent-id=${agentId},paperclip.io/adapter-type=claude_k8s`,
  );
  return eventually(async () => {
    const path = `/apis/batch/v1/namespaces/${cluster.namespace}/jobs?labelSelector=${selector}`;
    return (await cluster.get(path)).items[0];
  });
}

/** A kubeconfig for a service account with these rules. */
async function account(name, rules) {
  await cluster.post('/simulator/tokens', {
    token: name,
    user: `system:serviceaccount:paperclip:${name}`,
    rules,
  });
  const kubeconfig = `${cluster.kubeconfig}-${name}`;
  writeFileSync(kubeconfig, readFileSync(cluster.kubeconfig, 'utf8').replaceAll(cluster.token, name));
  return kubeconfig;
}

describe('a successful run', () => {
  it('resolves with every field of the contract and tells every line once', async () => {
    const { output, result } = await play();
    const recorded = fixture('success');
    expect(result).toMatchObject({
      exitCode: 0,
      signal: null,
      timedOut: false,
      errorMessage: null,
      usage: { inputTokens: 240, cachedInputTokens: 128, outputTokens: 84 },
      provider: 'anthropic',
      model: 'claude-opus-4-8[1m]',
      billingType: 'api',
      costUsd: 0.003364,
      summary: 'All done.',
      clearSession: false,
    });
    expect(result).not.toHaveProperty('errorCode');
    expect(result.sessionId).toBe(result.resultJson?.session_id);
    expect(result.sessionParams).toMatchObject({ sessionId: result.sessionId, cwd: '/paperclip' });
    expect(result.sessionDisplayId).toBe(result.sessionId);
    const types = (lines) => lines.map((line) => JSON.parse(line).type);
    expect(types(agentLines(output))).toEqual(types(recorded));
    expect(output.stdout).toContain('naïve café ✓');
    for (const line of [
      /^\[paperclip\] Skills bundled \(0\): none$/m,
      /^\[paperclip\] Created K8s Job: ac-agent-\S+ in namespace paperclip \(deadline: none\)$/m,
      /^\[paperclip\] Waiting for pod to be scheduled \(job: ac-agent-\S+\)\.\.\.$/m,
      /^\[paperclip\] Pod running: ac-agent-\S+$/m,
    ]) {
      expect(output.stdout).toMatch(line);
    }
    expect(output.chunks.every(({ chunk }) => chunk.endsWith('\n'))).toBe(true);
  });

  it('gives the container its prompt, environment, arguments and folder unchanged', async () => {
    const prompt = `Say "hi" to {{agent.name}}; it's $HOME \`pwd\` \\ /paperclip/x\n  – naïve ✓`;
    const { result } = await play({
      scenario: 'echo-env',
      env: { GREETING: "it's 'quoted' $HOME" },
      config: { promptTemplate: prompt, model: 'claude-opus-4-8', extraArgs: ['--x', "a 'b' $c"] },
      context: {
        wakeReason: 'test',
        paperclipWorkspace: { cwd: '/paperclip/work', repoUrl: 'https://example.org/r.git' },
      },
      authToken: 'run-token',
    });
    expect(result.errorMessage).toBeNull();
    const seen = JSON.parse(result.summary ?? '');
    expect(seen.prompt).toBe(prompt.replace('{{agent.name}}', 'Ada'));
    expect(seen.env).toMatchObject({
      GREETING: "it's 'quoted' $HOME",
      PAPERCLIP_API_KEY: 'run-token',
      PAPERCLIP_TASK_ID: 'task-1',
      PAPERCLIP_WAKE_REASON: 'test',
      PAPERCLIP_WORKSPACE_REPO_URL: 'https://example.org/r.git',
    });
    expect(seen.env.ANTHROPIC_API_KEY, 'inherited from the host pod through its Secret').toBeTruthy();
    expect(seen.argv.slice(-4)).toEqual(expect.arrayContaining(['--x', "a 'b' $c"]));
    expect(seen.argv).toEqual(
      expect.arrayContaining(['--output-format', 'stream-json', '--model', 'claude-opus-4-8']),
    );
    expect(result.sessionParams).toMatchObject({
      cwd: '/paperclip/work',
      repoUrl: 'https://example.org/r.git',
    });
  });

  it('delivers a prompt of 400 KB through a Secret that goes with the run', async () => {
    const prompt = 'päng! '.repeat(60_000);
    const { result } = await play({ scenario: 'echo-env', config: { promptTemplate: prompt } });
    expect(result.errorMessage).toBeNull();
    expect(JSON.parse(result.summary ?? '').prompt).toBe(prompt.trim());
  });

  it('resumes the session it is given', async () => {
    const session = '11111111-2222-4333-8444-555555555555';
    const { result } = await play({ runtime: { sessionParams: { sessionId: session } } });
    expect(result.sessionId).toBe(session);
  });

  it('that takes a minute of real time, with output all along, is a success', async () => {
    const { output, result } = await play({ scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '60' } });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    const ticks = [...output.stdout.matchAll(/tick (\d+) of (\d+)/g)].map(([, n]) => Number(n));
    const unique = [...new Set(ticks)];
    expect(unique).toEqual(unique.map((_, index) => index + 1));
    expect(unique.length).toBeGreaterThan(100);
    expect(output.stdout).not.toContain('reconnecting');
    const first = output.chunks.find(({ chunk }) => chunk.includes('tick 1 of'));
    const last = output.chunks.findLast(({ chunk }) => chunk.includes(`tick ${unique.length} of`));
    expect((last?.at ?? 0) - (first?.at ?? 0), 'output as it happened, not at the end').toBeGreaterThan(
      50_000,
    );
    expect(output.stdout).toMatch(
      /\[paperclip\] keepalive — job ac-agent-\S+ running \(\ds since last output\)/,
    );
  });

  it('with 100,000 lines loses none and keeps the event loop free', async () => {
    // How many chunks came in one turn of the event loop.
    let most = 0;
    let inTurn = 0;
    let chunks = 0;
    const seen = [];
    const { result } = await play({
      scenario: 'flood',
      // Slow enough that no line is rotated away before it is asked for.
      env: { CLAUDE_STAND_IN_RATE: '20000' },
      onLog: async (_stream, chunk) => {
        if (inTurn === 0) setImmediate(() => (inTurn = 0));
        inTurn += 1;
        chunks += 1;
        most = Math.max(most, inTurn);
        expect(Buffer.byteLength(chunk)).toBeLessThanOrEqual(8 * 1024);
        for (const [, n] of chunk.matchAll(/\\"seq\\":(\d+)/g)) seen.push(Number(n));
      },
    });
    expect(result.errorMessage).toBeNull();
    expect(seen.length).toBeGreaterThanOrEqual(100_000);
    const unique = [...new Set(seen)];
    expect(unique.length).toBe(100_000);
    expect(unique.every((n, index) => index === 0 || n > unique[index - 1])).toBe(true);
    // js/mailbox.js takes 128 messages at once and then leaves the loop to others; a wake-up may come in the same turn.
    expect(most).toBeLessThanOrEqual(2 * 128);
    expect(most).toBeLessThan(chunks / 4);
  });

  it.each(['big-line', 'no-newline', 'binary', 'stderr-noise', 'slow-result'])(
    'plays %s',
    async (scenario) => {
      const { output, result } = await play({ scenario, env: { CLAUDE_STAND_IN_SECONDS: '1' } });
      expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
      expect(agentLines(output).length).toBeGreaterThan(3);
    },
  );
});

describe('a run that fails', () => {
  it.each([
    ['auth', 'claude_auth_required', /Invalid API key/],
    ['overload', 'claude_transient_upstream', /529 Overloaded/],
    ['unreachable', 'claude_transient_upstream', /Unable to connect to API/],
    ['max-turns', 'max_turns_exhausted', /error_max_turns/],
  ])('%s says what Claude said', async (scenario, errorCode, message) => {
    const { result } = await play({ scenario });
    expect(result).toMatchObject({
      exitCode: 1,
      timedOut: false,
      errorCode,
      resultJson: { conversationContinuation: 'continue_conversation_v1' },
    });
    expect(result.errorMessage).toMatch(message);
    expect(result.clearSession).toBe(scenario === 'max-turns');
  });

  it('with an unknown session clears it', async () => {
    const { output, result } = await play({
      scenario: 'unknown-session',
      runtime: { sessionId: '11111111-2222-4333-8444-555555555555' },
    });
    expect(result).toMatchObject({ errorCode: 'session_unavailable', clearSession: true });
    expect(output.stdout).toContain('[paperclip] Claude session is unavailable; clearing for next run.');
  });

  it('by a crash or a kill names exit code and reason', async () => {
    const killed = await play({ scenario: 'truncated' });
    expect(killed.result).toMatchObject({ errorCode: 'claude_truncated', exitCode: 137 });
    expect(killed.result.errorMessage).toContain('SIGKILL (commonly OOMKilled)');
    expect(killed.result.resultJson?.stdout).toContain('"type":"assistant"');
    const crashed = await play({ scenario: 'crash' });
    expect(crashed.result.exitCode).toBe(139);
  });

  it('with an empty answer of the model names the upstream', async () => {
    const { result } = await play({ scenario: 'empty-llm' });
    expect(result).toMatchObject({ errorCode: 'llm_api_error', exitCode: 1 });
  });

  it('at its deadline is a timeout', async () => {
    const { result } = await play({ scenario: 'hang', config: { timeoutSec: 2, graceSec: 20 } });
    expect(result).toMatchObject({
      errorCode: 'timeout',
      timedOut: true,
      errorMessage: expect.stringMatching(
        /^Timed out after 2s; Job \S+: the run took longer than it may, at \S+Z$/,
      ),
    });
  });

  it('because its Job was deleted is explained', async () => {
    const { ctx, output } = hostRun(cluster, { scenario: 'hang' });
    const running = adapter.execute(ctx);
    const job = await jobOf(ctx.agent.id);
    await eventually(() => output.stdout.includes('"subtype":"init"'));
    await cluster.request(
      'DELETE',
      job.metadata.selfLink ?? `/apis/batch/v1/namespaces/paperclip/jobs/${job.metadata.name}`,
      {
        propagationPolicy: 'Background',
      },
    );
    const result = await running;
    expect(result).toMatchObject({ errorCode: 'k8s_job_deleted_externally', exitCode: 143 });
    expect(result.errorMessage).toContain('detected_via=watch-deleted');
    expect(result.errorMessage).toContain('pod_disruption=the pod was deleted by an unknown API client');
    expect(result.errorMessage).toContain(`job=${job.metadata.name}, ns=paperclip`);
  });

  it('because its image cannot be pulled says so', async () => {
    const { output, result } = await play({ config: { image: 'missing/agent:1', imagePullGraceSec: 1 } });
    expect(result.errorCode).toBe('k8s_pod_schedule_failed');
    expect(result.errorMessage).toMatch(/^Pod scheduling failed: Image pull failed for "claude": /);
    const summary = evidenceOf(result)?.summary;
    expect(result.errorMessage).toMatch(
      /; Pod \S+ on node embedded-node: its image does not exist in the registry, at \S+Z$/,
    );
    expect(output.stderr).toContain(`[paperclip] ${result.errorMessage?.replace(`; ${summary}`, '')}`);
    expect(output.stderr).toContain(`[paperclip] Cause image_not_found: ${summary}. `);
  });

  it('because no node fits says so', async () => {
    const { result } = await play({ config: { nodeSelector: 'gpu=yes' } });
    expect(result.errorMessage).toMatch(
      /^Pod scheduling failed: Pod unschedulable: 0\/1 nodes are available/,
    );
  });

  it('by a wrong configuration names key and value, and creates nothing', async () => {
    await cluster.post('/simulator/reset-requests');
    const { result } = await play({ config: { tolerations: '{"not":"an array"}' } });
    expect(result.errorCode).toBe('configuration_incomplete');
    expect(result.resultJson?.k8sErrorCode).toBe('k8s_config_invalid');
    expect(result.errorMessage).toMatch(/tolerations.*not/);
    const { requests } = await cluster.get('/simulator/requests');
    expect(requests.filter(({ verb }) => verb === 'create')).toEqual([]);
  });

  it('without a readable kubeconfig fails in the words of Node', async () => {
    const { ctx } = hostRun(cluster, { config: { kubeconfig: '/no/such/kubeconfig' } });
    await expect(adapter.execute(ctx)).resolves.toMatchObject({
      errorCode: 'configuration_incomplete',
      resultJson: { k8sErrorCode: 'k8s_config_invalid' },
      errorMessage: expect.stringMatching(
        /^Cannot set up the run: ENOENT: no such file or directory, open '\/no\/such\/kubeconfig'; /,
      ),
      executionRecovery: { kind: 'bootstrap', providerWorkStarted: false },
    });
    await expect(
      adapter.execute({ ...ctx, config: hostRun(cluster).ctx.config }),
      'its agent is not blocked',
    ).resolves.toMatchObject({
      errorMessage: null,
    });
  });
});

describe('the prompt bundle', () => {
  it('of a company id that leaves its folder fails the run', async () => {
    const { result } = await play({ agent: { companyId: '../x' } });
    expect(result.errorMessage).toMatch(
      /^Cannot prepare the run: Invalid companyId: must not contain path separators; /,
    );
  });

  it('that misses a skill logs it in its place and continues', async () => {
    const { output, result } = await play({
      config: {
        paperclipRuntimeSkills: [
          { key: 'org/demo', runtimeName: 'no/such/folder', source: import.meta.filename },
        ],
        paperclipSkillSync: { desiredSkills: ['org/demo'] },
      },
    });
    expect(result.errorMessage).toBeNull();
    const at = (text) => output.chunks.findIndex(({ chunk }) => chunk.includes(text));
    const failed = at('[paperclip] Failed to materialize Claude skill "org/demo" into /');
    expect(output.chunks[failed]?.stream).toBe('stderr');
    expect(at('[paperclip] Skills bundled (1): no/such/folder')).toBeLessThan(failed);
    expect(failed).toBeLessThan(at('[paperclip] Created K8s Job:'));
  });
});

describe('a host of today', () => {
  it('gives the agent its task, its skills and what the library holds', async () => {
    const skills = [
      {
        key: 'org/gone',
        runtimeName: 'gone',
        source: '/x',
        sourceStatus: 'missing',
        missingDetail: 'snapshot deleted',
      },
      { key: 'org/other', runtimeName: 'other', source: '/skills/other' },
    ];
    const issue = { id: 'i-1', identifier: 'PAP-1', title: 'Mend the roof', workMode: 'planning' };
    const { ctx, output, result } = await play({
      config: { paperclipRuntimeSkills: skills, paperclipSkillSync: { desiredSkills: ['org/gone'] } },
      context: {
        paperclipWake: { reason: 'issue_assigned', issue, nothing: null },
        paperclipTaskMarkdown: 'The roof leaks.',
        paperclipRuntimeTools: { url: 'http://host/tools', bearerToken: 'not-for-people' },
      },
    });
    expect(result.errorMessage).toBeNull();
    const [{ prompt, promptMetrics, commandArgs, env }] = output.meta;
    expect(JSON.stringify(output.meta)).not.toContain('not-for-people');
    expect(output.meta[0]?.context).toMatchObject({ paperclipRuntimeTools: { url: 'http://host/tools' } });
    expect(prompt).toContain('Mend the roof');
    expect(prompt).toContain('The roof leaks.');
    expect(promptMetrics?.taskContextChars).toBe(
      selectPaperclipTaskMarkdown(ctx.context, { resumedSession: false }).length,
    );
    expect(env).toMatchObject({ PAPERCLIP_ISSUE_WORK_MODE: 'planning' });
    expect(JSON.parse(env?.PAPERCLIP_WAKE_PAYLOAD_JSON ?? '')).not.toHaveProperty('nothing');

    expect(output.stderr).toContain(
      '[paperclip] Warning: the files of skill "org/gone" are missing, the agent runs without it: snapshot deleted\n',
    );
    expect(output.stdout).toMatch(/^\[paperclip\] Skills bundled \(0\): none$/m);
    const instructions = commandArgs?.[commandArgs.indexOf('--append-system-prompt-file') + 1] ?? '';
    expect(readFileSync(instructions, 'utf8')).toContain('org/other');
  });
});

describe('the host', () => {
  it('cancels: the Job goes, the pod is gone, and that is acknowledged', async () => {
    const abort = new AbortController();
    let ready = false;
    const { ctx, output } = hostRun(cluster, {
      scenario: 'hang',
      signal: abort.signal,
      onCancellationReady: async () => {
        ready = true;
      },
    });
    const running = adapter.execute(ctx);
    await eventually(() => output.stdout.includes('"subtype":"init"'));
    expect(ready).toBe(true);
    abort.abort();
    const result = await running;
    expect(result).toMatchObject({
      errorCode: 'cancelled',
      errorMessage: 'Run cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
      executionRecovery: {
        kind: 'interrupted',
        providerStopped: true,
        sessionPreserved: true,
        actionOutcomes: 'settled',
      },
    });
    const selector = encodeURIComponent(`paperclip.io/agent-id=${ctx.agent.id}`);
    const { items } = await cluster.get(
      `/api/v1/namespaces/${cluster.namespace}/pods?labelSelector=${selector}`,
    );
    expect(items).toEqual([]);
  });

  it('may not start a second run of an agent while one is alive', async () => {
    const { ctx, output } = hostRun(cluster, { scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '6' } });
    const first = adapter.execute(ctx);
    await eventually(() => output.stdout.includes('Created K8s Job'));
    const second = await adapter.execute({
      ...hostRun(cluster, { context: { taskId: 'other' } }).ctx,
      agent: ctx.agent,
    });
    expect(second.errorCode).toBe('k8s_concurrent_run_blocked');
    expect(second.errorMessage).toMatch(
      /is running a different task; Job \S+ belongs to another run of the agent, for another task, and is alive, at \S+Z$/,
    );
    expect((await first).errorMessage).toBeNull();
  });

  it('asks the API for little: what happens is watched, by all runs together', async () => {
    await play();
    await cluster.post('/simulator/reset-requests');
    const runs = await Promise.all(Array.from({ length: 5 }, () => play()));
    expect(runs.map(({ result }) => result.errorMessage)).toEqual(runs.map(() => null));
    const { requests } = await cluster.get('/simulator/requests');
    const ours = requests.filter(({ userAgent }) => userAgent?.startsWith('paperclip-adapter-claude-k8s/'));
    expect(
      ours.filter(({ verb }) => verb === 'watch').length,
      'those of the run before go on',
    ).toBeLessThanOrEqual(2);
    const own = ours.filter(({ verb, subresource }) => verb !== 'watch' && subresource !== 'log');
    expect(own.length).toBeLessThanOrEqual(7 * runs.length);
    expect(own.filter(({ verb, resource }) => resource === 'jobs' && verb === 'get')).toEqual([]);
    const lists = own.filter(({ verb, resource }) => resource === 'pods' && verb === 'list');
    expect(lists.length, 'the guard reads what the agent has').toBeLessThanOrEqual(runs.length);
  });

  it.each([
    ['expired versions', { expireWatch: true }, 6],
    ['objects that cannot be read', { garbage: true }, 6],
    ['lines that are not JSON', { garbage: 'json' }, 6],
    ['resets', { cut: { afterLines: 2, reset: true } }, 6],
    ['a server that is overloaded', { status: { code: 429, retryAfter: 1 } }, 4],
    ['errors for as long as it takes', { status: { code: 500 } }, 1_000],
  ])('loses nothing by watches with %s', async (_what, action, times) => {
    // An account of its own has watches of its own, which meet the faults from their start.
    const name = `faults-${Math.random().toString(36).slice(2)}`;
    const kubeconfig = await account(name, [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }]);
    const user = `system:serviceaccount:paperclip:${name}`;
    await cluster.post('/simulator/faults', { match: { verb: 'watch', user }, times, action });
    const { output, result } = await play({ config: { kubeconfig } });
    await cluster.delete('/simulator/faults');
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(agentLines(output).length).toBe(fixture('success').length);
  });

  it('whose service account may not watch says so once and runs all the same', async () => {
    // The Role of existing installations.
    const kubeconfig = await account('unwatching', [
      { apiGroups: ['batch'], resources: ['jobs'], verbs: ['create', 'delete', 'get', 'list'] },
      { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list'] },
      { apiGroups: [''], resources: ['pods/log'], verbs: ['get'] },
      { apiGroups: [''], resources: ['secrets'], verbs: ['create', 'delete', 'get'] },
    ]);
    const line =
      '[paperclip] Watching Jobs and Pods is not permitted in namespace paperclip — polling every 2s instead ' +
      '(grant the watch verb to react at once)\n';
    const first = await play({ config: { kubeconfig } });
    expect(first.result.errorMessage).toBeNull();
    expect(agentLines(first.output).length).toBe(fixture('success').length);
    expect(first.output.stdout).toContain(line);
    const { output, result } = await play({ config: { kubeconfig }, scenario: 'truncated' });
    expect(result).toMatchObject({ errorCode: 'claude_truncated', exitCode: 137 });
    expect(output.stdout).not.toContain(line);
    const { checks } = await adapter.testEnvironment(environmentOf(kubeconfig));
    const level = (wanted) => checks.find(({ code }) => code === wanted)?.level;
    expect(['k8s_rbac_job_list', 'k8s_rbac_job_watch', 'k8s_rbac_pod_watch'].map(level)).toEqual([
      'info',
      'warn',
      'warn',
    ]);
  });

  it('without the right to list Jobs reports the real reason', async () => {
    const kubeconfig = await account('limited', [
      { apiGroups: [''], resources: ['pods'], verbs: ['get', 'list'] },
    ]);
    const { result } = await play({ config: { kubeconfig } });
    expect(result.errorCode).toBe('k8s_concurrency_guard_unreachable');
    expect(result.errorMessage).toContain(
      'Concurrency guard unreachable: HTTP-Code: 403 Message: jobs.batch is forbidden: User ' +
        '"system:serviceaccount:paperclip:limited" cannot list resource "jobs" in API group "batch" in the namespace "paperclip"',
    );
    const environment = await adapter.testEnvironment(environmentOf(kubeconfig));
    expect(environment.status).toBe('fail');
    expect(environment.checks.find(({ code }) => code === 'k8s_rbac_job_create')).toMatchObject({
      level: 'error',
      hint: 'Grant the service account permission to create jobs in namespace paperclip.',
    });
  });

  it('learns from the environment test what a run will find', async () => {
    const { status, checks, adapterType, testedAt } = await adapter.testEnvironment(
      environmentOf(cluster.kubeconfig),
    );
    // The control plane of these tests is on loopback, where no pod of a real cluster reaches it.
    const warned = checks.filter(({ level }) => level !== 'info');
    expect(warned.map(({ code }) => code)).toEqual(['k8s_pod_differs']);
    expect(warned[0]?.message).toContain('PAPERCLIP_API_URL');
    expect([status, adapterType]).toEqual(['warn', 'claude_k8s']);
    expect(new Date(testedAt).toISOString()).toBe(testedAt);
    expect(checks.map(({ code }) => code)).toEqual([
      'k8s_api_reachable',
      'k8s_namespace_exists',
      'k8s_rbac_job_create',
      'k8s_rbac_job_delete',
      'k8s_rbac_job_get',
      'k8s_rbac_job_list',
      'k8s_rbac_pod_list',
      'k8s_rbac_pod_log',
      'k8s_rbac_secret_create',
      'k8s_rbac_secret_delete',
      'k8s_rbac_secret_get',
      'k8s_rbac_pvc_get',
      'k8s_rbac_job_patch',
      'k8s_rbac_job_watch',
      'k8s_rbac_pod_watch',
      'k8s_rbac_event_list',
      'k8s_rbac_namespace_get',
      'k8s_rbac_pod_create',
      'k8s_secret_exists',
      'k8s_pvc_rwx',
      'k8s_job_accepted',
      'k8s_pod_accepted',
      'k8s_pod_differs',
    ]);
  });

  it('reloads the adapter in mid-run and loses nothing', async () => {
    const { ctx, output } = hostRun(cluster, { scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '4' } });
    const running = adapter.execute(ctx);
    await eventually(() => output.stdout.includes('tick 1 of'));
    const entry = new URL(`../../index.js?t=${Date.now()}`, import.meta.url).href;
    const reloaded = (await import(/* @vite-ignore */ entry)).createServerAdapter();
    const blocked = await reloaded.execute({ ...hostRun(cluster).ctx, runId: ctx.runId, agent: ctx.agent });
    expect(blocked.errorCode, 'the reloaded adapter knows the run').toBe('k8s_concurrent_run_blocked');
    expect((await running).errorMessage).toBeNull();
  });

  it('shows on its run card what it waits for, and does not wait for the host to do so', async () => {
    const hangs = () => new Promise(() => {});
    for (const show of [async () => {}, hangs, async () => Promise.reject(new Error('card is gone'))]) {
      /** @type {{phase: string, message: string}[]} */
      const shown = [];
      const { ctx } = hostRun(cluster, {});
      const onRuntimeProgress = (update) => {
        shown.push(update);
        return show();
      };
      expect(await adapter.execute({ ...ctx, onRuntimeProgress })).toMatchObject({ errorMessage: null });
      // A host that never settles is not called again.
      expect(shown.map(({ phase }) => phase)).toEqual(shown.map(() => 'adapter_startup'));
      expect(shown[0]?.message).toMatch(/^(Scheduling|Starting|Running): /);
      if (show === hangs) expect(shown).toHaveLength(1);
      else expect(shown.at(-1)?.message).toMatch(/^Running: Claude runs in pod \S+$/);
    }
  });

  it('whose onLog rejects or throws still gets its result', async () => {
    for (const onLog of [
      async () => Promise.reject(new Error('disk full')),
      () => {
        throw new Error('disk full');
      },
    ]) {
      const { result } = await play({ onLog });
      expect(result.errorMessage).toBeNull();
    }
  });

  it('is called back in the asynchronous context of its own call, one chunk at a time, by each of many runs', async () => {
    const storage = new AsyncLocalStorage();
    const runs = Array.from({ length: 5 }, (_, index) =>
      storage.run(index, async () => {
        const contexts = new Set();
        let [underWay, most] = [0, 0];
        const seen = async () => {
          contexts.add(storage.getStore());
          await new Promise((resolve) => setTimeout(resolve, 1));
          contexts.add(storage.getStore());
        };
        const chunk = async () => {
          most = Math.max(most, ++underWay);
          await seen();
          underWay -= 1;
        };
        const { result } = await play({ onLog: chunk, onMeta: seen });
        contexts.add(storage.getStore());
        expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
        expect([...contexts]).toEqual([index]);
        expect(most).toBe(1);
      }),
    );
    await Promise.all(runs);
  });

  it('may name its agents as it likes', async () => {
    const { result } = await play({ agent: { name: 'Ünïcode "quoted"\nname' } });
    expect(result.errorMessage).toBeNull();
  });
});

/** The lines of a recording. */
function fixture(name) {
  const file = new URL(`../../tools/simulator/fixtures/claude-cli-2.1.197/${name}.jsonl`, import.meta.url);
  return readFileSync(file, 'utf8').trim().split('\n');
}
