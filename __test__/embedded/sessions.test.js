// Which session a run resumes, and what it does about one that cannot be resumed.
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { agentLines, clusterForHost, hostRun, leftovers } from '../support/host.js';
import { temporaryFolder } from '../support/temporary.js';

const adapter = createServerAdapter();
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  expect(await leftovers(cluster)).toEqual([]);
  await cluster.stop();
});

async function play(options) {
  const { ctx, output } = hostRun(cluster, options);
  const result = await adapter.execute(ctx);
  return { output, result };
}

/** What the fake CLI says that it was called with. */
const seen = ({ result }) => JSON.parse(result.summary ?? '');

/** A stored session, as the host passes it. */
const stored = (params) => ({
  sessionId: params.sessionId,
  sessionParams: adapter.sessionCodec.deserialize(params),
});

it('a session that the CLI does not know is followed by a new one in the same run', async () => {
  const known = path.join(temporaryFolder('sessions'), 'known');
  writeFileSync(known, '');
  const sessionId = randomUUID();
  const { output, result } = await play({
    env: { CLAUDE_STAND_IN_KNOWN_SESSIONS: known },
    runtime: stored({ sessionId }),
  });
  expect(result).toMatchObject({
    exitCode: 0,
    errorMessage: null,
    summary: 'All done.',
    clearSession: false,
  });
  expect(result.sessionId).not.toBe(sessionId);
  expect(output.stdout).toContain(
    `[paperclip] Claude session "${sessionId}" is not known to the CLI — starting again with a new session`,
  );
  expect(output.stdout.match(/Created K8s Job: (\S+)/g)).toHaveLength(2);
  expect(output.stdout).toMatch(/Created K8s Job: ac-agent-\S+-f in namespace/);
  // The CLI says it on stderr as well.
  const events = agentLines(output).flatMap((line) => (line.startsWith('{') ? [JSON.parse(line)] : []));
  expect(events[0]).toMatchObject({ type: 'result', is_error: true });
  expect(events[1]).toMatchObject({ type: 'system', subtype: 'init' });
  expect(output.meta).toHaveLength(2);
});

it('a session is resumed with what it was saved with, and with nothing else', async () => {
  const agent = { id: `agent-${randomUUID()}` };
  const servers = [{ name: 'tasks', url: 'http://tasks', connectionId: 'c-1', token: 'secret' }];
  const first = await play({ agent });
  const params = first.result.sessionParams;
  expect(params).toMatchObject({ sessionId: first.result.sessionId, cwd: expect.any(String) });
  const again = (options) => play({ agent, scenario: 'echo-env', runtime: stored(params), ...options });
  expect(seen(await again({})).argv).toEqual(expect.arrayContaining(['--resume', params?.sessionId]));
  for (const [options, why] of [
    [{ context: { paperclipWorkspace: { cwd: temporaryFolder('other') } } }, /was saved for the folder/],
    [{ runtimeMcp: { getServers: () => servers } }, /MCP servers have changed/],
    [{ config: { claudeHome: 'agent' } }, /claudeHome has changed/],
  ]) {
    const other = await again(options);
    expect(seen(other).argv).not.toContain('--resume');
    expect(other.output.stdout).toMatch(
      new RegExp(`is not resumed: .*${why.source}|is not resumed: ${why.source}`),
    );
  }
});

it('an agent with a Claude folder of its own has it on the shared volume', async () => {
  const [shared, own] = await Promise.all(
    ['shared', 'agent'].map((claudeHome) => play({ scenario: 'echo-env', config: { claudeHome } })),
  );
  expect(seen(shared).env.CLAUDE_CONFIG_DIR).toBeUndefined();
  expect(seen(own).env.CLAUDE_CONFIG_DIR).toMatch(/\/\.claude-agents\/agent-[0-9a-f-]+-[0-9a-f]{12}$/);
  expect(own.result.sessionParams).toMatchObject({ claudeHome: expect.stringContaining('/.claude-agents/') });
});
