// The only module, beside skills.js, that imports the host's helpers. They are the host's own, of the version that it
// runs: the package follows the host and not a version of its own.
import * as host from '@paperclipai/adapter-utils/server-utils';

// Present in every supported version.
export {
  asString,
  buildPaperclipEnv,
  ensurePaperclipSkillSymlink,
  parseObject,
  readPaperclipRuntimeSkillEntries,
  renderTemplate,
  resolvePaperclipDesiredSkillNames,
} from '@paperclipai/adapter-utils/server-utils';

/**
 * A helper that only some host versions have: the helper, or undefined. Call this at the moment of use.
 *
 * @template {keyof typeof host} Name
 * @param {Name} name
 * @returns {(typeof host)[Name] | undefined}
 */
export function optionalHostHelper(name) {
  // `in` comes first, because a mocked module may throw when a name that it lacks is read.
  // oxlint-disable-next-line import/namespace -- the name's type is a key of the namespace
  return name in host ? host[name] : undefined;
}

/**
 * Whether the host knows that the skill's files are gone. For a host without that helper they count as there.
 *
 * @param {import('@paperclipai/adapter-utils/server-utils').PaperclipSkillEntry} entry
 * @returns {boolean}
 */
export function isSkillSourceMissing(entry) {
  return optionalHostHelper('isPaperclipSkillSourceMissing')?.(entry) ?? false;
}
