import { execFileSync } from 'node:child_process';
import { expect, test } from '@playwright/test';
import { labArguments, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';

/** What the agents say, together; and everything that somebody who helps would ask for, in one file. */
test.describe('logs and support bundle', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('all agents’ lines are shown together, found by words and kept still', async ({ page }) => {
    await openView(page, running, 'logs');
    const lines = page.getByRole('grid', { name: 'Lines' });
    await expect(lines.getByText(/fairlead-agent-/).first()).toBeVisible({ timeout: 30_000 });
    await picture(page, 'logs');
    await page.getByRole('textbox', { name: 'Find in the lines' }).fill('node=node2');
    await expect(lines.getByText('node=node2').first()).toBeVisible();
    await expect(lines.getByText('node=node1')).toHaveCount(0);
    await page.getByRole('textbox', { name: 'Find in the lines' }).fill('surely in no line at all');
    await expect(page.getByText('No line yet')).toBeVisible();
  });

  test('a bundle is shown before it is made, opens with tar, and opens in the console', async ({ page }) => {
    await openView(page, running, 'support');
    await page.getByRole('button', { name: 'Preview State of the agents' }).click();
    const preview = page.getByRole('dialog', { name: 'State of the agents' });
    await expect(preview.getByRole('button', { name: /agents\/status\/node1\.json/ })).toBeVisible({ timeout: 30_000 });
    await picture(page, 'support-preview');
    await preview.getByRole('button', { name: 'Close' }).click();
    const [download] = await Promise.all([
      page.waitForEvent('download', { timeout: 60_000 }),
      page.getByRole('button', { name: 'Make the bundle' }).click(),
    ]);
    const path = await download.path();
    const names = execFileSync('tar', ['tzf', path]).toString();
    for (const name of ['bundle.json', 'agents/status/node1.json', 'logs/node2.log', 'cluster/pods.json'])
      expect(names).toContain(name);
    const text = execFileSync('tar', ['xzOf', path], { maxBuffer: 256 << 20 }).toString();
    expect(text).not.toMatch(/BEGIN [A-Z ]*PRIVATE KEY|"kind": "Secret"/);
    await picture(page, 'support');
    await page.locator('input[type=file]').setInputFiles(path);
    await expect(page.getByRole('button', { name: /bundle\.json/ })).toBeVisible();
    await page.getByRole('button', { name: /logs\/node2\.log/ }).click();
    await expect(page.getByText(/level=INFO/).first()).toBeVisible();
  });
});
