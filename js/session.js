/** @typedef {import('../index.js').ClaudeK8sSessionParams} SessionParams */

/**
 * Every stored field with its accepted spellings, the preferred one first.
 *
 * @type {ReadonlyArray<readonly [keyof SessionParams, readonly string[]]>}
 */
const FIELDS = [
  ['sessionId', ['sessionId', 'session_id']],
  ['cwd', ['cwd', 'workdir', 'folder']],
  ['workspaceId', ['workspaceId', 'workspace_id']],
  ['repoUrl', ['repoUrl', 'repo_url']],
  ['repoRef', ['repoRef', 'repo_ref']],
  ['promptBundleKey', ['promptBundleKey', 'prompt_bundle_key']],
  ['mcpServerIdentity', ['mcpServerIdentity', 'mcp_server_identity']],
  ['namespace', ['namespace']],
  ['volumeClaim', ['volumeClaim', 'volume_claim']],
  ['claudeHome', ['claudeHome', 'claude_home']],
];

/**
 * The first of `spellings` that holds a non-blank string, trimmed.
 *
 * @param {Record<string, unknown>} source
 * @param {readonly string[]} spellings
 * @returns {string | undefined}
 */
function firstText(source, spellings) {
  for (const spelling of spellings) {
    const value = source[spelling];
    const text = typeof value === 'string' ? value.trim() : '';
    if (text !== '') return text;
  }
  return undefined;
}

/**
 * @param {Record<string, unknown>} source
 * @returns {SessionParams | null}
 */
function normalize(source) {
  /** @type {Partial<SessionParams>} */
  const params = {};
  for (const [field, spellings] of FIELDS) {
    const text = firstText(source, spellings);
    if (text !== undefined) params[field] = text;
  }
  const { sessionId } = params;
  return sessionId === undefined ? null : { ...params, sessionId };
}

/**
 * Translates between what the host stores for a task and what a run needs to resume its session.
 *
 * @type {import('../index.js').ClaudeK8sSessionCodec}
 */
export const sessionCodec = {
  deserialize(raw) {
    if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) return null;
    return normalize(/** @type {Record<string, unknown>} */ (raw));
  },

  serialize(params) {
    return params ? normalize(params) : null;
  },

  getDisplayId(params) {
    return params ? (firstText(params, ['sessionId', 'session_id']) ?? null) : null;
  },
};
