import { createHash } from 'node:crypto';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** @typedef {import('@paperclipai/adapter-utils').AdapterModel} AdapterModel */

/** What is offered where the host has no list of its own. @type {readonly AdapterModel[]} */
const DIRECT_MODELS = [
  { id: 'claude-opus-5', label: 'Claude Opus 5' },
  { id: 'claude-sonnet-5', label: 'Claude Sonnet 5' },
  { id: 'claude-fable-5-1', label: 'Claude Fable 5.1' },
  { id: 'claude-fable-5', label: 'Claude Fable 5' },
  { id: 'claude-mythos-5', label: 'Claude Mythos 5' },
  { id: 'claude-opus-4-8', label: 'Claude Opus 4.8' },
  { id: 'claude-opus-4-7', label: 'Claude Opus 4.7' },
  { id: 'claude-opus-4-6', label: 'Claude Opus 4.6' },
  { id: 'claude-sonnet-4-6', label: 'Claude Sonnet 4.6' },
  { id: 'claude-sonnet-4-5', label: 'Claude Sonnet 4.5' },
  { id: 'claude-haiku-4-5', label: 'Claude Haiku 4.5' },
];

/** @type {readonly AdapterModel[]} */
const BEDROCK_MODELS = [
  { id: 'us.anthropic.claude-opus-4-8-v1', label: 'Bedrock Opus 4.8' },
  { id: 'us.anthropic.claude-fable-5-1', label: 'Bedrock Fable 5.1' },
  { id: 'us.anthropic.claude-fable-5-v1', label: 'Bedrock Fable 5' },
  { id: 'us.anthropic.claude-opus-4-7', label: 'Bedrock Opus 4.7' },
  { id: 'us.anthropic.claude-opus-4-6-v1', label: 'Bedrock Opus 4.6' },
  { id: 'us.anthropic.claude-sonnet-4-6', label: 'Bedrock Sonnet 4.6' },
  { id: 'us.anthropic.claude-sonnet-4-5-20250929-v1:0', label: 'Bedrock Sonnet 4.5' },
  { id: 'us.anthropic.claude-haiku-4-5-20251001-v1:0', label: 'Bedrock Haiku 4.5' },
];

/** How long the answer of the Messages API, also a failed one, is used again. */
const KEEP_MS = 60_000;
/** How long the Messages API may take; people wait for the form. */
const FETCH_LIMIT_MS = 5_000;
/** How many models and characters of one are taken from the API. */
const MOST_MODELS = 500;
const MOST_LENGTH = 200;

const CLAUDE_LOCAL = '@paperclipai/adapter-claude-local';

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
 * The models that are known without asking anyone, of the provider that the environment names at this moment.
 *
 * @returns {AdapterModel[]}
 */
export function knownModels() {
  return copyOf(usesBedrock(process.env) ? BEDROCK_MODELS : DIRECT_MODELS);
}

/**
 * The models for the host's form, of the provider that the environment names at this moment: those of the Messages API
 * where the host has a key for it, and those of the host's own adapter for Claude, else a list of this package.
 *
 * @returns {Promise<AdapterModel[]>}
 */
export function listK8sModels() {
  return list({ again: false });
}

/**
 * As {@link listK8sModels}, without what is kept of the Messages API's last answer.
 *
 * @returns {Promise<AdapterModel[]>}
 */
export function refreshK8sModels() {
  return list({ again: true });
}

/**
 * @param {{again: boolean}} options
 * @returns {Promise<AdapterModel[]>}
 */
async function list({ again }) {
  const { env } = process;
  if (usesBedrock(env)) return knownModels();
  const [served, installed] = await Promise.all([servedModels(env, again), installedModels()]);
  return unique([...served, ...(installed.length > 0 ? installed : DIRECT_MODELS)]);
}

/** What the CLI takes for a model besides ids. */
const ALIASES = /^(default|best|opus|sonnet|haiku|opusplan)$/;
/** The end of an id that names a release, and what asks the CLI for a larger context. */
const RELEASE = /(-\d{8}|-latest)$/;
const LARGE_CONTEXT = /\[\w+\]$/;
/** Ids of Bedrock, and of whole deployments. */
const OF_BEDROCK = /^(arn:|([a-z-]+\.)?anthropic\.)/;

/**
 * Whether a model is an alias of the CLI or among those that are listed. What a gateway or another provider has is not
 * known, and counts as known.
 *
 * @param {string} model
 * @returns {Promise<boolean>}
 */
export async function isKnownModel(model) {
  const { env } = process;
  const id = model.trim().replace(LARGE_CONTEXT, '');
  if (id === '' || ALIASES.test(id)) return true;
  if (usesBedrock(env)) return OF_BEDROCK.test(id);
  const elsewhere = [env.CLAUDE_CODE_USE_VERTEX, env.CLAUDE_CODE_USE_FOUNDRY, env.ANTHROPIC_BASE_URL];
  if (elsewhere.some((value) => value?.trim())) return true;
  const known = new Set((await listK8sModels()).map((listed) => listed.id));
  return known.has(id) || known.has(id.replace(RELEASE, ''));
}

/** The last answer of the Messages API, and for whom it was. @type {{key: string, at: number, models: Promise<AdapterModel[]>} | undefined} */
let kept;

/**
 * The models that the Messages API lists for the host's key; none without a key or where it does not answer.
 *
 * @param {NodeJS.ProcessEnv} env
 * @param {boolean} again
 * @returns {Promise<AdapterModel[]>}
 */
async function servedModels(env, again) {
  const apiKey = env.ANTHROPIC_API_KEY?.trim();
  const token = env.ANTHROPIC_AUTH_TOKEN?.trim();
  if (!apiKey && !token) return [];
  const base = env.ANTHROPIC_BASE_URL?.trim().replace(/\/+$/, '') || 'https://api.anthropic.com';
  const credential = apiKey ? { 'x-api-key': apiKey } : { authorization: `Bearer ${token}` };
  const key = createHash('sha256')
    .update(JSON.stringify([base, credential]))
    .digest('hex');
  if (again || kept?.key !== key || Date.now() - kept.at >= KEEP_MS) {
    const before = kept?.key === key ? await kept.models : [];
    const models = fetchModels(`${base}/v1/models?limit=${MOST_MODELS}`, /** @type {any} */ (credential));
    // A failed answer hides none that was good before.
    kept = { key, at: Date.now(), models: models.then((found) => (found.length > 0 ? found : before)) };
  }
  return kept.models;
}

/**
 * @param {string} url
 * @param {Record<string, string>} credential
 * @returns {Promise<AdapterModel[]>} none where the API fails
 */
async function fetchModels(url, credential) {
  try {
    const headers = { 'anthropic-version': '2023-06-01', ...credential };
    // A redirect would take the key elsewhere.
    const signal = AbortSignal.timeout(FETCH_LIMIT_MS);
    const response = await fetch(url, { headers, redirect: 'error', signal });
    if (!response.ok) return [];
    const { data } = /** @type {{data?: unknown}} */ (await response.json());
    return modelsOf(data, ({ id, display_name: label }) => ({ id, label }));
  } catch {
    return [];
  }
}

/** The folders of the host's own adapter for Claude that could be read, by their entry file. @type {Map<string, Promise<AdapterModel[]>>} */
const installed = new Map();

/**
 * The models that the host's own adapter for Claude lists, if it is installed beside the host or this package.
 *
 * @returns {Promise<AdapterModel[]>} none where it is not
 */
async function installedModels() {
  const entry = claudeLocalEntry();
  if (entry === undefined) return [];
  let models = installed.get(entry);
  if (models === undefined) {
    models = import(pathToFileURL(entry).href).then(
      (module) => modelsOf(module.models, (model) => model),
      () => [],
    );
    installed.set(entry, models);
  }
  return models;
}

/**
 * The entry file of the host's own adapter for Claude. Its package exports nothing for `require`, so its folder is found
 * by hand: the host's program and this package may have different `node_modules`.
 *
 * @returns {string | undefined}
 */
function claudeLocalEntry() {
  for (const start of [process.argv[1], fileURLToPath(import.meta.url)]) {
    try {
      const from = createRequire(realpathSync(/** @type {string} */ (start)));
      for (const modules of from.resolve.paths(CLAUDE_LOCAL) ?? []) {
        const folder = path.join(modules, CLAUDE_LOCAL);
        const manifest = path.join(folder, 'package.json');
        if (!existsSync(manifest)) continue;
        const { exports, main } = JSON.parse(readFileSync(manifest, 'utf8'));
        const entry = exports?.['.']?.import ?? exports?.['.'] ?? main;
        if (typeof entry === 'string') return path.join(folder, entry);
      }
    } catch {
      // Started without a file, or the package is damaged.
    }
  }
  return undefined;
}

/**
 * @param {unknown} items
 * @param {(item: any) => {id: unknown, label: unknown}} read
 * @returns {AdapterModel[]} those items that are models
 */
function modelsOf(items, read) {
  /** @type {AdapterModel[]} */
  const models = [];
  for (const item of Array.isArray(items) ? items.slice(0, MOST_MODELS) : []) {
    const { id, label } = read(item ?? {});
    if (!isName(id)) continue;
    models.push({ id: id.trim(), label: isName(label) ? label.trim() : id.trim() });
  }
  return models;
}

/**
 * @param {unknown} text
 * @returns {text is string}
 */
function isName(text) {
  return typeof text === 'string' && text.trim() !== '' && text.length <= MOST_LENGTH;
}

/**
 * @param {AdapterModel[]} models
 * @returns {AdapterModel[]} the first of each id
 */
function unique(models) {
  const byId = new Map(models.toReversed().map((model) => [model.id, model]));
  return copyOf(models.filter((model) => byId.get(model.id) === model));
}

/** @param {readonly AdapterModel[]} models */
function copyOf(models) {
  return models.map(({ id, label }) => ({ id, label }));
}
