import { stripVTControlCharacters } from 'node:util';

import pc from 'picocolors';

/**
 * @typedef {Record<string, unknown>} JsonObject
 * @typedef {'plain' | 'blue' | 'green' | 'yellow' | 'red' | 'cyan' | 'gray'} Tone
 * @typedef {{ tone: Tone, text: string }} Line one call of console.log (its text may have several lines)
 */

/**
 * @param {unknown} value
 * @returns {JsonObject}
 */
function asObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? /** @type {JsonObject} */ (value)
    : {};
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function asText(value) {
  return typeof value === 'string' ? value : '';
}

/**
 * `Number(value)`, or 0 where that is not a finite number.
 *
 * @param {unknown} value
 * @returns {number}
 */
function asCount(value) {
  try {
    const number = Number(value ?? 0);
    return Number.isFinite(number) ? number : 0;
  } catch {
    // An object whose own `valueOf` or `toString` is not a function.
    return 0;
  }
}

/**
 * @param {unknown} event
 * @returns {JsonObject[]} the content blocks of an assistant or user event
 */
function contentBlocks(event) {
  const { content } = asObject(asObject(event).message);
  return Array.isArray(content) ? content.map(asObject) : [];
}

/**
 * @param {unknown} content
 * @returns {string}
 */
function toolResultText(content) {
  if (!Array.isArray(content)) return asText(content);
  return content
    .map((part) => asObject(part).text)
    .filter((text) => typeof text === 'string')
    .join('\n');
}

/**
 * @param {unknown} error
 * @returns {string}
 */
function errorText(error) {
  if (typeof error !== 'object' || error === null || Array.isArray(error)) return asText(error);
  const { message, error: inner, code } = asObject(error);
  return asText(message) || asText(inner) || asText(code) || JSON.stringify(error);
}

/**
 * @param {JsonObject} event
 * @returns {Line[]}
 */
function initLines(event) {
  const session = asText(event.session_id);
  const details = `model: ${asText(event.model) || 'unknown'}${session && `, session: ${session}`}`;
  return [{ tone: 'blue', text: `Claude initialized (${details})` }];
}

/**
 * @param {JsonObject} block
 * @returns {Line[]}
 */
function assistantBlockLines(block) {
  switch (block.type) {
    case 'text': {
      const text = asText(block.text);
      return text ? [{ tone: 'green', text: `assistant: ${text}` }] : [];
    }
    case 'thinking': {
      const text = asText(block.thinking);
      return text ? [{ tone: 'gray', text: `thinking: ${text}` }] : [];
    }
    case 'tool_use': {
      /** @type {Line[]} */
      const lines = [{ tone: 'yellow', text: `tool_call: ${asText(block.name) || 'unknown'}` }];
      if (block.input !== undefined) {
        lines.push({ tone: 'gray', text: JSON.stringify(block.input, null, 2) });
      }
      return lines;
    }
    default:
      return [];
  }
}

/**
 * @param {JsonObject} block
 * @returns {Line[]}
 */
function userBlockLines(block) {
  if (block.type !== 'tool_result') return [];
  const failed = block.is_error === true;
  /** @type {Line[]} */
  const lines = [
    failed ? { tone: 'red', text: 'tool_result (error)' } : { tone: 'cyan', text: 'tool_result' },
  ];
  const text = toolResultText(block.content);
  if (text) lines.push({ tone: failed ? 'red' : 'gray', text });
  return lines;
}

/**
 * @param {JsonObject} event
 * @returns {Line[]}
 */
function resultLines(event) {
  /** @type {Line[]} */
  const lines = [];
  const text = asText(event.result);
  if (text) lines.push({ tone: 'green', text: 'result:' }, { tone: 'plain', text });

  const subtype = asText(event.subtype);
  const failed = event.is_error === true;
  const errors = (Array.isArray(event.errors) ? event.errors : []).map(errorText).filter(Boolean);
  if (subtype.startsWith('error') || failed || errors.length > 0) {
    lines.push({
      tone: 'red',
      text: `claude_result: subtype=${subtype || 'unknown'} is_error=${failed}`,
    });
    if (errors.length > 0) lines.push({ tone: 'red', text: `claude_errors: ${errors.join(' | ')}` });
  }

  const usage = asObject(event.usage);
  const tokensIn = asCount(usage.input_tokens);
  const tokensOut = asCount(usage.output_tokens);
  const cached = asCount(usage.cache_read_input_tokens);
  const cost = asCount(event.total_cost_usd).toFixed(6);
  lines.push({
    tone: 'blue',
    text: `tokens: in=${tokensIn} out=${tokensOut} cached=${cached} cost=$${cost}`,
  });
  return lines;
}

/**
 * @param {JsonObject} event
 * @returns {Line[]}
 */
function rateLimitLines(event) {
  const info = asObject(event.rate_limit_info);
  const kind = asText(info.rateLimitType) || 'unknown';
  const status = asText(info.status) || 'unknown';
  const resets = typeof info.resetsAt === 'number' ? isoSeconds(info.resetsAt) : null;
  return [
    {
      tone: 'yellow',
      text: `rate_limit: type=${kind} status=${status}${resets === null ? '' : ` resets=${resets}`}`,
    },
  ];
}

/**
 * @param {number} seconds since the epoch
 * @returns {string | null} null beyond the range of `Date`
 */
function isoSeconds(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/**
 * The value of a JSON text; undefined where it is none.
 *
 * @param {string} text
 * @returns {unknown}
 */
function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * @param {unknown} value
 * @returns {JsonObject | null} the value, where it is an object
 */
function objectOf(value) {
  return value === undefined ? null : asObject(value);
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
    const event = end < 0 ? null : objectOf(parseJson(line.slice(index, end)));
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
 * What to print of one line of Claude's stream-json output; null for an event of another kind.
 *
 * @param {string} raw
 * @returns {Line[] | null}
 */
function describeLine(raw) {
  const line = raw.trim();
  if (line === '') return [];
  const parsed = parseJson(line);
  if (parsed !== undefined && parsed !== null) return describeEvent(asObject(parsed));
  const parts = parsed === undefined ? eventsInside(line) : [];
  if (parts.length === 0) return [{ tone: 'plain', text: line }];
  return parts.flatMap((part) => {
    if (typeof part !== 'string') return describeEvent(part) ?? [];
    const text = visibleText(part);
    return text === '' ? [] : [{ tone: /** @type {Tone} */ ('plain'), text }];
  });
}

/**
 * @param {string} text
 * @returns {string} the text without terminal titles and control characters, trimmed
 */
function visibleText(text) {
  // oxlint-disable-next-line no-control-regex
  const withoutTitles = text.replaceAll(/\u001B\][^\u0007\u001B]*(?:\u0007|\u001B\\)/g, '');
  const withoutEscapes = stripVTControlCharacters(withoutTitles);
  // oxlint-disable-next-line no-control-regex
  return withoutEscapes.replaceAll(/[\u0000-\u001F\u007F\uFFFD]/g, '').trim();
}

/**
 * @param {JsonObject} event
 * @returns {Line[] | null}
 */
function describeEvent(event) {
  switch (event.type) {
    case 'system':
      return event.subtype === 'init' ? initLines(event) : null;
    case 'assistant':
      return contentBlocks(event).flatMap(assistantBlockLines);
    case 'user':
      return contentBlocks(event).flatMap(userBlockLines);
    case 'result':
      return resultLines(event);
    case 'rate_limit_event':
      return rateLimitLines(event);
    default:
      return null;
  }
}

/**
 * Prints one line of Claude's stream-json output for a person at a terminal. An event of another kind is printed
 * unchanged, and only in debug mode.
 *
 * @param {string} raw
 * @param {boolean} debug
 * @returns {void}
 */
export function printClaudeStreamEvent(raw, debug) {
  /** @type {Line[]} */
  const lines = describeLine(raw) ?? (debug ? [{ tone: 'gray', text: raw }] : []);
  for (const { tone, text } of lines) {
    console.log(tone === 'plain' ? text : pc[tone](text));
  }
}

/**
 * The same content as one uncoloured text; null when there is nothing to print.
 *
 * @param {string} raw
 * @returns {string | null}
 */
export function formatClaudeStreamLine(raw) {
  const lines = describeLine(raw) ?? [];
  return lines.length === 0 ? null : lines.map(({ text }) => text).join('\n');
}
