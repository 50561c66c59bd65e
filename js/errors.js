/**
 * The text of anything that can be thrown.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function errText(error) {
  return error instanceof Error ? error.message : String(error);
}
