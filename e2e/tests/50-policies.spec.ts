import { expect, type Page, test } from '@playwright/test';
import { kubectl } from '../../lab/client.ts';
import { labArguments, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { applyDemoPolicy } from '../support/demo.ts';

const selectsNothing = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: nobody
  namespace: galaxy
spec:
  endpointSelector:
    matchLabels:
      class: deathstra
  ingress:
    - fromEndpoints:
        - matchLabels:
            org: empire
`;

/** Policies that cannot work: the editor says so at the place, and nothing reaches the cluster. */
test.describe('policies that cannot work', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  async function write(page: Page, text: string): Promise<void> {
    await openView(page, running, 'policies');
    await page.getByRole('button', { name: 'New policy' }).click();
    await page.getByRole('menuitem', { name: /Demo: protect the deathstar/ }).click();
    const editor = page.locator('.cm-content');
    await expect(editor).toBeVisible();
    await editor.click();
    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.insertText(text);
  }

  test('does not parse: the line is named, and nothing can be applied', async ({ page }) => {
    await write(page, 'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x\nspec: [');
    await expect(page.getByText(/line 3|line 4|3:|4:/i).first()).toBeVisible({ timeout: 15_000 });
    await expect(page.getByRole('button', { name: 'Dry run' })).toBeDisabled();
    await picture(page, 'policy-does-not-parse');
  });

  test('parses but means nothing: an unknown field is named with its path', async ({ page }) => {
    await write(page, selectsNothing.replace('fromEndpoints:', 'fromEndpoint:').replace('deathstra', 'deathstar'));
    await expect(page.getByText(/fromEndpoints/).first()).toBeVisible({ timeout: 15_000 });
    await expect(page.getByText(/spec\.ingress\[0\]\.fromEndpoint/).first()).toBeVisible();
    await expect(page.getByRole('button', { name: 'Dry run' })).toBeDisabled();
    await picture(page, 'policy-unknown-field');
  });

  test('selects nothing: a warning with what comes near', async ({ page }) => {
    await write(page, selectsNothing);
    await expect(page.getByText(/selects nothing|selects no pod|selects 0 pods/i).first()).toBeVisible({
      timeout: 15_000,
    });
    await picture(page, 'policy-selects-nothing');
    expect(await kubectl(['get', 'cnp', '-A', '-o', 'name'])).not.toContain('nobody');
  });

  test('a policy is removed from the console', async ({ page }) => {
    await applyDemoPolicy();
    await openView(page, running, 'policies');
    await page.getByRole('row', { name: /rule1/ }).click();
    await page
      .getByRole('button', { name: /^Delete/ })
      .first()
      .click();
    await picture(page, 'policy-delete');
    await page.getByRole('dialog').getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(page.getByRole('row', { name: /rule1/ })).toHaveCount(0, { timeout: 20_000 });
    expect(await kubectl(['get', 'cnp', '-A', '-o', 'name'])).not.toContain('rule1');
  });
});
