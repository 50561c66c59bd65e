// The only module, beside skills.js and optional-helper.js, that imports the host's helpers. They are the host's own, of
// the version that it runs: the package follows the host and not a version of its own.
import { resolvePaperclipDesiredSkillNames } from '@paperclipai/adapter-utils/server-utils';

import { optionalHostHelper } from './optional-helper.js';

// Present in every supported version.
export {
  asString,
  buildPaperclipEnv,
  ensurePaperclipSkillSymlink,
  parseObject,
  readPaperclipRuntimeSkillEntries,
  renderTemplate,
} from '@paperclipai/adapter-utils/server-utils';
export { optionalHostHelper };

/** @typedef {import('@paperclipai/adapter-utils/server-utils').PaperclipSkillEntry} SkillEntry */

/**
 * Whether the host knows that the skill's files are gone. For a host without that helper they count as there.
 *
 * @param {SkillEntry} entry
 * @returns {boolean}
 */
export function isSkillSourceMissing(entry) {
  return optionalHostHelper('isPaperclipSkillSourceMissing')?.(entry) ?? false;
}

/**
 * The keys of the skills that an agent is to have: those that it chose, and where the host has them by itself the skill
 * with which an agent works with Paperclip.
 *
 * @param {Record<string, unknown>} config
 * @param {SkillEntry[]} entries
 * @returns {string[]}
 */
export function desiredSkillNames(config, entries) {
  const resolve = optionalHostHelper('resolveLegacyPaperclipDesiredSkillNames');
  return (resolve ?? resolvePaperclipDesiredSkillNames)(config, entries);
}
