// What people are shown of each kind of line in event-lines.jsonl: in the host's transcript and at a terminal.

const tokens = (text = 'in=0 out=0 cached=0 cost=$0.000000') => `tokens: ${text}`;
const DONE = tokens('in=12 out=34 cached=0 cost=$0.500000');

/** @param {string} text */
const system = (text) => ({ entries: [{ kind: 'system', text }], printed: [text] });

/**
 * @param {string} family
 * @param {string} status
 * @param {string} title
 * @param {string} summary
 * @param {object} [payload]
 */
const activity = (family, status, title, summary, payload = {}) => ({
  entries: [{ kind: 'provider_activity', family, status, title, summary, payload }],
  printed: [`${title}: ${summary}`],
});

/**
 * @param {string} title
 * @param {string} summary
 * @param {string} [status]
 */
const notice = (title, summary, status = 'informational') =>
  activity('provider_notice', status, title, summary);

const NOTHING = { entries: [], printed: [] };
/** Of the agent's program and not of the CLI: shown as it is, at a terminal in debug mode only. */
const UNKNOWN = /** @type {{entries: 'stdout', printed: null}} */ ({ entries: 'stdout', printed: null });
/** @param {object} fields */
const result = (fields) => ({ kind: 'result', ...fields });

/**
 * @type {Record<string, {
 *   entries: object[] | 'stdout',
 *   printed: string[] | null,
 * }>} `stdout`: the line itself; null: the line itself, in debug mode only
 */
export const SHOWN = {
  text: { entries: 'stdout', printed: ['npm warn config: plain text between the events'] },
  'JSON without a type': UNKNOWN,
  'system/init': {
    entries: [{ kind: 'init', model: 'claude-opus-4-8', sessionId: 's-1' }],
    printed: ['Claude initialized (model: claude-opus-4-8, session: s-1)'],
  },
  'system/api_retry': notice('API retry', 'API 529 (overloaded), attempt 1 of 1, in 0.5 s'),
  'system/thinking_tokens': NOTHING,
  'system/background_tasks_changed': system('Background tasks: Wait'),
  'system/task_started': activity('tool_execution', 'running', 'Background task', 'Wait', {
    executionId: 'task:b-1',
  }),
  'system/task_updated': activity('tool_execution', 'completed', 'Background task', 'completed', {
    executionId: 'task:b-1',
  }),
  'system/task_notification': activity('tool_execution', 'completed', 'Background task', 'done', {
    executionId: 'task:b-1',
  }),
  'assistant/text': {
    entries: [{ kind: 'assistant', text: 'naïve café ✓' }],
    printed: ['assistant: naïve café ✓'],
  },
  'assistant/thinking': {
    entries: [{ kind: 'thinking', text: 'Let me see.' }],
    printed: ['thinking: Let me see.'],
  },
  'assistant/redacted_thinking': NOTHING,
  'assistant/tool_use': {
    entries: [{ kind: 'tool_call', name: 'Bash', toolUseId: 'toolu_1', input: { command: 'ls' } }],
    printed: ['tool_call: Bash', '{\n  "command": "ls"\n}'],
  },
  assistant: { entries: [{ kind: 'stdout', text: '(empty message)' }], printed: [] },
  'user/text': { entries: [{ kind: 'user', text: 'go on' }], printed: ['user: go on'] },
  'user/tool_result': {
    entries: [{ kind: 'tool_result', toolUseId: 'toolu_1', content: 'one\n[image]\ntwo', isError: false }],
    printed: ['tool_result', 'one\n[image]\ntwo'],
  },
  'user/tool_result (error)': {
    entries: [{ kind: 'tool_result', content: 'Exit code 3', isError: true }],
    printed: ['tool_result (error)', 'Exit code 3'],
  },
  'result/success': {
    entries: [
      result({
        text: 'Done.',
        inputTokens: 12,
        outputTokens: 34,
        cachedTokens: 9,
        costUsd: 0.5,
        isError: false,
      }),
    ],
    printed: ['result:', 'Done.', 'tokens: in=12 out=34 cached=9 cost=$0.500000'],
  },
  'result/success after a terminal title': {
    entries: [result({ text: 'Done.', inputTokens: 12, costUsd: 0.5 })],
    printed: ['result:', 'Done.', 'tokens: in=12 out=34 cached=9 cost=$0.500000'],
  },
  'result/success after text': {
    entries: [{ kind: 'stdout', text: 'warning: no newline' }, result({ text: 'Done.' })],
    printed: ['warning: no newline', 'result:', 'Done.', tokens()],
  },
  'result/success (error)': {
    entries: [result({ text: 'Invalid API key', subtype: 'success', isError: true })],
    printed: ['result:', 'Invalid API key', 'claude_result: subtype=success is_error=true', tokens()],
  },
  'result/error_max_turns (error)': {
    entries: [result({ text: '', subtype: 'error_max_turns', isError: true })],
    printed: ['claude_result: subtype=error_max_turns is_error=true', DONE],
  },
  'result/error_during_execution (error)': {
    entries: [result({ isError: true, errors: ['No conversation found with session ID: s-2'] })],
    printed: [
      'claude_result: subtype=error_during_execution is_error=true',
      'claude_errors: No conversation found with session ID: s-2',
      tokens(),
    ],
  },
  rate_limit_event: {
    ...notice('Usage limit', '5-hour limit, allowed, resets 1970-01-01 00:01 UTC'),
    printed: ['rate_limit: type=five_hour status=allowed resets=1970-01-01T00:01:00.000Z'],
  },
  stream_event: NOTHING,
  'system/compact_boundary': activity(
    'context',
    'completed',
    'Context compacted',
    'Context compacted (190k to 12k tokens)',
    { reason: 'auto', preTokens: 190_123, postTokens: 12_345 },
  ),
  'system/status': system('The context is being compacted'),
  'system/control_request_progress': notice('API retry', 'The API did not answer, attempt 2 of 10, in 1 s'),
  'system/model_fallback': activity(
    'model_identity',
    'completed',
    'Model changed',
    'Switched to Sonnet 5 because Opus 5 is overloaded',
    { fromModel: 'claude-opus-5', effectiveModel: 'claude-sonnet-5', reason: 'overloaded' },
  ),
  'system/model_consent_fallback': activity(
    'model_identity',
    'completed',
    'Model changed',
    'from claude-opus-5, to claude-sonnet-5',
  ),
  'system/model_refusal_fallback': activity(
    'model_identity',
    'completed',
    'Model changed',
    'Opus 5 declined; Sonnet 5 answers',
    { reason: 'refusal' },
  ),
  'system/model_refusal_no_fallback': activity(
    'safety',
    'failed',
    'Model refused',
    'The model declined, cyber',
  ),
  'system/local_command': system('/compact'),
  'system/local_command_output': system('Total cost: $0.10'),
  'system/hook_started': NOTHING,
  'system/hook_progress': NOTHING,
  'system/hook_response': activity(
    'hook',
    'failed',
    'Hook failed',
    'PreToolUse:Bash, exit code 2, not here',
    { hookId: 'h-1' },
  ),
  'system/plugin_install': notice('Plugin', 'lint failed, not found', 'failed'),
  'system/task_progress': activity(
    'tool_execution',
    'running',
    'Subagent Explore',
    'Read the tests, last tool Read, 12k tokens, 4.2 s',
    { executionId: 'task:b-1' },
  ),
  'system/session_state_changed': NOTHING,
  'system/worker_shutting_down': notice('Shutdown', 'The CLI shuts down (host exit)'),
  'system/commands_changed': NOTHING,
  'system/notification': notice('Notification', 'Context is low'),
  'system/files_persisted': activity('artifact', 'failed', 'Files saved', 'a.txt, not saved: b.txt'),
  'system/memory_recall': activity('memory', 'completed', 'Memory recalled', '/memory/style.md'),
  'system/memory_saved': activity('memory', 'completed', 'Memory saved', '/memory/new.md'),
  'system/elicitation_complete': notice('MCP server', 'tracker was answered'),
  'system/permission_denied': activity(
    'safety',
    'completed',
    'Permission denied',
    'Bash, rm is not allowed',
    { decision: 'denied' },
  ),
  'system/mirror_error': notice('Session not mirrored', 'store is away', 'failed'),
  'system/informational': notice('Warning', 'Using the extra usage of the plan'),
  'system/session_writes_lost': notice(
    'Session not saved',
    'The transcript and global config could not be written (ENOSPC)',
    'failed',
  ),
  'system/not_known_yet': notice('not known yet', 'level info, count 3'),
  tool_progress: activity('tool_execution', 'informational', 'Tool runs', 'Bash, 30 s', {
    executionId: 'progress:toolu_1',
  }),
  auth_status: notice('Authentication', 'token expired, Visit the page', 'failed'),
  tool_use_summary: system('Read three files'),
  prompt_suggestion: system('Suggested prompt: run the tests'),
  conversation_reset: activity(
    'context',
    'completed',
    'Conversation reset',
    'The conversation starts over, plan mode exit',
  ),
  keep_alive: NOTHING,
  'assistant/server_tool_use': {
    entries: [{ kind: 'tool_call', name: 'web_search', toolUseId: 'srvtoolu_1', input: { query: 'kube' } }],
    printed: ['tool_call: web_search', '{\n  "query": "kube"\n}'],
  },
  'assistant/web_search_tool_result': {
    entries: [
      {
        kind: 'tool_result',
        toolUseId: 'srvtoolu_1',
        content: '[web search result Kubernetes]',
        isError: false,
      },
    ],
    printed: ['tool_result', '[web search result Kubernetes]'],
  },
  'assistant/mcp_tool_use': {
    entries: [{ kind: 'tool_call', name: 'tracker list', toolUseId: 'mcptoolu_1', input: {} }],
    printed: ['tool_call: tracker list', '{}'],
  },
  'assistant/mcp_tool_result': {
    entries: [{ kind: 'tool_result', toolUseId: 'mcptoolu_1', content: 'two tickets', isError: false }],
    printed: ['tool_result', 'two tickets'],
  },
  'assistant/text of a subagent': {
    entries: [{ kind: 'assistant', text: '[subagent abcdef] Found it' }],
    printed: ['assistant: [subagent abcdef] Found it'],
  },
  'assistant/tool_use of a subagent': {
    entries: [
      {
        kind: 'tool_call',
        name: 'Read [subagent Explore abcdef]',
        toolUseId: 'toolu_2',
        input: { file_path: '/a' },
      },
    ],
    printed: ['tool_call: Read [subagent Explore abcdef]', '{\n  "file_path": "/a"\n}'],
  },
  user: { entries: [{ kind: 'user', text: 'go on' }], printed: ['user: go on'] },
  'user/text of a subagent': {
    entries: [{ kind: 'user', text: '[subagent Explore abcdef] Look for tests' }],
    printed: ['user: [subagent Explore abcdef] Look for tests'],
  },
  'user/image': {
    entries: [{ kind: 'user', text: '[image image/png, 2 kB]' }],
    printed: ['user: [image image/png, 2 kB]'],
  },
  'user/tool_result of no text': {
    entries: [
      {
        kind: 'tool_result',
        content: '[image image/png, 300 bytes]\n[tool mcp__tracker__list]',
        isError: false,
      },
    ],
    printed: ['tool_result', '[image image/png, 300 bytes]\n[tool mcp__tracker__list]'],
  },
};
