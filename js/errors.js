/** How long the text of an error may be: it goes into a line of the log or into a result. */
const MOST_TEXT = 8192;

/**
 * The text of anything that can be thrown, cut where it is very long.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function errText(error) {
  try {
    return (error instanceof Error ? String(error.message) : String(error)).slice(0, MOST_TEXT);
  } catch {
    return 'an error without a text';
  }
}
