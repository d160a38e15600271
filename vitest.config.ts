import { defineConfig } from 'vitest/config';

/** Unit tests lie beside what they test. Browser tests (e2e/) are Playwright's. */
export default defineConfig({
  test: {
    include: ['{bench,contract,lab,main,renderer,scripts}/**/*.test.{ts,tsx,mjs}'],
    exclude: ['**/node_modules/**', 'out/**', 'dist/**'],
    testTimeout: 20_000,
    pool: 'forks',
    // Two cores are the smallest machine that this is meant for.
    maxWorkers: 2,
  },
});
