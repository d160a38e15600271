import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page } from '@playwright/test';
import { lab, root } from '../../lab/client.ts';

/** A console in browser mode, started as a user starts it, on a free port with a token of its own. */
export interface RunningConsole {
  /** The address to open, with its token. */
  readonly address: string;
  readonly origin: string;
  /** Everything it has printed. */
  readonly output: () => string;
  /** Ends it and removes its state directory. */
  readonly close: () => Promise<void>;
  /** Ends it as a crash does: nothing is tidied up, its state directory stays. */
  readonly kill: () => Promise<void>;
  readonly state: string;
}

/** Starts the console with exactly these arguments beside port and state directory; resolves when it has printed its address. */
export async function startConsole(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  state = mkdtempSync(join(tmpdir(), 'fairlead-state-')),
): Promise<RunningConsole> {
  const child = spawn(
    process.execPath,
    ['scripts/start.mjs', '--no-open', '--port', '0', '--state-dir', state, ...args],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...environment },
    },
  );
  let output = '';
  const address = await new Promise<string>((resolve, reject) => {
    const read = (data: Buffer): void => {
      output += data.toString();
      const found = /http:\/\/127\.0\.0\.1:\d+\/\?token=[\w-]+/.exec(output);
      if (found) resolve(found[0]);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (code) => reject(new Error(`the console ended with ${code}: ${output.slice(-2000)}`)));
  });
  return {
    address,
    origin: new URL(address).origin,
    output: () => output,
    state,
    close: async () => {
      await ended(child);
      rmSync(state, { recursive: true, force: true });
    },
    kill: () =>
      new Promise((resolve) => {
        child.once('exit', () => resolve());
        child.kill('SIGKILL');
      }),
  };
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
    child.once('exit', () => {
      clearTimeout(timer);
      resolve();
    });
    child.kill('SIGTERM');
  });
}

/** Arguments that point a console at the lab. */
export async function labArguments(): Promise<string[]> {
  const kubeconfig = (await lab(['kubeconfig'])).trim();
  return ['--kubeconfig', kubeconfig, '--ssh-config', join(kubeconfig, '..', 'ssh_config')];
}

/** Chooses the lab's cluster in the Clusters view and connects, as a user does. */
export async function openCluster(page: Page): Promise<void> {
  await page.getByRole('navigation', { name: 'Clusters' }).getByRole('link').first().click();
  const connect = page.getByRole('button', { name: 'Connect', exact: true });
  const disconnect = page.getByRole('button', { name: 'Disconnect' });
  await expect(connect.or(disconnect).first()).toBeVisible();
  if (await connect.isVisible()) await connect.click();
  await expect(disconnect).toBeVisible();
  await expect(page.getByRole('row', { name: /node1/ })).toBeVisible({ timeout: 30_000 });
}

/** Opens a view of the first cluster by its address behind the `#`, e.g. "flows" or "terminal?node=node2". */
export async function openView(page: Page, running: RunningConsole, view: string): Promise<void> {
  await page.goto(running.address);
  await openCluster(page);
  await page.goto(`${running.origin}/#/${view}`);
}

/** Screenshots of what is on the page, light and dark, at both sizes the console is designed for. */
export async function picture(page: Page, name: string): Promise<void> {
  for (const [width, height] of [
    [1280, 800],
    [1920, 1080],
  ] as const) {
    await page.setViewportSize({ width, height });
    for (const scheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme: scheme });
      await page.screenshot({ path: join(root, 'e2e/screenshots', `${name}-${scheme}-${width}.png`) });
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: 'light' });
}
