import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { eventually, kubectl, must, root } from '../../lab/client.ts';
import { agentPods, nodes } from '../support/cluster.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';

/** A cluster without a network gets ours, from the console, as an operator does it. */
test.describe('install from the console', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    test.setTimeout(900_000);
    await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { seconds: 880 });
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('connect, look at the plan, apply it, and every node is Ready within 10 s of its image', async ({ page }) => {
    test.setTimeout(240_000);
    await page.goto(running.address);
    await openCluster(page);
    for (const node of nodes) await expect(page.getByText(node, { exact: true }).first()).toBeVisible();
    await picture(page, 'clusters-no-agent');

    await page.getByRole('tab', { name: /Agent/ }).click();
    await page.getByRole('button', { name: 'Install…' }).click();
    await picture(page, 'install-values');
    const before = await kubectl(['get', 'daemonsets,configmaps,secrets', '-A', '-o', 'name']);
    await page.getByRole('button', { name: 'Make a plan' }).click();
    const apply = page.getByRole('button', { name: 'Apply', exact: true });
    await expect(apply).toBeEnabled({ timeout: 60_000 });
    await picture(page, 'install-plan');
    expect(await kubectl(['get', 'daemonsets,configmaps,secrets', '-A', '-o', 'name']), 'a plan writes nothing').toBe(
      before,
    );

    await apply.click();
    await expect(page.getByRole('heading', { name: /Installation is running|Installation done/ })).toBeVisible();
    await page.screenshot({ path: join(root, 'e2e/screenshots/install-progress-light-1280.png') });
    await expect(page.getByRole('heading', { name: 'Installation done' })).toBeVisible({ timeout: 150_000 });
    await picture(page, 'install-done');

    // Nodes go one after the other: each has ten seconds from the moment that its agent's pod is made.
    for (const node of nodes) {
      const [status, at] = (
        await kubectl([
          'get',
          'node',
          node,
          '-o',
          'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}',
        ])
      )
        .trim()
        .split(' ');
      expect(status, node).toBe('True');
      const selection = ['--field-selector', `spec.nodeName=${node}`];
      const made = await agentPods('{.items[0].metadata.creationTimestamp}', ...selection);
      const seconds = (Date.parse(at ?? '') - Date.parse(made.trim())) / 1000;
      expect(seconds, `${node}: seconds from the pod of its agent to Ready`).toBeLessThanOrEqual(10);
    }
  });

  test('the agents of all nodes are ready in the console', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    for (const node of nodes) {
      await expect(page.getByRole('row', { name: new RegExp(`${node}.*ready`, 'i') })).toBeVisible({ timeout: 30_000 });
    }
    await picture(page, 'clusters-installed');
    await page.getByRole('row', { name: /node2/ }).click();
    await expect(page.getByText('Components').first()).toBeVisible();
    await picture(page, 'clusters-node');
  });

  test('kubectl prints the columns of the CRDs', async () => {
    await eventually('CoreDNS runs', 60, async () => {
      const pods = await kubectl([
        '-n',
        'kube-system',
        'get',
        'pods',
        '-l',
        'k8s-app=kube-dns',
        '-o',
        'jsonpath={.items[*].status.containerStatuses[*].ready}',
      ]);
      return pods.includes('true') ? true : undefined;
    });
    expect(await kubectl(['get', 'ciliumnodes'])).toMatch(/NAME\s+CILIUMINTERNALIP\s+INTERNALIP\s+AGE/);
    expect(await kubectl(['get', 'ciliumendpoints', '-A'])).toMatch(
      /NAMESPACE\s+NAME\s+SECURITY IDENTITY\s+ENDPOINT STATE\s+IPV4\s+IPV6/,
    );
  });
});
