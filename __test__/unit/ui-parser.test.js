import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { logLine } from '../support/arbitraries.js';
import { eventLines, recordedLines, recordings } from '../support/recordings.js';
import { SHOWN } from '../support/transcript.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const source = readFileSync(new URL('../../js/ui-parser.cjs', import.meta.url), 'utf8');

/** Evaluates the file the way the host's UI does it in its worker. */
function evaluateAsHost() {
  const module = { exports: {} };
  const sandbox = Object.create(null);
  new Function('exports', 'module', 'self', 'globalThis', `"use strict";\n${source}`)(
    module.exports,
    module,
    sandbox,
    sandbox,
  );
  expect(Object.keys(sandbox)).toEqual([]);
  return module.exports;
}

const required = createRequire(import.meta.url)('../../js/ui-parser.cjs');
const ts = '2026-01-02T03:04:05.000Z';
const json = JSON.stringify;

describe('the file', () => {
  it('uses nothing from outside', () => {
    const code = source.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
    expect(code).not.toMatch(/\b(require|import|export|process|Buffer|module|window|self)\b/);
  });

  it('can be imported by name from Node, through the exports map', () => {
    const script = `
      import { parseStdoutLine } from 'paperclip-adapter-claude-k8s/ui-parser';
      console.log(JSON.stringify(parseStdoutLine('hello', 'now')));`;
    const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: root,
      encoding: 'utf8',
    });
    expect(JSON.parse(printed)).toEqual([{ kind: 'stdout', ts: 'now', text: 'hello' }]);
  });

  it('exports the same from each evaluation', () => {
    expect(Object.keys(evaluateAsHost())).toEqual(Object.keys(required));
    expect(required.parseStdoutLine).toBeTypeOf('function');
  });
});

describe.each([
  ['loaded by Node', required.parseStdoutLine],
  ['evaluated like the host does', evaluateAsHost().parseStdoutLine],
])('parseStdoutLine, %s', (_how, parseStdoutLine) => {
  const parse = (value) => parseStdoutLine(typeof value === 'string' ? value : json(value), ts);
  const assistant = (...content) => parse({ type: 'assistant', message: { content } });
  const user = (...content) => parse({ type: 'user', message: { content } });
  const raw = (line) => [{ kind: 'stdout', ts, text: line }];

  it.each(['plain words', '', '   ', ' {"type":', 'null', '7', '"text"', '[{"type":"result"}]', '{}'])(
    'returns %j unchanged',
    (line) => expect(parse(line)).toStrictEqual(raw(line)),
  );

  it('reads any number of events on one line', () => {
    const event = '{"type":"user","message":{"content":[{"type":"text","text":"a"}]}}';
    expect(parse(`x ${event.repeat(20_000)}`)).toHaveLength(1 + 20_000);
    const hostile = '{"type":"result","a":'.repeat(20_000);
    expect(parse(hostile)).toStrictEqual(raw(hostile));
  });

  it('keeps the spaces around plain text and ignores those around an event', () => {
    expect(parse('  hello \r')).toStrictEqual(raw('  hello \r'));
    expect(parse('  {"type":"system","subtype":"init"} ')).toMatchObject([{ kind: 'init' }]);
  });

  it('reads the init event', () => {
    expect(parse({ type: 'system', subtype: 'init', model: 'opus', session_id: 's1' })).toStrictEqual([
      { kind: 'init', ts, model: 'opus', sessionId: 's1' },
    ]);
    expect(parse({ type: 'system', subtype: 'init', model: 4, session_id: null })).toStrictEqual([
      { kind: 'init', ts, model: 'unknown', sessionId: '' },
    ]);
  });

  it.each([
    { type: 'system' },
    { type: 'system', subtype: '' },
    { type: 'toString' },
    { type: 'unknown', data: 'stuff' },
    { type: 'assistant' },
    { type: 'assistant', message: { content: 7 } },
    { type: 'user', message: 'no object' },
  ])('returns an event of an unknown shape unchanged: %j', (event) => {
    expect(parse(event)).toStrictEqual(raw(json(event)));
  });

  it.each([
    { type: 'assistant', message: { content: [] } },
    { type: 'assistant', message: { content: [null, 'x', ['y'], { type: 'text', text: '' }] } },
    { type: 'assistant', message: { content: [{ type: 'thinking', thinking: '' }] } },
    { type: 'user', message: { content: [{ type: 'text', text: 5 }, {}] } },
  ])('says that a message is empty: %j', (event) => {
    expect(parse(event)).toStrictEqual(raw('(empty message)'));
  });

  it.each([
    [{ type: 'assistant', message: { content: [{ type: 'thinking', thinking: '', signature: 'c2ln' }] } }],
    [{ type: 'system', subtype: 'hook_response', outcome: 'success', exit_code: 0 }],
    [{ type: 'system', subtype: 'status', status: 'requesting' }],
    [{ type: 'system', subtype: 'status', status: null, permissionMode: 'default' }],
    [{ type: 'system', subtype: 'task_started', task_id: 't', description: 'x', ambient: true }],
    [{ type: 'system', subtype: 'task_started', task_id: 't', description: 'x', skip_transcript: true }],
    [{ type: 'tool_progress', tool_use_id: 't', tool_name: 'Bash', heartbeat: true }],
  ])('has nothing for people of %j', (event) => expect(parse(event)).toEqual([]));

  it.each([
    [{ subtype: 'hook_response', outcome: 'cancelled', hook_name: 'Stop' }, 'interrupted', 'Stop'],
    [
      { subtype: 'hook_response', hook_name: 'Stop', exit_code: 1, output: ' x ' },
      'failed',
      'Stop, exit code 1, x',
    ],
    [{ subtype: 'status', compact_result: 'failed', compact_error: 'too long' }, 'failed', 'too long'],
    [{ subtype: 'task_updated', task_id: 't', patch: { status: 'killed' } }, 'interrupted', 'killed'],
    [{ subtype: 'task_notification', task_id: 't', status: 'stopped', summary: 's' }, 'interrupted', 's'],
    [
      { subtype: 'task_updated', task_id: 't', patch: { status: 'failed', error: 'oom' } },
      'failed',
      'failed, oom',
    ],
    [
      { subtype: 'session_state_changed', state: 'requires_action' },
      'informational',
      'The session waits for an action',
    ],
    [{ subtype: 'new_kind', content: 'said' }, 'informational', 'said'],
    [{ subtype: 'new_kind', error: { message: 'why' } }, 'informational', 'why'],
    [{ subtype: 'new_kind' }, 'informational', 'new kind'],
  ])('reads %j', (event, status, summary) => {
    expect(parse({ type: 'system', ...event })).toMatchObject([
      { kind: 'provider_activity', status, summary },
    ]);
  });

  it.each([
    [
      { status: 'allowed_warning', rateLimitType: 'five_hour', utilization: 0.914 },
      '5-hour limit 91 %, allowed warning',
    ],
    [
      { status: 'rejected', rateLimitType: 'seven_day_opus', resetsAt: 1e15 },
      'seven day opus limit, rejected',
    ],
    [{}, 'Usage limit'],
  ])('says how much of a limit is used: %j', (info, summary) => {
    expect(parse({ type: 'rate_limit_event', rate_limit_info: info })).toMatchObject([{ summary }]);
  });

  it('takes two events of one moment for two activities', () => {
    const [first] = parse({ type: 'system', subtype: 'notification', text: 'a' });
    const [second] = parse({ type: 'system', subtype: 'notification', text: 'b' });
    expect(first.payload.noticeId).not.toBe(second.payload.noticeId);
  });

  it('says what parts of a tool result are that are not text', () => {
    const content = [
      { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'A'.repeat(16_000) } },
      { type: 'image', source: { type: 'url', url: 'https://x.test/a.png' } },
      {
        type: 'document',
        title: 'Plan',
        source: { type: 'base64', media_type: 'application/pdf', data: 'A'.repeat(4e6) },
      },
      { type: 'tool_reference', tool_name: 'mcp__x' },
    ];
    expect(user({ type: 'tool_result', content })).toMatchObject([
      {
        content:
          '[image image/png, 12 kB]\n[image https://x.test/a.png]\n[document application/pdf Plan, 3 MB]\n[tool mcp__x]',
      },
    ]);
    const failed = {
      type: 'web_search_tool_result',
      content: { type: 'web_search_tool_result_error', error_code: 'too_many_requests' },
    };
    expect(assistant(failed)).toMatchObject([
      { kind: 'tool_result', content: 'too many requests', isError: true },
    ]);
  });

  it('hands on nothing that is nested too deeply', () => {
    const depth = 100_000;
    const deep = `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
    const call = `{"type":"tool_use","name":"Bash","input":${deep}}`;
    const [entry] = parse(`{"type":"assistant","message":{"content":[${call}]}}`);
    expect(json(entry.input)).toContain('[nested too deeply]');
    expect(json(entry.input).length).toBeLessThan(1000);
    expect(parse(`{"type":"result","errors":[${deep}]}`)).toMatchObject([{ kind: 'result' }]);
    expect(parse(`{"type":"system","subtype":"x","content":${deep}}`)).toHaveLength(1);
    expect(parse(`{"type":"new","x":${deep}}`)).toMatchObject([{ kind: 'stdout' }]);
    expect(parse(`text {"type":"user","x":${deep}}`)).toHaveLength(2);
  });

  it('gives one entry per block of an assistant event, in order', () => {
    expect(
      assistant(
        { type: 'thinking', thinking: 'hm' },
        { type: 'redacted_thinking', data: '…' },
        { type: 'text', text: 'naïve café ✓' },
        { type: 'tool_use', id: 't1', name: 'Bash', input: { command: 'ls' } },
      ),
    ).toStrictEqual([
      { kind: 'thinking', ts, text: 'hm' },
      { kind: 'assistant', ts, text: 'naïve café ✓' },
      { kind: 'tool_call', ts, name: 'Bash', toolUseId: 't1', input: { command: 'ls' } },
    ]);
  });

  it('finds the id of a tool call under either key', () => {
    expect(assistant({ type: 'tool_use', id: 'a', tool_use_id: 'b' })).toMatchObject([{ toolUseId: 'a' }]);
    expect(assistant({ type: 'tool_use', id: 1, tool_use_id: 'b' })).toMatchObject([{ toolUseId: 'b' }]);
    expect(assistant({ type: 'tool_use' })).toStrictEqual([
      { kind: 'tool_call', ts, name: 'unknown', toolUseId: undefined, input: {} },
    ]);
  });

  it('replaces only an absent tool input', () => {
    for (const [input, seen] of [
      [null, {}],
      [0, 0],
      ['', ''],
      [false, false],
      [[1], [1]],
    ]) {
      expect(assistant({ type: 'tool_use', input })).toMatchObject([{ input: seen }]);
    }
  });

  it('reads user text and tool results', () => {
    expect(
      user(
        { type: 'text', text: 'go on' },
        { type: 'tool_result', tool_use_id: 't1', content: 'done' },
        { type: 'tool_result', tool_use_id: 't2', content: 'boom', is_error: true },
        { type: 'tool_result', is_error: 'true' },
      ),
    ).toStrictEqual([
      { kind: 'user', ts, text: 'go on' },
      { kind: 'tool_result', ts, toolUseId: 't1', content: 'done', isError: false },
      { kind: 'tool_result', ts, toolUseId: 't2', content: 'boom', isError: true },
      { kind: 'tool_result', ts, toolUseId: '', content: '', isError: false },
    ]);
  });

  it('joins the texts of a tool result made of parts', () => {
    const content = [
      { type: 'text', text: 'one' },
      { type: 'image' },
      null,
      'x',
      { text: '' },
      { text: 'two' },
    ];
    expect(user({ type: 'tool_result', content })).toMatchObject([{ content: 'one\n[image]\n\ntwo' }]);
  });

  it('reads a result', () => {
    const usage = { input_tokens: 3, output_tokens: 5, cache_read_input_tokens: 7 };
    expect(
      parse({ type: 'result', subtype: 'success', result: 'ok', usage, total_cost_usd: 0.25 }),
    ).toStrictEqual([
      {
        kind: 'result',
        ts,
        text: 'ok',
        inputTokens: 3,
        outputTokens: 5,
        cachedTokens: 7,
        costUsd: 0.25,
        subtype: 'success',
        isError: false,
        errors: [],
      },
    ]);
  });

  it('counts only finite numbers of a result', () => {
    const line = '{"type":"result","is_error":true,"total_cost_usd":1e999,"usage":{"input_tokens":"3"}}';
    expect(parse(line)).toStrictEqual([
      {
        kind: 'result',
        ts,
        text: '',
        inputTokens: 0,
        outputTokens: 0,
        cachedTokens: 0,
        costUsd: 0,
        subtype: '',
        isError: true,
        errors: [],
      },
    ]);
  });

  it('finds the text of an error under each key', () => {
    const errors = [
      'first',
      '',
      { message: 'm', error: 'e' },
      { message: '', error: 'e', code: 'c' },
      { code: 'c' },
      { status: 500 },
      12,
      null,
    ];
    expect(parse({ type: 'result', errors })).toMatchObject([
      { errors: ['first', 'm', 'e', 'c', '{"status":500}'] },
    ]);
  });

  it.each(eventLines)('reads $kind', ({ kind, line }) => {
    const expected = SHOWN[kind]?.entries;
    if (expected === undefined)
      throw new Error(`__test__/support/transcript.js: say there what is shown of ${kind}`);
    expect(parse(line)).toMatchObject(expected === 'stdout' ? raw(line) : expected);
    expect(parse(line)).toHaveLength(expected === 'stdout' ? 1 : expected.length);
  });

  it('never throws, and loses nothing that is not an event', () => {
    fc.assert(
      fc.property(logLine, fc.string(), (line, stamp) => {
        const entries = parseStdoutLine(line, stamp);
        for (const entry of entries) expect(entry.ts).toBe(stamp);
        let event;
        try {
          event = JSON.parse(line);
        } catch {
          expect(entries.length).toBeGreaterThan(0);
        }
        if (typeof event !== 'object' || typeof event?.type !== 'string') expect(entries).not.toEqual([]);
        const unread = entries.filter(({ kind, text }) => kind === 'stdout' && text === line);
        if (event?.type === 'system' && event.subtype && typeof event.subtype === 'string')
          expect(unread).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });

  it.each(recordings)('understands every event of the recorded run %s', (name) => {
    const lines = recordedLines(name);
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) {
      expect(parse(line).filter(({ kind }) => kind === 'stdout')).toEqual([]);
    }
  });

  it('shows a thought without its token counts', () => {
    const entries = recordedLines('2.1.330/thinking').flatMap((line) => parse(line));
    expect(entries.map(({ kind }) => kind)).toEqual(['init', 'thinking', 'assistant', 'result']);
  });

  it('shows the whole recorded conversation', () => {
    const entries = recordedLines('2.1.197/success').flatMap((line) => parse(line));
    expect(entries.map(({ kind }) => kind)).toEqual([
      'init',
      'assistant',
      'tool_call',
      'tool_call',
      'tool_result',
      'tool_result',
      'assistant',
      'result',
    ]);
    const ids = (kind) => entries.filter((entry) => entry.kind === kind).map((entry) => entry.toolUseId);
    expect(ids('tool_result').toSorted()).toEqual(ids('tool_call').toSorted());
    expect(entries[1].text).toBe('Looking — naïve café ✓ first.');
    expect(entries.at(-1)).toMatchObject({
      text: 'All done.',
      isError: false,
      inputTokens: 240,
      cachedTokens: 128,
    });
  });

  it('shows why a recorded run failed', () => {
    const last = (name) => parse(recordedLines(`2.1.197/${name}`).at(-1)).at(-1);
    expect(last('unknown-session')).toMatchObject({
      kind: 'result',
      isError: true,
      subtype: 'error_during_execution',
      errors: [expect.stringContaining('No conversation found')],
    });
    expect(last('auth')).toMatchObject({ kind: 'result', isError: true });
    expect(last('max-turns')).toMatchObject({ kind: 'result', subtype: 'error_max_turns' });
  });
});
