// The adapter with the real CLI: how the CLI understands the adapter's command line, and the adapter the CLI's output.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { eventually } from '../support/host.js';
import { sharedFolder } from './clusters.js';
import { version } from './install.mjs';
import { LOGS, adapter, listIn, openForHost, play, processesLeft, start, tokensOf } from './support.js';

/** US dollars for a million tokens in the CLI's price list, of models that it will keep. */
const PRICES = { 'claude-sonnet-4-5': { input: 3, output: 15, cacheRead: 0.3, cacheWrite: 3.75 } };

let cluster;

beforeAll(async () => {
  cluster = await openForHost();
});

afterAll(async () => {
  if (!cluster) return;
  const problems = cluster.problems();
  if (problems) writeFileSync(path.join(LOGS, 'cluster.log'), problems);
  try {
    // A pod is deleted a moment before its last process ends.
    await eventually(() => processesLeft(cluster).length === 0, { within: 10_000, every: 250 }).catch(() => {
      expect(processesLeft(cluster), 'processes left behind').toEqual([]);
    });
  } finally {
    await cluster.close();
  }
});

const kinds = (entries) => entries.map(({ kind }) => kind);
const listPrice = (model, asked) => {
  const price = PRICES[model];
  const sum = (key) => asked.reduce((total, { usage }) => total + (usage?.[key] ?? 0), 0);
  const dollars =
    sum('input_tokens') * price.input +
    sum('output_tokens') * price.output +
    sum('cache_read_input_tokens') * price.cacheRead +
    sum('cache_creation_input_tokens') * price.cacheWrite;
  return dollars / 1e6;
};
const sonnet = { model: 'claude-sonnet-4-5' };

describe.concurrent('the real claude CLI', () => {
  it('answers: every field of the result, every line of the log, every entry of the transcript', async () => {
    const run = await play(cluster, {
      name: 'text',
      prompt: 'Say "hi" to {{agent.name}}; it\'s $HOME `pwd` – naïve ✓',
      config: sonnet,
      // The host pod's key, through its Secret.
      api: { KEY: cluster.hostKey },
    });
    const { result, events, asked } = run;
    const [init] = events;
    expect(init).toMatchObject({
      type: 'system',
      subtype: 'init',
      claude_code_version: version,
      permissionMode: 'bypassPermissions',
      apiKeySource: 'ANTHROPIC_API_KEY',
    });
    expect(asked).toMatchObject([{ status: 200, model: 'claude-sonnet-4-5', session: init.session_id }]);
    expect(result).toEqual({
      exitCode: 0,
      signal: null,
      timedOut: false,
      errorMessage: null,
      usage: tokensOf(asked),
      usageBasis: 'per_run',
      sessionId: init.session_id,
      sessionParams: {
        sessionId: init.session_id,
        cwd: `/paperclip/${run.folder}`,
        promptBundleKey: expect.stringMatching(/^[0-9a-f]{64}$/),
        namespace: cluster.namespace,
        volumeClaim: 'paperclip-data',
      },
      sessionDisplayId: init.session_id,
      provider: 'anthropic',
      biller: 'anthropic',
      model: 'claude-sonnet-4-5',
      billingType: 'api',
      costUsd: expect.closeTo(listPrice('claude-sonnet-4-5', asked), 9),
      resultJson: events.at(-1),
      summary: expect.any(String),
      clearSession: false,
    });
    expect(tokensOf(asked).inputTokens).toBeGreaterThan(0);
    const [heard] = listIn(result.summary, 'Heard');
    expect(heard).toContain('Say "hi" to Ada; it\'s $HOME `pwd` – naïve ✓');
    expect(run.entries).toMatchObject([
      { kind: 'init', model: 'claude-sonnet-4-5', sessionId: init.session_id },
      { kind: 'assistant', text: result.summary },
      { kind: 'result', text: result.summary, isError: false, costUsd: result.costUsd, errors: [] },
    ]);
    expect(run.otherLines).toEqual([]);
    // The adapter's lines; the CLI prints no complaint.
    expect(run.output.stderr.trim().split('\n')).toEqual([
      '[paperclip] Warning: PAPERCLIP_API_URL not set — cancel polling disabled',
      expect.stringMatching(
        /^\[paperclip\] Warning: PAPERCLIP_API_URL of the agent is .* set paperclipApiUrl$/,
      ),
    ]);
    for (const line of [/^\[paperclip\] Created K8s Job: ac-\S+/m, /^\[paperclip\] Pod running: ac-\S+$/m]) {
      expect(run.output.stdout).toMatch(line);
    }
    const [{ commandArgs }] = run.output.meta;
    expect(commandArgs.slice(0, 6)).toEqual([
      '--print',
      '-',
      '--output-format',
      'stream-json',
      '--verbose',
      '--dangerously-skip-permissions',
    ]);
  });

  it('calls tools, two of them at once, and logs calls and results', async () => {
    const { result, entries, asked } = await play(cluster, {
      name: 'tools',
      config: sonnet,
      api: { SCENARIO: 'tools' },
    });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null, usage: tokensOf(asked) });
    expect(result.costUsd).toBeCloseTo(listPrice('claude-sonnet-4-5', asked), 9);
    expect(asked.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(kinds(entries)).toEqual([
      'init',
      'assistant',
      'tool_call',
      'tool_call',
      'tool_result',
      'tool_result',
      'tool_call',
      'tool_result',
      'assistant',
      'result',
    ]);
    const of = (kind) => entries.filter((entry) => entry.kind === kind);
    expect(of('assistant')[0].text).toBe('Looking – naïve café ✓ first.');
    expect(of('tool_call').map(({ name, input }) => `${name}: ${input.command}`)).toEqual([
      'Bash: echo one; echo two',
      'Bash: seq 1 20',
      'Bash: echo oops >&2; exit 3',
    ]);
    const results = Object.fromEntries(of('tool_result').map((entry) => [entry.toolUseId, entry]));
    const [words, numbers, failure] = of('tool_call').map(({ toolUseId }) => results[toolUseId]);
    expect(words).toMatchObject({ content: 'one\ntwo', isError: false });
    expect(numbers).toMatchObject({
      content: Array.from({ length: 20 }, (_, i) => i + 1).join('\n'),
      isError: false,
    });
    expect(failure).toMatchObject({ content: expect.stringMatching(/oops/), isError: true });
    // The API got what the transcript shows, perhaps followed by a reminder of the CLI.
    const heard = listIn(result.summary, 'Tools said');
    expect(heard.map(({ error }) => error)).toEqual([false, false, true]);
    for (const { id, text } of heard) expect(text.startsWith(results[id].content), text).toBe(true);
  });

  it('calls tools of MCP servers: of the host, where a pod reaches it, and of the agent', async () => {
    const servers = await cluster.mcpServers([
      { name: 'of-host', token: 'token-of-run' },
      { name: 'of-agent', token: 'token-of-agent' },
    ]);
    const [ofHost, ofAgent] = servers.ports;
    try {
      const { result, entries, output } = await play(cluster, {
        name: 'mcp',
        config: {
          ...sonnet,
          ...servers.config,
          paperclipApiUrl: `http://127.0.0.1:${ofHost}`,
          mcpServers: {
            'of-agent': {
              type: 'http',
              url: `http://127.0.0.1:${ofAgent}/mcp`,
              headers: { Authorization: 'Bearer ${MCP_TOKEN}' },
            },
          },
        },
        api: { SCENARIO: 'mcp' },
        // Its tools are in the request, however many there are.
        env: { MCP_TOKEN: 'token-of-agent', ENABLE_TOOL_SEARCH: 'false' },
        runtimeMcp: {
          getServers: () => [
            // Where only the host reaches it: nothing listens there.
            {
              name: 'of-host',
              url: 'http://localhost:9/api/mcp',
              token: 'token-of-run',
              connectionId: 'c-1',
            },
          ],
        },
      });
      expect(result, output.stderr).toMatchObject({ exitCode: 0, errorMessage: null });
      const calls = entries.filter(({ kind }) => kind === 'tool_call').map(({ name }) => name);
      expect(calls.toSorted()).toEqual(['mcp__of-agent__look_up', 'mcp__of-host__look_up']);
      // The CLI may add a reminder of its own.
      const texts = listIn(result.summary, 'Tools said').map(({ text }) => text.split('\n')[0]);
      expect(texts.toSorted()).toEqual(['of-agent knows plum', 'of-host knows plum']);
      expect(JSON.stringify([output.stdout, output.stderr, output.meta])).not.toContain('token-of-run');
    } finally {
      servers.close();
    }
  });

  it('shows its thoughts', async () => {
    const { result, entries } = await play(cluster, { name: 'thinking', api: { SCENARIO: 'thinking' } });
    expect(result.errorMessage).toBeNull();
    expect(kinds(entries)).toEqual(['init', 'thinking', 'assistant', 'result']);
    expect(entries[1].text).toBe('Let me see – naïve café ✓.');
  });

  it('resumes its session from the shared volume, run after run, each with its own cost', async () => {
    const agent = { id: 'agent-that-resumes' };
    const first = await play(cluster, {
      name: 'resume',
      prompt: 'The word is plum',
      config: sonnet,
      agent,
      api: { SCENARIO: 'tools' },
    });
    expect(first.result.errorMessage).toBeNull();
    let before = first;
    const prompts = ['The word is plum'];
    for (const prompt of ['Which word?', 'And again?']) {
      prompts.push(prompt);
      // As the host stores it between runs.
      const { serialize, deserialize } = adapter.sessionCodec;
      const sessionParams = deserialize(JSON.parse(JSON.stringify(serialize(before.result.sessionParams))));
      const next = await play(cluster, {
        name: 'resume',
        prompt,
        config: sonnet,
        agent,
        workspace: first.folder,
        runtime: { sessionParams, sessionId: before.result.sessionId },
      });
      const { result, asked } = next;
      expect(result).toMatchObject({
        exitCode: 0,
        errorMessage: null,
        sessionId: first.result.sessionId,
        usage: tokensOf(asked),
      });
      expect(result.sessionParams).toEqual(first.result.sessionParams);
      expect(asked).toHaveLength(1);
      expect(result.costUsd).toBeCloseTo(listPrice('claude-sonnet-4-5', asked), 9);
      const [{ commandArgs }] = next.output.meta;
      expect(commandArgs[commandArgs.indexOf('--resume') + 1]).toBe(first.result.sessionId);
      const heard = listIn(result.summary, 'Heard');
      expect(heard).toHaveLength(prompts.length);
      prompts.forEach((said, at) => expect(heard[at]).toContain(said));
      before = next;
    }
  });

  it('does not find a session of another volume, and starts a new one in the same run', async () => {
    const session = '11111111-2222-4333-8444-555555555555';
    const {
      result,
      entries,
      output: log,
    } = await play(cluster, { name: 'unknown-session', runtime: { sessionParams: { sessionId: session } } });
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null, clearSession: false });
    expect(result.sessionId).toMatch(/^[0-9a-f-]{36}$/);
    expect(result.sessionId).not.toBe(session);
    expect(entries).toMatchObject([
      { kind: 'result', isError: true, errors: [expect.stringContaining('No conversation found')] },
      { kind: 'init', sessionId: result.sessionId },
      { kind: 'assistant' },
      { kind: 'result', isError: false },
    ]);
    expect(log.stdout).toMatch(
      new RegExp(`Claude session "${session}" .* — starting again with a new session`),
    );
  });

  it('waits an overload out', async () => {
    const {
      result,
      asked,
      events,
      output: log,
    } = await play(cluster, {
      name: 'overload-passes',
      api: { ERROR: 'overloaded_error', ERRORS: 2 },
    });
    expect(asked.map(({ status }) => status)).toEqual([529, 529, 200]);
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null, usage: tokensOf(asked) });
    const retries = events.filter(({ subtype }) => subtype === 'api_retry');
    expect(retries.map(({ attempt, error_status: status }) => [attempt, status])).toEqual([
      [1, 529],
      [2, 529],
    ]);
    expect(log.stdout).toContain('"subtype":"api_retry"');
  });

  it('continues after an overload in the middle of an answer', async () => {
    const { result, asked } = await play(cluster, {
      name: 'overload-in-stream',
      api: { ERROR: 'overloaded_error', ERRORS: 1, ERROR_IN_STREAM: 1 },
    });
    expect(asked.map(({ error }) => error)).toEqual(['overloaded_error', null]);
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
    expect(listIn(result.summary, 'Heard')).toHaveLength(1);
  });

  it('gives up on an overload that lasts, and keeps the session', async () => {
    const { result, asked, entries } = await play(cluster, {
      name: 'overload-stays',
      api: { ERROR: 'overloaded_error' },
      env: { CLAUDE_CODE_MAX_RETRIES: '1' },
    });
    expect(asked.map(({ status }) => status)).toEqual([529, 529]);
    expect(result).toMatchObject({ exitCode: 1, costUsd: 0, clearSession: false, usage: tokensOf([]) });
    expect(result.errorMessage).toContain('API Error: 529 Overloaded');
    expect(result).toMatchObject({
      errorCode: 'claude_transient_upstream',
      errorFamily: 'transient_upstream',
    });
    expect(result.sessionParams.sessionId).toBe(result.sessionId);
    expect(entries.at(-1)).toMatchObject({
      kind: 'result',
      isError: true,
      text: expect.stringContaining('529'),
    });
  });

  it('reports that its key is refused', async () => {
    const { result, asked, entries } = await play(cluster, {
      name: 'key-refused',
      api: { KEY: 'another-key' },
    });
    expect(asked.map(({ status, error }) => [status, error])).toEqual([[401, 'authentication_error']]);
    expect(result).toMatchObject({ exitCode: 1, costUsd: 0 });
    expect(result.errorMessage).toContain('Invalid API key');
    expect(result.resultJson).toMatchObject({ is_error: true, api_error_status: 401 });
    expect(result.errorCode).toBe('claude_auth_required');
    expect(entries.at(-1)).toMatchObject({ kind: 'result', isError: true });
  });

  it('reports that it has no key', async () => {
    const { result, asked } = await play(cluster, { name: 'no-key', env: { ANTHROPIC_API_KEY: '' } });
    expect(asked).toEqual([]);
    expect(result.exitCode).toBe(1);
    expect(result.errorMessage).toContain('Not logged in');
    expect(result.errorCode).toBe('claude_auth_required');
  });

  it('stops at the limit of turns, and its session is not resumed', async () => {
    const { result, asked } = await play(cluster, {
      name: 'max-turns',
      config: { maxTurnsPerRun: 1 },
      api: { SCENARIO: 'tools' },
    });
    expect(asked).toHaveLength(1);
    expect(result).toMatchObject({
      exitCode: 1,
      clearSession: true,
      errorCode: 'max_turns_exhausted',
      resultJson: { subtype: 'error_max_turns', stopReason: 'max_turns_exhausted' },
    });
    expect(result.errorMessage).toContain('Reached maximum number of turns (1)');
  });

  it('continues by itself when a command in the background ends, and all usage counts', async () => {
    const { result, events, asked } = await play(cluster, {
      name: 'background',
      config: sonnet,
      api: { SCENARIO: 'background' },
    });
    expect(events.filter(({ type }) => type === 'result')).toHaveLength(2);
    expect(asked).toHaveLength(3);
    expect(result).toMatchObject({ exitCode: 0, errorMessage: null, usage: tokensOf(asked) });
    expect(result.costUsd).toBeCloseTo(listPrice('claude-sonnet-4-5', asked), 9);
  });

  it('uses model, effort, instructions, skills and other arguments as the adapter passes them', async () => {
    const skill = sharedFolder(cluster, 'real-cli/skills/plum-picking');
    writeFileSync(
      path.join(skill, 'SKILL.md'),
      '---\nname: plum-picking\ndescription: How to pick plums\n---\nGently.\n',
    );
    const instructions = path.join(sharedFolder(cluster, 'real-cli-home'), 'instructions.md');
    writeFileSync(instructions, 'Always mention the plums.\n');
    const {
      result,
      events,
      asked,
      output: log,
    } = await play(cluster, {
      name: 'arguments',
      config: {
        model: 'claude-opus-4-8',
        effort: 'high',
        instructionsFilePath: instructions,
        extraArgs: ['--disallowedTools', 'WebFetch'],
        paperclipRuntimeSkills: [{ key: 'plum-picking', runtimeName: 'plum-picking', source: skill }],
        paperclipSkillSync: { desiredSkills: ['plum-picking'] },
      },
    });
    expect(result.errorMessage).toBeNull();
    expect(log.stdout).toContain('[paperclip] Skills bundled (1): plum-picking');
    const [init] = events;
    expect(init.skills).toContain('plum-picking');
    expect(init.tools).not.toContain('WebFetch');
    expect(init.model).toMatch(/^claude-opus-4-8/);
    expect(asked[0]).toMatchObject({ model: 'claude-opus-4-8', effort: 'high' });
    expect(JSON.stringify(asked[0].system)).toContain('Always mention the plums.');
  });

  it('cancelled in the middle of an answer leaves nothing, and its session resumes', async () => {
    const agent = { id: 'agent-that-is-cancelled' };
    const abort = new AbortController();
    const run = start(cluster, {
      name: 'cancelled',
      prompt: 'The word is pear',
      agent,
      signal: abort.signal,
      api: { SECONDS: 120 },
    });
    const session = await eventually(
      () => /"subtype":"init".*?"session_id":"([^"]+)"/.exec(run.output.stdout)?.[1],
      { within: 90_000 },
    );
    // The API has been asked, and half of its answer has arrived.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    abort.abort();
    const { result } = await run.done;
    expect(result).toMatchObject({
      errorCode: 'cancelled',
      resultJson: { executionCancellation: { state: 'acknowledged' } },
      executionRecovery: { providerStopped: true },
    });
    const next = await play(cluster, {
      name: 'cancelled',
      prompt: 'Which word?',
      agent,
      workspace: run.folder,
      runtime: { sessionParams: { sessionId: session } },
    });
    expect(next.result).toMatchObject({ exitCode: 0, errorMessage: null, sessionId: session });
    expect(listIn(next.result.summary, 'Heard').join()).toContain('The word is pear');
  });
});
