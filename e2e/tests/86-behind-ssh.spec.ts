import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { lab } from '../../lab/client.ts';
import { picture, type RunningConsole, startConsole } from '../support/console.ts';

/**
 * One bastion is enough: the control plane is reached through it, its kubeconfig names an address that this host has no
 * route to, and everything the console shows of the cluster travels through both hops.
 */
test.describe('a cluster behind two SSH hops', () => {
  let directory = '';
  let sshConfig = '';
  test.beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-behind-'));
    sshConfig = (await lab(['ssh-config'])).trim();
  });
  test.afterAll(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  async function withConsole(config: string, look: (running: RunningConsole) => Promise<void>): Promise<void> {
    const empty = join(directory, 'empty');
    writeFileSync(empty, 'apiVersion: v1\nkind: Config\n');
    const running = await startConsole(['--kubeconfig', empty, '--ssh-config', config], { HOME: directory });
    try {
      await look(running);
    } finally {
      await running.close();
    }
  }

  async function addHost(page: Page, address: string, host: string): Promise<void> {
    await page.goto(address);
    await page
      .getByRole('button', { name: /Add a cluster|^Add$/ })
      .first()
      .click();
    await page.getByText('Behind SSH', { exact: true }).click();
    await page
      .getByRole('textbox', { name: 'Host' })
      .or(page.getByRole('combobox', { name: 'Host' }))
      .first()
      .fill(host);
    await page.keyboard.press('Escape');
  }

  const look = (page: Page) => page.getByRole('button', { name: 'Connect and look' }).click();

  test('is found, connected and shown with its route; nodes can be reached the same way', async ({ page }) => {
    await withConsole(sshConfig, async (running) => {
      await addHost(page, running.address, 'cp-via-bastion');
      await picture(page, 'add-behind-ssh');
      await look(page);
      await expect(page.getByRole('heading', { level: 1, name: /fairlead-lab|admin/ })).toBeVisible({
        timeout: 30_000,
      });
      await page.getByRole('button', { name: 'Connect', exact: true }).click();
      await expect(page.getByRole('row', { name: /node1/ })).toBeVisible({ timeout: 30_000 });
      await expect(page.getByText('ssh bastion → ssh cp-via-bastion').first()).toBeVisible();
      await expect(page.getByText('172.31.77.10:6443').first()).toBeVisible();
      await picture(page, 'behind-ssh');
    });
  });

  test('asks for an unknown host key with its fingerprint, and connects once it is trusted', async ({ page }) => {
    const known = join(directory, 'known_hosts');
    writeFileSync(known, '');
    const config = join(directory, 'config');
    const text = readFileSync(sshConfig, 'utf8')
      .replace(/UserKnownHostsFile .*/, `UserKnownHostsFile ${known}`)
      .replace(/StrictHostKeyChecking .*/, 'StrictHostKeyChecking ask');
    writeFileSync(config, text);
    await withConsole(config, async (running) => {
      await addHost(page, running.address, 'cp-via-bastion');
      await look(page);
      const dialog = page.getByRole('dialog', { name: 'Is this bastion?' });
      await expect(dialog.getByText(/SHA256:/)).toBeVisible({ timeout: 30_000 });
      await picture(page, 'unknown-host-key');
      await dialog.getByRole('button', { name: 'Trust this key' }).click();
      await page
        .getByRole('dialog', { name: 'Is this cp-via-bastion?' })
        .getByRole('button', { name: 'Do not connect' })
        .click();
      await expect(page.getByText('ssh.host-key-unknown')).toBeVisible();
    });
    expect(readFileSync(known, 'utf8')).toBe('');
  });

  test('stops at a changed host key and shows both fingerprints', async ({ page }) => {
    const config = join(directory, 'changed');
    const known = join(directory, 'changed-known');
    const original = /UserKnownHostsFile (.*)/.exec(readFileSync(sshConfig, 'utf8'))?.[1] ?? '';
    const lines = readFileSync(original, 'utf8').split('\n');
    const other =
      lines
        .find((line) => line.startsWith('node1'))
        ?.split(' ')
        .slice(1)
        .join(' ') ?? '';
    writeFileSync(
      known,
      lines.map((line) => (/^(bastion|router)/.test(line) ? `${line.split(' ')[0]} ${other}` : line)).join('\n'),
    );
    writeFileSync(
      config,
      readFileSync(sshConfig, 'utf8').replace(/UserKnownHostsFile .*/, `UserKnownHostsFile ${known}`),
    );
    await withConsole(config, async (running) => {
      await addHost(page, running.address, 'cp-via-bastion');
      await look(page);
      const card = page.getByRole('alert').filter({ hasText: 'ssh.host-key-changed' });
      await expect(card).toBeVisible({ timeout: 30_000 });
      expect(((await card.textContent()) ?? '').match(/SHA256:/g)?.length).toBeGreaterThanOrEqual(2);
      await picture(page, 'changed-host-key');
    });
  });

  test('a machine without a kubeconfig is told as that', async ({ page }) => {
    await withConsole(sshConfig, async (running) => {
      await addHost(page, running.address, 'router');
      await look(page);
      await expect(page.getByText('ssh.no-kubeconfig')).toBeVisible({ timeout: 30_000 });
    });
    expect(existsSync(join(directory, '.kube'))).toBe(false);
  });
});
