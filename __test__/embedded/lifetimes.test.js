// Hosts that stop, are killed and start again; the control plane's part in a run; and the prompt bundle.
import { randomUUID } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { createServerAdapter } from '../../index.js';
import { agentLines, clusterForHost, eventually, gate, hostRun, leftovers, podsOf } from '../support/host.js';
import { killHosts, startHost } from '../support/processes.js';
import { listenOnLoopback } from '../support/server.js';
import { temporaryFolder } from '../support/temporary.js';

const adapter = createServerAdapter();
let cluster;

beforeAll(async () => {
  cluster = await clusterForHost();
});

afterAll(async () => {
  killHosts();
  await cluster.stop();
});

const host = (what) => startHost(cluster, what);

/** A copy of the package in another folder, with its own addon and so its own runs. */
function copyOfPackage() {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const folder = temporaryFolder('adapter-copy');
  for (const name of ['package.json', 'index.js', 'js']) {
    cpSync(path.join(root, name), path.join(folder, name), { recursive: true });
  }
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

const running = (output) =>
  eventually(() => output.stdout.includes('"subtype":"init"') || output.stdout.includes('tick 1 of'));

describe('SIGTERM to the host', () => {
  it('deletes Job and prompt Secret, and ends a host that has no signal handler', async () => {
    const { child, output, ended } = host({
      options: { scenario: 'hang', config: { promptTemplate: 'x'.repeat(120_000) } },
    });
    await running(output);
    expect(await leftovers(cluster)).toHaveLength(2);
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await leftovers(cluster)).toEqual([]);
  });

  it('deletes the Job of a host that shuts down by itself, and does not end the host during that', async () => {
    const { child, output, ended } = host({ options: { scenario: 'hang' }, listen: true });
    await running(output);
    child.kill('SIGTERM');
    await eventually(async () => (await leftovers(cluster)).length === 0);
    expect(await ended, output.errors).toEqual({ code: 7, signal: null });
    expect(output.heard).toBe(true);
  });

  it('deletes the Jobs of every copy of the package in the host, not only of the first', async () => {
    const { child, output, ended } = host({
      options: { scenario: 'hang' },
      listen: true,
      before: copyOfPackage(),
    });
    await running(output);
    child.kill('SIGTERM');
    await eventually(async () => (await leftovers(cluster)).length === 0);
    expect(await ended, output.errors).toEqual({ code: 7, signal: null });
  });

  it('leaves the Job with hostShutdown: leave, and the next host attaches to it and logs all its lines', async () => {
    const agent = { id: `agent-${randomUUID()}` };
    const last = gate();
    const options = {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '8', ...last.env },
      config: { hostShutdown: 'leave' },
      agent,
    };
    const { child, output, ended } = host({ options });
    await running(output);
    child.kill('SIGTERM');
    expect(await ended).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await leftovers(cluster), 'Job and Secret').toHaveLength(2);
    await attach(agent, last);
  });
});

describe('SIGTERM to a host that takes events', () => {
  /** @type {[string, {hostShutdown?: string, announceHarness?: boolean}, number][]} */
  const rows = [
    ['leaves Job and Secret, and the next host attaches to it', {}, 2],
    ['deletes the Job with hostShutdown: delete', { hostShutdown: 'delete' }, 0],
    ['deletes the Job of a run that does not name its CLI', { announceHarness: false }, 0],
  ];

  it.each(rows)('%s', async (_what, config, left) => {
    const agent = { id: `agent-${randomUUID()}` };
    const last = gate();
    const env = { CLAUDE_STAND_IN_SECONDS: '8', ...last.env };
    const { child, output, ended } = host({
      options: { scenario: 'long', env, config, agent },
      listen: true,
      events: true,
    });
    await running(output);
    const named = {
      eventType: 'adapter.invoke',
      payload: { adapterType: 'claude_local', command: 'claude' },
    };
    const announced = output.events.filter(
      (/** @type {any} */ { eventType }) => eventType === named.eventType,
    );
    expect(announced).toMatchObject(config.announceHarness === false ? [] : [named]);
    child.kill('SIGTERM');
    expect(await ended, output.errors).toEqual({ code: 7, signal: null });
    expect(await leftovers(cluster)).toHaveLength(left);
    if (left) await attach(agent, last);
    else expect(output.result).toMatchObject({ errorCode: 'k8s_host_shutdown' });
  });
});

describe('SIGTERM to a host with 50 runs', () => {
  const runs = 50;
  const count = (output, text) => output.runs.filter(({ stdout }) => stdout.includes(text)).length;

  it.each([
    ['that are all under way', '"subtype":"init"', runs],
    ['some of which are just being created', 'Created K8s Job', 5],
  ])('%s leaves no Job, Secret or pod', async (_what, text, enough) => {
    const { child, output, ended } = host({
      runs,
      options: { scenario: 'hang', config: { promptTemplate: 'x'.repeat(100_000) } },
    });
    await eventually(() => count(output, text) >= enough);
    if (enough === runs) {
      expect(await leftovers(cluster)).toHaveLength(2 * runs);
      expect(await podsOf(cluster)).toHaveLength(runs);
    }
    child.kill('SIGTERM');
    expect(await ended, output.errors).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await leftovers(cluster)).toEqual([]);
    // A shell that is asked to end before it has set its trap lives for its grace period.
    await eventually(async () => (await podsOf(cluster)).length === 0);
    for (const run of output.runs) {
      const uuids = agentLines(run).map((line) => JSON.parse(line).uuid);
      expect(new Set(uuids).size, 'no line twice').toBe(uuids.length);
    }
  });

  it('that are to stay leaves all of them to the next host, which logs every line once', async () => {
    const agent = { id: `agent-${randomUUID()}` };
    const last = gate();
    const options = {
      agent,
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '15', ...last.env },
      config: { hostShutdown: 'leave' },
    };
    const first = host({ runs, options });
    await eventually(() => count(first.output, 'tick 1 of') === runs);
    first.child.kill('SIGTERM');
    expect(await first.ended, first.output.errors).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await leftovers(cluster), 'Jobs and Secrets').toHaveLength(2 * runs);
    const next = host({ runs, options });
    await eventually(() => count(next.output, 'Reattached to pod') === runs);
    last.open();
    expect(await next.ended, next.output.errors).toEqual({ code: 0, signal: null });
    for (const run of next.output.runs) {
      expect(run.result, run.error).toMatchObject({ exitCode: 0, errorMessage: null });
      expect(run.stdout).toContain('[paperclip] Reattaching to in-flight K8s Job');
      const ticks = agentLines(run).flatMap((line) =>
        [...line.matchAll(/tick (\d+) of 30/g)].map(([, n]) => Number(n)),
      );
      expect([...new Set(ticks)]).toEqual(Array.from({ length: 30 }, (_, n) => n + 1));
      const uuids = agentLines(run).map((line) => JSON.parse(line).uuid);
      expect(new Set(uuids).size, 'no line twice').toBe(uuids.length);
    }
    expect(await leftovers(cluster)).toEqual([]);
    await eventually(async () => (await podsOf(cluster)).length === 0);
  });
});

describe('a host that aborts its runs while it stops, as if it had lost them', () => {
  it('leaves the Job with hostShutdown: leave', async () => {
    const agent = { id: `agent-${randomUUID()}` };
    const last = gate();
    const options = {
      scenario: 'long',
      env: { CLAUDE_STAND_IN_SECONDS: '8', ...last.env },
      config: { hostShutdown: 'leave' },
      agent,
    };
    const { child, output, ended } = host({ options, listen: true, abort: true });
    await running(output);
    child.kill('SIGTERM');
    expect(await ended, output.errors).toEqual({ code: 7, signal: null });
    expect(output.result).toMatchObject({ errorCode: 'k8s_host_shutdown' });
    await attach(agent, last);
  });

  it('deletes the Job without hostShutdown', async () => {
    const { child, output, ended } = host({ options: { scenario: 'hang' }, listen: true, abort: true });
    await running(output);
    child.kill('SIGTERM');
    await eventually(async () => (await leftovers(cluster)).length === 0);
    expect(await ended, output.errors).toEqual({ code: 7, signal: null });
  });
});

describe('a host that is killed', () => {
  it('leaves its run to the next one, which logs every line once', async () => {
    const agent = { id: `agent-${randomUUID()}` };
    const last = gate();
    const { child, output, ended } = host({
      options: { scenario: 'long', env: { CLAUDE_STAND_IN_SECONDS: '8', ...last.env }, agent },
    });
    await running(output);
    child.kill('SIGKILL');
    await ended;
    await attach(agent, last);
  });
});

/** A new run of the agent attaches to its live Job and follows it to the end. */
async function attach(agent, last) {
  const { ctx, output } = hostRun(cluster, { agent, runId: 'run-after' });
  const done = adapter.execute(ctx);
  await eventually(() => output.stdout.includes('Reattached to pod'));
  last.open();
  const result = await done;
  expect(result).toMatchObject({ exitCode: 0, errorMessage: null });
  expect(output.stdout).toMatch(
    /\[paperclip\] Reattaching to in-flight K8s Job \S+ in namespace paperclip \(prior run \S+\)/,
  );
  expect(output.stdout).toMatch(/\[paperclip\] Reattached to pod ac-agent/);
  const ticks = agentLines(output).flatMap((line) =>
    [...line.matchAll(/tick (\d+) of/g)].map(([, n]) => Number(n)),
  );
  const unique = [...new Set(ticks)];
  expect(unique).toEqual(unique.map((_, index) => index + 1));
  const uuids = agentLines(output).map((line) => JSON.parse(line).uuid);
  expect(new Set(uuids).size, 'no line twice').toBe(uuids.length);
  expect(await leftovers(cluster)).toEqual([]);
}

describe('the control plane', () => {
  it('cancels a run by reporting it as cancelled', async () => {
    const asked = [];
    const server = createServer((request, response) => {
      asked.push([request.url, request.headers.authorization]);
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ status: 'cancelled' }));
    });
    process.env.PAPERCLIP_API_URL = `http://127.0.0.1:${await listenOnLoopback(server)}`;
    try {
      const { ctx, output } = hostRun(cluster, { scenario: 'hang', authToken: 'run-token' });
      const result = await adapter.execute(ctx);
      expect(result).toMatchObject({ errorCode: 'cancelled', errorMessage: 'Run cancelled', exitCode: null });
      expect(output.stdout).toMatch(/\[paperclip\] Run cancelled externally — deleting Job ac-agent/);
      expect(asked).toEqual([[`/api/heartbeat-runs/${ctx.runId}`, 'Bearer run-token']]);
      expect(await leftovers(cluster)).toEqual([]);
    } finally {
      delete process.env.PAPERCLIP_API_URL;
      server.close();
    }
  });
});

describe('the prompt bundle', () => {
  it('has instructions and skills, and the CLI gets its path', async () => {
    const home = temporaryFolder('bundle');
    const skill = path.join(home, 'skills', 'demo');
    mkdirSync(skill, { recursive: true });
    writeFileSync(path.join(skill, 'SKILL.md'), '# demo\n');
    const own = path.join(process.env.PAPERCLIP_HOME ?? '', 'instructions');
    mkdirSync(own);
    const instructions = path.join(own, 'AGENTS.md');
    writeFileSync(instructions, 'Be brief.');
    const { ctx, output } = hostRun(cluster, {
      scenario: 'echo-env',
      config: {
        instructionsFilePath: instructions,
        paperclipRuntimeSkills: [{ key: 'org/demo', runtimeName: 'demo', source: skill }],
        paperclipSkillSync: { desiredSkills: ['org/demo'] },
      },
    });
    const result = await adapter.execute(ctx);
    expect(result.errorMessage).toBeNull();
    expect(output.stdout).toContain('[paperclip] Skills bundled (1): demo');
    const { argv } = JSON.parse(result.summary ?? '');
    const bundle = argv[argv.indexOf('--add-dir') + 1];
    expect(bundle).toMatch(/\/instances\/default\/companies\/company-1\/claude-prompt-cache\/[0-9a-f]{64}$/);
    // A skill that is not on the shared volume is copied: a pod would not reach it.
    expect(readFileSync(path.join(bundle, '.claude', 'skills', 'demo', 'SKILL.md'), 'utf8')).toBe('# demo\n');
    const file = argv[argv.indexOf('--append-system-prompt-file') + 1];
    expect(file).toBe(path.join(bundle, 'agent-instructions.md'));
    const text = readFileSync(file, 'utf8');
    expect(text.startsWith('Be brief.\n')).toBe(true);
    expect(text).toContain(`${own}/`);
    expect(text, 'the library of skills, in the words of the host').toContain('org/demo');
    expect(output.meta[0]?.commandNotes).toContain('Skills (1): demo');
  });

  it('logs a warning if the instructions cannot be read, and the CLI gets their path', async () => {
    const { ctx, output } = hostRun(cluster, {
      scenario: 'echo-env',
      config: { instructionsFilePath: '/no/such/AGENTS.md' },
    });
    const result = await adapter.execute(ctx);
    expect(output.stderr).toContain(
      '[paperclip] Warning: could not read agent instructions file "/no/such/AGENTS.md": ENOENT: no such file or directory',
    );
    expect(JSON.parse(result.summary ?? '').argv).toContain('/no/such/AGENTS.md');
  });
});
