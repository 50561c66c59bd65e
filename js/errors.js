/**
 * The text of anything that can be thrown.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function errText(error) {
  return error instanceof Error ? error.message : String(error);
}

/**
 * A host callback that neither throws nor rejects: it resolves to the text of its error, if any.
 *
 * @template {unknown[]} Args
 * @param {(...args: Args) => unknown} callback
 * @returns {(...args: Args) => Promise<string | undefined>}
 */
export function settled(callback) {
  return async (...args) => {
    try {
      await callback(...args);
      return undefined;
    } catch (error) {
      return errText(error);
    }
  };
}
