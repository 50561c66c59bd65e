// The recipes of docs/pod.md are configurations that this version takes.
import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../js/config-schema.js';

const page = readFileSync(new URL('../../docs/pod.md', import.meta.url), 'utf8');
const recipes = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text]) => text);

describe('the recipes of docs/pod.md', () => {
  it('use keys of the configuration', () => {
    const known = new Set(getConfigSchema().fields.map(({ key }) => key));
    const used = recipes.flatMap((text) => [...text.matchAll(/^(\w+):/gm)].map(([, key]) => key));
    expect(recipes.length).toBeGreaterThanOrEqual(8);
    expect(used.filter((key) => !known.has(key))).toEqual([]);
  });
});
