// Every log line of the adapter's own is asserted by some test: operators and the UI match on them.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

function filesBelow(dir, ending) {
  return readdirSync(path.join(root, dir), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => path.join(entry.parentPath, entry.name));
}

/** Rust sources in two halves: what runs, and the tests beside it. Whole files of tests count as tests. */
const [code, tests] = filesBelow('src', '.rs').reduce(
  ([runs, tried], file) => {
    const text = readFileSync(file, 'utf8');
    if (/[/\\](scenarios|tests)([/\\]|\.rs$)/.test(file)) return [runs, tried + text];
    const at = text.indexOf('#[cfg(test)]\nmod tests');
    return at < 0 ? [runs + text, tried] : [runs + text.slice(0, at), tried + text.slice(at)];
  },
  ['', ''],
);
const asserted =
  tests +
  filesBelow('__test__', '.test.js')
    .filter((file) => !file.endsWith('log-lines.test.js'))
    .map((file) =>
      readFileSync(file, 'utf8').replaceAll('\\.', '.').replaceAll('\\[', '[').replaceAll('\\]', ']'),
    )
    .join('\n');

/** The literals as the program has them: a backslash at a line's end continues it. */
const lines = [...code.matchAll(/"(\[paperclip\] (?:[^"\\]|\\[\s\S])*)"/g)]
  .map(([, literal]) =>
    literal
      .replace(/\\\n\s*/g, '')
      .replaceAll('\\"', '"')
      .replace(/\\n$/, ''),
  )
  .map((literal) => ({ literal, piece: longestPiece(literal) }))
  // A line that is only a placeholder comes from elsewhere: notes and outcomes have tests of their own.
  .filter(({ piece }) => piece.length >= 6);

/** The longest stretch of a literal without a placeholder, at most 40 characters of it. */
function longestPiece(literal) {
  const pieces = literal
    .replace('[paperclip] ', '')
    .split(/\{[^}]*\}/)
    .map((piece) => piece.trim());
  return pieces.reduce((a, b) => (b.length > a.length ? b : a), '').slice(0, 40);
}

it('finds the lines', () => {
  expect(lines.length).toBeGreaterThan(30);
  expect(lines.map(({ piece }) => piece)).toContain('was deleted before terminal condition wa');
});

it.each(lines)('$literal', ({ piece }) => {
  expect(asserted.includes(piece) || asserted.replaceAll('\\"', '"').includes(piece), piece).toBe(true);
});
