import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from '@playwright/test';
import { root } from '../lab/client.ts';

const electron = join(root, 'node_modules/electron/dist');
const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
  existsSync(path),
);

// One cluster, one walk: files run in the order of their names, one after the other, and build on each other.
export default defineConfig({
  testDir: 'tests',
  outputDir: '../out/e2e',
  fullyParallel: false,
  workers: 1,
  retries: 0,
  timeout: 180_000,
  expect: { timeout: 15_000 },
  globalSetup: './support/setup.ts',
  globalTeardown: './support/teardown.ts',
  reporter: [['list'], ['json', { outputFile: join(root, 'out/e2e/results.json') }]],
  use: {
    viewport: { width: 1280, height: 800 },
    // No film: a picture of every frame is a flood of its own, and a file that wanted another setting would leave the order.
    trace: { mode: 'retain-on-failure', screenshots: false, snapshots: true, sources: true },
    launchOptions: {
      ...(chromium === undefined ? {} : { executablePath: chromium }),
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    },
  },
  projects: [
    { name: 'browser', testIgnore: /electron/ },
    // Runs wherever Electron's binary is; the test says so when it is not.
    { name: 'electron', testMatch: /electron/, metadata: { binary: existsSync(electron) } },
  ],
});
