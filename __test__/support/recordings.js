import { readdirSync, readFileSync } from 'node:fs';

const directory = new URL('../../tools/simulator/fixtures/', import.meta.url);

/** The names of the recorded runs of the real CLI, each with its version. */
export const recordings = readdirSync(directory, { recursive: true })
  .flatMap((file) => /^claude-cli-(.+)\.jsonl$/.exec(String(file))?.[1] ?? [])
  .toSorted();

/**
 * @param {string} name such as `2.1.197/success`
 * @returns {string[]} the lines of one recorded run
 */
export function recordedLines(name) {
  const text = readFileSync(new URL(`claude-cli-${name}.jsonl`, directory), 'utf8');
  return text.split('\n').filter((line) => line !== '');
}

/**
 * The lines on which all three readers of the CLI's events are tested: `src/claude/event.rs`, `js/print.js` and
 * `js/ui-parser.cjs`. One line of each kind, with its kind.
 *
 * @type {Array<{kind: string, line: string}>}
 */
export const eventLines = readFileSync(new URL('event-lines.jsonl', import.meta.url), 'utf8')
  .split('\n')
  .filter((text) => text !== '')
  .map((text) => {
    const { kind, line, event } = JSON.parse(text);
    return { kind, line: line ?? JSON.stringify(event) };
  });

/**
 * The kind of a line: type and subtype of its event, or type and content blocks; with `(error)` where `is_error` is set, and
 * what else readers tell lines apart by.
 *
 * @param {string} line
 * @returns {string}
 */
export function kindOf(line) {
  let event;
  try {
    event = JSON.parse(line);
  } catch {
    const inside = /^(.+?)(\{"type":".*\})/su.exec(line);
    if (inside === null) return 'text';
    return `${kindOf(inside[2])} after ${inside[1].startsWith('\u001B') ? 'a terminal title' : 'text'}`;
  }
  if (typeof event?.type !== 'string') return 'JSON without a type';
  const { type, subtype, is_error, message } = event;
  const mark = (/** @type {boolean | undefined} */ isError) => (isError ? ' (error)' : '');
  if (subtype !== undefined) return `${type}/${subtype}${mark(is_error)}`;
  const content = Array.isArray(message?.content) ? message.content : [];
  const blocks = new Set(content.map((block) => `${block.type}${mark(block.is_error)}`));
  const hasNoText = (/** @type {any} */ block) =>
    block.type === 'tool_result' &&
    Array.isArray(block.content) &&
    !block.content.some((/** @type {any} */ part) => part.type === 'text');
  const ofNoText = content.some(hasNoText) ? ' of no text' : '';
  return `${[type, ...blocks].join('/')}${ofNoText}${event.parent_tool_use_id ? ' of a subagent' : ''}`;
}
