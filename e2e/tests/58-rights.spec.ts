import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, type Locator, type Page, test } from '@playwright/test';
import { apply, kubectl, lab } from '../../lab/client.ts';
import { picture, type RunningConsole, startConsole } from '../support/console.ts';
import { kubeconfigFor, readEverything } from '../support/users.ts';

/** Users with less than everything, by real RBAC: what they may not do is disabled, and says why and what to ask for. */
test.describe('what a user may not do', () => {
  let running: RunningConsole;
  let kubeconfig = '';
  test.beforeAll(async () => {
    test.setTimeout(120_000);
    await lab(['demo']);
    const write = [
      { apiGroups: ['networking.k8s.io', 'cilium.io'], resources: ['*'], verbs: ['*'] },
      { apiGroups: [''], resources: ['pods/exec'], verbs: ['get', 'create'] },
    ];
    kubeconfig = await kubeconfigFor([
      { name: 'reader', everywhere: readEverything },
      { name: 'galaxian', everywhere: readEverything, inNamespace: { namespace: 'galaxy', rules: write } },
    ]);
    const policy = (namespace: string) => ({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'e2e-rights', namespace },
      spec: { podSelector: { matchLabels: { none: 'none' } }, policyTypes: ['Ingress'] },
    });
    await apply([policy('galaxy'), policy('default')]);
    const sshConfig = (await lab(['ssh-config'])).trim();
    running = await startConsole(['--kubeconfig', kubeconfig, '--ssh-config', sshConfig]);
  });
  test.afterAll(async () => {
    await running.close();
    rmSync(dirname(kubeconfig), { recursive: true, force: true });
    for (const namespace of ['galaxy', 'default'])
      await kubectl(['-n', namespace, 'delete', 'networkpolicy', 'e2e-rights', '--ignore-not-found']);
    for (const name of ['reader', 'galaxian']) {
      await kubectl(['delete', 'clusterrolebinding,clusterrole', `e2e-${name}`, '--ignore-not-found']);
      await kubectl(['-n', 'galaxy', 'delete', 'rolebinding,role', `e2e-${name}`, '--ignore-not-found']);
      await kubectl(['-n', 'default', 'delete', 'serviceaccount', name, '--ignore-not-found']);
    }
  });

  async function as(page: Page, user: string): Promise<void> {
    await page.goto(running.address);
    await page
      .getByRole('navigation', { name: 'Clusters' })
      .getByRole('link', { name: new RegExp(user) })
      .click();
    const connect = page.getByRole('button', { name: 'Connect', exact: true });
    const disconnect = page.getByRole('button', { name: 'Disconnect' });
    await expect(connect.or(disconnect).first()).toBeVisible();
    if (await connect.isVisible()) await connect.click();
    await expect(page.getByRole('row', { name: /node1/ })).toBeVisible({ timeout: 30_000 });
  }

  /** It is there, it cannot be used, and whoever points at it or comes by the keyboard reads why. */
  async function refused(page: Page, button: Locator, reason: string): Promise<void> {
    await expect(button).toHaveAttribute('aria-disabled', 'true', { timeout: 30_000 });
    await expect(button).toHaveAccessibleDescription(new RegExp(reason));
    await button.hover();
    await expect(page.getByRole('tooltip').filter({ hasText: reason })).toBeVisible();
    await page.mouse.move(0, 0);
  }
  const user = (name: string) => `Your user “system:serviceaccount:default:${name}” may not`;
  const button = (page: Page, name: string | RegExp) => page.getByRole('button', { name });

  test('a reader sees everything and can change nothing', async ({ page }) => {
    await as(page, 'reader');
    await page.getByRole('tab', { name: /Agent/ }).click();
    const install = button(page, /^(Install|Change values or upgrade)…$/);
    await refused(page, install, user('reader'));
    await picture(page, 'rights-install');
    const uninstall = button(page, 'Uninstall…');
    if (await uninstall.isVisible()) await refused(page, uninstall, user('reader'));
    await page.getByRole('tab', { name: /Connectivity/ }).click();
    await refused(page, button(page, /^Run/), 'namespaces in the whole cluster');

    await page.goto(`${running.origin}/#/terminal`);
    const row = page.getByRole('row', { name: /galaxy\/xwing/ });
    await refused(page, row.getByRole('button', { name: 'Open' }), 'pods/exec in namespace galaxy');
    await refused(
      page,
      row.getByRole('button', { name: 'Debug…' }),
      'patch pods/ephemeralcontainers in namespace galaxy',
    );
    await refused(
      page,
      page.getByRole('row', { name: /node1/ }).getByRole('button', { name: 'By pod…' }),
      'pods in namespace kube-system',
    );
    // The row itself is no way around it.
    await row.click();
    await expect(page.locator('.xterm-screen')).toHaveCount(0);
    await picture(page, 'rights-terminal');

    await page.goto(`${running.origin}/#/policies/NetworkPolicy/default/e2e-rights`);
    await refused(page, button(page, 'Delete'), 'delete networkpolicies.networking.k8s.io in namespace default');
    await refused(page, button(page, 'Dry run'), 'update networkpolicies.networking.k8s.io in namespace default');
    await picture(page, 'rights-policy');
  });

  test('rights in one namespace count there, and nowhere else', async ({ page }) => {
    await as(page, 'galaxian');
    await page.goto(`${running.origin}/#/policies/NetworkPolicy/default/e2e-rights`);
    await refused(page, button(page, 'Delete'), 'delete networkpolicies.networking.k8s.io in namespace default');
    await page.goto(`${running.origin}/#/policies/NetworkPolicy/galaxy/e2e-rights`);
    await expect(button(page, 'Delete')).not.toHaveAttribute('aria-disabled', 'true');
    await page.goto(`${running.origin}/#/terminal`);
    const row = page.getByRole('row', { name: /galaxy\/xwing/ });
    await refused(
      page,
      row.getByRole('button', { name: 'Debug…' }),
      'patch pods/ephemeralcontainers in namespace galaxy',
    );
    await expect(row.getByRole('button', { name: 'Open' })).not.toHaveAttribute('aria-disabled', 'true');
    await refused(
      page,
      page
        .getByRole('row', { name: /kube-system\/coredns/ })
        .first()
        .getByRole('button', { name: 'Open' }),
      'pods/exec in namespace kube-system',
    );
    await row.click();
    await expect(page.locator('.xterm-screen')).toBeVisible({ timeout: 30_000 });
  });

  test('what is granted meanwhile is found on the next connection', async ({ page }) => {
    await as(page, 'reader');
    await page.goto(`${running.origin}/#/policies/NetworkPolicy/default/e2e-rights`);
    await refused(page, button(page, 'Delete'), user('reader'));
    await kubectl([
      'create',
      'clusterrolebinding',
      'e2e-rights-more',
      '--clusterrole=cluster-admin',
      '--serviceaccount=default:reader',
    ]);
    try {
      await page.goto(`${running.origin}/#/clusters`);
      await openClusterAgain(page);
      await page.goto(`${running.origin}/#/policies/NetworkPolicy/default/e2e-rights`);
      await expect(button(page, 'Delete')).not.toHaveAttribute('aria-disabled', 'true', { timeout: 30_000 });
    } finally {
      await kubectl(['delete', 'clusterrolebinding', 'e2e-rights-more']);
    }
  });

  test('what is granted meanwhile is found at once by who presses what is disabled', async ({ page }) => {
    await as(page, 'reader');
    await page.goto(`${running.origin}/#/policies/NetworkPolicy/default/e2e-rights`);
    const remove = button(page, 'Delete');
    await refused(page, remove, 'press to have it looked up');
    await kubectl(
      ['create', 'clusterrolebinding', 'e2e-rights-more', '--clusterrole=cluster-admin'].concat(
        '--serviceaccount=default:reader',
      ),
    );
    try {
      // Far less than the minute after which it is asked by itself; the API server itself takes a moment.
      await expect(async () => {
        // Playwright would wait until it is enabled.
        await remove.click({ force: true });
        await expect(remove).not.toHaveAttribute('aria-disabled', 'true', { timeout: 1000 });
      }).toPass({ timeout: 15_000 });
      await expect(page.getByRole('dialog')).toHaveCount(0);
    } finally {
      await kubectl(['delete', 'clusterrolebinding', 'e2e-rights-more']);
    }
  });

  async function openClusterAgain(page: Page): Promise<void> {
    await page
      .getByRole('navigation', { name: 'Clusters' })
      .getByRole('link', { name: /reader/ })
      .click();
    await page.getByRole('button', { name: 'Disconnect' }).click();
    await page.getByRole('button', { name: 'Connect', exact: true }).click();
    await expect(page.getByRole('row', { name: /node1/ })).toBeVisible({ timeout: 30_000 });
  }
});
