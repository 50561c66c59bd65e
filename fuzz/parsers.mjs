// Feeds mutated output of agents to the transcript's parser and to the terminal printer. `npm run fuzz` starts it.
// argv: seconds, seed, and the number of one input to repeat it.
import { readFileSync } from 'node:fs';

import { formatClaudeStreamLine } from '../js/print.js';
import { parseStdoutLine } from '../js/ui-parser.cjs';

const [seconds, seed, only] = process.argv.slice(2).map(Number);

const corpus = [
  '../__test__/support/event-lines.jsonl',
  '../tools/simulator/fixtures/claude-cli-2.1.330/background.jsonl',
]
  .flatMap((file) => readFileSync(new URL(file, import.meta.url), 'utf8').split('\n'))
  .filter((line) => line !== '');
const TOKENS = [
  '{"type":"result"',
  '{',
  '}',
  '[',
  ']',
  '"',
  '\\',
  ':',
  ',',
  'null',
  '-1',
  '1e999',
  '[]',
  '{}',
  '7',
  '"x"',
  '\u0000',
  '\u001B]52;c;eA==\u0007',
  '\u001B[31m',
  '\u202E',
  '\uD800',
  '\r',
  '"type":"tool_use",',
  '"__proto__":',
];
// What a terminal obeys.
// oxlint-disable-next-line no-control-regex
const OBEYED = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/;

/** Numbers that follow from the seed and the input's number. @param {number} number */
function numbersOf(number) {
  let state = (seed ^ Math.imul(number + 1, 0x9e37_79b9)) >>> 0;
  return (/** @type {number} */ limit) => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

/** Another value in place of one somewhere in an event. @param {any} value @param {(limit: number) => number} below */
function changed(value, below) {
  if (typeof value === 'object' && value !== null && below(4) > 0) {
    const keys = Object.keys(value);
    if (keys.length > 0) {
      const key = keys[below(keys.length)];
      value[key] = changed(value[key], below);
      return value;
    }
  }
  const values = [
    null,
    7,
    -1,
    1e308,
    'x',
    '',
    [],
    {},
    [[]],
    { type: 'text' },
    true,
    '\u001B]0;t\u0007',
    value,
    [value],
  ];
  return values[below(values.length)];
}

/** @param {number} number */
function lineOf(number) {
  const below = numbersOf(number);
  const from = () => corpus[below(corpus.length)];
  let line = from();
  if (below(2) === 0) {
    const event = JSON.parse(line);
    for (let times = below(4); times > 0; times -= 1) changed(event, below);
    line = JSON.stringify(event);
  }
  for (let times = below(5); times > 0; times -= 1) {
    const at = below(line.length + 1);
    const kind = below(4);
    if (kind === 0) line = line.slice(0, at);
    else if (kind === 1)
      line = line.slice(0, at) + TOKENS[below(TOKENS.length)].repeat(2 ** below(12)) + line.slice(at);
    else if (kind === 2) line = line.slice(0, at) + from().slice(below(50)) + line.slice(at);
    else line = line.slice(0, at) + line.slice(at + below(20));
  }
  return line;
}

/** @param {string} line */
function check(line) {
  const entries = parseStdoutLine(line, '2026-01-01T00:00:00.000Z');
  if (!Array.isArray(entries) || entries.some(({ kind }) => typeof kind !== 'string'))
    throw new Error('not a list of entries');
  JSON.stringify(entries);
  if (OBEYED.test(formatClaudeStreamLine(line) ?? '')) throw new Error('a control reaches the terminal');
}

if (Number.isInteger(only)) {
  check(lineOf(only));
  console.log(`parsers: input ${only} of seed ${seed} passes`);
} else {
  const until = Date.now() + seconds * 1000;
  let [inputs, length] = [0, 0];
  while (Date.now() < until) {
    const line = lineOf(inputs);
    try {
      check(line);
    } catch (error) {
      console.log(
        `parsers: input ${inputs} of seed ${seed} fails (node fuzz/parsers.mjs 0 ${seed} ${inputs}): ${String(error)}`,
      );
      process.exit(1);
    }
    inputs += 1;
    length += line.length;
  }
  console.log(`parsers: ${inputs} inputs, ${Math.round(length / 1024 / 1024)} MiB, seed ${seed}: no failure`);
}
