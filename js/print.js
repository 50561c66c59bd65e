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
 * What to print of one line of Claude's stream-json output; null for an event of another kind.
 *
 * @param {string} raw
 * @returns {Line[] | null}
 */
function describeLine(raw) {
  const line = raw.trim();
  if (line === '') return [];

  /** @type {unknown} */
  let parsed;
  try {
    parsed = JSON.parse(line);
  } catch {
    parsed = null;
  }
  if (parsed === null) return [{ tone: 'plain', text: line }];

  const event = asObject(parsed);
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
