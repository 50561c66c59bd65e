/**
 * The text of anything that can be thrown.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function errText(error) {
  try {
    return error instanceof Error ? String(error.message) : String(error);
  } catch {
    return 'an error without a text';
  }
}
