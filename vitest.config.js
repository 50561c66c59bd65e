// Every JavaScript suite is a project here. `npm test` runs unit, embedded, soak and hostile; the others need more than this
// checkout and are started by their `run.mjs`, which raises what they run against.
import { defineConfig } from 'vitest/config';

import { compatAddon } from './__test__/parity/plugin.mjs';

/**
 * Suites on the built addon. Only tests that wait most of the time run side by side. The limits end a test that hangs, and
 * are far from what one takes on a busy machine.
 */
const local = {
  globalSetup: '__test__/support/global.js',
  testTimeout: 300_000,
  hookTimeout: 300_000,
  maxConcurrency: 10,
};
/** On a cluster nearly all of a spec's time is waiting. */
const conformance = { testTimeout: 480_000, hookTimeout: 480_000, maxConcurrency: 10 };
/** On a real one also where there are two processors, for which vitest runs one file at a time. */
const files = process.env.CONFORMANCE_CLUSTER === 'real' ? { maxWorkers: 2 } : {};

const host = { testTimeout: 300_000, hookTimeout: 300_000 };

const project = (name, include, options) => ({ test: { name, include, environment: 'node', ...options } });

export default defineConfig({
  test: {
    projects: [
      project('unit', ['__test__/unit/*.test.js'], local),
      project('embedded', ['__test__/embedded/*.test.js'], local),
      // One batch at a time: the memory of a host is measured.
      project('hostile', ['__test__/hostile/*.test.js'], local),
      // On an addon of its own, which `npm run test:existing` builds.
      { plugins: [compatAddon()], ...project('parity', ['__test__/parity/*.test.js'], local) },
      project('soak', ['__test__/soak/*.test.js'], local),
      project(
        'conformance',
        [
          '__test__/conformance/{runs,existing,hello,api,admission,deploy,network,sidecars,storage,lifecycle,causes,own-pod,operator,secrets}.test.js',
        ],
        {
          ...conformance,
          ...files,
          sequence: { groupOrder: 1 },
        },
      ),
      // What disturbs the cluster must not run beside what does not expect it.
      project('conformance-disruptions', ['__test__/conformance/disruptions.test.js'], {
        ...conformance,
        sequence: { groupOrder: 2 },
      }),
      project('conformance-logs', ['__test__/conformance/logs.test.js'], {
        ...conformance,
        sequence: { groupOrder: 3 },
      }),
      project('conformance-nodes', ['__test__/conformance/nodes.test.js'], {
        ...conformance,
        hookTimeout: 900_000,
        sequence: { groupOrder: 4 },
      }),
      // A run of the CLI takes a second of a processor.
      project('real-cli', ['__test__/real-cli/*.test.js'], {
        testTimeout: 180_000,
        hookTimeout: 300_000,
        maxConcurrency: 4,
      }),
      // One host serves all specs. The first says whether the adapter can be installed at all; some stop the host or replace the
      // adapter in it; the tables wait most of the time for the host's sweeps, and share it.
      project('host-install', ['__test__/host/specs/1-*.test.js'], { ...host, sequence: { groupOrder: 1 } }),
      project('host', ['__test__/host/specs/{2,3,4,5,9-rolling}*.test.js'], {
        ...host,
        fileParallelism: false,
        sequence: { groupOrder: 2 },
      }),
      project('host-shared', ['__test__/host/specs/{6,7,8,9-prompts}*.test.js'], {
        ...host,
        maxWorkers: 2,
        sequence: { groupOrder: 3 },
      }),
      project('older-host', ['__test__/host/older.test.js'], host),
    ],
  },
});
