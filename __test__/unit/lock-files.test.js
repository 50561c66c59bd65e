import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

import { root } from '../../tools/dev/lib.mjs';

describe.each(['package-lock.json', '__test__/real-cli/package-lock.json'])('%s', (file) => {
  /** @type {Record<string, {resolved?: string, integrity?: string, link?: boolean, inBundle?: boolean}>} */
  const { '': _project, ...packages } = JSON.parse(readFileSync(path.join(root, file), 'utf8')).packages;

  it('names no download host', () => {
    expect(Object.keys(packages).filter((name) => packages[name]?.resolved)).toEqual([]);
  });

  it('has a digest of every package', () => {
    const unchecked = Object.entries(packages).filter(
      ([, { integrity, link, inBundle }]) => !integrity && !link && !inBundle,
    );
    expect(unchecked.map(([name]) => name)).toEqual([]);
  });
});
