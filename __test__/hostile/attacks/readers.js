// Output that takes memory, and output that reaches people: the terminal printer, the transcript, the stored session.
import assert from 'node:assert/strict';

import { createServerAdapter } from '../../../index.js';
import { formatClaudeStreamLine } from '../../../js/print.js';
import { parseStdoutLine } from '../../../js/ui-parser.cjs';
import { assertStorable, INIT, lastResult } from './events.js';

const MIB = 1024 * 1024;

/** Prints the init event, what `code` prints, and the result. */
const around = (code) =>
  `const fs = require('node:fs');` +
  `const say = (what) => { let rest = Buffer.from(what); while (rest.length) { try { rest = rest.subarray(fs.writeSync(1, rest)); } catch (e) { if (e.code !== 'EAGAIN') throw e; } } };` +
  `say(${JSON.stringify(`${INIT}\n`)});${code};say(${JSON.stringify(`\n${lastResult()}\n`)});`;

/** @param {any} _run */
const nothingElse = (_run) => {};

/** An attack by much output. The run succeeds in spite of it, and nothing that the host is given is longer than a line may be. */
const flood = (name, before, code, holds = nothingElse) => ({
  name,
  before,
  play: async (host) => {
    const run = await host.agent(around(code), { keep: false });
    assertStorable(run.result);
    assert.equal(run.result.errorMessage, null);
    assert(run.longest < 17 * MIB, `a chunk of ${run.longest} characters`);
    await holds(run);
  },
});
const isCut = ({ output }) => assert.match(output.stdout, /\[paperclip\] Line too long: its first \d+ bytes/);

/** @type {import('./index.js').Attack[]} */
export const FLOODS = [
  flood(
    'a line of 96 MiB',
    'harmed',
    "const p = 'x'.repeat(1 << 20); for (let n = 0; n < 96; n++) say(p)",
    isCut,
  ),
  flood(
    'a line of bytes that are not UTF-8',
    'harmed',
    'const p = Buffer.alloc(1 << 20, 0xff); for (let n = 0; n < 12; n++) say(p)',
    isCut,
  ),
  flood(
    'a line of NUL',
    'harmed',
    'const p = Buffer.alloc(1 << 20); for (let n = 0; n < 8; n++) say(p)',
    isCut,
  ),
  flood(
    'a line of characters beyond ASCII',
    'guard',
    "const p = 'é✓😀'.repeat(1 << 17); for (let n = 0; n < 8; n++) say(p)",
  ),
  flood(
    'forty lines of 1 MiB',
    'guard',
    "const p = 'y'.repeat(1 << 20) + '\\n'; for (let n = 0; n < 40; n++) say(p)",
  ),
  flood('two hundred thousand empty lines', 'guard', "say('\\n'.repeat(200_000))"),
  flood(
    'events that begin and do not end',
    'guard',
    `const p = '{"type":"assistant",'.repeat(1 << 14) + '\\n'; for (let n = 0; n < 20; n++) say(p)`,
  ),
  flood(
    'objects that begin and seem to go on in the next line',
    'guard',
    `const p = '{"a":"' + 'z'.repeat(1 << 20) + '\\n'; for (let n = 0; n < 4; n++) { say(p); say('}\\n'.repeat(20)); }`,
  ),
  {
    name: 'a result of a million objects',
    before: 'harmed',
    play: async (host) => {
      const { result } = await host.agent(
        `console.log(${JSON.stringify(INIT)}); process.stdout.write('{"type":"result","is_error":false,"x":[' + '{"":0},'.repeat(1_000_000) + '0],"result":"done"}\\n')`,
        { keep: false },
      );
      assertStorable(result);
      assert(JSON.stringify(result).length < 2 * MIB);
    },
  },
  {
    name: 'a result of a hundred thousand levels',
    before: 'guard',
    play: async (host) => {
      const { result } = await host.agent(
        `console.log(${JSON.stringify(INIT)}); process.stdout.write('{"type":"result","is_error":false,"x":' + '['.repeat(100_000) + ']'.repeat(100_000) + ',"result":"done"}\\n')`,
      );
      assertStorable(result);
      assert.equal(result.resultJson?.result, 'done');
    },
  },
  {
    name: 'a result whose text is 12 MiB long',
    before: 'harmed',
    play: async (host) => {
      const { result } = await host.agent(
        `console.log(${JSON.stringify(INIT)}); process.stdout.write('{"type":"result","is_error":false,"result":"' + 'r'.repeat(12 << 20) + '"}\\n')`,
        { keep: false },
      );
      assertStorable(result);
    },
  },
];

// oxlint-disable-next-line no-control-regex
const OBEYED = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/;

/** @param {string} name @param {'harmed' | 'guard'} before @param {string} line */
const shown = (name, before, line) => ({
  name,
  before,
  play: () => {
    for (const text of [
      line,
      `${line}\n`,
      JSON.stringify({ type: 'assistant', message: { content: [{ type: 'text', text: line }] } }),
    ]) {
      const terminal = formatClaudeStreamLine(text) ?? '';
      assert(!OBEYED.test(terminal), 'a control reaches the terminal');
      const entries = parseStdoutLine(text, '2026-01-01T00:00:00Z');
      assert(Array.isArray(entries));
      // The host's pages walk through an entry by recursion.
      JSON.stringify(entries);
    }
  },
});
const nested = (levels, open = '[', close = ']') => open.repeat(levels) + close.repeat(levels);

/** @type {import('./index.js').Attack[]} */
export const READERS = [
  shown(
    'escape sequences for the terminal',
    'guard',
    'a\u001B[2J\u001B[1;31mred\u001B[0m\u009B31m\u001BP+q\u001B\\b',
  ),
  shown(
    'OSC 52, which writes to the clipboard',
    'guard',
    '\u001B]52;c;cm0gLXJmIC8=\u0007\u001B]52;c;x\u001B\\\u001B]52;c;unfinished',
  ),
  shown(
    'a terminal title and a link',
    'guard',
    '\u001B]0;title\u0007\u001B]8;;http://evil.example\u001B\\text\u001B]8;;\u001B\\',
  ),
  shown('marks that turn the direction of text', 'guard', 'file\u202Etxt.exe\u2066\u2069\u200F\u061C'),
  shown('carriage returns that overwrite a line', 'guard', 'harmless\rrm -rf /\b\b\u007F\u000B\u000C'),
  shown('a hundred thousand levels of arrays', 'guard', nested(100_000)),
  shown(
    'a hundred thousand levels in an event',
    'guard',
    `{"type":"assistant","message":{"content":[{"type":"tool_use","name":"x","input":${nested(100_000)}}]}}`,
  ),
  shown(
    'a hundred thousand levels in an error',
    'guard',
    `{"type":"result","errors":[${nested(100_000, '{"a":', '}').replace(':}', ':1}')}]}`,
  ),
  shown(
    'a hundred thousand levels of an unknown event',
    'guard',
    `{"type":"system","subtype":"${'x'.repeat(50)}","a":${nested(100_000)}}`,
  ),
  shown('events within events within text', 'guard', `x${'{"type":"result",'.repeat(5000)}`),
  shown(
    'members that are functions of objects elsewhere',
    'guard',
    '{"type":"assistant","message":{"content":[{"type":"tool_use","id":{"toString":1},"name":{"valueOf":1},"input":{"toJSON":1}}],"usage":{"input_tokens":{"valueOf":1}}},"total_cost_usd":{"toString":1}}',
  ),
  {
    name: 'a stored session of other types',
    before: 'guard',
    play: () => {
      const { sessionCodec } = createServerAdapter();
      for (const raw of [
        7,
        [],
        'x',
        { sessionId: { toString: 1 } },
        { sessionId: ['x'] },
        { session_id: true },
      ]) {
        assert.equal(sessionCodec?.deserialize(raw), null);
      }
    },
  },
];
