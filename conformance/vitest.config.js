import { defineConfig } from 'vitest/config';

const common = {
  environment: 'node',
  // Within a file runs overlap: nearly all of their time is waiting.
  maxConcurrency: 16,
  testTimeout: 240_000,
  hookTimeout: 240_000,
};

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...common,
          name: 'undisturbed',
          include: ['conformance/runs.test.js', 'conformance/api.test.js'],
          sequence: { groupOrder: 1 },
        },
      },
      {
        // What disturbs the cluster must not run beside what does not expect it.
        test: {
          ...common,
          name: 'disturbed',
          include: ['conformance/disruptions.test.js'],
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
