import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { kubectl } from '../../lab/client.ts';
import { picture, type RunningConsole, startConsole } from '../support/console.ts';

/** A kubeconfig can name any program: none runs before somebody has seen exactly what it is and has allowed it. */
test.describe('login programs', () => {
  let directory = '';
  let program = '';
  let kubeconfig = '';
  test.beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-login-'));
    program = join(directory, 'get-token');
    kubeconfig = join(directory, 'kubeconfig');
    const account = 'e2e-login';
    await kubectl(['-n', 'default', 'create', 'serviceaccount', account]);
    await kubectl([
      'create',
      'clusterrolebinding',
      account,
      '--clusterrole=cluster-admin',
      `--serviceaccount=default:${account}`,
    ]);
    const token = (await kubectl(['-n', 'default', 'create', 'token', account, '--duration=2h'])).trim();
    const credential = { apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential', status: { token } };
    // It writes down that it ran, with what it was given.
    writeFileSync(
      program,
      `#!/bin/sh\necho "$@ $REALM" >> ${directory}/ran\ncat <<'E'\n${JSON.stringify(credential)}\nE\n`,
      {
        mode: 0o700,
      },
    );
  });
  test.afterAll(async () => {
    rmSync(directory, { recursive: true, force: true });
    await kubectl(['delete', 'clusterrolebinding', 'e2e-login', '--ignore-not-found']);
    await kubectl(['-n', 'default', 'delete', 'serviceaccount', 'e2e-login', '--ignore-not-found']);
  });

  async function write(args: readonly string[]): Promise<void> {
    const raw = JSON.parse(await kubectl(['config', 'view', '--raw', '-o', 'json'])) as {
      readonly clusters: readonly { readonly cluster: object }[];
    };
    const exec = {
      apiVersion: 'client.authentication.k8s.io/v1',
      command: './get-token',
      args,
      env: [{ name: 'REALM', value: 'staff' }],
      interactiveMode: 'Never',
    };
    const text = JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'lab', cluster: raw.clusters[0]?.cluster }],
      users: [{ name: 'u', user: { exec } }],
      contexts: [{ name: 'by-program', context: { cluster: 'lab', user: 'u' } }],
      'current-context': 'by-program',
    });
    writeFileSync(kubeconfig, text, { mode: 0o600 });
  }
  const runs = () =>
    existsSync(join(directory, 'ran')) ? readFileSync(join(directory, 'ran'), 'utf8').trim().split('\n') : [];

  async function withConsole(args: readonly string[], look: (running: RunningConsole) => Promise<void>): Promise<void> {
    const running = await startConsole(['--kubeconfig', kubeconfig, ...args]);
    try {
      await look(running);
    } finally {
      await running.close();
    }
  }
  async function open(page: Page, address: string): Promise<void> {
    await page.goto(address);
    await page.getByRole('navigation', { name: 'Clusters' }).getByRole('link').first().click();
  }
  const dialog = (page: Page) => page.getByRole('dialog', { name: 'A program wants to run on this machine' });
  const review = (page: Page) => page.getByRole('button', { name: 'Review login program…' });

  test('is shown whole before it runs; refused, nothing has run; allowed, it logs in; changed, it is asked again', async ({
    page,
  }) => {
    await write(['--for', 'the lab']);
    await withConsole([], async (running) => {
      await open(page, running.address);
      await review(page).click();
      for (const text of ['./get-token', program, '"--for" "the lab"', '"REALM=staff"'])
        await expect(dialog(page).getByText(text, { exact: true })).toBeVisible();
      await expect(dialog(page).getByRole('button', { name: 'Cancel' })).toBeFocused();
      await picture(page, 'login-program');
      await page.keyboard.press('Enter');
      await expect(dialog(page)).toBeHidden();

      // Refused: the cluster is there, not connected, and says why.
      await expect(page.getByText('that has not been allowed. Nothing has been run')).toBeVisible();
      await expect(page.getByText('Not connected').first()).toBeVisible();
      await picture(page, 'login-program-refused');
      // No other view is a way around it.
      await page.goto(`${running.origin}/#/flows`);
      await page.getByRole('button', { name: 'Connect', exact: true }).click();
      const card = page.getByRole('alert').filter({ hasText: 'cluster.login-not-allowed' });
      await expect(card).toContainText(program);
      expect(runs()).toEqual([]);

      await open(page, running.address);
      await review(page).click();
      await dialog(page).getByRole('button', { name: 'Allow this program' }).click();
      await expect(dialog(page)).toBeHidden();
      const connect = page.getByRole('button', { name: 'Connect', exact: true });
      await expect(connect.or(page.getByRole('button', { name: 'Disconnect' })).first()).toBeVisible();
      if (await connect.isVisible()) await connect.click();
      await expect(page.getByRole('row', { name: /node1/ })).toBeVisible({ timeout: 30_000 });
      expect(runs()).toEqual(['--for the lab staff']);

      // Other arguments are another program.
      await write(['--for', 'somebody else']);
      await expect(review(page)).toBeVisible({ timeout: 30_000 });
      expect(runs()).toEqual(['--for the lab staff']);
    });
  });

  test('a locked console runs none, and cannot be made to', async ({ page }) => {
    await write(['--for', 'the lab']);
    const before = runs();
    await withConsole(['--deny-login-programs'], async (running) => {
      await open(page, running.address);
      await expect(page.getByText('no login program may run here').first()).toBeVisible();
      await review(page).click();
      const allow = dialog(page).getByRole('button', { name: 'Allow this program' });
      await expect(allow).toHaveAttribute('aria-disabled', 'true');
      await expect(allow).toHaveAccessibleDescription(/--deny-login-programs/);
      await allow.click({ force: true });
      await expect(dialog(page)).toBeVisible();
      await picture(page, 'login-program-locked');
      await dialog(page).getByRole('button', { name: 'Cancel' }).click();
      await page.goto(`${running.origin}/#/flows`);
      await page.getByRole('button', { name: 'Connect', exact: true }).click();
      await expect(page.getByRole('alert').filter({ hasText: 'cluster.login-programs-denied' })).toBeVisible();
      expect(runs()).toEqual(before);
    });
  });
});
