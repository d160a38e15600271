import { expect, test } from '@playwright/test';
import { kubectl } from '../../lab/client.ts';
import { nodes } from '../support/cluster.ts';
import { labArguments, openCluster, picture, startConsole } from '../support/console.ts';
import { residue } from '../support/lifecycle.ts';

test('uninstalled from the console, nothing of it is left on any node', async ({ page }) => {
  test.setTimeout(300_000);
  const running = await startConsole(await labArguments());
  try {
    await page.goto(running.address);
    await openCluster(page);
    await page.getByRole('tab', { name: /Agent/ }).click();
    await page.getByRole('button', { name: 'Uninstall…' }).click();
    await page
      .getByRole('button', { name: /^Uninstall/ })
      .last()
      .click({ timeout: 60_000 });
    const dialog = page.getByRole('dialog');
    await expect(dialog.getByRole('button', { name: 'Uninstall', exact: true })).toBeDisabled();
    await picture(page, 'uninstall-confirm');
    const name = (await kubectl(['config', 'current-context'])).trim();
    await dialog.getByRole('textbox').fill(name);
    await dialog.getByRole('button', { name: 'Uninstall', exact: true }).click();
    await expect(page.getByRole('heading', { name: 'Uninstall done' })).toBeVisible({ timeout: 200_000 });
    await picture(page, 'uninstall-done');
    for (const node of nodes) expect(await residue(node), node).toBe('');
    expect(await kubectl(['get', 'daemonsets', '-A', '-o', 'name'])).not.toContain('fairlead');
    expect(await kubectl(['get', 'clusterroles', '-o', 'name'])).not.toContain('fairlead');
    expect(await kubectl(['get', 'configmaps', '-A', '-o', 'name'])).not.toContain('fairlead');
    expect(await kubectl(['get', 'nodes', '-o', 'jsonpath={.items[*].metadata.labels}'])).not.toContain('fairlead');
  } finally {
    await running.close();
  }
});
