import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['real-cli/**/*.test.js'],
    environment: 'node',
    // A run of the CLI takes a second of a processor.
    maxConcurrency: 4,
    testTimeout: 180_000,
    hookTimeout: 300_000,
  },
});
