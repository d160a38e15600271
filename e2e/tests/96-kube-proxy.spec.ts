import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { apply, eventually, kubectl, lab, must, on, root, run } from '../../lab/client.ts';
import { type Traffic, trafficPod } from '../support/cluster.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { applyPlan, openInstall, residue } from '../support/lifecycle.ts';

const members = ['node1', 'node2'] as const;

/** Every chain and table of the node, iptables' among them. */
const rules = (node: string) => on(node, ['sh', '-c', 'iptables-save; ip6tables-save; nft list ruleset']);
const proxyRules = /KUBE-(SVC|SEP|SERVICES|NODEPORTS|EXT|POSTROUTING|MARK-MASQ|FORWARD)|table ip6? kube-proxy/;

const proxyPods = () =>
  kubectl(['-n', 'kube-system', 'get', 'pods', '-l', 'k8s-app=kube-proxy', '-o', 'jsonpath={.items[*].status.phase}']);
const proxySpec = async (): Promise<unknown> =>
  (
    JSON.parse(await kubectl(['-n', 'kube-system', 'get', 'daemonset', 'kube-proxy', '-o', 'json'])) as {
      readonly spec: unknown;
    }
  ).spec;

/** From beyond the cluster through a node's port: a crowd of held connections and new ones beside it. */
async function crowd(port: number, seconds: number): Promise<Traffic> {
  const program = (await lab(['traffic'])).trim();
  const text = await on('outside', [
    program,
    'crowd',
    '--to',
    `172.31.77.11:${port}`,
    '--seconds',
    String(seconds),
    '--connections',
    '50',
    '--rate',
    '20',
  ]);
  return JSON.parse(text) as Traffic;
}

/** A cluster of kubeadm's kind: kube-proxy in a DaemonSet, taken away, brought back, and back again with the uninstall. */
for (const mode of ['iptables', 'nftables'] as const)
  test.describe(`kube-proxy in its mode ${mode}`, () => {
    test.describe.configure({ timeout: 300_000, mode: 'serial' });
    let running: RunningConsole;
    let original: unknown;
    const nodePort = 31_080;

    test.beforeAll(async () => {
      test.setTimeout(600_000);
      await must(process.execPath, [join(root, 'scripts/build-agent.mjs')], { seconds: 580 });
      await lab(['down']);
      await lab(['up', '--nodes', '2', `--kube-proxy=${mode}`, '--kube-proxy-pods'], { seconds: 600 });
      running = await startConsole(await labArguments());
    });
    test.afterAll(async () => {
      await running?.close();
    });

    const open = async (page: Page) => {
      await page.goto(running.address);
      await openCluster(page);
    };

    test('is left by an installation that says nothing about it', async ({ page }) => {
      await eventually('kube-proxy has rules', 60, async () =>
        proxyRules.test(await rules('node1')) ? true : undefined,
      );
      original = await proxySpec();
      await open(page);
      await page.getByRole('tab', { name: /Agent/ }).click();
      await page.getByRole('button', { name: 'Install…' }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      const section = page.getByRole('region', { name: 'kube-proxy' });
      await expect(section).toContainText('kube-system/kube-proxy', { timeout: 60_000 });
      await expect(section.getByRole('switch')).not.toBeChecked();
      await applyPlan(page, 'Apply');
      await expect(page.getByRole('heading', { name: 'Installation done' })).toBeVisible({ timeout: 200_000 });
      expect(await proxySpec()).toEqual(original);
      for (const node of members) expect(await rules(node), node).toMatch(proxyRules);
      await apply([
        trafficPod('web', 'node2', { app: 'web' }),
        {
          apiVersion: 'v1',
          kind: 'Service',
          metadata: { name: 'web', namespace: 'default' },
          spec: { type: 'NodePort', selector: { app: 'web' }, ports: [{ port: 9000, nodePort }] },
        },
      ]);
      await kubectl(['wait', '--for=condition=Ready', 'pod/web', '--timeout=60s']);
    });

    test('goes when it is told to, with its rules and nothing else, and no connection notices', async ({ page }) => {
      // What others have set up stays.
      await on('node1', ['iptables', '-t', 'nat', '-N', 'KUBE-NOT-OURS']);
      await on('node1', ['iptables', '-t', 'nat', '-A', 'POSTROUTING', '-s', '192.0.2.7', '-j', 'RETURN']);
      await on('node1', ['nft', 'add', 'table', 'ip', 'foreign']);
      await open(page);
      await openInstall(page);
      await page.getByRole('button', { name: /Change values/ }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      const section = page.getByRole('region', { name: 'kube-proxy' });
      await section.getByRole('switch', { name: /Remove kube-proxy/ }).click();
      await expect(page.getByText('fairlead-kube-proxy').first()).toBeVisible({ timeout: 60_000 });
      await picture(page, `kube-proxy-plan-${mode}`);
      let over = false;
      const outside = crowd(nodePort, 60).finally(() => {
        over = true;
      });
      await applyPlan(page, 'Upgrade');
      await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 150_000 });
      expect(over, 'the crowd from outside outlives the change').toBe(false);
      await picture(page, `kube-proxy-removed-${mode}`);
      await expect(
        page.getByText(/the held connection never broke.*; 0 of \d+ new connections failed/).last(),
      ).toBeVisible();
      for (const node of members) expect(await rules(node), node).not.toMatch(proxyRules);
      const left = await rules('node1');
      expect(left).toContain('KUBE-NOT-OURS');
      expect(left).toContain('192.0.2.7');
      expect(left).toContain('table ip foreign');
      expect(await proxyPods()).toBe('');
      const noticed = await outside;
      test.info().annotations.push({ type: 'noticed outside', description: JSON.stringify(noticed) });
      process.stdout.write(`${mode}, through a node's port from outside: ${JSON.stringify(noticed)}\n`);
      expect({ broken: noticed.broken, errors: noticed.errors }).toEqual({ broken: 0, errors: 0 });
      const after = await crowd(nodePort, 3);
      expect(after.errors).toBe(0);
      expect(await kubectl(['-n', 'kube-system', 'get', 'jobs', '-o', 'name'])).toBe('');
    });

    test('another console brings it back from the page', async ({ page }) => {
      await running.close();
      running = await startConsole(await labArguments());
      await open(page);
      await openInstall(page);
      await page.getByRole('button', { name: 'Bring kube-proxy back…' }).click();
      await expect(page.getByRole('heading', { name: 'Plan: upgrade' })).toBeVisible({ timeout: 60_000 });
      await applyPlan(page, 'Upgrade');
      await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 150_000 });
      expect(await proxySpec()).toEqual(original);
      for (const node of members) expect(await rules(node), node).toMatch(proxyRules);
      expect(
        await kubectl(['-n', 'kube-system', 'get', 'configmap', 'fairlead-kube-proxy', '--ignore-not-found']),
      ).toBe('');
    });

    // Nothing of it depends on the mode, and a kubelet that is silent is given up only after some 50 s.
    if (mode === 'iptables')
      test('goes without a node that does not answer, by name, and from there when it answers again', async () => {
        const install = async (...more: readonly string[]) =>
          await run(process.execPath, [join(root, 'scripts/install-agent.mjs'), '--lab', ...more]);
        const kubelet = (signal: 'STOP' | 'CONT') => on('node2', ['sh', '-c', `kill -${signal} $(pgrep -x kubelet)`]);
        const remembered = () =>
          kubectl([
            ...['-n', 'kube-system', 'get', 'configmap', 'fairlead-kube-proxy', '--ignore-not-found'],
            ...['-o', 'jsonpath={.data.state} {.data.leftOut}'],
          ]);
        // A node that is silent has no ready pods any more, which no agent decides: the service needs one elsewhere.
        await apply([trafficPod('near', 'node1', { app: 'web' })]);
        await kubectl(['wait', '--for=condition=Ready', 'pod/near', '--timeout=60s']);
        await kubelet('STOP');
        try {
          await kubectl(['wait', '--for=condition=Ready=Unknown', 'node/node2', '--timeout=120s']);
          const refused = await install('--remove-kube-proxy');
          expect(refused.code).not.toBe(0);
          expect(refused.stdout + refused.stderr).toContain('or with --leave-out node2.');
          const wrong = await install('--remove-kube-proxy', '--leave-out', 'node1');
          expect(wrong.code, 'one that answers is not left out').not.toBe(0);
          expect(await proxySpec()).toEqual(original);
          const without = await install('--remove-kube-proxy', '--leave-out', 'node2');
          expect(without, without.stderr).toMatchObject({ code: 0 });
          expect(await rules('node1')).not.toMatch(proxyRules);
          expect(await rules('node2')).toMatch(proxyRules);
          expect(await remembered()).toBe('removed node2');
          // Nobody but the agents translates now.
          expect((await crowd(nodePort, 3)).errors).toBe(0);
        } finally {
          await kubelet('CONT');
        }
        await kubectl(['wait', '--for=condition=Ready', 'node/node2', '--timeout=120s']);
        const rest = await install('--remove-kube-proxy');
        expect(rest, rest.stderr).toMatchObject({ code: 0 });
        for (const node of members) expect(await rules(node), node).not.toMatch(proxyRules);
        expect((await remembered()).trim()).toBe('removed');
        const back = await install('--restore-kube-proxy');
        expect(back, back.stderr).toMatchObject({ code: 0 });
        expect(await proxySpec()).toEqual(original);
        for (const node of members) expect(await rules(node), node).toMatch(proxyRules);
      });

    test('an uninstall brings it back before the datapath goes', async ({ page }) => {
      await open(page);
      await openInstall(page);
      await page.getByRole('button', { name: /Change values/ }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      await page.getByRole('switch', { name: /Remove kube-proxy/ }).click();
      await expect(page.getByText('fairlead-kube-proxy').first()).toBeVisible({ timeout: 60_000 });
      await applyPlan(page, 'Upgrade');
      await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 150_000 });
      await page.getByRole('button', { name: 'Done' }).click();
      await page.getByRole('button', { name: 'Uninstall…' }).click();
      await expect(page.getByText('It is brought back before anything else is changed.')).toBeVisible({
        timeout: 60_000,
      });
      await page
        .getByRole('button', { name: /^Uninstall/ })
        .last()
        .click();
      const dialog = page.getByRole('dialog');
      await dialog.getByRole('textbox').fill((await kubectl(['config', 'current-context'])).trim());
      await dialog.getByRole('button', { name: 'Uninstall', exact: true }).click();
      await expect(page.getByRole('heading', { name: 'Uninstall done' })).toBeVisible({ timeout: 200_000 });
      expect(await proxySpec()).toEqual(original);
      for (const node of members) {
        expect(await residue(node), node).toBe('');
        expect(await rules(node), node).toMatch(proxyRules);
      }
    });
  });
