import { expect, type Locator, type Page, test } from '@playwright/test';
import { kubectl, lab } from '../../lab/client.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';

/** A protected cluster is read-only in every view, over restarts too, until its name is typed. */
test.describe('a protected cluster', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    await lab(['demo']);
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
    await kubectl(['-n', 'galaxy', 'delete', 'networkpolicy', 'e2e-protected', '--ignore-not-found']);
  });

  const button = (page: Page, name: string | RegExp) => page.getByRole('button', { name });
  async function refused(what: Locator): Promise<void> {
    await expect(what).toHaveAttribute('aria-disabled', 'true', { timeout: 30_000 });
    await expect(what).toHaveAccessibleDescription(/The cluster is protected/);
  }

  test('is read-only until its name is typed', async ({ page }) => {
    const name = (await kubectl(['config', 'current-context'])).trim();
    await page.goto(running.address);
    await openCluster(page);
    await button(page, 'Protect').click();
    await expect(button(page, 'Unlock…')).toBeVisible();
    await picture(page, 'protected');

    const readOnly = async () => {
      await page.goto(`${running.origin}/#/clusters`);
      await openCluster(page);
      await page.getByRole('tab', { name: /Agent/ }).click();
      await refused(button(page, /^(Install|Change values or upgrade)…$/));
      await page.goto(`${running.origin}/#/terminal`);
      const row = page.getByRole('row', { name: /galaxy\/xwing/ });
      await refused(row.getByRole('button', { name: 'Open' }));
      await refused(row.getByRole('button', { name: 'Debug…' }));
      await refused(page.getByRole('row', { name: /^node\s*node1/ }).getByRole('button', { name: 'Open' }));
      await refused(page.getByRole('row', { name: /node1/ }).getByRole('button', { name: 'By pod…' }));
      // An address that asks for a shell is refused by the engine itself.
      await page.goto(`${running.origin}/#/terminal?pod=galaxy/xwing`);
      await expect(page.getByRole('alert').filter({ hasText: 'cluster.protected' })).toBeVisible();
    };
    await readOnly();
    await picture(page, 'protected-terminal');

    // Remembered: another start of the console with the same state.
    await running.kill();
    running = await startConsole(await labArguments(), {}, running.state);
    await page.goto(running.address);
    await readOnly();

    await page.goto(`${running.origin}/#/clusters`);
    await openCluster(page);
    await button(page, 'Unlock…').click();
    const dialog = page.getByRole('dialog', { name: `Unlock ${name}?` });
    const unlock = dialog.getByRole('button', { name: 'Unlock' });
    const field = dialog.getByRole('textbox');
    for (const wrong of ['', name.slice(0, -1), name.toUpperCase(), `${name} `, '*']) {
      await field.fill(wrong);
      await expect(unlock, `typed “${wrong}”`).toHaveAttribute('aria-disabled', 'true');
    }
    await field.fill(name);
    await unlock.click();
    await expect(button(page, 'Protect')).toBeVisible();
    await page.goto(`${running.origin}/#/terminal?pod=galaxy/xwing`);
    await expect(page.locator('.xterm-screen').last()).toBeVisible({ timeout: 30_000 });
    await expect(page.getByRole('note', { name: 'Where this shell is' })).toContainText('galaxy/xwing · ', {
      timeout: 30_000,
    });
  });
});
