'use strict';

// The host's UI fetches this file as text and evaluates it inside a function in a worker: it must be one self-contained
// CommonJS file that uses only `exports` and the globals of the language.

/**
 * @typedef {import('@paperclipai/adapter-utils', { with: { 'resolution-mode': 'import' } }).TranscriptEntry} TranscriptEntry
 * @typedef {Record<string, unknown>} JsonObject
 */

/**
 * @param {unknown} value
 * @returns {JsonObject | null}
 */
function objectOrNull(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? /** @type {JsonObject} */ (value)
    : null;
}

/**
 * @param {unknown} value
 * @param {string} fallback
 * @returns {string}
 */
function stringOr(value, fallback) {
  return typeof value === 'string' ? value : fallback;
}

/**
 * @param {unknown} value
 * @returns {number}
 */
function finiteOrZero(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}

/**
 * @param {string} text
 * @returns {JsonObject | null}
 */
function parseJsonObject(text) {
  try {
    return objectOrNull(JSON.parse(text));
  } catch {
    return null;
  }
}

/** How an event begins inside a line of text; of the types that src/claude/event.rs looks for. */
const EVENT_START = /\{"type":"(?:result|assistant|user|system|stream_event|rate_limit_event)"/g;
/** How many beginnings of events in one line may turn out to be none. */
const MOST_FALSE_STARTS = 16;

/**
 * Where the JSON object that begins at `from` ends; -1 where it does not.
 *
 * @param {string} text
 * @param {number} from
 * @returns {number}
 */
function endOfObject(text, from) {
  let depth = 0;
  let inString = false;
  for (let at = from; at < text.length; at += 1) {
    const char = text[at];
    if (inString) {
      if (char === '\\') at += 1;
      else if (char === '"') inString = false;
    } else if (char === '"') inString = true;
    else if (char === '{') depth += 1;
    else if (char === '}') {
      depth -= 1;
      if (depth === 0) return at + 1;
    }
  }
  return -1;
}

/**
 * The events inside a line of text, and the text before, between and after them: an escape sequence, a terminal title or
 * text without a newline may stand there. Empty where there is no event.
 *
 * @param {string} line
 * @returns {Array<string | JsonObject>}
 */
function eventsInside(line) {
  /** @type {Array<string | JsonObject>} */
  const parts = [];
  let falseStarts = 0;
  let read = 0;
  for (const { index } of line.matchAll(EVENT_START)) {
    if (index < read) continue;
    if (falseStarts >= MOST_FALSE_STARTS) break;
    const end = endOfObject(line, index);
    const event = end < 0 ? null : parseJsonObject(line.slice(index, end));
    if (event === null) {
      falseStarts += 1;
    } else {
      parts.push(line.slice(read, index), event);
      read = end;
    }
  }
  return read === 0 ? [] : [...parts, line.slice(read)];
}

/**
 * @param {string} text
 * @returns {boolean} whether it has more than terminal titles, escape sequences and white space
 */
function isVisible(text) {
  // oxlint-disable-next-line no-control-regex
  const titles = /\u001B\][^\u0007\u001B]*(?:\u0007|\u001B\\)/g;
  // oxlint-disable-next-line no-control-regex
  const rest = /\u001B\[[0-?]*[ -/]*[@-~]|[\u0000-\u0020\u007F\uFFFD]/g;
  return text.replaceAll(titles, '').replaceAll(rest, '') !== '';
}

/**
 * @param {string} text
 * @returns {boolean}
 */
function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * @param {JsonObject} event
 * @returns {JsonObject[]}
 */
function contentBlocks(event) {
  const message = objectOrNull(event.message);
  if (message === null || !Array.isArray(message.content)) return [];
  /** @type {JsonObject[]} */
  const blocks = [];
  for (const element of message.content) {
    const block = objectOrNull(element);
    if (block !== null) blocks.push(block);
  }
  return blocks;
}

/**
 * @param {unknown} content
 * @returns {string}
 */
function toolResultText(content) {
  if (!Array.isArray(content)) return stringOr(content, '');
  /** @type {string[]} */
  const texts = [];
  for (const element of content) {
    const part = objectOrNull(element);
    if (part !== null && typeof part.text === 'string') texts.push(part.text);
  }
  return texts.join('\n');
}

/**
 * @param {unknown} error
 * @returns {string}
 */
function errorText(error) {
  const details = objectOrNull(error);
  if (details === null) return stringOr(error, '');
  return (
    stringOr(details.message, '') ||
    stringOr(details.error, '') ||
    stringOr(details.code, '') ||
    JSON.stringify(details)
  );
}

/**
 * @param {JsonObject} block
 * @param {string} ts
 * @returns {TranscriptEntry | null}
 */
function assistantEntry(block, ts) {
  if (block.type === 'text') {
    const text = stringOr(block.text, '');
    return text === '' ? null : { kind: 'assistant', ts, text };
  }
  if (block.type === 'thinking') {
    const text = stringOr(block.thinking, '');
    return text === '' ? null : { kind: 'thinking', ts, text };
  }
  if (block.type === 'tool_use') {
    const id = typeof block.id === 'string' ? block.id : block.tool_use_id;
    return {
      kind: 'tool_call',
      ts,
      name: stringOr(block.name, 'unknown'),
      toolUseId: typeof id === 'string' ? id : undefined,
      input: block.input ?? {},
    };
  }
  return null;
}

/**
 * @param {JsonObject} block
 * @param {string} ts
 * @returns {TranscriptEntry | null}
 */
function userEntry(block, ts) {
  if (block.type === 'text') {
    const text = stringOr(block.text, '');
    return text === '' ? null : { kind: 'user', ts, text };
  }
  if (block.type === 'tool_result') {
    return {
      kind: 'tool_result',
      ts,
      toolUseId: stringOr(block.tool_use_id, ''),
      content: toolResultText(block.content),
      isError: block.is_error === true,
    };
  }
  return null;
}

/**
 * @param {JsonObject} event
 * @param {string} ts
 * @returns {TranscriptEntry}
 */
function resultEntry(event, ts) {
  const usage = objectOrNull(event.usage) ?? {};
  const errors = Array.isArray(event.errors) ? event.errors : [];
  return {
    kind: 'result',
    ts,
    text: stringOr(event.result, ''),
    inputTokens: finiteOrZero(usage.input_tokens),
    outputTokens: finiteOrZero(usage.output_tokens),
    cachedTokens: finiteOrZero(usage.cache_read_input_tokens),
    costUsd: finiteOrZero(event.total_cost_usd),
    subtype: stringOr(event.subtype, ''),
    isError: event.is_error === true,
    errors: errors.map(errorText).filter((text) => text !== ''),
  };
}

/**
 * @param {JsonObject} event
 * @param {string} ts
 * @returns {Array<TranscriptEntry | null>}
 */
function eventEntries(event, ts) {
  switch (event.type) {
    case 'system':
      if (event.subtype !== 'init') return [];
      return [
        {
          kind: 'init',
          ts,
          model: stringOr(event.model, 'unknown'),
          sessionId: stringOr(event.session_id, ''),
        },
      ];
    case 'assistant':
      return contentBlocks(event).map((block) => assistantEntry(block, ts));
    case 'user':
      return contentBlocks(event).map((block) => userEntry(block, ts));
    case 'result':
      return [resultEntry(event, ts)];
    default:
      return [];
  }
}

/**
 * Turns one stdout line of a run into transcript entries. A line without an entry of its own becomes one `stdout` entry
 * with the unchanged line, so that nothing is lost. Only `thinking_tokens`, which the CLI prints for every piece of a
 * thought, gives no entry.
 *
 * @param {string} line
 * @param {string} ts
 * @returns {TranscriptEntry[]}
 */
function parseStdoutLine(line, ts) {
  const event = parseJsonObject(line);
  if (event !== null) return entriesOf(event, line, ts);
  const parts = isJson(line) ? [] : eventsInside(line);
  if (parts.length === 0) return [{ kind: 'stdout', ts, text: line }];
  return parts.flatMap((part) => {
    if (typeof part !== 'string') return entriesOf(part, JSON.stringify(part), ts);
    return isVisible(part) ? [{ kind: 'stdout', ts, text: part }] : [];
  });
}

/**
 * @param {JsonObject} event
 * @param {string} line
 * @param {string} ts
 * @returns {TranscriptEntry[]}
 */
function entriesOf(event, line, ts) {
  if (event.type === 'system' && event.subtype === 'thinking_tokens') return [];
  /** @type {TranscriptEntry[]} */
  const entries = [];
  for (const entry of eventEntries(event, ts)) {
    if (entry !== null) entries.push(entry);
  }
  return entries.length > 0 ? entries : [{ kind: 'stdout', ts, text: line }];
}

exports.parseStdoutLine = parseStdoutLine;
