/** @typedef {import('@paperclipai/adapter-utils').AdapterModel} AdapterModel */

/** @type {readonly AdapterModel[]} */
const DIRECT_MODELS = [
  { id: 'claude-opus-4-7', label: 'Claude Opus 4.7' },
  { id: 'claude-opus-4-6', label: 'Claude Opus 4.6' },
  { id: 'claude-sonnet-4-6', label: 'Claude Sonnet 4.6' },
  { id: 'claude-haiku-4-6', label: 'Claude Haiku 4.6' },
  { id: 'claude-sonnet-4-5-20250929', label: 'Claude Sonnet 4.5' },
  { id: 'claude-haiku-4-5-20251001', label: 'Claude Haiku 4.5' },
];

/** @type {readonly AdapterModel[]} */
const BEDROCK_MODELS = [
  { id: 'us.anthropic.claude-opus-4-7', label: 'Bedrock Opus 4.7' },
  { id: 'us.anthropic.claude-opus-4-6-v1', label: 'Bedrock Opus 4.6' },
  { id: 'us.anthropic.claude-sonnet-4-6', label: 'Bedrock Sonnet 4.6' },
  { id: 'us.anthropic.claude-sonnet-4-5-20250929-v1:0', label: 'Bedrock Sonnet 4.5' },
  { id: 'us.anthropic.claude-haiku-4-5-20251001-v1:0', label: 'Bedrock Haiku 4.5' },
];

/**
 * Whether this process, and so every Job that inherits its environment, uses Claude through Bedrock.
 *
 * @param {NodeJS.ProcessEnv} env
 */
function usesBedrock(env) {
  const flag = env.CLAUDE_CODE_USE_BEDROCK;
  return flag === '1' || flag === 'true' || Boolean(env.ANTHROPIC_BEDROCK_BASE_URL?.trim());
}

/**
 * The models for the host's form, of the provider that the environment names at this moment.
 *
 * @returns {Promise<AdapterModel[]>}
 */
export async function listK8sModels() {
  const models = usesBedrock(process.env) ? BEDROCK_MODELS : DIRECT_MODELS;
  return models.map(({ id, label }) => ({ id, label }));
}
