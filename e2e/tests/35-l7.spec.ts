import { expect, type Page, test } from '@playwright/test';
import { eventually } from '../../lab/client.ts';
import { inPod } from '../support/cluster.ts';
import { labArguments, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { removePolicies, startDemo } from '../support/demo.ts';

/** What the deathstar answers a ship: a status code, or 0 where nothing came within two seconds. */
async function asks(ship: string, method: string, path: string): Promise<number> {
  const url = `http://deathstar.galaxy.svc.cluster.local${path}`;
  try {
    return Number(
      await inPod(
        ship,
        ['curl', '-s', '-m', '2', '-o', '/dev/null', '-w', '%{http_code}', '-X', method, url],
        'galaxy',
      ),
    );
  } catch {
    return 0;
  }
}

/** The second half of the demo: with a rule on HTTP tiefighter may land, and its PUT to the exhaust port gets 403. */
test.describe('rules on HTTP, from the console', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    test.setTimeout(180_000);
    await startDemo();
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await removePolicies();
    await running.close();
  });

  const open = (page: Page, view: string) => openView(page, running, view);

  test('the console applies it: landing works, the exhaust port is out of reach', async ({ page }) => {
    const before = await eventually('tiefighter reaches the exhaust port', 20, async () => {
      const code = await asks('tiefighter', 'PUT', '/v1/exhaust-port');
      return code === 503 ? code : undefined;
    });
    expect(before, 'without a policy the deathstar explodes').toBe(503);
    await open(page, 'policies');
    await page.getByRole('button', { name: 'New policy' }).click();
    await page.getByRole('menuitem', { name: /Demo: only landing/ }).click();
    await expect(page.getByText(/selects 2 pods/i).first()).toBeVisible({ timeout: 20_000 });
    await expect(page.getByText(/only HTTP: POST \/v1\/request-landing/).first()).toBeVisible();
    await picture(page, 'policy-l7-editor');
    await page.getByRole('button', { name: 'Dry run' }).click();
    await expect(page.getByRole('dialog')).toBeVisible();
    await page.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
    await eventually('the exhaust port answers 403', 10, async () =>
      (await asks('tiefighter', 'PUT', '/v1/exhaust-port')) === 403 ? true : undefined,
    );
    for (let attempt = 0; attempt < 5; attempt += 1) {
      expect(await asks('tiefighter', 'POST', '/v1/request-landing')).toBe(200);
      expect(await asks('tiefighter', 'PUT', '/v1/exhaust-port')).toBe(403);
    }
    expect(await asks('xwing', 'POST', '/v1/request-landing'), 'the alliance gets no answer at all').toBe(0);
    await page.goto(`${running.origin}/#/policies`);
    await expect(page.getByRole('row', { name: /rule1.*valid/i })).toBeVisible({ timeout: 20_000 });
  });

  test('Flows shows the requests, allowed and denied', async ({ page }) => {
    await open(page, 'flows');
    await page.getByLabel('Filter flows').fill('from-pod:galaxy/tiefighter event:l7 verdict:DROPPED ');
    await page.keyboard.press('Enter');
    await asks('tiefighter', 'PUT', '/v1/exhaust-port');
    await expect(page.getByRole('row', { name: /PUT .*exhaust-port/ }).first()).toBeVisible({ timeout: 20_000 });
    await picture(page, 'flows-l7-denied');
    await open(page, 'flows');
    await page.getByLabel('Filter flows').fill('from-pod:galaxy/tiefighter event:l7 verdict:FORWARDED ');
    await page.keyboard.press('Enter');
    await asks('tiefighter', 'POST', '/v1/request-landing');
    await expect(page.getByRole('row', { name: /POST .*request-landing/ }).first()).toBeVisible({ timeout: 20_000 });
    await picture(page, 'flows-l7');
  });
});
