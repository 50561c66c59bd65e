// How the CLI can end a run: for each ending what the fake CLI plays. The host's own adapter and this one are called with the
// same variables, so that the same lines and the same exit reach both.
import { recordedLines } from './recordings.js';

/**
 * One ending. `env` makes the fake CLI play it; `resumed` endings are met by the second run of a task only, which resumes
 * the session of the first one.
 *
 * @typedef {object} Ending
 * @property {string} name as the table names it
 * @property {Record<string, string>} env
 * @property {object} [config]
 * @property {boolean} [resumed]
 * @property {boolean} [cancel] the board cancels the run once its CLI has begun
 */

const eventsOf = (name) => recordedLines(name).map((line) => JSON.parse(line));
const SUCCESS = eventsOf('2.1.197/success');
const [INIT] = SUCCESS;
const ASSISTANT = SUCCESS.find(({ type }) => type === 'assistant');
const RESULT = SUCCESS.at(-1);
const API_ERROR = eventsOf('2.1.330/auth');

/**
 * @param {(string | object)[]} lines
 * @param {{code?: number, signal?: number, stderr?: string, resumed?: boolean}} [end]
 * @returns {Ending['env']}
 */
const script = (lines, { code = 0, signal, stderr, resumed = false } = {}) => ({
  CLAUDE_STAND_IN_SCENARIO: 'script',
  CLAUDE_STAND_IN_EVENTS: lines
    .map((line) => (typeof line === 'string' ? line : JSON.stringify(line)))
    .join('\n'),
  CLAUDE_STAND_IN_EXIT_CODE: String(code),
  ...(signal !== undefined && { CLAUDE_STAND_IN_SIGNAL: String(signal) }),
  ...(stderr !== undefined && { CLAUDE_STAND_IN_STDERR: stderr }),
  ...(resumed && { CLAUDE_STAND_IN_ONLY_RESUMED: '1' }),
});
const scenario = (name, more = {}) => ({ CLAUDE_STAND_IN_SCENARIO: name, ...more });

const says = (text, more = {}) => ({
  ...ASSISTANT,
  message: { ...ASSISTANT.message, content: [{ type: 'text', text }] },
  ...more,
});
const result = (more) => ({ ...RESULT, ...more });

/** The events with which the CLI reports an error of the API: its own message, and the result. */
function apiError(status, error, text, before = []) {
  const [, assistant] = API_ERROR.filter(({ type }) => type !== 'result').slice(-2);
  const last = API_ERROR.at(-1);
  const api = { api_error_status: status, api_error_type: undefined };
  const message = { ...assistant.message, content: [{ type: 'text', text }] };
  return [INIT, ...before, { ...assistant, ...api, error, message }, { ...last, ...api, result: text }];
}

/** @returns {Ending} */
const ofApi = (name, status, error, text, before) => ({
  name,
  env: script(apiError(status, error, text, before), { code: 1 }),
});
/** @returns {Ending} */
const brokenSession = (name, text) => ({
  name,
  resumed: true,
  env: script(apiError(400, 'invalid_request', text), { code: 1, resumed: true }),
});

/** When the limit of the ending with a reset time in an event ends: a whole minute, some hours from now. */
export const RESETS_AT = Math.floor(Date.now() / 60_000) * 60 + 3 * 3600;

/** @type {Ending[]} */
export const endings = [
  // What the CLI has used up.
  { name: 'out of turns', env: scenario('max-turns') },
  {
    name: 'out of its budget',
    env: script([INIT, says('So far.'), result({ subtype: 'error_max_budget_usd', is_error: true })], {
      code: 1,
    }),
  },
  {
    name: 'out of turns by its text only',
    env: script([INIT, says('I read about max turns, the maximum number of turns.')], { code: 1 }),
  },
  ofApi(
    'usage limit, reset time in its text',
    429,
    'rate_limit',
    "You've hit your limit · resets 5pm (America/New_York)",
  ),
  ofApi(
    'session limit, reset time in its text',
    429,
    'rate_limit',
    "You've hit your session limit · resets 3:30am (UTC)",
  ),
  ofApi('usage limit, reset time in an event', 429, 'rate_limit', "You've hit your limit", [
    {
      type: 'rate_limit_event',
      rate_limit_info: { status: 'rejected', resetsAt: RESETS_AT, rateLimitType: 'five_hour' },
      session_id: INIT.session_id,
      uuid: INIT.uuid,
    },
  ]),
  ofApi('out of extra usage', 429, 'rate_limit', "You're out of extra usage · resets 4pm (America/Chicago)"),
  ofApi('credit used up', 400, 'billing_error', 'Credit balance is too low'),

  // The API does not answer as it should.
  ofApi('API answers 429', 429, 'rate_limit', 'API Error: Request rejected (429) · too many requests'),
  ofApi('API answers 500', 500, 'server_error', 'API Error: 500 Internal server error'),
  ofApi('API answers 503', 503, 'server_error', 'API Error: 503 Service unavailable'),
  { name: 'API answers 529', env: scenario('overload') },
  { name: 'API refuses the connection', env: scenario('unreachable') },
  ofApi('prompt too long', 400, 'invalid_request', 'Prompt is too long'),

  // The CLI may not use it.
  { name: 'API key invalid', env: scenario('auth') },
  ofApi(
    'OAuth token expired',
    401,
    'authentication_failed',
    'Failed to authenticate. API Error: 401 OAuth token has expired. Please obtain a new token or refresh your existing token.',
  ),
  ofApi('not logged in', null, 'authentication_failed', 'Not logged in · Please run /login'),
  ofApi(
    'organisation not allowed',
    403,
    'oauth_org_not_allowed',
    'Your organization does not have access to Claude. Please login again or contact your administrator.',
  ),
  ofApi(
    'model unknown',
    404,
    'model_not_found',
    "There's an issue with the selected model (claude-nothing): model not found. Run --model to pick a different model.",
  ),
  {
    name: 'model refuses',
    env: script([
      INIT,
      says('I cannot help with that.'),
      result({ result: 'I cannot help with that.', stop_reason: 'refusal' }),
    ]),
  },

  // The session cannot be resumed.
  {
    name: 'session unknown',
    resumed: true,
    env: scenario('success', { CLAUDE_STAND_IN_KNOWN_SESSIONS: '/nowhere/sessions' }),
  },
  brokenSession(
    'session with an image that cannot be processed',
    'API Error: 400 messages.3.content.1.image.source: Could not process image',
  ),
  brokenSession(
    'session with a message id that is refused',
    'API Error: 400 diagnostics.previous_message_id: expected a string that starts with `msg_`',
  ),

  // How the process ends.
  {
    name: 'success, then SIGTERM',
    env: script(SUCCESS, { code: 143 }),
  },
  { name: 'success, then exit 1', env: script(SUCCESS, { code: 1 }) },
  { name: 'error in the result, exit 0', env: script([INIT, result({ is_error: true, result: 'Cannot.' })]) },
  {
    name: 'error during execution',
    env: script(
      [
        INIT,
        result({ subtype: 'error_during_execution', is_error: true, result: undefined, errors: ['Broken.'] }),
      ],
      { code: 1 },
    ),
  },
  { name: 'exit 1 without a result', env: script([INIT, says('I begin.')], { code: 1, stderr: 'Broken.' }) },
  { name: 'exit 137 without a result', env: script([INIT, says('I begin.')], { code: 137 }) },
  { name: 'SIGKILL without a result', env: scenario('truncated') },
  { name: 'crash', env: scenario('crash') },
  { name: 'no output, exit 0', env: scenario('mute') },
  { name: 'no output, exit 1', env: script([], { code: 1 }) },
  { name: 'text that is no JSON, exit 1', env: script(['Segfault at 0', '{"type":'], { code: 1 }) },
  { name: 'time limit', env: scenario('hang'), config: { timeoutSec: 8, graceSec: 1 } },
  { name: 'cancel by the board', env: scenario('hang'), cancel: true },
];
