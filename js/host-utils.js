// The one place (beside skills.js) that reaches for the host's helpers. The host's own copy is called,
// whichever version it runs, so that this package follows the host and not a version of its own.
import * as host from '@paperclipai/adapter-utils/server-utils';

// Present in every supported version.
export {
  asBoolean,
  asNumber,
  asString,
  asStringArray,
  buildPaperclipEnv,
  ensurePaperclipSkillSymlink,
  parseJson,
  parseObject,
  readPaperclipRuntimeSkillEntries,
  renderTemplate,
  resolvePaperclipDesiredSkillNames,
} from '@paperclipai/adapter-utils/server-utils';

/**
 * A helper that only some host versions have: the helper, or undefined. Ask at the moment of use.
 *
 * @template {keyof typeof host} Name
 * @param {Name} name
 * @returns {(typeof host)[Name] | undefined}
 */
export function optionalHostHelper(name) {
  // Asked with `in` first, since a replaced module may throw when a name it lacks is read.
  // oxlint-disable-next-line import/namespace -- the name's type is a key of the namespace
  return name in host ? host[name] : undefined;
}

/**
 * Whether the host knows that the skill's files are gone. Hosts that cannot tell are taken to have them.
 *
 * @param {import('@paperclipai/adapter-utils/server-utils').PaperclipSkillEntry} entry
 * @returns {boolean}
 */
export function isSkillSourceMissing(entry) {
  return optionalHostHelper('isPaperclipSkillSourceMissing')?.(entry) ?? false;
}
