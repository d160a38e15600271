import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl, must, on, root } from '../../lab/client.ts';
import { nodes } from '../support/cluster.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { applyPlan, findValue, openInstall } from '../support/lifecycle.ts';

/** Everything of the relay that is in the cluster. */
const relayObjects = () =>
  kubectl([
    '-n',
    'kube-system',
    'get',
    'deployments,services,serviceaccounts,pods',
    '-l',
    'k8s-app=hubble-relay',
    '-o',
    'name',
  ]);

/** One address for the flows of all nodes: deployed by an upgrade, asked by the stock command, and gone with another. */
test.describe('the relay', () => {
  test.describe.configure({ timeout: 240_000, mode: 'serial' });
  let running: RunningConsole;
  let hubble = '';
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-relay-'));
  test.beforeAll(async () => {
    test.setTimeout(900_000);
    hubble =
      (await must(process.execPath, [join(root, 'scripts/build-hubble.mjs')], { seconds: 880 }))
        .trim()
        .split('\n')
        .at(-1) ?? '';
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  const turn = async (page: Page) => {
    await page.goto(running.address);
    await openCluster(page);
    await openInstall(page);
    await page.getByRole('button', { name: /Change values/ }).click();
    await findValue(page, 'hubble.relay.enabled');
    await page.getByRole('switch', { name: /Relay/ }).click();
    await page.getByRole('button', { name: 'Make a plan' }).click();
    await expect(page.getByRole('heading', { name: 'Plan: upgrade' })).toBeVisible({ timeout: 60_000 });
  };

  test('comes up with a value, and the verify page finds it connected to every node', async ({ page }) => {
    const agents = await kubectl([
      '-n',
      'kube-system',
      'get',
      'configmap',
      'fairlead-config',
      '-o',
      'jsonpath={.data}',
    ]);
    await turn(page);
    await picture(page, 'relay-plan');
    await applyPlan(page, 'Upgrade');
    await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 200_000 });
    await expect(page.getByText(new RegExp(`fairlead-relay .*, ${nodes.length} nodes`))).toBeVisible();
    // It is no business of the agents'.
    expect(await kubectl(['-n', 'kube-system', 'get', 'configmap', 'fairlead-config', '-o', 'jsonpath={.data}'])).toBe(
      agents,
    );
    await page.getByRole('tab', { name: 'Verify' }).click();
    await page.getByRole('button', { name: 'Run', exact: true }).click();
    const row = page
      .getByRole('region', { name: 'Cluster', exact: true })
      .locator('details')
      .filter({ hasText: 'C2 Hubble' });
    await expect(row).toContainText(`connected to ${nodes.length} of ${nodes.length} nodes`, { timeout: 90_000 });
    await expect(row).toContainText('Passed');
  });

  test('answers the stock hubble command for all nodes, with a certificate and not without', async () => {
    const secret = JSON.parse(
      await kubectl(['-n', 'kube-system', 'get', 'secret', 'fairlead-client-tls', '-o', 'json']),
    ) as { data: Record<string, string> };
    for (const name of ['ca.crt', 'tls.crt', 'tls.key'])
      writeFileSync(join(directory, name), Buffer.from(secret.data[name] ?? '', 'base64'), { mode: 0o600 });
    const address = await kubectl([
      '-n',
      'kube-system',
      'get',
      'service',
      'hubble-relay',
      '-o',
      'jsonpath={.spec.clusterIP}:{.spec.ports[0].port}',
    ]);
    const server = [
      '--server',
      address,
      '--tls',
      '--tls-server-name',
      'cli.hubble-relay.cilium.io',
      '--tls-ca-cert-files',
      join(directory, 'ca.crt'),
    ];
    const client = [
      '--tls-client-cert-file',
      join(directory, 'tls.crt'),
      '--tls-client-key-file',
      join(directory, 'tls.key'),
    ];
    const ask = (args: readonly string[]) => on('node1', [hubble, ...args, ...server, ...client]);
    const status = await ask(['status']);
    expect(status).toContain('): Ok');
    expect(status).toContain(`Connected Nodes: ${nodes.length}/${nodes.length}`);
    const listed = await ask(['list', 'nodes']);
    for (const node of nodes) expect(listed).toMatch(new RegExp(`${node}\\s+Connected`));
    // Flows of more than one node in one answer.
    await eventually('flows of every node', 60, async () => {
      const names = (await ask(['observe', '--last', '50', '-o', 'json']))
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { readonly node_name?: string }).node_name ?? '');
      return nodes.every((node) => names.some((name) => name.endsWith(node))) ? true : undefined;
    });
    const without = await on('node1', [hubble, 'status', ...server]).catch((error: Error) => error.message);
    expect(without).not.toContain('): Ok');
  });

  test('has no privilege, and its certificate is not an agent’s', async () => {
    const pod = JSON.parse(
      await kubectl(['-n', 'kube-system', 'get', 'pods', '-l', 'k8s-app=hubble-relay', '-o', 'json']),
    ) as { readonly items: readonly { readonly spec: Readonly<Record<string, unknown>> }[] };
    const spec = pod.items[0]?.spec;
    expect(spec?.hostNetwork).toBeUndefined();
    expect(JSON.stringify(spec?.volumes)).not.toContain('hostPath');
    expect(JSON.stringify(spec?.containers)).toContain('"drop":["ALL"]');
    const may = (verb: string, what: string) =>
      kubectl(['auth', 'can-i', verb, what, '--as=system:serviceaccount:kube-system:fairlead-relay', '-A']).catch(
        () => 'no',
      );
    expect((await may('list', 'ciliumnodes.cilium.io')).trim()).toBe('yes');
    for (const what of ['pods', 'secrets', 'ciliumendpoints.cilium.io']) expect(await may('get', what)).toContain('no');
  });

  test('goes with the value', async ({ page }) => {
    await turn(page);
    await expect(page.getByRole('button', { name: /delete Deployment kube-system\/hubble-relay/ })).toBeVisible();
    await applyPlan(page, 'Upgrade');
    await expect(page.getByRole('heading', { name: 'Upgrade done' })).toBeVisible({ timeout: 200_000 });
    await eventually('nothing of it is left', 30, async () => ((await relayObjects()) === '' ? true : undefined));
    for (const kind of ['secret/fairlead-relay-tls', 'clusterrole/fairlead-relay', 'clusterrolebinding/fairlead-relay'])
      expect(await kubectl(['-n', 'kube-system', 'get', kind, '--ignore-not-found', '-o', 'name'])).toBe('');
  });
});
