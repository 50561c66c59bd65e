'use strict';

// The host's UI fetches this file as text and evaluates it inside a function in a worker: it must be one self-contained
// CommonJS file that uses only `exports` and the globals of the language.

/**
 * @typedef {import('@paperclipai/adapter-utils', { with: { 'resolution-mode': 'import' } }).TranscriptEntry} TranscriptEntry
 * @typedef {Extract<TranscriptEntry, {kind: 'provider_activity'}>['family']} ProviderActivityFamily
 * @typedef {Extract<TranscriptEntry, {kind: 'provider_activity'}>['status']} ProviderActivityStatus
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

/** How deep what a line holds may be nested in an entry: the host's pages walk through it by recursion. */
const MOST_DEPTH = 32;

/**
 * @param {unknown} value
 * @param {number} depth how deep it may be nested
 * @returns {boolean}
 */
function isDeeper(value, depth) {
  if (typeof value !== 'object' || value === null) return false;
  return depth === 0 || Object.values(value).some((member) => isDeeper(member, depth - 1));
}

/**
 * The value without what lies deeper than the limit.
 *
 * @param {unknown} value
 * @param {number} [depth]
 * @returns {unknown}
 */
function shallow(value, depth = MOST_DEPTH) {
  if (!isDeeper(value, depth)) return value;
  if (depth === 0) return '[nested too deeply]';
  if (Array.isArray(value)) return value.map((member) => shallow(member, depth - 1));
  const members = Object.entries(/** @type {JsonObject} */ (value));
  return Object.fromEntries(members.map(([key, member]) => [key, shallow(member, depth - 1)]));
}

/** How long the sentence of an activity may be, in UTF-16 units. */
const MOST_SUMMARY = 2000;

/**
 * @param {string} text
 * @returns {string} the text, shortened where it is very long
 */
function clip(text) {
  return text.length > MOST_SUMMARY ? `${text.slice(0, MOST_SUMMARY)} …` : text;
}

/**
 * @param {...(string | false | null | undefined)} parts
 * @returns {string} those that say something, as one sentence
 */
function sentence(...parts) {
  return parts.filter((part) => typeof part === 'string' && part !== '').join(', ');
}

/**
 * @param {number} count
 * @returns {string} such as `190k`
 */
function thousands(count) {
  return count >= 1000 ? `${Math.round(count / 1000)}k` : String(count);
}

/**
 * @param {unknown} milliseconds
 * @returns {string} such as `0.6 s`
 */
function seconds(milliseconds) {
  return `${Math.round(finiteOrZero(milliseconds) / 100) / 10} s`;
}

/**
 * @param {number} bytes
 * @returns {string} such as `12 kB`
 */
function size(bytes) {
  if (bytes >= 1e6) return `${Math.round(bytes / 1e5) / 10} MB`;
  return bytes >= 1000 ? `${Math.round(bytes / 1000)} kB` : `${bytes} bytes`;
}

/**
 * @param {unknown} epochSeconds
 * @returns {string} such as `2026-01-02 17:00 UTC`; empty where it is no time
 */
function minute(epochSeconds) {
  if (typeof epochSeconds !== 'number') return '';
  const date = new Date(epochSeconds * 1000);
  return Number.isNaN(date.getTime()) ? '' : `${date.toISOString().slice(0, 16).replace('T', ' ')} UTC`;
}

/**
 * @param {unknown} identifier such as `seven_day_opus`
 * @returns {string} such as `seven day opus`
 */
function words(identifier) {
  return stringOr(identifier, '').replaceAll('_', ' ');
}

/**
 * A content block of which only its kind can be shown.
 *
 * @param {JsonObject} block
 * @returns {string} such as `[image image/png, 12 kB]`
 */
function placeholder(block) {
  const source = objectOrNull(block.source) ?? {};
  const data = source.type === 'text' ? undefined : source.data;
  const bytes = typeof data === 'string' ? size(Math.floor((data.length * 3) / 4)) : '';
  const name =
    stringOr(block.tool_name, '') ||
    stringOr(block.title, '') ||
    stringOr(block.name, '') ||
    stringOr(source.url, '') ||
    stringOr(block.url, '');
  const kind = block.type === 'tool_reference' ? 'tool' : words(block.type) || 'content';
  const what = sentence([stringOr(source.media_type, ''), clip(name)].filter(Boolean).join(' '), bytes);
  return what === '' ? `[${kind}]` : `[${kind} ${what}]`;
}

/**
 * @param {JsonObject} event
 * @returns {JsonObject[]}
 */
function contentBlocks(event) {
  const message = objectOrNull(event.message);
  if (message === null) return [];
  if (typeof message.content === 'string') return [{ type: 'text', text: message.content }];
  if (!Array.isArray(message.content)) return [];
  /** @type {JsonObject[]} */
  const blocks = [];
  for (const element of message.content) {
    const block = objectOrNull(element);
    if (block !== null) blocks.push(block);
  }
  return blocks;
}

/**
 * @param {unknown} content of a tool's result
 * @returns {string}
 */
function toolResultText(content) {
  if (typeof content === 'string') return content;
  /** @type {string[]} */
  const texts = [];
  for (const element of Array.isArray(content) ? content : [content]) {
    const part = objectOrNull(element);
    if (part === null) continue;
    if (typeof part.text === 'string') texts.push(part.text);
    else if (typeof part.error_code === 'string') texts.push(words(part.error_code));
    else if (typeof part.type === 'string') texts.push(placeholder(part));
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
    JSON.stringify(shallow(details))
  );
}

/**
 * What marks the entries of a subagent, which stand among those of the agent.
 *
 * @param {JsonObject} event
 * @returns {string} such as `[subagent Explore a1b2c3] `; empty for the agent itself
 */
function subagentMark(event) {
  const parent = event.parent_tool_use_id;
  if (typeof parent !== 'string' || parent === '') return '';
  const type = stringOr(event.subagent_type, '');
  return `[subagent ${type && `${clip(type)} `}${parent.slice(-6)}] `;
}

/**
 * @param {JsonObject} block
 * @param {string} ts
 * @param {string} mark
 * @returns {TranscriptEntry | 'nothing' | null} null: the block holds nothing that is known
 */
function assistantEntry(block, ts, mark) {
  switch (block.type) {
    case 'text': {
      const text = stringOr(block.text, '');
      return text === '' ? null : { kind: 'assistant', ts, text: mark + text };
    }
    case 'thinking': {
      const text = stringOr(block.thinking, '');
      if (text !== '') return { kind: 'thinking', ts, text: mark + text };
      // The API leaves the text of a thought out unless it is asked for it.
      return typeof block.signature === 'string' ? 'nothing' : null;
    }
    case 'redacted_thinking':
      return 'nothing';
    case 'tool_use':
    case 'server_tool_use':
    case 'mcp_tool_use': {
      const id = typeof block.id === 'string' ? block.id : block.tool_use_id;
      const name = stringOr(block.name, 'unknown');
      const server = block.type === 'mcp_tool_use' ? stringOr(block.server_name, '') : '';
      return {
        kind: 'tool_call',
        ts,
        name: `${server && `${server} `}${name}${mark && ` ${mark.trim()}`}`,
        toolUseId: typeof id === 'string' ? id : undefined,
        input: shallow(block.input ?? {}),
      };
    }
    default:
      return otherEntry(block, ts, mark, 'assistant');
  }
}

/**
 * @param {JsonObject} block
 * @param {string} ts
 * @param {string} mark
 * @returns {TranscriptEntry | 'nothing' | null}
 */
function userEntry(block, ts, mark) {
  if (block.type === 'text') {
    const text = stringOr(block.text, '');
    return text === '' ? null : { kind: 'user', ts, text: mark + text };
  }
  return otherEntry(block, ts, mark, 'user');
}

/**
 * @param {JsonObject} block of any type that both roles can have, or of a type that is not known
 * @param {string} ts
 * @param {string} mark
 * @param {'assistant' | 'user'} kind
 * @returns {TranscriptEntry | null}
 */
function otherEntry(block, ts, mark, kind) {
  const type = stringOr(block.type, '');
  if (type === '') return null;
  // Results of tools that the API runs itself are in the assistant's message: web_search_tool_result and others.
  if (!type.endsWith('tool_result')) return { kind, ts, text: mark + placeholder(block) };
  const content = objectOrNull(block.content);
  return {
    kind: 'tool_result',
    ts,
    toolUseId: stringOr(block.tool_use_id, ''),
    content: toolResultText(block.content),
    isError: block.is_error === true || stringOr(content?.type, '').endsWith('_error'),
  };
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
 * What an event says in the host's transcript: a `provider_activity`, a line of the system, or nothing.
 *
 * @typedef {{
 *   family?: ProviderActivityFamily,
 *   status?: ProviderActivityStatus,
 *   title: string,
 *   text: string,
 *   payload?: JsonObject,
 * }} Activity without a family: a line of the system
 */

/**
 * @param {string} title
 * @param {string} text
 * @param {ProviderActivityStatus} [status]
 * @param {string} [category]
 * @returns {Activity}
 */
function notice(title, text, status = 'informational', category = 'notice') {
  const severity = status === 'failed' ? 'error' : 'info';
  return { family: 'provider_notice', status, title, text, payload: { severity, category } };
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function retryActivity(event) {
  const status =
    typeof event.error_status === 'number' ? `API ${event.error_status}` : 'The API did not answer';
  const error = words(event.error);
  return notice(
    'API retry',
    sentence(
      status + (error && ` (${error})`),
      `attempt ${finiteOrZero(event.attempt)} of ${finiteOrZero(event.max_retries)}`,
      `in ${seconds(event.retry_delay_ms)}`,
    ),
    'informational',
    'api_retry',
  );
}

/** The usage limits by their names in a rate_limit_event. @type {Record<string, string>} */
const LIMITS = { five_hour: '5-hour limit', seven_day: '7-day limit', overage: 'Extra usage' };

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function rateLimitActivity(event) {
  const info = objectOrNull(event.rate_limit_info) ?? {};
  const type = stringOr(info.rateLimitType, '');
  const name = LIMITS[type] ?? (type === '' ? 'Usage limit' : `${words(type)} limit`);
  const share =
    typeof info.utilization === 'number' && Number.isFinite(info.utilization)
      ? ` ${Math.round(info.utilization * 100)} %`
      : '';
  const resets = minute(info.resetsAt);
  const rejected = info.status === 'rejected';
  const text = sentence(name + share, words(info.status), resets && `resets ${resets}`);
  return notice('Usage limit', text, rejected ? 'failed' : 'informational', 'usage_limit');
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function modelActivity(event) {
  const from = stringOr(event.original_model, '') || stringOr(event.originalModel, '');
  const to = stringOr(event.fallback_model, '') || stringOr(event.fallbackModel, '');
  return {
    family: 'model_identity',
    status: 'completed',
    title: 'Model changed',
    text: stringOr(event.content, '') || sentence(from && `from ${from}`, to && `to ${to}`),
    payload: { fromModel: from, effectiveModel: to, reason: words(event.trigger ?? event.choice) },
  };
}

/** @type {Record<string, ProviderActivityStatus>} */
const TASK_STATUS = {
  completed: 'completed',
  failed: 'failed',
  killed: 'interrupted',
  stopped: 'interrupted',
};

/**
 * A task in the background: a subagent or a command. Its later events update the activity of its first one.
 *
 * @param {JsonObject} event
 * @returns {Activity | null}
 */
function taskActivity(event) {
  if (event.skip_transcript === true || event.ambient === true) return null;
  const patch = objectOrNull(event.patch) ?? event;
  const type = stringOr(event.subagent_type, '');
  const usage = objectOrNull(event.usage);
  const tool = stringOr(event.last_tool_name, '');
  const text = sentence(
    stringOr(event.summary, '') || stringOr(patch.description, '') || words(patch.status),
    errorText(patch.error),
    tool && `last tool ${tool}`,
    usage !== null && `${thousands(finiteOrZero(usage.total_tokens))} tokens`,
    usage !== null && seconds(usage.duration_ms),
  );
  const title = type === '' ? 'Background task' : `Subagent ${clip(type)}`;
  return {
    family: 'tool_execution',
    status: TASK_STATUS[stringOr(patch.status, '')] ?? 'running',
    title,
    text,
    payload: { executionId: `task:${stringOr(event.task_id, '')}`, name: title, progress: clip(text) },
  };
}

/**
 * @param {JsonObject} event
 * @returns {Activity | null}
 */
function toolProgressActivity(event) {
  if (event.heartbeat === true) return null;
  const name = stringOr(event.tool_name, 'tool');
  const text = `${name}, ${Math.round(finiteOrZero(event.elapsed_time_seconds))} s`;
  // Not `running`: only the tool's result says that it has ended, and that is an entry of its own.
  return {
    family: 'tool_execution',
    status: 'informational',
    title: 'Tool runs',
    text,
    payload: { executionId: `progress:${stringOr(event.tool_use_id, '')}`, name, progress: text },
  };
}

/**
 * @param {JsonObject} event
 * @returns {Activity | null}
 */
function hookActivity(event) {
  const failed =
    event.outcome === 'error' || (event.outcome !== 'success' && finiteOrZero(event.exit_code) !== 0);
  const cancelled = event.outcome === 'cancelled';
  if (!failed && !cancelled) return null;
  const output = stringOr(event.stderr, '') || stringOr(event.output, '') || stringOr(event.stdout, '');
  const code = typeof event.exit_code === 'number' ? `exit code ${event.exit_code}` : '';
  const name = stringOr(event.hook_name, '') || stringOr(event.hook_event, 'hook');
  return {
    family: 'hook',
    status: cancelled ? 'interrupted' : 'failed',
    title: cancelled ? 'Hook cancelled' : 'Hook failed',
    text: sentence(name, code, output.trim()),
    payload: { hookId: stringOr(event.hook_id, ''), event: stringOr(event.hook_event, '') },
  };
}

/**
 * @param {JsonObject} event
 * @returns {Activity | null}
 */
function statusActivity(event) {
  if (event.compact_result === 'failed') {
    const text = stringOr(event.compact_error, '') || 'The context could not be compacted';
    return { family: 'context', status: 'failed', title: 'Context not compacted', text, payload: {} };
  }
  return event.status === 'compacting' ? { title: '', text: 'The context is being compacted' } : null;
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function compactActivity(event) {
  const metadata = objectOrNull(event.compact_metadata) ?? {};
  const before = finiteOrZero(metadata.pre_tokens);
  const after = finiteOrZero(metadata.post_tokens);
  const tokens = after > 0 ? `${thousands(before)} to ${thousands(after)}` : thousands(before);
  return {
    family: 'context',
    status: 'completed',
    title: 'Context compacted',
    text: `Context compacted (${tokens} tokens)`,
    payload: { reason: stringOr(metadata.trigger, ''), preTokens: before, postTokens: after },
  };
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function permissionActivity(event) {
  const text = sentence(stringOr(event.tool_name, 'tool'), stringOr(event.message, ''));
  return {
    family: 'safety',
    status: 'completed',
    title: 'Permission denied',
    text,
    payload: { decision: 'denied' },
  };
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function memoryActivity(event) {
  const recalled = Array.isArray(event.memories) ? event.memories : [];
  const written = Array.isArray(event.writtenPaths) ? event.writtenPaths : [];
  const paths = [...recalled.map((memory) => objectOrNull(memory)?.path), ...written];
  const text = clip(paths.filter((path) => typeof path === 'string').join(', '));
  const title = written.length > 0 ? 'Memory saved' : 'Memory recalled';
  return { family: 'memory', status: 'completed', title, text: text || title, payload: { label: text } };
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function filesActivity(event) {
  const names = (/** @type {unknown} */ list) =>
    (Array.isArray(list) ? list : [])
      .map((file) => stringOr(objectOrNull(file)?.filename, ''))
      .filter(Boolean);
  const failed = names(event.failed);
  const text = sentence(...names(event.files), failed.length > 0 && `not saved: ${failed.join(', ')}`);
  const status = failed.length > 0 ? 'failed' : 'completed';
  return { family: 'artifact', status, title: 'Files saved', text: text || 'Files saved', payload: {} };
}

/**
 * @param {JsonObject} event
 * @returns {Activity}
 */
function tasksActivity(event) {
  const tasks = (Array.isArray(event.tasks) ? event.tasks : []).map((task) =>
    stringOr(objectOrNull(task)?.description, 'task'),
  );
  const list = tasks.length === 0 ? 'none' : tasks.join('; ');
  return { title: '', text: `Background tasks: ${list}` };
}

/** @type {(event: JsonObject) => Activity} */
const contentLine = (event) => ({ title: '', text: stringOr(event.content, '') });

/**
 * What the events beside the conversation say, by subtype of `system`; null: nothing for people. An event that is not
 * here is described by {@link otherActivity}.
 *
 * @type {Record<string, (event: JsonObject) => Activity | null>}
 */
const SYSTEM = {
  api_retry: retryActivity,
  background_tasks_changed: tasksActivity,
  commands_changed: () => null,
  compact_boundary: compactActivity,
  control_request_progress: (event) => (event.status === 'api_retry' ? retryActivity(event) : null),
  elicitation_complete: (event) =>
    notice('MCP server', `${stringOr(event.mcp_server_name, 'MCP server')} was answered`),
  files_persisted: filesActivity,
  hook_progress: () => null,
  hook_response: hookActivity,
  hook_started: () => null,
  informational: (event) =>
    event.level === 'warning' ? notice('Warning', stringOr(event.content, '')) : contentLine(event),
  local_command: contentLine,
  local_command_output: contentLine,
  memory_recall: memoryActivity,
  memory_saved: memoryActivity,
  mirror_error: (event) => notice('Session not mirrored', errorText(event.error), 'failed'),
  model_consent_fallback: modelActivity,
  model_fallback: modelActivity,
  model_refusal_fallback: modelActivity,
  model_refusal_no_fallback: (event) => ({
    family: 'safety',
    status: 'failed',
    title: 'Model refused',
    text: sentence(stringOr(event.content, '') || 'The model refused', words(event.api_refusal_category)),
    payload: { decision: 'refused' },
  }),
  notification: (event) => notice('Notification', stringOr(event.text, '')),
  permission_denied: permissionActivity,
  plugin_install: (event) =>
    notice(
      'Plugin',
      sentence(`${stringOr(event.name, 'Plugins')} ${words(event.status)}`, errorText(event.error)),
      event.status === 'failed' ? 'failed' : 'informational',
    ),
  session_state_changed: (event) =>
    event.state === 'requires_action' ? notice('Session', 'The session waits for an action') : null,
  session_writes_lost: (event) =>
    notice(
      'Session not saved',
      `The ${(Array.isArray(event.lost) ? event.lost : []).map(words).join(' and ') || 'session'} could not be written (${stringOr(event.error_code, 'error')})`,
      'failed',
    ),
  status: statusActivity,
  task_notification: taskActivity,
  task_progress: taskActivity,
  task_started: taskActivity,
  task_updated: taskActivity,
  thinking_tokens: () => null,
  worker_shutting_down: (event) =>
    notice('Shutdown', `The CLI shuts down (${words(event.reason) || 'no reason given'})`),
};

/**
 * As {@link SYSTEM}, by the type of the event.
 *
 * @type {Record<string, (event: JsonObject) => Activity | null>}
 */
const OTHER = {
  auth_status: (event) =>
    notice(
      'Authentication',
      sentence(
        errorText(event.error) || (event.isAuthenticating === true ? 'Signing in' : 'Signed in'),
        ...(Array.isArray(event.output) ? event.output : []).filter((line) => typeof line === 'string'),
      ),
      errorText(event.error) === '' ? 'informational' : 'failed',
      'authentication',
    ),
  conversation_reset: (event) => ({
    family: 'context',
    status: 'completed',
    title: 'Conversation reset',
    text: sentence('The conversation starts over', words(event.trigger)),
    payload: { reason: words(event.trigger), sameSession: false },
  }),
  keep_alive: () => null,
  prompt_suggestion: (event) => ({ title: '', text: `Suggested prompt: ${stringOr(event.suggestion, '')}` }),
  rate_limit_event: rateLimitActivity,
  // The complete message follows in an event of its own.
  stream_event: () => null,
  tool_progress: toolProgressActivity,
  tool_use_summary: (event) => ({ title: '', text: stringOr(event.summary, '') }),
};

/**
 * An event of `system` that this version does not know: its words, and what it says.
 *
 * @param {JsonObject} event
 * @returns {Activity}
 */
function otherActivity(event) {
  const texts = [
    'content',
    'text',
    'message',
    'summary',
    'description',
    'detail',
    'title',
    'reason',
    'error',
  ];
  const said = texts.map((key) => errorText(event[key])).find((text) => text !== '');
  const members = Object.entries(event)
    .filter(
      ([key, value]) => !/^(type|subtype|uuid|session_id|timestamp)$/.test(key) && typeof value !== 'object',
    )
    .map(([key, value]) => `${words(key)} ${String(value)}`);
  return notice(words(event.subtype), said ?? sentence(...members.slice(0, 8)));
}

/**
 * @param {JsonObject} event
 * @returns {Activity | null | undefined} undefined: it is not an event beside the conversation
 */
function activityOf(event) {
  const type = stringOr(event.type, '');
  const subtype = stringOr(event.subtype, '');
  const [table, key] = type === 'system' ? [SYSTEM, subtype] : [OTHER, type];
  if (Object.hasOwn(table, key)) return table[key]?.(event);
  return type === 'system' && subtype !== '' ? otherActivity(event) : undefined;
}

/**
 * @param {JsonObject} event
 * @param {Activity} activity
 * @param {string} ts
 * @returns {TranscriptEntry}
 */
function activityEntry(event, { family, status = 'informational', title, text, payload = {} }, ts) {
  const summary = clip(text) || title || words(event.subtype ?? event.type);
  if (family === undefined) return { kind: 'system', ts, text: summary };
  const eventType =
    family === 'model_identity'
      ? 'model.route.changed'
      : `claude.${stringOr(event.subtype ?? event.type, '')}`;
  // The host's pages take entries of one id, or without an id of one time, for one activity that goes on.
  const noticeId = stringOr(event.uuid, '') || `${ts} ${summary}`;
  return {
    kind: 'provider_activity',
    ts,
    family,
    eventType,
    status,
    title,
    summary,
    payload: { noticeId, ...payload },
  };
}

/**
 * Turns one stdout line of a run into transcript entries. An event that says nothing to people gives none. A line that is
 * not an event of a known type becomes one `stdout` entry with the unchanged line, so that nothing is lost.
 *
 * @param {string} line
 * @param {string} ts
 * @returns {TranscriptEntry[]}
 */
function parseStdoutLine(line, ts) {
  const event = parseJsonObject(line);
  if (event !== null) return entriesOf(event, ts) ?? [{ kind: 'stdout', ts, text: line }];
  const parts = isJson(line) ? [] : eventsInside(line);
  if (parts.length === 0) return [{ kind: 'stdout', ts, text: line }];
  return parts.flatMap((part) => {
    if (typeof part !== 'string') {
      return entriesOf(part, ts) ?? [{ kind: 'stdout', ts, text: JSON.stringify(shallow(part)) }];
    }
    return isVisible(part) ? [{ kind: 'stdout', ts, text: part }] : [];
  });
}

/**
 * @param {JsonObject} event
 * @param {string} ts
 * @returns {TranscriptEntry[] | null} null: not an event of a known type and shape
 */
function entriesOf(event, ts) {
  switch (event.type) {
    case 'assistant':
      return messageEntries(event, ts, assistantEntry);
    case 'user':
      return messageEntries(event, ts, userEntry);
    case 'result':
      return [resultEntry(event, ts)];
  }
  if (event.type === 'system' && event.subtype === 'init') {
    const model = stringOr(event.model, 'unknown');
    return [{ kind: 'init', ts, model, sessionId: stringOr(event.session_id, '') }];
  }
  const activity = activityOf(event);
  if (activity === undefined) return null;
  return activity === null ? [] : [activityEntry(event, activity, ts)];
}

/**
 * @param {JsonObject} event
 * @param {string} ts
 * @param {typeof assistantEntry} entryOf
 * @returns {TranscriptEntry[] | null}
 */
function messageEntries(event, ts, entryOf) {
  const { content } = objectOrNull(event.message) ?? {};
  if (typeof content !== 'string' && !Array.isArray(content)) return null;
  const mark = subagentMark(event);
  const read = contentBlocks(event).map((block) => entryOf(block, ts, mark));
  const known = read.filter((entry) => entry !== null);
  if (known.length === 0) return [{ kind: 'stdout', ts, text: `${mark}(empty message)` }];
  return known.filter((entry) => entry !== 'nothing');
}

exports.parseStdoutLine = parseStdoutLine;
// For js/print.js, which shows the same to people at a terminal.
exports.eventsInside = eventsInside;
exports.entriesOf = entriesOf;
exports.toolResultText = toolResultText;
exports.shallow = shallow;
exports.subagentMark = subagentMark;
