import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl } from '../../lab/client.ts';
import { inPod } from '../support/cluster.ts';
import { labArguments, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { applyDemoPolicy, startDemo } from '../support/demo.ts';

const landing = [
  'curl',
  '-s',
  '-m',
  '1',
  '-o',
  '/dev/null',
  '-w',
  '%{http_code}',
  '-X',
  'POST',
  'http://deathstar.galaxy.svc.cluster.local/v1/request-landing',
];

/** Whether a ship may land: 200, or no answer within a second. */
async function lands(ship: string): Promise<boolean> {
  try {
    return (await inPod(ship, landing, 'galaxy')).trim() === '200';
  } catch {
    return false;
  }
}

/** The demo: both ships land; a policy applied in the console; xwing is denied, and one sees it at once, with the policy that decided. */
test.describe('the demo, from the console', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    test.setTimeout(180_000);
    await startDemo();
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  /** The policy as the test before applied it in the console; a test that runs alone applies it itself. */
  async function governed(): Promise<void> {
    await applyDemoPolicy();
    await eventually('xwing is denied', 10, async () => ((await lands('xwing')) ? undefined : true));
  }

  const open = (page: Page, view: string) => openView(page, running, view);

  test('without a policy both ships land, and Flows says FORWARDED', async ({ page }) => {
    expect(await eventually('tiefighter lands', 20, async () => ((await lands('tiefighter')) ? true : undefined))).toBe(
      true,
    );
    expect(await lands('xwing')).toBe(true);
    await open(page, 'flows');
    await page.getByLabel('Filter flows').fill('from-pod:galaxy/xwing verdict:FORWARDED ');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('row', { name: /xwing.*deathstar/ }).first()).toBeVisible({ timeout: 20_000 });
    await picture(page, 'flows-forwarded');
  });

  test('the policy is applied in the console; tiefighter lands, xwing is denied within a second', async ({ page }) => {
    await open(page, 'policies');
    await page.getByRole('button', { name: 'New policy' }).click();
    await page.getByRole('menuitem', { name: /Demo: protect the deathstar/ }).click();
    await expect(page.getByText(/selects 2 pods/i).first()).toBeVisible({ timeout: 20_000 });
    await picture(page, 'policy-editor');
    await page.getByRole('button', { name: 'Dry run' }).click();
    await expect(page.getByRole('dialog')).toBeVisible();
    await picture(page, 'policy-dry-run');
    await page.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
    const stored = await eventually('the policy is in the cluster', 20, async () => {
      const text = await kubectl([
        '-n',
        'galaxy',
        'get',
        'cnp',
        'rule1',
        '-o',
        'jsonpath={.metadata.creationTimestamp}',
      ]);
      return text.trim() === '' ? undefined : performance.now();
    });
    await eventually('xwing is denied', 1, async () => ((await lands('xwing')) ? undefined : true));
    expect(
      performance.now() - stored,
      'milliseconds until a denied attempt has timed out (the attempt itself waits 1 s)',
    ).toBeLessThan(4000);
    expect(await lands('tiefighter')).toBe(true);
    for (let attempt = 0; attempt < 3; attempt += 1) expect(await lands('xwing')).toBe(false);
    await page.goto(`${running.origin}/#/policies`);
    await expect(page.getByRole('row', { name: /rule1/ })).toBeVisible();
    await expect(page.getByRole('row', { name: /rule1.*valid/i })).toBeVisible({ timeout: 20_000 });
    await picture(page, 'policies');
  });

  test('Audit has the write, with who made it and the policy as it is now', async ({ page }) => {
    await open(page, 'audit');
    const row = page.getByRole('row', { name: /policies\.create.*rule1/ }).first();
    await expect(row).toBeVisible();
    await row.click();
    const pane = page.getByRole('complementary', { name: 'One write' });
    await expect(pane.getByText('request-landing').or(pane.getByText('endpointSelector')).first()).toBeVisible();
    await picture(page, 'audit');
  });

  test('Flows shows FORWARDED and DROPPED with the deciding policy', async ({ page }) => {
    await governed();
    await open(page, 'flows');
    await page.getByLabel('Filter flows').fill('from-pod:galaxy/xwing verdict:DROPPED ');
    await page.keyboard.press('Enter');
    // Not the first row: the count of new flows may lie over it.
    const row = page.getByRole('row', { name: /xwing.*deathstar/ }).nth(3);
    await expect(row).toBeVisible({ timeout: 20_000 });
    await page.getByRole('button', { name: 'Pause' }).click();
    await row.click();
    const details = page.getByLabel('Flow details');
    await expect(details.getByText('Why it was dropped')).toBeVisible();
    await expect(details.getByText(/policy denied/i).first()).toBeVisible();
    await expect(details.getByText(/rule1/).first()).toBeVisible();
    await picture(page, 'flows-dropped');
    await open(page, 'flows');
    await page.getByLabel('Filter flows').fill('from-pod:galaxy/tiefighter verdict:FORWARDED ');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('row', { name: /tiefighter.*deathstar/ }).first()).toBeVisible({ timeout: 20_000 });
  });

  test('Topology draws the denied edge, and its table says the same', async ({ page }) => {
    await governed();
    await open(page, 'topology?scope=pod&namespaces=galaxy');
    await expect(page.getByLabel(/Topology with \d+ nodes/)).toBeVisible({ timeout: 30_000 });
    await picture(page, 'topology-graph');
    await open(page, 'topology?scope=pod&view=table');
    await expect(page.getByRole('row', { name: /xwing.*deathstar.*(dropped|denied)/i }).first()).toBeVisible({
      timeout: 30_000,
    });
    await expect(page.getByRole('row', { name: /tiefighter.*deathstar.*forwarded/i }).first()).toBeVisible({
      timeout: 30_000,
    });
    await picture(page, 'topology-table');
    await open(page, 'topology?scope=workload');
    await expect(page.getByLabel(/Topology with \d+ nodes/)).toBeVisible({ timeout: 30_000 });
    await picture(page, 'topology-workloads');
  });
});
