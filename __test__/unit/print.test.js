import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { formatClaudeStreamLine, printClaudeStreamEvent } from '../../js/print.js';
import { printable } from '../../js/printable.js';
import { logLine } from '../support/arbitraries.js';
import { eventLines, recordedLines, recordings } from '../support/recordings.js';
import { SHOWN } from '../support/transcript.js';

// Colours as on a terminal, also where these tests do not run in one.
vi.mock('picocolors', async (original) => {
  const { default: pc } = /** @type {{default: any}} */ (await original());
  return { default: pc.createColors(true) };
});

const { parseStdoutLine } = createRequire(import.meta.url)('../../js/ui-parser.cjs');
const root = fileURLToPath(new URL('../..', import.meta.url));
const json = JSON.stringify;

afterEach(() => vi.restoreAllMocks());

/** Every argument list that reached console.log. */
function calls(line, debug = false) {
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  printClaudeStreamEvent(typeof line === 'string' ? line : json(line), debug);
  const seen = log.mock.calls;
  log.mockRestore();
  return seen;
}

/** What was printed, colours included. */
const printed = (line, debug) => calls(line, debug).map(([text]) => text);

const CODES = { red: 31, green: 32, yellow: 33, blue: 34, cyan: 36, gray: 90 };
const coloured = (tone, text) => (tone === 'plain' ? text : `\u001b[${CODES[tone]}m${text}\u001b[39m`);

const assistant = (...content) => ({ type: 'assistant', message: { content } });
const user = (...content) => ({ type: 'user', message: { content } });
const tokens = (text = 'in=0 out=0 cached=0 cost=$0.000000') => `tokens: ${text}`;

/** One row per kind of line: the line, and each console line with its colour. */
/** @type {[string, any, string[][]][]} what it is, the line, and its printed parts: a tone and a text */
const table = [
  ['text that is not JSON', '  Claude said hello\r\n', [['plain', 'Claude said hello']]],
  ['broken JSON', '{"type":', [['plain', '{"type":']]],
  ['a JSON null', ' null ', [['plain', 'null']]],
  [
    'init',
    { type: 'system', subtype: 'init', model: 'opus', session_id: 's1' },
    [['blue', 'Claude initialized (model: opus, session: s1)']],
  ],
  [
    'init without details',
    { type: 'system', subtype: 'init' },
    [['blue', 'Claude initialized (model: unknown)']],
  ],
  ['assistant text', assistant({ type: 'text', text: 'hi' }), [['green', 'assistant: hi']]],
  ['thinking', assistant({ type: 'thinking', thinking: 'hm' }), [['gray', 'thinking: hm']]],
  [
    'a tool call',
    assistant({ type: 'tool_use', name: 'Bash', input: { command: 'ls' } }),
    [
      ['yellow', 'tool_call: Bash'],
      ['gray', '{\n  "command": "ls"\n}'],
    ],
  ],
  [
    'a tool call with a null input',
    assistant({ type: 'tool_use', name: 'Ping', input: null }),
    [
      ['yellow', 'tool_call: Ping'],
      ['gray', 'null'],
    ],
  ],
  ['a tool call without input', assistant({ type: 'tool_use' }), [['yellow', 'tool_call: unknown']]],
  [
    'several blocks',
    assistant(
      { type: 'text', text: 'a' },
      5,
      { type: 'text', text: '' },
      { type: 'thinking', thinking: 'b' },
    ),
    [
      ['green', 'assistant: a'],
      ['gray', 'thinking: b'],
    ],
  ],
  [
    'tool results',
    user(
      { type: 'tool_result', content: 'fine' },
      { type: 'text', text: 'between' },
      { type: 'tool_result', content: [{ text: 'x' }, { text: 1 }, { text: 'y' }], is_error: true },
      { type: 'tool_result' },
    ),
    [
      ['cyan', 'tool_result'],
      ['gray', 'fine'],
      ['gray', 'user: between'],
      ['red', 'tool_result (error)'],
      ['red', 'x\ny'],
      ['cyan', 'tool_result'],
    ],
  ],
  [
    'a result',
    {
      type: 'result',
      subtype: 'success',
      result: 'Done.',
      usage: { input_tokens: 1, output_tokens: '2', cache_read_input_tokens: 3 },
      total_cost_usd: 0.0123456,
    },
    [
      ['green', 'result:'],
      ['plain', 'Done.'],
      ['blue', tokens('in=1 out=2 cached=3 cost=$0.012346')],
    ],
  ],
  ['an empty result', { type: 'result' }, [['blue', tokens()]]],
  [
    'an error subtype',
    { type: 'result', subtype: 'error_max_turns' },
    [
      ['red', 'claude_result: subtype=error_max_turns is_error=false'],
      ['blue', tokens()],
    ],
  ],
  [
    'a result flagged as error',
    { type: 'result', is_error: true },
    [
      ['red', 'claude_result: subtype=unknown is_error=true'],
      ['blue', tokens()],
    ],
  ],
  [
    'a result with error texts only',
    {
      type: 'result',
      subtype: 'success',
      errors: ['one', '', { message: 'two' }, { code: 'three' }, { n: 4 }],
    },
    [
      ['red', 'claude_result: subtype=success is_error=false'],
      ['red', 'claude_errors: one | two | three | {"n":4}'],
      ['blue', tokens()],
    ],
  ],
  [
    'a rate limit',
    {
      type: 'rate_limit_event',
      rate_limit_info: { rateLimitType: 'five_hour', status: 'allowed', resetsAt: 60 },
    },
    [['yellow', 'rate_limit: type=five_hour status=allowed resets=1970-01-01T00:01:00.000Z']],
  ],
  [
    'a rate limit without details',
    { type: 'rate_limit_event', rate_limit_info: {} },
    [['yellow', 'rate_limit: type=unknown status=unknown']],
  ],
  [
    'a rate limit beyond all dates',
    { type: 'rate_limit_event', rate_limit_info: { status: 'rejected', resetsAt: 1e15 } },
    [['yellow', 'rate_limit: type=unknown status=rejected']],
  ],
];

describe('each kind of line', () => {
  it.each(table)('prints %s', (_name, line, expected) => {
    expect(printed(line)).toEqual(expected.map(([tone, text]) => coloured(tone, text)));
  });

  it.each(table)('formats %s', (_name, line, expected) => {
    const text = formatClaudeStreamLine(typeof line === 'string' ? line : json(line));
    expect(text).toBe(expected.map(([, part]) => part).join('\n'));
  });

  it('passes one string to each console.log', () => {
    for (const [, line] of table) {
      for (const args of calls(line)) expect(args).toEqual([expect.any(String)]);
    }
  });
});

describe('the shared lines of all readers', () => {
  it.each(eventLines)('prints $kind', ({ kind, line }) => {
    const expected = SHOWN[kind]?.printed;
    if (expected === undefined)
      throw new Error(`__test__/support/transcript.js: say there what is shown of ${kind}`);
    const text = expected?.length ? expected.join('\n') : null;
    expect(formatClaudeStreamLine(line)).toBe(text);
    expect(printed(line, true).map(stripVTControlCharacters)).toEqual(expected ?? [line]);
  });
});

describe('lines with nothing to show', () => {
  it.each(['', '  \t\r\n'])('ignores the blank line %j, even in debug mode', (line) => {
    expect(printed(line, true)).toEqual([]);
    expect(formatClaudeStreamLine(line)).toBeNull();
  });

  it.each([assistant(), assistant({ type: 'thinking', thinking: '' }), user(), { type: 'user' }])(
    'is silent about %j',
    (event) => {
      expect(printed(event, true)).toEqual([]);
      expect(formatClaudeStreamLine(json(event))).toBeNull();
    },
  );

  it.each([
    '{"type":"system"}',
    '{"type":"unknown","data":"stuff"}',
    '{}',
    '[]',
    '7',
    '"text"',
    'true',
    '  {"type":"x"}  ',
  ])('shows the unknown event %s in debug mode only', (line) => {
    expect(printed(line)).toEqual([]);
    expect(printed(line, true)).toEqual([coloured('gray', line)]);
    expect(formatClaudeStreamLine(line)).toBeNull();
  });
});

describe('any line', () => {
  it('is printed and formatted without an exception', () => {
    vi.spyOn(console, 'log').mockImplementation(() => {});
    fc.assert(
      fc.property(logLine, fc.boolean(), (line, debug) => {
        printClaudeStreamEvent(line, debug);
        const text = formatClaudeStreamLine(line);
        expect(text === null || text.length > 0).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  it('shows every message that the UI parser shows', () => {
    fc.assert(
      fc.property(logLine, (line) => {
        const formatted = formatClaudeStreamLine(line) ?? '';
        for (const entry of parseStdoutLine(line, 'ts')) {
          const texts =
            entry.kind === 'result' ? [entry.text, ...entry.errors] : [entry.text ?? entry.content];
          const isMessage = ['assistant', 'thinking', 'user', 'tool_result', 'result', 'system'].includes(
            entry.kind,
          );
          for (const text of isMessage ? texts : []) expect(formatted).toContain(printable(text));
        }
      }),
      { numRuns: 1000 },
    );
  });

  it.each(recordings)('formats every line of the recorded run %s', (name) => {
    for (const line of recordedLines(name)) {
      const text = formatClaudeStreamLine(line);
      if (JSON.parse(line).subtype === 'thinking_tokens') expect(text).toBeNull();
      else
        expect(text).toMatch(
          /^(Claude initialized|assistant: |thinking: |tool_call: |tool_result|result:|claude_result: |Background task|API retry: )/,
        );
    }
  });
});

describe('a text that a terminal would obey', () => {
  const hostile = [
    ['colours', 'a\u001b[31mred\u001b[0m', 'ared'],
    ['a cursor movement', 'a\u001b[2J\u001b[Hb', 'ab'],
    ['a terminal title', 'a\u001b]0;title\u0007b', 'ab'],
    ['a title without an end', 'a\u001b]', 'a<U+001B>]'],
    ['a device control string', 'a\u001bPq#0\u001b\\b', 'ab'],
    ['a lone escape', 'a\u001b', 'a<U+001B>'],
    ['a control of C1', 'a\u0085b', 'a<U+0085>b'],
    ['an override of the direction', 'a\u202egnp.exe\u2066', 'a<U+202E>gnp.exe<U+2066>'],
    ['a backspace and a return', 'a\bb\rc', 'a<U+0008>b<U+000D>c'],
    ['lines and tabs', 'a\r\n\tb\n', 'a\n\tb\n'],
  ];

  it.each(hostile)('is shown with its codes: %s', (_name, text, shown) =>
    expect(printable(text)).toBe(shown),
  );

  it.each(hostile)('is safe in every kind of line: %s', (_name, text) => {
    const events = [
      assistant(
        { type: 'text', text },
        { type: 'thinking', thinking: text },
        { type: 'tool_use', name: text, input: { text } },
      ),
      user({ type: 'tool_result', content: text }, { type: 'text', text }),
      { type: 'result', result: text, subtype: `error${text}`, errors: [text] },
      { type: 'system', subtype: 'init', model: text, session_id: text },
      { type: 'system', subtype: 'notification', text },
      { type: 'system', subtype: text, content: text },
      { type: 'rate_limit_event', rate_limit_info: { status: text, rateLimitType: text } },
      `${text} and text`,
      { type: 'unknown', data: '\u202e' },
    ];
    for (const line of events) {
      for (const part of printed(line, true)) {
        // oxlint-disable-next-line no-control-regex
        const left = part.replaceAll(/\u001b\[\d+m/g, '');
        // oxlint-disable-next-line no-control-regex
        expect(left).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/);
      }
    }
  });

  it('is not made longer without bound by nesting', () => {
    const depth = 100_000;
    const deep = `${'['.repeat(depth)}${']'.repeat(depth)}`;
    const call = `{"type":"tool_use","name":"Bash","input":${deep}}`;
    const text = formatClaudeStreamLine(`{"type":"assistant","message":{"content":[${call}]}}`);
    expect(text).toContain('[nested too deeply]');
    expect(text?.length).toBeLessThan(10_000);
    expect(formatClaudeStreamLine(`{"type":"result","errors":[${deep},{"a":${deep}}]}`)).toContain('nested');
  });
});

describe('in a separate process', () => {
  const script = `
    const { printClaudeStreamEvent } = await import('paperclip-adapter-claude-k8s/cli');
    console.log = (...args) => process.stdout.write(JSON.stringify(args) + '\\n');
    printClaudeStreamEvent('{"type":"assistant","message":{"content":[{"type":"text","text":"hi"}]}}', false);`;

  function run(extra) {
    const { FORCE_COLOR: _force, NO_COLOR: _no, CI: _ci, ...env } = process.env;
    const child = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: root,
      encoding: 'utf8',
      env: { ...env, ...extra },
    });
    expect(child.stderr).toBe('');
    return child.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
  }

  it('uses console.log as it is when it prints', () => {
    expect(run({ NO_COLOR: '1' })).toEqual([['assistant: hi']]);
  });

  it('colours when asked to', () => {
    expect(run({ FORCE_COLOR: '1' })).toEqual([['\u001b[32massistant: hi\u001b[39m']]);
  });
});
