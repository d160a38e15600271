import { expect, test } from '@playwright/test';
import { eventually, kubectl } from '../../lab/client.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';
import {
  agentConfiguration,
  agentUids,
  allReady,
  applyPlan,
  auditedWrites,
  findValue,
  openInstall,
} from '../support/lifecycle.ts';

/** The life of an installation: what may go wrong, and every way back. */
test.describe('an installation is changed, goes wrong, and is taken back', () => {
  test.describe.configure({ timeout: 240_000 });
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('values that cannot work are refused beside their field, before a plan is made', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'installNoConntrackIptablesRules');
    await page.getByRole('switch', { name: /Spare the node/ }).click();
    await expect(page.getByText(/cannot skip the node’s connection tracking/).first()).toBeVisible();
    const plan = page.getByRole('button', { name: 'Make a plan' });
    await expect(plan).toHaveAttribute('aria-disabled', 'true');
    await picture(page, 'install-refused');
    await page.getByRole('switch', { name: /Spare the node/ }).click();
    await expect(plan).not.toHaveAttribute('aria-disabled', 'true');
  });

  test('a values file of Cilium is taken over, and what has no equivalent is listed', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    await page.getByRole('button', { name: /Change values/ }).click();
    const text =
      'debug: true\noperator:\n  replicas: 2\nencryption:\n  enabled: true\nhubble:\n  ui:\n    enabled: true\n';
    await page
      .locator('input[type=file]')
      .setInputFiles({ name: 'values.yaml', mimeType: 'text/yaml', buffer: Buffer.from(text) });
    await expect(page.getByText('1 value taken over, 3 without an equivalent')).toBeVisible();
    await expect(page.getByText(/There is no operator/)).toBeVisible();
    await picture(page, 'install-import');
    await page.getByText('YAML', { exact: true }).click();
    await expect(page.locator('.cm-content')).toContainText('debug: true');
  });

  test('a plan writes nothing: the API server’s audit log has no write in it', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    const before = await auditedWrites();
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'debug');
    await page.getByRole('switch', { name: /Debug log/ }).click();
    await page.getByRole('button', { name: 'Make a plan' }).click();
    await expect(page.getByRole('heading', { name: 'Plan: upgrade' })).toBeVisible({ timeout: 60_000 });
    const after = await auditedWrites(before.lines);
    expect(after.writes).toEqual([]);
    // The log does see writes: a test of the test.
    await kubectl(['-n', 'default', 'create', 'configmap', 'seen', '--from-literal=a=b']);
    await kubectl(['-n', 'default', 'delete', 'configmap', 'seen']);
    expect((await auditedWrites(before.lines)).writes).toEqual(['create configmaps/seen', 'delete configmaps/seen']);
  });

  test('a canary that cannot work ends the upgrade; the other nodes never notice, and a rollback puts it right', async ({
    page,
  }) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    const configuration = await agentConfiguration();
    const before = await agentUids();
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'devices');
    const devices = page.getByPlaceholder('eth0');
    await devices.fill('nosuch0');
    await devices.press('Enter');
    await page.getByRole('button', { name: 'Make a plan' }).click();
    await expect(page.getByText('Goes first, alone (canary).').first()).toBeVisible({ timeout: 60_000 });
    await picture(page, 'install-plan-canary');
    await applyPlan(page, 'Upgrade');
    await expect(page.getByRole('heading', { name: 'Upgrade failed' })).toBeVisible({ timeout: 120_000 });
    await expect(page.getByText(/nosuch0 is not there/).first()).toBeVisible();
    await picture(page, 'install-canary-failed');
    const after = await agentUids();
    const changed = Object.keys(before).filter((node) => before[node] !== after[node]);
    expect(changed.length, 'only the canary was touched').toBe(1);

    await page.getByRole('button', { name: 'Back', exact: true }).click();
    await expect(page.getByText(/The last upgrade failed: 0 of 3 nodes are done/)).toBeVisible();
    await page.getByRole('button', { name: 'Roll back…' }).click();
    await expect(page.getByRole('heading', { name: 'Plan: roll back' })).toBeVisible({ timeout: 60_000 });
    await applyPlan(page, 'Roll back');
    await expect(page.getByRole('heading', { name: 'Rollback done' })).toBeVisible({ timeout: 120_000 });
    await picture(page, 'install-rolled-back');
    expect(await agentConfiguration()).toBe(configuration);
    await allReady();
  });

  test('an upgrade changes one value, keeps the others, and no connection breaks', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    const before = await agentConfiguration();
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'debug');
    await page.getByRole('switch', { name: /Debug log/ }).click();
    await expect(page.getByText('Changed: debug. Everything else is kept.')).toBeVisible();
    await page.getByRole('button', { name: 'Make a plan' }).click();
    await applyPlan(page, 'Upgrade');
    await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 150_000 });
    await expect(page.getByText(/the held connection never broke.*; 0 of \d+ new connections failed/)).toBeVisible();
    expect(await agentConfiguration()).toBe(`debug: true\n${before}`);
    const left = await eventually('the probe’s namespace is gone', 60, async () =>
      (await kubectl(['get', 'namespaces', '-o', 'name'])).includes('fairlead-upgrade') ? undefined : 'gone',
    );
    expect(left).toBe('gone');
  });

  test('a console that ends in the middle leaves an upgrade that another one finishes', async ({ page }) => {
    const first = await startConsole(await labArguments());
    await page.goto(first.address);
    await openCluster(page);
    await openInstall(page);
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'debug');
    await page.getByRole('switch', { name: /Debug log/ }).click();
    await page.getByRole('button', { name: 'Make a plan' }).click();
    await applyPlan(page, 'Upgrade');
    await expect(page.getByText('Agent (canary)').first()).toBeVisible({ timeout: 60_000 });
    await first.close();

    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    const notice = page.getByText(/The last upgrade (was broken off|was stopped|failed)/);
    await expect(async () => {
      if (await notice.isVisible()) return;
      await page.reload();
      await openCluster(page);
      await openInstall(page);
      await expect(notice).toBeVisible({ timeout: 3000 });
    }).toPass({ timeout: 90_000 });
    await picture(page, 'install-interrupted');
    await page.getByRole('button', { name: 'Resume…' }).click();
    await applyPlan(page, 'Upgrade');
    await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 150_000 });
    expect(await agentConfiguration()).not.toContain('debug');
    await allReady();
  });
});

/** Checks with evidence, and connectivity, on the cluster as it is. */
test.describe('verify', () => {
  test.describe.configure({ timeout: 240_000 });
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('every node is asked, nothing fails, and each check shows what it rests on', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await page.getByRole('tab', { name: 'Verify' }).click();
    await page.getByRole('button', { name: 'Run', exact: true }).click();
    for (const node of ['Cluster', 'node1', 'node2', 'node3'])
      await expect(page.getByRole('region', { name: node, exact: true })).toBeVisible({ timeout: 60_000 });
    await expect(page.getByRole('button', { name: 'Run all again' })).toBeEnabled({ timeout: 60_000 });
    await expect(page.getByRole('status').filter({ hasText: 'failed' })).toHaveCount(0);
    const node1 = page.getByRole('region', { name: 'node1', exact: true });
    await node1.getByText('Address translation').click();
    await expect(node1.getByText(/no KUBE-SVC chain/).first()).toBeVisible();
    await expect(node1.getByText(/TABLE\s+CHAIN/)).toBeVisible();
    await picture(page, 'verify');
    await page.getByRole('tab', { name: 'Preflight' }).click();
    await page.getByRole('button', { name: 'Run', exact: true }).click();
    await expect(page.getByText('Kernel type information (BTF)').first()).toBeVisible({ timeout: 60_000 });
    await picture(page, 'preflight');
  });

  test('the connectivity test passes, and nothing of it stays', async ({ page }) => {
    await page.goto(running.address);
    await openCluster(page);
    await page.getByRole('tab', { name: 'Connectivity' }).click();
    await page.getByRole('textbox', { name: 'A server outside of the cluster' }).fill('http://198.51.100.10/');
    await page.getByRole('button', { name: /^Run \d+ cases/ }).click();
    await expect(page.getByText(/Done: everything was removed/)).toBeVisible({ timeout: 200_000 });
    await picture(page, 'connectivity');
    const failed = await page
      .locator('details')
      .filter({ hasText: 'Failed' })
      .evaluateAll((rows) => rows.map((row) => row.textContent ?? ''));
    expect(failed).toEqual([]);
    await eventually('its namespace is gone', 60, async () =>
      (await kubectl(['get', 'namespaces', '-o', 'name'])).includes('fairlead-test') ? undefined : 'gone',
    );
  });
});
