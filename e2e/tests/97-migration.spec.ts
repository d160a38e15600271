import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { apply, eventually, kubectl, lab, must, on, root } from '../../lab/client.ts';
import { nodes } from '../support/cluster.ts';
import { labArguments, openCluster, picture, startConsole } from '../support/console.ts';
import { applyPlan, findValue, residue } from '../support/lifecycle.ts';

/** A cluster that lives on another plugin moves over to ours, and back. */
test.describe('migration from the bridge plugin', () => {
  test.describe.configure({ timeout: 300_000 });

  test.beforeAll(async () => {
    test.setTimeout(600_000);
    await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { seconds: 580 });
    await lab(['down']);
    await lab(['up', '--nodes', '3', '--cni', 'bridge']);
    await apply([
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: 'web', namespace: 'default' },
        spec: {
          replicas: 3,
          selector: { matchLabels: { app: 'web' } },
          template: {
            metadata: { labels: { app: 'web' } },
            spec: {
              terminationGracePeriodSeconds: 0,
              containers: [
                {
                  name: 'traffic',
                  image: 'fairlead.lab/traffic:1',
                  imagePullPolicy: 'Never',
                  args: ['serve', '--port', '9000'],
                },
              ],
            },
          },
        },
      },
    ]);
    await kubectl(['rollout', 'status', 'deployment/web', '--timeout=90s']);
  });

  const configurations = (node: string) => on(node, ['sh', '-c', 'ls /etc/cni/net.d']);

  test('its pods are listed, restarted node by node, and the old plugin comes back with the uninstall', async ({
    page,
  }) => {
    const running = await startConsole(await labArguments());
    try {
      await page.goto(running.address);
      await openCluster(page);
      await page.getByRole('tab', { name: 'Preflight' }).click();
      await page.getByRole('button', { name: 'Run', exact: true }).click();
      const other = page.locator('details').filter({ hasText: 'Other network' }).first();
      await expect(other).toContainText('10-bridge.conflist', { timeout: 90_000 });
      await picture(page, 'migration-preflight');

      await page.getByRole('tab', { name: /Agent/ }).click();
      await page.getByRole('button', { name: 'Install…' }).click();
      await findValue(page, 'cni.exclusive');
      await page.getByRole('switch', { name: /Set other CNI configurations aside/ }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      await expect(page.getByRole('heading', { name: 'Plan: install' })).toBeVisible({ timeout: 60_000 });
      await page.getByRole('switch', { name: /Restart pods that another plugin connected/ }).click();
      await expect(page.getByText(/default\/web-/).first()).toBeVisible({ timeout: 60_000 });
      await picture(page, 'migration-plan');
      await applyPlan(page, 'Apply');
      await expect(page.getByRole('heading', { name: 'Installation done' })).toBeVisible({ timeout: 200_000 });
      await picture(page, 'migration-done');

      await kubectl(['rollout', 'status', 'deployment/web', '--timeout=90s']);
      await eventually('every pod of the deployment has an endpoint', 60, async () => {
        const pods = (await kubectl(['get', 'pods', '-l', 'app=web', '-o', 'jsonpath={.items[*].metadata.name}']))
          .trim()
          .split(' ')
          .sort();
        const endpoints = (await kubectl(['get', 'ciliumendpoints', '-o', 'jsonpath={.items[*].metadata.name}']))
          .trim()
          .split(' ');
        return pods.length === 3 && pods.every((pod) => endpoints.includes(pod)) ? true : undefined;
      });
      for (const node of nodes) expect(await configurations(node)).not.toMatch(/10-bridge\.conflist$/m);

      await page.getByRole('button', { name: 'Done' }).click();
      await page.getByRole('button', { name: 'Uninstall…' }).click();
      await page
        .getByRole('button', { name: /^Uninstall/ })
        .last()
        .click({ timeout: 60_000 });
      const dialog = page.getByRole('dialog');
      await dialog.getByRole('textbox').fill((await kubectl(['config', 'current-context'])).trim());
      await dialog.getByRole('button', { name: 'Uninstall', exact: true }).click();
      await expect(page.getByRole('heading', { name: 'Uninstall done' })).toBeVisible({ timeout: 200_000 });
      for (const node of nodes) {
        expect(await residue(node), node).toBe('');
        expect(await configurations(node), node).toMatch(/10-bridge\.conflist$/m);
      }
      await kubectl(['delete', 'pods', '-l', 'app=web', '--now']);
      await kubectl(['rollout', 'status', 'deployment/web', '--timeout=90s']);
    } finally {
      await running.close();
    }
  });
});
