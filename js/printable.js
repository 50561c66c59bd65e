import { stripVTControlCharacters } from 'node:util';

// oxlint-disable-next-line no-control-regex
const TITLES = /\u001B[\]PX^_][^\u0007\u001B]*(?:\u0007|\u001B\\)/g;
// Controls but for tab and newline; those of C1; marks and overrides of the writing direction; line separators.
// oxlint-disable-next-line no-control-regex
const CONTROLS = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/g;

/**
 * A text that an agent may have written, for a terminal: without escape sequences and terminal titles, and with every
 * other control as its code, such as `<U+202E>`, so that it neither moves the cursor nor turns the text around.
 *
 * @param {string} text
 * @returns {string}
 */
export function printable(text) {
  return stripVTControlCharacters(text.replaceAll('\r\n', '\n').replaceAll(TITLES, '')).replaceAll(
    CONTROLS,
    (control) => `<U+${control.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}>`,
  );
}
