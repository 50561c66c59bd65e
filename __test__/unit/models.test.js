import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { isKnownModel, knownModels, listK8sModels, refreshK8sModels } from '../../js/models.js';
import { temporaryFolder } from '../support/temporary.js';

const DIRECT = knownModels();
const ids = (models) => models.map(({ id }) => id);

beforeEach(() => {
  for (const name of [
    'CLAUDE_CODE_USE_BEDROCK',
    'ANTHROPIC_BEDROCK_BASE_URL',
    'ANTHROPIC_API_KEY',
    'ANTHROPIC_AUTH_TOKEN',
    'ANTHROPIC_BASE_URL',
    'CLAUDE_CODE_USE_VERTEX',
    'CLAUDE_CODE_USE_FOUNDRY',
  ])
    vi.stubEnv(name, undefined);
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.useRealTimers();
});

describe('the provider', () => {
  it.each([
    ['nothing set', {}, false],
    ['flag 1', { CLAUDE_CODE_USE_BEDROCK: '1' }, true],
    ['flag true', { CLAUDE_CODE_USE_BEDROCK: 'true' }, true],
    ['flag 0', { CLAUDE_CODE_USE_BEDROCK: '0' }, false],
    ['flag TRUE', { CLAUDE_CODE_USE_BEDROCK: 'TRUE' }, false],
    ['a base URL', { ANTHROPIC_BEDROCK_BASE_URL: 'https://bedrock.example' }, true],
    ['a blank base URL', { ANTHROPIC_BEDROCK_BASE_URL: ' \t' }, false],
    ['a base URL beside flag 0', { CLAUDE_CODE_USE_BEDROCK: '0', ANTHROPIC_BEDROCK_BASE_URL: 'u' }, true],
  ])('with %s', async (_name, env, bedrock) => {
    for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
    const models = await listK8sModels();
    expect(models).toEqual(knownModels());
    expect(models.length).toBeGreaterThan(4);
    for (const { id, label } of models) {
      expect(id).toMatch(bedrock ? /^us\.anthropic\.claude-/ : /^claude-/);
      expect(label).toMatch(bedrock ? /^Bedrock / : /^Claude /);
    }
  });

  it('gives each caller a new list', async () => {
    const first = await listK8sModels();
    first[0].label = 'changed';
    first.length = 1;
    expect(await listK8sModels()).toEqual(DIRECT);
    expect(knownModels()).toEqual(DIRECT);
  });

  it('has each model once, and none that does not exist', () => {
    expect(new Set(ids(DIRECT)).size).toBe(DIRECT.length);
    expect(ids(DIRECT)).not.toContain('claude-haiku-4-6');
  });
});

describe('the adapter for Claude beside the host', () => {
  /** A host's program with the package in its `node_modules`. */
  function hostWith(manifest, source) {
    const root = temporaryFolder('models');
    const folder = path.join(root, 'node_modules', '@paperclipai', 'adapter-claude-local');
    mkdirSync(path.join(folder, 'dist'), { recursive: true });
    writeFileSync(
      path.join(folder, 'package.json'),
      typeof manifest === 'string' ? manifest : JSON.stringify(manifest),
    );
    writeFileSync(path.join(folder, 'dist', 'index.js'), source);
    const program = path.join(root, 'host.js');
    writeFileSync(program, '');
    return program;
  }
  const MANIFEST = {
    type: 'module',
    exports: { '.': { types: './dist/index.d.ts', import: './dist/index.js' } },
  };

  async function listIn(program) {
    const before = process.argv[1];
    process.argv[1] = program;
    try {
      return await listK8sModels();
    } finally {
      process.argv[1] = before;
    }
  }

  it('gives its own list', async () => {
    const source = `export const models = [
      { id: 'claude-next', label: 'Claude Next' }, { id: ' claude-plain ' }, { id: 7 }, null,
      { id: 'claude-next', label: 'again' }, { id: '' }];`;
    expect(await listIn(hostWith(MANIFEST, source))).toEqual([
      { id: 'claude-next', label: 'Claude Next' },
      { id: 'claude-plain', label: 'claude-plain' },
    ]);
  });

  it.each([
    ['has no list', MANIFEST, 'export const type = 1;'],
    ['has an empty list', MANIFEST, 'export const models = [];'],
    ['cannot be loaded', MANIFEST, 'throw new Error("broken");'],
    ['exports nothing', { exports: {} }, ''],
    ['is damaged', '{"exports"', ''],
  ])('that %s leaves the list of this package', async (_name, manifest, source) => {
    expect(await listIn(hostWith(manifest, source))).toEqual(DIRECT);
  });

  it('is not searched without a program', async () => {
    expect(await listIn(undefined)).toEqual(DIRECT);
    expect(await listIn('/not/there.js')).toEqual(DIRECT);
  });
});

describe('the Messages API', () => {
  let requests = [];
  let answer;
  let server;

  beforeEach(async () => {
    requests = [];
    answer = (_request, response) =>
      response.end(
        JSON.stringify({
          data: [{ id: 'claude-new', display_name: 'Claude New' }, { id: 'claude-opus-5' }, { id: 3 }, null],
        }),
      );
    server = createServer((request, response) => {
      requests.push({ url: request.url, headers: request.headers });
      answer(request, response);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    vi.stubEnv('ANTHROPIC_BASE_URL', `http://127.0.0.1:${server.address().port}/`);
    vi.stubEnv('ANTHROPIC_API_KEY', 'sk-one');
  });
  afterEach(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });

  it('gives its models first, and is asked with the key', async () => {
    const models = await refreshK8sModels();
    expect(ids(models).slice(0, 2)).toEqual(['claude-new', 'claude-opus-5']);
    expect(new Set(ids(models))).toEqual(new Set(['claude-new', ...ids(DIRECT)]));
    expect(models[0].label).toBe('Claude New');
    expect(requests).toMatchObject([
      { url: '/v1/models?limit=500', headers: { 'x-api-key': 'sk-one', 'anthropic-version': '2023-06-01' } },
    ]);
  });

  it('is asked with the token where there is no key', async () => {
    vi.stubEnv('ANTHROPIC_API_KEY', ' ');
    vi.stubEnv('ANTHROPIC_AUTH_TOKEN', 'token');
    expect(ids(await listK8sModels())).toContain('claude-new');
    expect(requests[0].headers).toMatchObject({ authorization: 'Bearer token' });
    expect(requests[0].headers).not.toHaveProperty('x-api-key');
  });

  it('is not asked without a key', async () => {
    vi.stubEnv('ANTHROPIC_API_KEY', undefined);
    expect(await refreshK8sModels()).toEqual(DIRECT);
    vi.stubEnv('ANTHROPIC_API_KEY', 'sk-one');
    vi.stubEnv('CLAUDE_CODE_USE_BEDROCK', '1');
    await refreshK8sModels();
    expect(requests).toEqual([]);
  });

  it('is asked once a minute, and by refreshModels', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    await refreshK8sModels();
    await Promise.all([listK8sModels(), listK8sModels()]);
    expect(requests).toHaveLength(1);
    vi.setSystemTime(Date.now() + 59_000);
    await listK8sModels();
    expect(requests).toHaveLength(1);
    await refreshK8sModels();
    expect(requests).toHaveLength(2);
    vi.setSystemTime(Date.now() + 60_000);
    await listK8sModels();
    expect(requests).toHaveLength(3);
  });

  it('is asked again for another key', async () => {
    await refreshK8sModels();
    vi.stubEnv('ANTHROPIC_API_KEY', 'sk-two');
    await listK8sModels();
    expect(requests.map(({ headers }) => headers['x-api-key'])).toEqual(['sk-one', 'sk-two']);
  });

  it.each([
    ['an error', (_request, response) => response.writeHead(500).end('{"data":[{"id":"x"}]}')],
    ['no JSON', (_request, response) => response.end('<html>')],
    ['another shape', (_request, response) => response.end('{"data":{"id":"x"}}')],
    ['a closed connection', (request) => request.socket.destroy()],
    [
      'a redirect',
      (_request, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/elsewhere' }).end(),
    ],
  ])('that answers with %s hides no model', async (_name, failing) => {
    vi.stubEnv('ANTHROPIC_API_KEY', `sk-${_name}`);
    const good = answer;
    answer = failing;
    expect(await refreshK8sModels()).toEqual(DIRECT);
    answer = good;
    expect(ids(await refreshK8sModels())).toContain('claude-new');
    answer = failing;
    expect(ids(await refreshK8sModels())).toContain('claude-new');
  });

  it('that does not answer is given up', async () => {
    vi.stubEnv('ANTHROPIC_API_KEY', 'sk-slow');
    answer = () => {};
    const limit = vi.spyOn(AbortSignal, 'timeout').mockImplementation(() => AbortSignal.abort());
    try {
      expect(await refreshK8sModels()).toEqual(DIRECT);
      expect(limit).toHaveBeenCalledWith(5000);
    } finally {
      limit.mockRestore();
    }
  });
});

describe('a model', () => {
  it.each([
    ['claude-opus-5', {}, true],
    ['claude-haiku-4-5-20251001', {}, true],
    ['claude-sonnet-5[1m]', {}, true],
    ['opusplan', {}, true],
    ['', {}, true],
    ['claude-opus-99', {}, false],
    ['gpt-5', {}, false],
    ['claude-opus-5', { CLAUDE_CODE_USE_BEDROCK: '1' }, false],
    ['us.anthropic.claude-opus-4-8-v1', { CLAUDE_CODE_USE_BEDROCK: '1' }, true],
    ['arn:aws:bedrock:us-east-1:1:inference-profile/x', { CLAUDE_CODE_USE_BEDROCK: '1' }, true],
    ['anything', { ANTHROPIC_BASE_URL: 'https://gateway.example' }, true],
    ['anything', { CLAUDE_CODE_USE_VERTEX: '1' }, true],
  ])('%s is known with %j: %s', async (model, env, known) => {
    for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
    expect(await isKnownModel(model)).toBe(known);
  });
});
