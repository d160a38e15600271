import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl, lab, must, on, root } from '../../lab/client.ts';
import { openCluster, picture, startConsole } from '../support/console.ts';
import { auditedWrites, findValue } from '../support/lifecycle.ts';

/** Nodes without an agent and without SSH: a short-lived pod of a Job is the only way to ask them. */
test.describe('preflight by a short-lived pod', () => {
  test.describe.configure({ timeout: 240_000, mode: 'serial' });
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-no-ssh-'));
  let args: readonly string[] = [];

  test.beforeAll(async () => {
    test.setTimeout(600_000);
    await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { seconds: 580 });
    await lab(['down']);
    await lab(['up', '--nodes', '2', '--cni', 'fairlead'], { seconds: 600 });
    await lab(['load', join(root, 'dist/fairlead-agent.tar')]);
    const { digest } = JSON.parse(readFileSync(join(root, 'dist/fairlead-agent.json'), 'utf8')) as {
      readonly digest: string;
    };
    await eventually('the kubelets tell of the image', 90, async () => {
      const images = await kubectl([
        'get',
        'nodes',
        '-o',
        'jsonpath={range .items[*]}{.status.images[*].names}{"\\n"}{end}',
      ]);
      return images
        .trim()
        .split('\n')
        .every((line) => line.includes(digest.replace(/^sha256:(.{16}).*$/, ':sha256-$1')))
        ? true
        : undefined;
    });
    writeFileSync(join(directory, 'ssh_config'), '# names no host\n');
    args = ['--kubeconfig', (await lab(['kubeconfig'])).trim(), '--ssh-config', join(directory, 'ssh_config')];
  });
  test.afterAll(() => rmSync(directory, { recursive: true, force: true }));

  const jobs = async () =>
    (await kubectl(['-n', 'kube-system', 'get', 'jobs,pods', '-l', 'fairlead.dev/node-job', '-o', 'name'])).trim();
  const open = async (page: Page, address: string) => {
    await page.goto(address);
    await openCluster(page);
    await page.getByRole('tab', { name: 'Preflight' }).click();
  };
  const made = (writes: readonly string[]) => writes.filter((one) => one.startsWith('create jobs/')).length;

  test('asks every node, one check alone again, and reports', async ({ page }) => {
    const running = await startConsole(args);
    try {
      await open(page, running.address);
      const { lines } = await auditedWrites();
      await page.getByRole('button', { name: 'Run', exact: true }).click();
      for (const node of ['node1', 'node2']) {
        const region = page.getByRole('region', { name: node, exact: true });
        await expect(region.locator('details').filter({ hasText: 'The node answers' })).toContainText(
          'by a short-lived pod',
          { timeout: 120_000 },
        );
        await expect(region.getByText('Kernel type information (BTF)')).toBeVisible();
      }
      await expect(page.getByRole('button', { name: 'Run all again' })).toBeEnabled({ timeout: 60_000 });
      await picture(page, 'preflight-pod');
      const all = await auditedWrites(lines);
      expect(made(all.writes), 'one Job per node').toBe(2);
      await eventually('the console has removed them', 30, async () => ((await jobs()) === '' ? true : undefined));

      const row = page
        .getByRole('region', { name: 'node2', exact: true })
        .locator('details')
        .filter({ hasText: '(BTF)' });
      await row.locator('summary').click();
      await row.getByRole('button', { name: 'Run this one again' }).click();
      await expect(page.getByRole('button', { name: 'Run all again' })).toBeEnabled({ timeout: 60_000 });
      await expect(row).toContainText('Passed');
      expect(made((await auditedWrites(all.lines)).writes), 'one Job, on one node').toBe(1);

      for (const [format, ending] of [
        ['Markdown', 'md'],
        ['JSON', 'json'],
      ] as const) {
        await page.getByRole('button', { name: 'Report' }).click();
        const [file] = await Promise.all([
          page.waitForEvent('download'),
          page.getByRole('menuitem', { name: format }).click(),
        ]);
        expect(file.suggestedFilename()).toMatch(new RegExp(`^fairlead-preflight-.*\\.${ending}$`));
        const text = readFileSync(await file.path(), 'utf8');
        for (const word of ['Kernel type information (BTF)', 'node1', 'node2', 'by a short-lived pod'])
          expect(text).toContain(word);
        if (format === 'JSON') expect((JSON.parse(text) as { results: unknown[] }).results.length).toBeGreaterThan(20);
      }
      await expectGeneve(page);
    } finally {
      await running.close();
    }
  });

  /** What the preflight has found on each node counts for the values: Geneve is refused where it cannot be made. */
  const expectGeneve = async (page: Page) => {
    const can = await Promise.all(
      ['node1', 'node2'].map((node) =>
        on(node, [
          'sh',
          '-c',
          'ip link add gtest type geneve id 1 remote 192.0.2.1 && ip link del gtest && echo yes || echo no',
        ]),
      ),
    );
    await page.getByRole('tab', { name: /Agent/ }).click();
    await page.getByRole('button', { name: 'Install…' }).click();
    await findValue(page, 'tunnelProtocol');
    await page.getByRole('combobox', { name: /Tunnel protocol/ }).click();
    await page.getByRole('option', { name: 'geneve' }).click();
    const refused = page.getByText('No Geneve tunnel can be made on node1, node2.').first();
    if (can.every((answer) => answer.includes('no'))) await expect(refused).toBeVisible({ timeout: 20_000 });
    else {
      await page.getByRole('button', { name: 'Make a plan' }).click();
      await expect(page.getByRole('heading', { name: 'Plan: install' })).toBeVisible({ timeout: 60_000 });
      await expect(refused).toHaveCount(0);
    }
    await picture(page, 'values-geneve');
  };

  test('what a killed console leaves behind is removed by the cluster', async ({ page }) => {
    const running = await startConsole(args);
    await open(page, running.address);
    await page.getByRole('button', { name: 'Run', exact: true }).click();
    const left = await eventually('a Job is there', 60, async () => (await jobs()) || undefined);
    await running.kill();
    rmSync(running.state, { recursive: true, force: true });
    expect(left).toContain('job.batch/fairlead-preflight-');
    const owners = await kubectl([
      '-n',
      'kube-system',
      'get',
      'pods',
      '-l',
      'fairlead.dev/node-job',
      '-o',
      'jsonpath={.items[*].metadata.ownerReferences[*].kind}',
    ]);
    expect(owners === '' ? ['Job'] : owners.split(' ')).toContain('Job');
    expect(await jobs(), 'nobody has cleaned up yet').not.toBe('');
    await eventually('nothing of it is left', 150, async () => ((await jobs()) === '' ? true : undefined));
  });
});
