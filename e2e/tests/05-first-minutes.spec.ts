import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl, lab, root } from '../../lab/client.ts';
import { inPod, nodes, ready } from '../support/cluster.ts';
import { labArguments, openCluster, startConsole } from '../support/console.ts';

const wanted = process.env.FAIRLEAD_PICTURES === '1';
const directory = join(root, 'docs/pictures');

test.use({ colorScheme: 'light', viewport: { width: 1280, height: 800 } });

/** The README's walk, on a lab that waits for its network, each step pictured. Only when asked for: pictures are kept in the repository. */
test.describe('the first five minutes', () => {
  async function take(page: Page, name: string): Promise<void> {
    await page.mouse.move(0, 0);
    const path = join(directory, `${name}.png`);
    await page.screenshot({ path, animations: 'disabled', caret: 'hide' });
    expect(statSync(path).size, `${name}.png is of a moderate size`).toBeLessThan(300_000);
  }

  test('start, connect, plan, install, topology, flows, policy', async ({ page }) => {
    const reason = 'the pictures of the README are made anew with FAIRLEAD_PICTURES=1 only';
    if (!wanted) process.stderr.write(`skipped: ${reason}\n`);
    test.skip(!wanted, reason);
    test.setTimeout(900_000);
    mkdirSync(directory, { recursive: true });
    const running = await startConsole(await labArguments());
    try {
      await page.goto(running.address);
      await expect(page.getByRole('navigation', { name: 'Clusters' }).getByRole('link').first()).toBeVisible();
      await take(page, '1-start');

      await openCluster(page);
      for (const node of nodes) await expect(page.getByRole('row', { name: new RegExp(node) })).toBeVisible();
      await take(page, '2-connected');

      await page.getByRole('tab', { name: /Agent/ }).click();
      await page.getByRole('button', { name: 'Install…' }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      const apply = page.getByRole('button', { name: 'Apply', exact: true });
      await expect(apply).toBeEnabled({ timeout: 120_000 });
      await take(page, '3-plan');
      await apply.click();
      await expect(page.getByRole('heading', { name: 'Installation done' })).toBeVisible({ timeout: 300_000 });
      await take(page, '4-installed');

      await lab(['demo']);
      await ready(['tiefighter', 'xwing'], 'galaxy', 120);
      await kubectl(['-n', 'galaxy', 'rollout', 'status', 'deployment/deathstar', '--timeout=120s']);
      const asks = [
        'curl',
        '-s',
        '-m',
        '2',
        '-X',
        'POST',
        'http://deathstar.galaxy.svc.cluster.local/v1/request-landing',
      ];
      const lands = async (ship: string) => (await inPod(ship, asks, 'galaxy').catch(() => '')).includes('landed');
      for (const ship of ['tiefighter', 'xwing'])
        await eventually(`${ship} lands`, 60, async () => ((await lands(ship)) ? true : undefined));

      await page.goto(`${running.origin}/#/topology?scope=pod&namespaces=galaxy`);
      await expect(page.getByLabel(/Topology with \d+ nodes/)).toBeVisible({ timeout: 60_000 });
      await page.goto(`${running.origin}/#/policies`);
      await page.getByRole('button', { name: 'New policy' }).click();
      await page.getByRole('menuitem', { name: /Demo: protect the deathstar/ }).click();
      await expect(page.getByText(/selects 2 pods/i).first()).toBeVisible({ timeout: 30_000 });
      await page.getByRole('button', { name: 'Dry run' }).click();
      const dialog = page.getByRole('dialog');
      await expect(dialog.getByText('What the server would store.')).toBeVisible({ timeout: 30_000 });
      await expect(dialog.locator('.cm-content').first()).toBeVisible();
      await take(page, '7-policy');
      await dialog.getByRole('button', { name: 'Apply', exact: true }).click();
      await expect(dialog).toBeHidden({ timeout: 30_000 });
      await eventually('xwing is denied', 30, async () => ((await lands('xwing')) ? undefined : true));
      expect(await lands('tiefighter')).toBe(true);

      await page.goto(`${running.origin}/#/flows`);
      await page.getByLabel('Filter flows').fill('from-pod:galaxy/xwing to-port:80 ');
      await page.keyboard.press('Enter');
      const row = page.getByRole('row', { name: /xwing.*deathstar.*dropped/i });
      await expect(row.nth(2)).toBeVisible({ timeout: 60_000 });
      await page.getByRole('button', { name: 'Pause' }).click();
      await row.nth(2).click();
      await expect(page.getByLabel('Flow details').getByText('Why it was dropped')).toBeVisible();
      await take(page, '6-flows');

      // The agents count over a minute: the table says when both ships and the denied edge are there.
      await page.goto(`${running.origin}/#/topology?scope=pod&namespaces=galaxy&view=table`);
      for (const edge of [/xwing.*deathstar.*denied/i, /tiefighter.*deathstar.*forwarded/i])
        await expect(page.getByRole('row', { name: edge }).first()).toBeVisible({ timeout: 60_000 });
      await page.goto(`${running.origin}/#/topology?scope=pod&namespaces=galaxy`);
      await expect(page.getByLabel(/Topology with \d+ nodes/)).toBeVisible({ timeout: 60_000 });
      // The graph is still once its layout has settled: two pictures in a row are the same.
      let before = '';
      await expect
        .poll(
          async () => {
            const now = (await page.screenshot({ animations: 'disabled', caret: 'hide' })).toString('base64');
            const same = now === before;
            before = now;
            return same;
          },
          { timeout: 15_000, intervals: [500] },
        )
        .toBe(true)
        .catch(() => undefined);
      await take(page, '5-topology');
    } finally {
      await running.close();
    }
    for (const name of ['1-start', '2-connected', '3-plan', '4-installed', '5-topology', '6-flows', '7-policy'])
      expect(existsSync(join(directory, `${name}.png`)), name).toBe(true);
  });
});
