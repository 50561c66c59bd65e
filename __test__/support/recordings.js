import { readdirSync, readFileSync } from 'node:fs';

const directory = new URL('../../simulator/fixtures/claude-cli-2.1.197/', import.meta.url);

/** The names of the recorded runs of the real CLI. */
export const recordings = readdirSync(directory)
  .filter((name) => name.endsWith('.jsonl'))
  .map((name) => name.slice(0, -'.jsonl'.length))
  .sort();

/**
 * @param {string} name
 * @returns {string[]} the lines of one recorded run
 */
export function recordedLines(name) {
  const text = readFileSync(new URL(`${name}.jsonl`, directory), 'utf8');
  return text.split('\n').filter((line) => line !== '');
}
