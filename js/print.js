import pc from 'picocolors';

import { printable } from './printable.js';
import { entriesOf, eventsInside, shallow, subagentMark, toolResultText } from './ui-parser.cjs';

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
 * @param {unknown} error
 * @returns {string}
 */
function errorText(error) {
  if (typeof error !== 'object' || error === null || Array.isArray(error)) return asText(error);
  const { message, error: inner, code } = asObject(error);
  return asText(message) || asText(inner) || asText(code) || JSON.stringify(shallow(error));
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
 * The lines of an assistant or user event, one content block after the other.
 *
 * @param {JsonObject} event
 * @returns {Line[]}
 */
function messageLines(event) {
  const mark = subagentMark(event);
  const { content } = asObject(event.message);
  const blocks = typeof content === 'string' ? [{ type: 'text', text: content }] : contentBlocks(event);
  return blocks.flatMap((block) => {
    if (block.type === 'tool_use' && event.type === 'assistant') return toolCallLines(block, mark);
    if (block.type === 'tool_result') return toolResultLines(block);
    const entries = entriesOf({ ...event, message: { content: [block] } }, '') ?? [];
    return entries.flatMap(entryLines);
  });
}

/**
 * @param {JsonObject} block
 * @param {string} mark of a subagent
 * @returns {Line[]}
 */
function toolCallLines(block, mark) {
  /** @type {Line[]} */
  const lines = [{ tone: 'yellow', text: `tool_call: ${asText(block.name) || 'unknown'} ${mark}`.trimEnd() }];
  if (block.input !== undefined) {
    lines.push({ tone: 'gray', text: JSON.stringify(shallow(block.input), null, 2) });
  }
  return lines;
}

/**
 * @param {JsonObject} block
 * @returns {Line[]}
 */
function toolResultLines(block) {
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
 * An entry of the host's transcript, as lines of a terminal.
 *
 * @param {import('@paperclipai/adapter-utils').TranscriptEntry} entry
 * @returns {Line[]}
 */
function entryLines(entry) {
  switch (entry.kind) {
    case 'assistant':
      return [{ tone: 'green', text: `assistant: ${entry.text}` }];
    case 'thinking':
      return [{ tone: 'gray', text: `thinking: ${entry.text}` }];
    case 'user':
      return [{ tone: 'gray', text: `user: ${entry.text}` }];
    case 'tool_call':
      return toolCallLines({ name: entry.name, input: entry.input }, '');
    case 'tool_result':
      return toolResultLines({ content: entry.content, is_error: entry.isError });
    case 'system':
      return [{ tone: 'gray', text: entry.text }];
    case 'provider_activity': {
      const { title, summary, status } = entry;
      const text = summary === title ? title : `${title}: ${summary}`;
      return [{ tone: status === 'failed' ? 'red' : 'yellow', text }];
    }
    default:
      // An event without content.
      return [];
  }
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
    const text = printable(part).replaceAll('\uFFFD', '').trim();
    return text === '' ? [] : [{ tone: /** @type {Tone} */ ('plain'), text }];
  });
}

/**
 * @param {JsonObject} event
 * @returns {Line[] | null}
 */
function describeEvent(event) {
  switch (event.type) {
    case 'assistant':
    case 'user':
      return messageLines(event);
    case 'result':
      return resultLines(event);
    case 'rate_limit_event':
      return rateLimitLines(event);
  }
  if (event.type === 'system' && event.subtype === 'init') return initLines(event);
  return entriesOf(event, '')?.flatMap(entryLines) ?? null;
}

/**
 * Prints one line of Claude's stream-json output for a person at a terminal. An event of an unknown kind is
 * printed only in debug mode. What a terminal would obey (escape sequences, controls) is never printed.
 *
 * @param {string} raw
 * @param {boolean} debug
 * @returns {void}
 */
export function printClaudeStreamEvent(raw, debug) {
  /** @type {Line[]} */
  const lines = describeLine(raw) ?? (debug ? [{ tone: 'gray', text: raw }] : []);
  for (const { tone, text } of safe(lines)) {
    console.log(tone === 'plain' ? text : pc[tone](text));
  }
}

/**
 * @param {Line[]} lines
 * @returns {Line[]} the same, as a terminal may have them
 */
function safe(lines) {
  return lines.map(({ tone, text }) => ({ tone, text: printable(text) })).filter(({ text }) => text !== '');
}

/**
 * The same content as one uncoloured text; null when there is nothing to print.
 *
 * @param {string} raw
 * @returns {string | null}
 */
export function formatClaudeStreamLine(raw) {
  const lines = safe(describeLine(raw) ?? []);
  return lines.length === 0 ? null : lines.map(({ text }) => text).join('\n');
}
