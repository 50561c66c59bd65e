import { readdirSync, readFileSync } from 'node:fs';

const directory = new URL('../../tools/simulator/fixtures/', import.meta.url);

/** The names of the recorded runs of the real CLI, each with its version. */
export const recordings = readdirSync(directory, { recursive: true })
  .flatMap((file) => /^claude-cli-(.+)\.jsonl$/.exec(String(file))?.[1] ?? [])
  .toSorted();

/**
 * @param {string} name such as `2.1.197/success`
 * @returns {string[]} the lines of one recorded run
 */
export function recordedLines(name) {
  const text = readFileSync(new URL(`claude-cli-${name}.jsonl`, directory), 'utf8');
  return text.split('\n').filter((line) => line !== '');
}
