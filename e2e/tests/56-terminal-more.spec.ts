import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl, on } from '../../lab/client.ts';
import { labArguments, openCluster, openView, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { deathstar } from '../support/demo.ts';
import { outputOf, says } from '../support/terminal.ts';

const debugPods = () =>
  kubectl(['-n', 'kube-system', 'get', 'pods', '-l', 'fairlead.dev/debug=node', '-o', 'name']).then((text) =>
    text.trim(),
  );

/** Actions in a console's audit log. */
function audited({ state }: RunningConsole): readonly string[] {
  const lines = readFileSync(join(state, 'audit.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => (JSON.parse(line) as { action: string }).action);
}

/** What shells need beyond exec: something made for them, connections that come back, a flood of output. */
test.describe('terminals that need more', () => {
  let running: RunningConsole;
  test.beforeAll(async () => {
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running.close();
  });

  const open = (page: Page, address: string) => openView(page, running, `terminal?${address}`);
  async function shell(page: Page, address: string): Promise<void> {
    await open(page, address);
    await expect(page.locator('.xterm-screen')).toBeVisible({ timeout: 30_000 });
  }

  test('an image without a shell: told so, and a debug container does', async ({ page }) => {
    const pod = await deathstar('metadata.name');
    await open(page, `pod=galaxy/${pod}`);
    const card = page.getByRole('alert').filter({ hasText: 'terminal.no-shell' });
    await expect(card).toBeVisible({ timeout: 30_000 });
    await page.getByRole('button', { name: 'Debug container…' }).click();
    const dialog = page.getByRole('dialog', { name: `Debug container in galaxy/${pod}` });
    // The node holds the tools' image: it is suggested, and nothing is pulled.
    await expect(dialog.getByLabel('Image')).toHaveValue('fairlead.lab/netshoot:1');
    await expect(dialog.getByRole('button', { name: 'Cancel' })).toBeFocused();
    await expect(dialog.getByText(`kubectl debug -it -n galaxy ${pod}`)).toBeVisible();
    await dialog.getByLabel('Image').fill('no such image');
    await expect(dialog.getByText('The name of an image has no spaces.').first()).toBeVisible();
    await dialog.getByLabel('Image').fill('fairlead.lab/netshoot:1');
    await picture(page, 'terminal-debug-dialog');
    await dialog.getByRole('button', { name: 'Add it and open a shell' }).click();
    await expect(page.locator('.xterm-screen').last()).toBeVisible({ timeout: 60_000 });
    await expect(page.getByRole('note', { name: 'Where this shell is' })).toContainText('fairlead-debug-', {
      timeout: 60_000,
    });
    // It is in the pod's network, and sees the processes of the container that it was aimed at.
    await says(page, 'hostname; tr "\\0" " " < /proc/1/cmdline; echo', /starwars/);
    expect(await outputOf(page)).toContain(pod);
    await picture(page, 'terminal-debug-container');

    const states = () =>
      kubectl(['-n', 'galaxy', 'get', 'pod', pod, '-o', 'jsonpath={.status.ephemeralContainerStatuses[*].state}']);
    expect(await states()).toContain('running');
    await page
      .getByRole('button', { name: `Close galaxy/${pod}` })
      .last()
      .click();
    await eventually('the debug container has ended', 30, async () => {
      const text = await states();
      return text.includes('terminated') && !text.includes('running') ? true : undefined;
    });
    // The pod's own container was left alone.
    const restarts = '{.status.containerStatuses[0].restartCount}';
    expect(await kubectl(['-n', 'galaxy', 'get', 'pod', pod, '-o', `jsonpath=${restarts}`])).toBe('0');
  });

  test('a node by a debug pod: explained, confirmed, and gone with the tab', async ({ page }) => {
    await open(page, 'debug=node/node2');
    const dialog = page.getByRole('dialog', { name: 'Debug pod on node2' });
    for (const word of ['hostPID', '/host', 'four hours', 'root on the node'])
      await expect(dialog.getByText(word).first()).toBeVisible();
    await expect(dialog.getByRole('button', { name: 'Cancel' })).toBeFocused();
    await picture(page, 'terminal-node-pod-dialog');
    expect(await debugPods(), 'nothing is made before somebody has said yes').toBe('');
    await page.keyboard.press('Enter');
    await expect(dialog).toBeHidden();
    expect(await debugPods(), 'Enter cancels').toBe('');

    await page.goto(`${running.origin}/#/terminal?debug=node/node2`);
    await dialog.getByRole('button', { name: 'Make the pod and open a shell' }).click();
    const where = page.getByRole('note', { name: 'Where this shell is' });
    await expect(where).toContainText('node2 (pod fairlead-debug-', { timeout: 60_000 });
    // The node's own processes, root directory and name.
    await says(
      page,
      'hostname; ls -d /proc/*/exe 2>/dev/null | wc -l; pgrep -x kubelet >/dev/null && echo kubelet-$((6*7))',
      'kubelet-42',
    );
    expect(await outputOf(page)).toContain('node2');
    expect(await debugPods()).not.toBe('');
    await picture(page, 'terminal-node-pod');
    await page.getByRole('button', { name: 'Close node2' }).click();
    await eventually('the pod is gone', 30, async () => ((await debugPods()) === '' ? true : undefined));
    expect(audited(running)).toEqual(expect.arrayContaining(['make node debug pod', 'end node debug pod']));
  });

  test('a killed console leaves a pod with a deadline, and the next one removes it', async ({ page }) => {
    const doomed = await startConsole(await labArguments());
    await page.goto(doomed.address);
    await openCluster(page);
    await page.goto(`${doomed.origin}/#/terminal?debug=node/node1`);
    await page.getByRole('button', { name: 'Make the pod and open a shell' }).click();
    await expect(page.getByRole('note', { name: 'Where this shell is' })).toContainText('(pod fairlead-debug-', {
      timeout: 60_000,
    });
    await doomed.kill();
    const deadline = '{.items[*].spec.activeDeadlineSeconds}';
    expect(
      await kubectl([
        '-n',
        'kube-system',
        'get',
        'pods',
        '-l',
        'fairlead.dev/debug=node',
        '-o',
        `jsonpath=${deadline}`,
      ]),
    ).toBe('14400');
    // Another user's console leaves it alone; the one of the same state directory does not.
    await running.close();
    running = await startConsole(await labArguments());
    await page.goto(running.address);
    await openCluster(page);
    expect(await debugPods()).not.toBe('');
    const next = await startConsole(await labArguments(), {}, doomed.state);
    try {
      await page.goto(next.address);
      await openCluster(page);
      await eventually('it is gone', 30, async () => ((await debugPods()) === '' ? true : undefined));
      expect(readFileSync(join(next.state, 'audit.jsonl'), 'utf8')).toContain('left behind');
    } finally {
      await next.close();
    }
  });

  test('a lost SSH connection comes back by itself; what was on the screen stays', async ({ page }) => {
    await shell(page, 'node=node3');
    await says(page, 'echo before-$((40+2))', 'before-42');
    // The server's process of this one connection, as when the network breaks: no exit code is sent.
    const killed = await on('node3', [
      'pkill',
      '-KILL',
      '-f',
      '^sshd: root@pts|^sshd-session: root@pts|^sshd: root *$|^sshd-session: root *$',
    ]);
    expect(killed).toBe('');
    await expect
      .poll(() => outputOf(page), { timeout: 30_000 })
      .toMatch(/connection lost at .*\n[\s\S]*reconnected at/);
    await says(page, 'echo after-$((40+2))', 'after-42');
    expect(await outputOf(page)).toContain('before-42');
    // The button does the same for any shell that is closed.
    await says(page, 'exit', '');
    const again = page.getByRole('button', { name: 'Reconnect', exact: true }).last();
    await expect(page.getByText('Session closed.')).toBeVisible();
    await again.click();
    await says(page, 'echo third-$((40+2))', 'third-42');
    await picture(page, 'terminal-reconnected');
  });

  test('the size follows the window', async ({ page }) => {
    await shell(page, 'node=node3');
    const size = async (mark: string): Promise<readonly number[]> => {
      await says(page, `echo ${mark}=$(stty size)=`, new RegExp(`${mark}=\\d+ \\d+=`));
      const found = new RegExp(`${mark}=(\\d+) (\\d+)=`).exec(await outputOf(page));
      return [Number(found?.[1]), Number(found?.[2])];
    };
    const [rows = 0, columns = 0] = await size('first');
    await page.setViewportSize({ width: 1000, height: 640 });
    await expect
      .poll(async () => {
        const now = await size(`next${Date.now()}`);
        return (now[0] ?? 0) < rows && (now[1] ?? 0) < columns;
      })
      .toBe(true);
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  test('search goes through the whole scrollback, counts, and says when there is nothing', async ({ page }) => {
    await shell(page, 'pod=galaxy/xwing');
    await says(page, 'for i in $(seq 1 2000); do echo line $i needle$((i % 500)).; done; echo end-$((1+1))', 'end-2');
    await page.keyboard.press('Control+Shift+F');
    const field = page.getByRole('textbox', { name: 'Search in the output' });
    await field.fill('needle7.');
    const count = page.getByRole('status', { name: 'Matches' });
    // One needle in each five hundred lines, and the line typed does not hold it.
    await expect(count).toHaveText(/^\d of 4$/);
    const first = (await count.textContent()) ?? '';
    await field.press('Enter');
    await expect(count).not.toHaveText(first);
    await field.fill('NEEDLE7.');
    await expect(count).toHaveText(/of 4$/);
    await page.getByRole('button', { name: 'Match case' }).click();
    await expect(count).toHaveText('not found');
    await page.getByRole('button', { name: 'Regular expression' }).click();
    await field.fill('needle(7');
    await expect(count).toHaveText('bad pattern');
    await field.fill('line 1[0-9]{3} needle7[.]');
    await expect(count).toHaveText(/of 2$/);
    await picture(page, 'terminal-search');
  });

  test('every tab says which cluster it is in', async ({ page }) => {
    await shell(page, 'pod=galaxy/xwing');
    const where = page.getByRole('note', { name: 'Where this shell is' });
    const name = (await kubectl(['config', 'current-context'])).trim();
    await expect(where).toContainText(name);
    await expect(where).toContainText('127.0.0.1:');
    await expect(page.getByRole('list', { name: 'Terminals' }).getByRole('listitem').first()).toContainText(name);
  });
});
