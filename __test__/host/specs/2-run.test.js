// The host's record of a run after its end: status, usage, session, log, errors. And what arrived in the pod.
import { beforeAll, describe, expect, it } from 'vitest';

import { recordedLines } from '../../support/recordings.js';
import {
  TYPE,
  api,
  ended,
  eventsOf,
  eventually,
  gone,
  installed,
  lab,
  logOf,
  newAgent,
  newCompany,
  newIssue,
  oneRun,
  runOn,
  runsOf,
  textsOf,
  adapterLinesOf,
  wakeFor,
} from '../support.js';

let company;
beforeAll(async () => {
  await installed();
  company = await newCompany('Runs');
});

/** The prompt, environment and arguments that the fake CLI reports. */
async function echoOf(run) {
  const [text] = textsOf(await eventsOf(run));
  return JSON.parse(text);
}

/**
 * How the CLI was called, by the host's record. The log is not a source for that: the prompt of a task grows with each of
 * its runs, and the host keeps at most 64 KiB of a line.
 */
async function argumentsOf({ id }) {
  const events = await api('GET', `/heartbeat-runs/${id}/events`);
  return events.find(({ eventType }) => eventType === 'adapter.invoke').payload.commandArgs;
}

describe('a successful run', () => {
  let agent;
  let run;
  beforeAll(async () => {
    agent = await newAgent(company, 'Ada');
    run = await oneRun(agent);
  });

  it('is shown with exit code, usage, cost, session and summary', async () => {
    const result = (await eventsOf(run)).find(({ type }) => type === 'result');
    expect(run).toMatchObject({ status: 'succeeded', exitCode: 0, error: null, errorCode: null });
    expect(run.sessionIdAfter).toBe(result.session_id);
    expect(run.usageJson).toMatchObject({
      provider: 'anthropic',
      model: Object.keys(result.modelUsage)[0],
      billingType: 'metered_api',
      inputTokens: result.usage.input_tokens,
      cachedInputTokens: result.usage.cache_read_input_tokens,
      outputTokens: result.usage.output_tokens,
      costUsd: result.total_cost_usd,
      persistedSessionId: result.session_id,
    });
    expect(run.resultJson).toMatchObject({ summary: result.result, result: result.result });
  });

  it('adds its cost to the company’s spending', async () => {
    const spent = await eventually(async () => {
      const costs = await api('GET', `/companies/${company.id}/costs/by-agent`);
      return costs.find(({ agentId }) => agentId === agent.id);
    }, 'the cost of the agent');
    expect(spent).toMatchObject({ inputTokens: 240, cachedInputTokens: 128, outputTokens: 84 });
  });

  it('has every event of the agent in its log, in order and undamaged', async () => {
    const shape = ({ type, subtype, message }) => [
      type,
      subtype,
      message?.content?.map((block) => block.type),
    ];
    const recorded = recordedLines('2.1.197/success').map((line) => JSON.parse(line));
    const events = await eventsOf(run);
    expect(events.map(shape)).toEqual(recorded.map(shape));
    expect(textsOf(events)).toEqual(textsOf(recorded));
  });

  it('has the adapter’s lines in the log, and one warning on stderr', async () => {
    const lines = await adapterLinesOf(run);
    expect(lines).toContainEqual(
      expect.stringMatching(/^\[paperclip\] Created K8s Job: \S+ in namespace \S+ \(deadline: none\)$/),
    );
    expect(lines).toContainEqual(expect.stringMatching(/^\[paperclip\] Pod running: /));
    const warnings = (await logOf(run)).filter(({ stream }) => stream === 'stderr');
    // This host is not in a pod.
    expect(warnings).toMatchObject([{ line: expect.stringContaining('set paperclipApiUrl') }]);
  });

  it('records how the agent was called, without secrets', async () => {
    const events = await api('GET', `/heartbeat-runs/${run.id}/events`);
    const { payload } = events.find(({ eventType }) => eventType === 'adapter.invoke');
    expect(payload).toMatchObject({ adapterType: TYPE });
    expect(JSON.stringify(payload)).not.toMatch(/sk-ant-|eyJ[\w-]+\.eyJ/);
  });

  it('leaves nothing in the cluster', async () => {
    await gone(agent);
  });
});

describe('the pod of a run', () => {
  it('gets task, instructions and credentials, and nothing that is valid only on the host', async () => {
    const agent = await newAgent(company, 'Echo', { scenario: 'echo-env' });
    const issue = await newIssue(company, agent, 'Say what you were given');
    const run = await runOn(issue, agent);
    expect(run).toMatchObject({ status: 'succeeded' });
    const { env, argv, prompt } = await echoOf(run);
    expect(env).toMatchObject({
      HOME: expect.any(String),
      PAPERCLIP_AGENT_ID: agent.id,
      PAPERCLIP_COMPANY_ID: company.id,
      PAPERCLIP_RUN_ID: run.id,
      PAPERCLIP_TASK_ID: issue.id,
      PAPERCLIP_API_URL: expect.stringMatching(/^http/),
      PAPERCLIP_API_KEY: expect.any(String),
    });
    for (const variable of ['TMPDIR', 'PAPERCLIP_RUNNER_NETWORK_ROOTS']) {
      expect(env, variable).not.toHaveProperty(variable);
    }
    expect(env.PAPERCLIP_SCRATCH_DIR, 'a directory of the pod').toMatch(/^\/tmp\/paperclip-scratch/);
    const option = (flag) => argv[argv.indexOf(flag) + 1];
    expect(argv).toEqual(
      expect.arrayContaining(['--output-format', 'stream-json', '--append-system-prompt-file', '--add-dir']),
    );
    expect(option('--append-system-prompt-file')).toMatch(
      /\/claude-prompt-cache\/[0-9a-f]{64}\/agent-instructions\.md$/,
    );
    expect(prompt).toContain('issue_assigned');
    expect(prompt).toContain('Say what you were given');
  });
});

describe('the next run of a task', () => {
  it('resumes the session of the one before', async () => {
    const agent = await newAgent(company, 'Again', { scenario: 'echo-env' });
    const issue = await newIssue(company, agent, 'Come back to this');
    const first = await runOn(issue, agent);
    expect(first.sessionIdAfter).toMatch(/^[0-9a-f-]{36}$/);
    expect(await argumentsOf(first)).not.toContain('--resume');

    const run = await ended(await wakeFor(issue, agent));
    const argv = await argumentsOf(run);
    expect(argv).toContain('--resume');
    expect(argv[argv.indexOf('--resume') + 1]).toBe(run.sessionIdBefore);
    expect(run).toMatchObject({ status: 'succeeded', sessionIdAfter: run.sessionIdBefore });
    // The host may have woken the agent in between: the resumed session is one of an earlier run of this task.
    const earlier = (await runsOf(agent))
      .filter(({ id }) => id !== run.id)
      .map(({ sessionIdAfter }) => sessionIdAfter);
    expect(earlier).toContain(run.sessionIdBefore);
  });
});

describe('a run that fails', () => {
  it.each([
    ['auth', { exitCode: 1 }, /Invalid API key/],
    ['max-turns', { exitCode: 1 }, /maximum number of turns/i],
    ['exit-code', { exitCode: 3 }, /Claude run failed/],
    ['truncated', { errorCode: 'claude_truncated', exitCode: 137 }, /truncated mid-stream/],
  ])('%s: the host shows why', async (scenario, shown, message) => {
    const agent = await newAgent(company, `Fails ${scenario}`, { scenario });
    const run = await oneRun(agent);
    expect(run).toMatchObject({ status: 'failed', ...shown });
    expect(run.error).toMatch(message);
    await gone(agent);
  });

  it('for an invalid configuration names key and value before anything is created', async () => {
    const agent = await newAgent(company, 'Misconfigured', {
      config: { tolerations: '{"not": "an array"}' },
    });
    const run = await oneRun(agent);
    expect(run).toMatchObject({ status: 'failed', errorCode: 'configuration_incomplete' });
    expect(run.error).toContain('tolerations');
  });
});

describe('the environment test', () => {
  const test = (adapterConfig) =>
    api('POST', `/companies/${company.id}/adapters/${TYPE}/test-environment`, { adapterConfig });

  it('warns of nothing but the address of a host that is no pod', async () => {
    const { status, checks } = await test(lab.config);
    const noticed = checks.filter(({ level }) => level !== 'info');
    expect(noticed).toMatchObject([{ level: 'warn', code: 'k8s_pod_differs' }]);
    expect(noticed[0].message).toContain('set paperclipApiUrl');
    expect(status).toBe('warn');
  });

  it('reports what is wrong if they cannot', async () => {
    const { status, checks } = await test({ ...lab.config, kubeconfig: '/nowhere/kubeconfig' });
    expect(status).toBe('fail');
    expect(
      checks
        .filter(({ level }) => level === 'error')
        .map(({ message, detail }) => `${message} ${detail}`)
        .join('\n'),
    ).toContain('/nowhere/kubeconfig');
  });
});
