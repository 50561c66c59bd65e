import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { logLine } from '../support/arbitraries.js';
import { eventLines, recordedLines, recordings } from '../support/recordings.js';

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

/**
 * The entries of each kind of line in event-lines.jsonl; `stdout`: the line itself, as one entry.
 *
 * @type {Record<string, 'stdout' | object[]>}
 */
const SHARED = {
  text: 'stdout',
  'JSON without a type': 'stdout',
  'system/init': [{ kind: 'init', model: 'claude-opus-4-8', sessionId: 's-1' }],
  'system/api_retry': 'stdout',
  'system/thinking_tokens': [],
  'system/background_tasks_changed': 'stdout',
  'system/task_started': 'stdout',
  'system/task_updated': 'stdout',
  'system/task_notification': 'stdout',
  'assistant/text': [{ kind: 'assistant', text: 'naïve café ✓' }],
  'assistant/thinking': [{ kind: 'thinking', text: 'Let me see.' }],
  'assistant/redacted_thinking': 'stdout',
  'assistant/tool_use': [{ kind: 'tool_call', name: 'Bash', toolUseId: 'toolu_1', input: { command: 'ls' } }],
  assistant: 'stdout',
  'user/text': [{ kind: 'user', text: 'go on' }],
  'user/tool_result': [{ kind: 'tool_result', toolUseId: 'toolu_1', content: 'one\ntwo', isError: false }],
  'user/tool_result (error)': [{ kind: 'tool_result', content: 'Exit code 3', isError: true }],
  'result/success': [
    {
      kind: 'result',
      text: 'Done.',
      inputTokens: 12,
      outputTokens: 34,
      cachedTokens: 9,
      costUsd: 0.5,
      isError: false,
    },
  ],
  'result/success after a terminal title': [{ kind: 'result', text: 'Done.', inputTokens: 12, costUsd: 0.5 }],
  'result/success after text': [
    { kind: 'stdout', text: 'warning: no newline' },
    { kind: 'result', text: 'Done.' },
  ],
  'result/success (error)': [{ kind: 'result', text: 'Invalid API key', subtype: 'success', isError: true }],
  'result/error_max_turns (error)': [{ kind: 'result', text: '', subtype: 'error_max_turns', isError: true }],
  'result/error_during_execution (error)': [
    { kind: 'result', isError: true, errors: ['No conversation found with session ID: s-2'] },
  ],
  rate_limit_event: 'stdout',
  stream_event: 'stdout',
};

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

  it('exports one function and has no state between evaluations', () => {
    expect(Object.keys(required)).toEqual(['parseStdoutLine']);
    expect(Object.keys(evaluateAsHost())).toEqual(['parseStdoutLine']);
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
    { type: 'system', subtype: 'api_retry' },
    { type: 'system' },
    { type: 'rate_limit_event', rate_limit_info: {} },
    { type: 'assistant' },
    { type: 'assistant', message: { content: 'not a list' } },
    { type: 'assistant', message: { content: [] } },
    { type: 'assistant', message: { content: [null, 'x', ['y'], { type: 'text', text: '' }] } },
    { type: 'assistant', message: { content: [{ type: 'thinking', thinking: '' }] } },
    { type: 'user', message: { content: [{ type: 'text', text: 5 }, { type: 'image' }] } },
  ])('returns an event without an entry unchanged: %j', (event) => {
    expect(parse(event)).toStrictEqual(raw(json(event)));
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
    expect(user({ type: 'tool_result', content })).toMatchObject([{ content: 'one\n\ntwo' }]);
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
    const expected = SHARED[kind];
    if (expected === undefined) throw new Error(`js/ui-parser.cjs: say here what it reads of ${kind}`);
    expect(parse(line)).toMatchObject(expected === 'stdout' ? raw(line) : expected);
    expect(parse(line)).toHaveLength(expected === 'stdout' ? 1 : expected.length);
  });

  it('gives at least one entry for any line, and never throws', () => {
    fc.assert(
      fc.property(logLine, fc.string(), (line, stamp) => {
        const entries = parseStdoutLine(line, stamp);
        expect(entries.length).toBeGreaterThan(0);
        for (const entry of entries) expect(entry.ts).toBe(stamp);
        const asStdout = entries.filter(({ kind }) => kind === 'stdout');
        expect(asStdout).toEqual(asStdout.length === 0 ? [] : [{ kind: 'stdout', ts: stamp, text: line }]);
        expect(asStdout.length === 0 || entries.length === 1).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it.each(recordings)('understands every event of the recorded run %s', (name) => {
    const lines = recordedLines(name);
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) {
      const event = JSON.parse(line);
      const entries = parse(line);
      const shown = ['assistant', 'user', 'result'].includes(event.type) || event.subtype === 'init';
      const passedOver = event.subtype === 'thinking_tokens';
      expect(entries.some(({ kind }) => kind === 'stdout')).toBe(!shown && !passedOver);
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
