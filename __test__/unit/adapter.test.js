import { describe, expect, it } from 'vitest';

import { binding } from '../../js/binding.js';
import { getConfigSchema } from '../../js/config-schema.js';
import { createServerAdapter } from '../../js/adapter.js';
import * as root from '../../index.js';
import * as server from '../../js/server.js';
import * as cli from '../../js/cli.js';

const adapter = createServerAdapter();

describe('the entries', () => {
  it('export their documented names and no other', () => {
    expect(Object.keys(root).toSorted()).toEqual([
      'agentConfigurationDoc',
      'createServerAdapter',
      'label',
      'models',
      'printClaudeStreamEvent',
      'type',
    ]);
    expect(Object.keys(server).toSorted()).toEqual([
      'createServerAdapter',
      'execute',
      'sessionCodec',
      'testEnvironment',
    ]);
    expect(Object.keys(cli)).toEqual(['printClaudeStreamEvent']);
  });

  it('name the adapter', () => {
    expect(root.type).toBe('claude_k8s');
    expect(root.label).toBe('Claude (Kubernetes)');
    expect(root.models).toEqual(adapter.models);
    expect(root.models.map(({ id }) => id)).toContain('claude-opus-5');
  });

  it('share their functions', () => {
    expect(server.createServerAdapter).toBe(root.createServerAdapter);
    expect(cli.printClaudeStreamEvent).toBe(root.printClaudeStreamEvent);
    expect(adapter.execute).toBe(server.execute);
    expect(adapter.testEnvironment).toBe(server.testEnvironment);
    expect(adapter.sessionCodec).toBe(server.sessionCodec);
    expect(adapter.agentConfigurationDoc).toBe(root.agentConfigurationDoc);
  });
});

describe('a context that throws when it is read', () => {
  const fails = () => {
    throw new Error('not today');
  };
  it.each(['agent', 'signal', 'onCancellationReady', 'onRuntimeProgress', 'config', 'context', 'runtimeMcp'])(
    '%s_that_throws_fails_the_run_and_frees_its_agent',
    async (member) => {
      const ctx = { runId: 'run-1', agent: { id: 'agent-of-getters', companyId: 'c' }, onLog: () => {} };
      Object.defineProperty(ctx, member, { get: fails });
      const result = await adapter.execute(/** @type {any} */ (ctx));
      expect(result.errorMessage).toContain('not today');
      expect(binding.vitals().queues).toBe(0);
    },
  );
  it.each([
    ['a number that JSON has not', { a: 1n }],
    ['an object that contains itself', circular()],
    ['an object that refuses', { toJSON: fails }],
  ])('%s_fails_the_run', async (_, context) => {
    const ctx = { runId: 'run-1', agent: { id: 'agent-of-json', companyId: 'c' }, context, onLog: () => {} };
    const result = await adapter.execute(/** @type {any} */ (ctx));
    expect(result.exitCode).toBe(null);
    expect(result.errorMessage).toMatch(/BigInt|circular|not today/);
    expect(binding.vitals().queues).toBe(0);
  });
});

/** @returns {Record<string, unknown>} */
function circular() {
  /** @type {Record<string, unknown>} */
  const self = {};
  self.self = self;
  return self;
}

describe('the addon', () => {
  it('exports what production and the tests of leaks use', () => {
    expect(Object.keys(binding).toSorted()).toEqual([
      'Mailbox',
      'RunControl',
      'activeJobs',
      'execute',
      'failedAtTheHost',
      'overview',
      'shutdown',
      'testEnvironment',
      'vitals',
    ]);
  });
});

describe('createServerAdapter', () => {
  it('has exactly its members, in their order', () => {
    expect(Object.keys(adapter)).toEqual([
      'type',
      'execute',
      'testEnvironment',
      'sessionCodec',
      'sessionManagement',
      'models',
      'listModels',
      'refreshModels',
      'listSkills',
      'syncSkills',
      'runtimeToolDelivery',
      'supportsLocalAgentJwt',
      'supportsInstructionsBundle',
      'instructionsPathKey',
      'requiresMaterializedRuntimeSkills',
      'hasOutOfProcessLiveness',
      'agentConfigurationDoc',
      'getConfigSchema',
    ]);
  });

  it('gives the host its capabilities', () => {
    expect(adapter).toMatchObject({
      type: 'claude_k8s',
      models: root.models,
      runtimeToolDelivery: 'native_mcp',
      supportsLocalAgentJwt: true,
      supportsInstructionsBundle: true,
      instructionsPathKey: 'instructionsFilePath',
      requiresMaterializedRuntimeSkills: false,
      hasOutOfProcessLiveness: true,
    });
    expect(adapter.sessionManagement).toStrictEqual({
      supportsSessionResume: true,
      nativeContextManagement: 'confirmed',
      defaultSessionCompaction: {
        enabled: true,
        maxSessionRuns: 0,
        maxRawInputTokens: 0,
        maxSessionAgeHours: 0,
      },
    });
    for (const name of [
      'execute',
      'testEnvironment',
      'listModels',
      'listSkills',
      'syncSkills',
      'getConfigSchema',
    ]) {
      expect(adapter[name], name).toBeTypeOf('function');
    }
    expect(adapter.getConfigSchema()).toEqual(getConfigSchema());
  });

  it('gives a new object with the same members on each call', () => {
    const other = createServerAdapter();
    expect(other).not.toBe(adapter);
    for (const key of Object.keys(adapter)) expect(other[key], key).toBe(adapter[key]);
  });
});

describe('agentConfigurationDoc', () => {
  const doc = root.agentConfigurationDoc;

  it('explains every key of the form', () => {
    for (const { key } of getConfigSchema().fields) {
      expect(doc, key).toContain(key.startsWith('resources.') ? '`resources`' : `\`${key}\``);
    }
  });

  it.each([
    'claude_k8s',
    '`model`',
    '`effort`',
    '`instructionsFilePath`',
    '--append-system-prompt-file',
    '`extraArgs`',
    '`env`',
    '`timeoutSec`',
    '`graceSec`',
    'IfNotPresent',
    '300',
    '50000',
    'resources.limits.cpu',
    'ANTHROPIC_API_KEY',
    'OPENAI_API_KEY',
    'PAPERCLIP_API_URL',
    'imagePullSecrets',
    'busybox',
    'emptyDir',
    '`/paperclip`',
    '`leave`',
  ])('mentions %s', (fact) => {
    expect(doc).toContain(fact);
  });
});

describe('with the installed host’s own helpers', () => {
  it('lists the skills that an agent’s config names', async () => {
    const skills = ['two', 'one'].map((name) => ({
      key: name,
      runtimeName: name,
      source: `/nowhere/${name}`,
    }));
    const snapshot = await adapter.listSkills({
      agentId: 'a',
      companyId: 'c',
      adapterType: 'claude_k8s',
      config: {
        paperclipRuntimeSkills: skills,
        paperclipSkillSync: { desiredSkills: ['one', 'three'] },
      },
    });
    expect(snapshot.desiredSkills).toEqual(['one', 'three']);
    expect(snapshot.entries.filter(({ managed }) => managed).map(({ key, state }) => [key, state])).toEqual([
      ['one', 'configured'],
      ['three', 'missing'],
      ['two', 'available'],
    ]);
  });
});
