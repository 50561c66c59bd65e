import { binding } from './binding.js';
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
  const has = (/** @type {string} */ level) => checks.some((check) => check.level === level);
  return {
    adapterType: ctx.adapterType,
    status: has('error') ? 'fail' : has('warn') ? 'warn' : 'pass',
    checks,
    testedAt: new Date().toISOString(),
  };
}
