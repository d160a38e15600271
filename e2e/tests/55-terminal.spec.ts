import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { lab } from '../../lab/client.ts';
import { labArguments, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { outputOf, types } from '../support/terminal.ts';

/** Shells in pods and on nodes, in the browser. */
test.describe('terminals', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  test('a shell in a pod', async ({ page }) => {
    await openView(page, running, 'terminal?pod=galaxy/xwing');
    await expect(page.locator('.xterm-screen')).toBeVisible({ timeout: 30_000 });
    await types(page, 'echo sum $((20+22)) on $(hostname)');
    await expect.poll(() => outputOf(page), { timeout: 20_000 }).toContain('sum 42 on xwing');
    await picture(page, 'terminal-pod');
  });

  test('a shell on a node by SSH, its host key checked against known_hosts', async ({ page }) => {
    await openView(page, running, 'terminal?node=node2');
    await expect(page.locator('.xterm-screen')).toBeVisible({ timeout: 30_000 });
    await types(page, 'echo this is $(hostname), $((6*7))');
    await expect.poll(() => outputOf(page), { timeout: 20_000 }).toContain('this is node2, 42');
    await picture(page, 'terminal-node');
  });

  test('a changed host key is a hard stop with both fingerprints', async ({ page }) => {
    const config = join((await lab(['ssh-config'])).trim());
    const knownHosts = join(config, '..', 'known_hosts');
    const before = readFileSync(knownHosts, 'utf8');
    const keys = before.split('\n').filter((line) => line.includes('ssh-ed25519'));
    const other = keys.find((line) => line.startsWith('node1'))?.split(' ')[2];
    expect(other).toBeTruthy();
    try {
      writeFileSync(
        knownHosts,
        before
          .split('\n')
          .map((line) => (line.startsWith('node3') ? line.replace(/ssh-ed25519 \S+/, `ssh-ed25519 ${other}`) : line))
          .join('\n'),
      );
      await openView(page, running, 'terminal?node=node3');
      const card = page.getByRole('alertdialog', { name: /host key has changed/i });
      await expect(card).toBeVisible({ timeout: 30_000 });
      // The key that is known, and the one that was shown.
      await expect(card).toHaveText(/SHA256:.*SHA256:/s);
      await expect(card.getByRole('button', { name: /trust/i })).toHaveCount(0);
      await picture(page, 'terminal-host-key-changed');
      await expect.poll(() => running.output()).toContain('ssh.host-key-changed');
    } finally {
      writeFileSync(knownHosts, before);
    }
  });
});
