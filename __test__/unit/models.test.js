import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { listK8sModels } from '../../js/models.js';

const DIRECT = [
  ['claude-opus-4-7', 'Claude Opus 4.7'],
  ['claude-opus-4-6', 'Claude Opus 4.6'],
  ['claude-sonnet-4-6', 'Claude Sonnet 4.6'],
  ['claude-haiku-4-6', 'Claude Haiku 4.6'],
  ['claude-sonnet-4-5-20250929', 'Claude Sonnet 4.5'],
  ['claude-haiku-4-5-20251001', 'Claude Haiku 4.5'],
];
const BEDROCK = [
  ['us.anthropic.claude-opus-4-7', 'Bedrock Opus 4.7'],
  ['us.anthropic.claude-opus-4-6-v1', 'Bedrock Opus 4.6'],
  ['us.anthropic.claude-sonnet-4-6', 'Bedrock Sonnet 4.6'],
  ['us.anthropic.claude-sonnet-4-5-20250929-v1:0', 'Bedrock Sonnet 4.5'],
  ['us.anthropic.claude-haiku-4-5-20251001-v1:0', 'Bedrock Haiku 4.5'],
];

const pairs = async () => (await listK8sModels()).map(({ id, label }) => [id, label]);

beforeEach(() => {
  vi.stubEnv('CLAUDE_CODE_USE_BEDROCK', undefined);
  vi.stubEnv('ANTHROPIC_BEDROCK_BASE_URL', undefined);
});
afterEach(() => vi.unstubAllEnvs());

describe('listK8sModels', () => {
  it.each([
    ['nothing set', {}, DIRECT],
    ['flag 1', { CLAUDE_CODE_USE_BEDROCK: '1' }, BEDROCK],
    ['flag true', { CLAUDE_CODE_USE_BEDROCK: 'true' }, BEDROCK],
    ['flag 0', { CLAUDE_CODE_USE_BEDROCK: '0' }, DIRECT],
    ['flag TRUE', { CLAUDE_CODE_USE_BEDROCK: 'TRUE' }, DIRECT],
    ['a base URL', { ANTHROPIC_BEDROCK_BASE_URL: 'https://bedrock.example' }, BEDROCK],
    ['a blank base URL', { ANTHROPIC_BEDROCK_BASE_URL: ' \t' }, DIRECT],
    ['a base URL beside flag 0', { CLAUDE_CODE_USE_BEDROCK: '0', ANTHROPIC_BEDROCK_BASE_URL: 'u' }, BEDROCK],
  ])('with %s', async (_name, env, expected) => {
    for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
    expect(await pairs()).toEqual(expected);
  });

  it('gives each caller a new list', async () => {
    const first = await listK8sModels();
    first[0].label = 'changed';
    first.length = 1;
    expect(await pairs()).toEqual(DIRECT);
  });
});
