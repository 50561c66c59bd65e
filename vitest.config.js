import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.{js,ts}'],
    environment: 'node',
    globalSetup: '__test__/support/global.js',
    testTimeout: 60_000,
    // Only tests that wait most of the time run side by side.
    maxConcurrency: 10,
    hookTimeout: 120_000,
  },
});
