import { binding } from './binding.js';
import { isKnownModel } from './models.js';
import { requestOf } from './request.js';

/**
 * Checks what runs will need. A failed check is part of the result, not a rejection.
 *
 * @param {{adapterType: string, config: Record<string, unknown>, hostEnv?: NodeJS.ProcessEnv}} ctx the host's context;
 *   `hostEnv` is another environment than this process's own
 * @returns {Promise<import('@paperclipai/adapter-utils').AdapterEnvironmentTestResult>}
 */
export async function testEnvironment(ctx) {
  const checks = /** @type {import('@paperclipai/adapter-utils').AdapterEnvironmentCheck[]} */ (
    await binding.testEnvironment(requestOf({ config: ctx.config }, ctx.hostEnv))
  );
  checks.push(...(await checkModel(ctx.config)));
  const has = (/** @type {string} */ level) => checks.some((check) => check.level === level);
  return {
    adapterType: ctx.adapterType,
    status: has('error') ? 'fail' : has('warn') ? 'warn' : 'pass',
    checks,
    testedAt: new Date().toISOString(),
  };
}

/**
 * A model that no list has may still be there for the account: the test's Job finds that out.
 *
 * @param {Record<string, unknown>} config
 * @returns {Promise<import('@paperclipai/adapter-utils').AdapterEnvironmentCheck[]>}
 */
async function checkModel(config) {
  const { model, env } = /** @type {{model?: unknown, env?: unknown}} */ (config ?? {});
  if (typeof model !== 'string' || model.length > 200) return [];
  // A provider of the agent's own has models of its own.
  const own = Object.keys(/** @type {object} */ (env ?? {}));
  if (own.some((name) => name === 'ANTHROPIC_BASE_URL' || name.startsWith('CLAUDE_CODE_USE_'))) return [];
  if (await isKnownModel(model)) return [];
  return [
    {
      code: 'k8s_model_unknown',
      level: 'warn',
      message: `The model "${model.replaceAll(/\p{Cc}/gu, ' ')}" is not among those that are known`,
      hint: 'Choose a model of the list, or set testWithJob to ask Claude with this one.',
    },
  ];
}
