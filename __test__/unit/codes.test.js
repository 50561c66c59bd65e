// Every error code that a result can have is asserted by a test of whole runs.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (file) => readFileSync(path.join(root, file), 'utf8');

/** The codes by the name of their variant, from the one place that lists them. */
const codes = (() => {
  const [, list] = /^error_codes! \{\n([\s\S]+?)^\}/m.exec(read('src/outcome/code.rs')) ?? [];
  return new Map(
    [...(list ?? '').matchAll(/^\s*(\w+) = "([a-z0-9_]+)",$/gm)].map(([, name, code]) => [name, code]),
  );
})();

/** The lines of all tests of whole runs: on the embedded cluster and in memory. */
const lines = ['__test__/unit', '__test__/embedded', 'src/run/scenarios']
  .flatMap((dir) => readdirSync(path.join(root, dir)).map((name) => `${dir}/${name}`))
  .filter((file) => /(\.test\.js|\.rs)$/.test(file) && !file.endsWith('/codes.test.js'))
  .flatMap((file) => read(file).split('\n'));

it('finds the codes', () => {
  expect(codes.size).toBeGreaterThan(15);
  expect(codes.get('JobDeletedExternally')).toBe('k8s_job_deleted_externally');
});

it.each([...codes.values()])('%s is asserted', (code) => {
  // The code in quotes, on a line that is not a comment.
  const quoted = new RegExp(`^(?!\\s*//).*['"]${code}['"]`);
  expect(lines.some((line) => quoted.test(line))).toBe(true);
});
