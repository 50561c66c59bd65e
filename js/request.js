import { homedir, tmpdir } from 'node:os';

/**
 * What the native half reads, as JSON: plain data of the host's context, and the environment as it is now (a worker has
 * its own copy, which native code cannot see).
 *
 * @param {{runId?: string, agent?: {id?: string, companyId?: string, name?: string}, runtime?: unknown,
 *   config?: unknown, context?: unknown, authToken?: string}} ctx
 * @param {NodeJS.ProcessEnv} [hostEnv]
 * @returns {string}
 */
export function requestOf(ctx, hostEnv = process.env) {
  const { id, companyId, name } = ctx.agent ?? {};
  return JSON.stringify({
    runId: ctx.runId,
    agent: { id, companyId, name },
    runtime: ctx.runtime,
    config: ctx.config,
    context: ctx.context,
    authToken: ctx.authToken,
    hostEnv,
    homeDir: homeDir(),
    tmpDir: tmpdir(),
  });
}

/** The home directory of this process's user; empty when it has none. Only runs without `PAPERCLIP_HOME` need it. */
export function homeDir() {
  try {
    return homedir();
  } catch {
    return '';
  }
}
