// Every cause of the table has a row that injects it.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { expect, it } from 'vitest';

import { rows } from '../support/causes.js';

const table = readFileSync(fileURLToPath(new URL('../../src/forensics/cause.rs', import.meta.url)), 'utf8');
const causes = [...table.matchAll(/^ {4}[A-Z]\w+ "([a-z_]+)" [A-Z]\w+ (Request|Job|Pod)$/gm)];

it('each cause has one injection, about its own object', () => {
  expect(causes.length).toBeGreaterThanOrEqual(45);
  const declared = causes.map(([, code, about]) => `${code} ${about.replace('Request', 'Run')}`);
  expect(rows.map(({ cause, about }) => `${cause} ${about}`).toSorted()).toEqual(declared.toSorted());
});
