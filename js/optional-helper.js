import * as host from '@paperclipai/adapter-utils/server-utils';

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
