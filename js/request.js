import { homedir, tmpdir } from 'node:os';

/**
 * What the native half reads, as JSON: plain data of the host's context, and the environment as it is now (a worker has
 * its own copy, which native code cannot see).
 *
 * @param {{runId?: string, agent?: {id?: string, companyId?: string, name?: string}, runtime?: unknown,
 *   config?: unknown, context?: unknown, authToken?: string, runtimeMcp?: {getServers?: () => unknown},
 *   onRuntimeProgress?: unknown}} ctx
 * @param {NodeJS.ProcessEnv} [hostEnv]
 * @returns {string}
 */
export function requestOf(ctx, hostEnv = process.env) {
  const { id, companyId, name } = ctx.agent ?? {};
  return JSON.stringify({
    runId: ctx.runId,
    agent: { id, companyId, name },
    runtime: ctx.runtime,
    config: withAgentId(ctx.config, id, hostEnv),
    context: ctx.context,
    authToken: ctx.authToken,
    mcpServers: ctx.runtimeMcp?.getServers?.(),
    hasCards: typeof ctx.onRuntimeProgress === 'function',
    hostEnv,
    homeDir: homeDir(),
    tmpDir: tmpdir(),
  });
}

const CUSTOM_HEADERS = 'ANTHROPIC_CUSTOM_HEADERS';
const AGENT_ID_HEADER = 'X-Anthropic-Agent-Id';

/**
 * The configuration with a header on every request of the CLI by which a proxy tells agents apart, as the host sets it for
 * its own adapter. A header that is there already stays, and so do the headers of the host's own pod, which a configured
 * variable would replace.
 *
 * @param {any} config
 * @param {unknown} agentId
 * @param {NodeJS.ProcessEnv} hostEnv
 */
function withAgentId(config, agentId, hostEnv) {
  const id =
    typeof agentId === 'string'
      ? agentId
          .replaceAll(/\p{Cc}/gu, '')
          .trim()
          .slice(0, 256)
      : '';
  const env = config?.env ?? {};
  const headers = env[CUSTOM_HEADERS] ?? '';
  const isText = typeof headers === 'string' && typeof env === 'object' && !Array.isArray(env);
  if (id === '' || !isText || /^\s*x-anthropic-agent-id\s*:/im.test(headers)) return config;
  if (headers === '' && hostEnv[CUSTOM_HEADERS]) return config;
  const header = `${AGENT_ID_HEADER}: ${id.replaceAll('$', '$$$$')}`;
  return { ...config, env: { ...env, [CUSTOM_HEADERS]: headers ? `${headers}\n${header}` : header } };
}

/** The home directory of this process's user; empty when it has none. Only runs without `PAPERCLIP_HOME` need it. */
export function homeDir() {
  try {
    return homedir();
  } catch {
    return '';
  }
}
