import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { _electron, expect, test } from '@playwright/test';
import { must, root } from '../../lab/client.ts';
import { labArguments } from '../support/console.ts';

const binary = join(root, 'node_modules/electron/dist', process.platform === 'win32' ? 'electron.exe' : 'electron');
const missing = existsSync(binary)
  ? ''
  : 'Electron’s binary is not on this machine (its npm package fetches it at first run); the shell is covered by unit tests at the import seam.';

/** The same console in Electron, wherever its binary is. */
test('the desktop shell opens the console, sandboxed', async () => {
  if (missing !== '') process.stderr.write(`skipped: ${missing}\n`);
  test.skip(missing !== '', missing);
  await must(process.execPath, [join(root, 'scripts/build.mjs')]);
  const application = await _electron.launch({
    executablePath: binary,
    args: [root, '--no-sandbox', ...(await labArguments())],
  });
  try {
    const window = await application.firstWindow();
    await expect(window.getByRole('navigation', { name: 'Views' })).toBeVisible();
    expect(window.url()).toMatch(/^app:\/\//);
    // What the sandbox takes away: nothing of Node reaches the page.
    const reached = await window.evaluate(() => [
      typeof Reflect.get(globalThis, 'require'),
      typeof Reflect.get(globalThis, 'process'),
    ]);
    expect(reached).toEqual(['undefined', 'undefined']);
  } finally {
    await application.close();
  }
});
