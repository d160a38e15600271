import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { kubectl, lab, must } from '../../lab/client.ts';
import { picture, type RunningConsole, startConsole } from '../support/console.ts';

/** Kubeconfigs that cannot work: each says what, why and how to mend it, in the view and in the log. */
test.describe('kubeconfigs that cannot work', () => {
  let directory = '';
  test.beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'fairlead-kubeconfigs-'));
  });
  test.afterAll(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  function file(name: string, text: string): string {
    const path = join(directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }

  function kubeconfig(server: string, user: Readonly<Record<string, string>>, authority?: string): string {
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        {
          name: 'c',
          cluster: { server, ...(authority === undefined ? {} : { 'certificate-authority-data': authority }) },
        },
      ],
      users: [{ name: 'u', user }],
      contexts: [{ name: 'broken', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'broken',
    });
  }

  async function withConsole(
    path: string,
    look: (page: Page, running: RunningConsole) => Promise<void>,
    page: Page,
  ): Promise<void> {
    const running = await startConsole(['--kubeconfig', path], { KUBECONFIG: path, HOME: directory });
    try {
      await page.goto(running.address);
      await look(page, running);
    } finally {
      await running.close();
    }
  }

  /** The failure is on the page, whole, and its code is in the log. */
  async function explained(page: Page, running: RunningConsole, code: string): Promise<void> {
    const card = page.getByRole('alert').or(page.getByRole('status')).filter({ hasText: code }).first();
    await expect(card).toBeVisible({ timeout: 30_000 });
    for (const word of ['Why', 'Fix']) await expect(card.getByText(word, { exact: true })).toBeVisible();
    await expect.poll(() => running.output(), { timeout: 10_000 }).toContain(code);
    await picture(page, code.replaceAll('.', '-'));
  }

  test('a file that is not there', async ({ page }) => {
    await withConsole(join(directory, 'none'), (p, running) => explained(p, running, 'kubeconfig.missing'), page);
  });

  test('a file that is not YAML', async ({ page }) => {
    const path = file('malformed', 'apiVersion: v1\nclusters:\n  - name: a\n   cluster: {\n');
    await withConsole(path, (p, running) => explained(p, running, 'kubeconfig.malformed'), page);
  });

  test('an expired client certificate', async ({ page }) => {
    const [key, request, certificate] = ['k', 'r', 'c'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    await must('openssl', [
      'req',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      key,
      '-out',
      request,
      '-subj',
      '/CN=old',
    ]);
    await must('openssl', ['x509', '-req', '-in', request, '-signkey', key, '-out', certificate, '-days', '-1']);
    const raw = JSON.parse(await kubectl(['config', 'view', '--raw', '-o', 'json'])) as {
      clusters: { cluster: { server: string; 'certificate-authority-data': string } }[];
    };
    const cluster = raw.clusters[0]?.cluster;
    const base64 = (await must('base64', ['-w', '0', certificate])).trim();
    const keyText = (await must('base64', ['-w', '0', key])).trim();
    const path = file(
      'expired',
      kubeconfig(
        cluster?.server ?? '',
        { 'client-certificate-data': base64, 'client-key-data': keyText },
        cluster?.['certificate-authority-data'],
      ),
    );
    await withConsole(
      path,
      async (p, running) => {
        await p.getByRole('button', { name: 'Connect', exact: true }).click();
        await explained(p, running, 'cluster.certificate-expired');
      },
      page,
    );
  });

  test('a server that does not answer', async ({ page }) => {
    const unused = await new Promise<number>((resolve) => {
      const server: Server = createServer().listen(0, '127.0.0.1', () => {
        const address = server.address();
        server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
      });
    });
    const path = file('unreachable', kubeconfig(`https://127.0.0.1:${unused}`, { token: 'x' }));
    await withConsole(
      path,
      async (p, running) => {
        await p.getByRole('button', { name: 'Connect', exact: true }).click();
        await explained(p, running, 'cluster.unreachable');
      },
      page,
    );
  });

  test('nothing of it changed the lab', async () => {
    expect(await lab(['kubectl', 'get', 'nodes'])).toContain('node1');
  });
});
