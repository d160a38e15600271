import AxeBuilder from '@axe-core/playwright';
import { expect, test } from '@playwright/test';
import { picture, type RunningConsole, startConsole } from '../support/console.ts';

/** Without a cluster and without root the console opens on a recording, says so everywhere, and refuses to change anything. */
test.describe('the recorded case', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(['--recording'], {
      KUBECONFIG: '/nonexistent',
      HOME: '/nonexistent',
    });
  });
  test.afterAll(async () => {
    await running.close();
  });

  const views = [
    'clusters',
    'topology',
    'flows',
    'policies',
    'terminal',
    'explain',
    'logs',
    'audit',
    'support',
  ] as const;
  for (const view of views) {
    test(`${view} shows it, labelled, and passes an accessibility check, light and dark`, async ({ page }) => {
      await page.goto(running.address);
      await expect(page.getByText(/recording/i).first()).toBeVisible({ timeout: 20_000 });
      await page.goto(`${running.origin}/#/${view}`);
      await expect(page.getByText(/recording/i).first()).toBeVisible();
      if (view === 'flows')
        await expect(page.getByRole('row', { name: /deathstar/ }).first()).toBeVisible({ timeout: 30_000 });
      await picture(page, `recording-${view}`);
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme });
        const report = await new AxeBuilder({ page }).withTags(['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']).analyze();
        const serious = report.violations.filter(
          (violation) => violation.impact === 'serious' || violation.impact === 'critical',
        );
        expect(
          serious.map(
            (violation) => `${violation.id}: ${violation.nodes.map((node) => node.target.join(' ')).join(', ')}`,
          ),
          colorScheme,
        ).toEqual([]);
      }
    });
  }
});
