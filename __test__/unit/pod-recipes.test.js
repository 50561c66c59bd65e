// The recipes of docs/pod.md are configurations that this version takes.
import { readFileSync } from 'node:fs';

import * as k8s from '@kubernetes/client-node';
import { describe, expect, it } from 'vitest';

import { getConfigSchema } from '../../js/config-schema.js';
import { testEnvironment } from '../../js/environment.js';

const page = readFileSync(new URL('../../docs/pod.md', import.meta.url), 'utf8');
const recipes = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text]) => text);

describe('the recipes of docs/pod.md', () => {
  it('use keys of the configuration', () => {
    const known = new Set(getConfigSchema().fields.map(({ key }) => key));
    const used = recipes.flatMap((text) => [...text.matchAll(/^(\w+):/gm)].map(([, key]) => key));
    expect(recipes.length).toBeGreaterThanOrEqual(8);
    expect(used.filter((key) => !known.has(key))).toEqual([]);
  });

  it('are_granted_by_default_unless_the_page_says_what_opens_them', async () => {
    const needs = [];
    const refused = [];
    for (const section of page.split(/^### /m).slice(1)) {
      const heading = section.split('\n')[0];
      if (section.includes('PAPERCLIP_K8S_POD_TEMPLATE=any')) needs.push(heading);
      for (const [, text] of section.matchAll(/```yaml\n([\s\S]*?)```/g)) {
        const config = /** @type {any} */ (k8s.loadYaml(text));
        const { checks } = await testEnvironment({ adapterType: 'claude_k8s', config, hostEnv: {} });
        if (checks.some(({ code }) => code === 'k8s_config_invalid')) refused.push(heading);
      }
    }
    expect(needs.length).toBeGreaterThan(1);
    expect(refused).toEqual(needs);
  });
});
