import { fileURLToPath } from 'node:url';

import { defineConfig } from 'vitest/config';
import { BaseSequencer } from 'vitest/node';

/** By name: the first suite is the one that says whether the adapter can be installed at all. */
class ByName extends BaseSequencer {
  async sort(files) {
    return [...files].sort((a, b) => a.moduleId.localeCompare(b.moduleId));
  }
}

export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  test: {
    include: ['specs/*.test.js'],
    environment: 'node',
    // One host serves them all, and some of them stop it.
    fileParallelism: false,
    sequence: { sequencer: ByName },
    testTimeout: 120_000,
    hookTimeout: 180_000,
    // A line for a suite is enough; what fails is told in full.
    slowTestThreshold: 120_000,
  },
});
