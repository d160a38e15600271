import { expect, type Page, test } from '@playwright/test';
import { eventually, kubectl, on } from '../../lab/client.ts';
import { nodes } from '../support/cluster.ts';
import { labArguments, openCluster, picture, type RunningConsole, startConsole } from '../support/console.ts';
import { buildHubble, ClientCertificate, refusal } from '../support/hubble.ts';
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
  test.beforeAll(async () => {
    test.setTimeout(900_000);
    hubble = await buildHubble();
    running = await startConsole(await labArguments());
  });
  test.afterAll(async () => {
    await running?.close();
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
    using certificate = await ClientCertificate.fromCluster();
    const address = await kubectl([
      '-n',
      'kube-system',
      'get',
      'service',
      'hubble-relay',
      '-o',
      'jsonpath={.spec.clusterIP}:{.spec.ports[0].port}',
    ]);
    const name = 'cli.hubble-relay.cilium.io';
    const server = certificate.arguments(address, name);
    const ask = (args: readonly string[]) => on('node1', [hubble, ...args, ...server]);
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
    expect(await refusal(hubble, certificate.arguments(address, name, { certificate: false }))).not.toContain('): Ok');
  });

  test('answers Prometheus where its annotations say, with what the questions before have left', async () => {
    const pods = JSON.parse(
      await kubectl(['-n', 'kube-system', 'get', 'pods', '-l', 'k8s-app=hubble-relay', '-o', 'json']),
    ) as {
      readonly items: readonly {
        readonly metadata: { readonly annotations: Readonly<Record<string, string>> };
        readonly status: { readonly podIP: string };
      }[];
    };
    const [pod] = pods.items;
    expect(pod?.metadata.annotations['prometheus.io/scrape']).toBe('true');
    const url = `http://${pod?.status.podIP}:${pod?.metadata.annotations['prometheus.io/port']}/metrics`;
    const scraped = await on('node1', ['curl', '-sS', '-m', '5', url]);
    const value = (series: string) =>
      Number(
        scraped
          .split('\n')
          .find((line) => line.startsWith(`${series} `))
          ?.slice(series.length + 1),
      );
    expect(value('hubble_relay_pool_peer_connection_status{status="READY"}')).toBe(nodes.length);
    expect(value('hubble_relay_pool_peer_connection_status{status="TRANSIENT_FAILURE"}')).toBe(0);
    expect(value('fairlead_relay_flows_forwarded_total')).toBeGreaterThanOrEqual(nodes.length);
    for (const source of ['perf_event_ring_buffer', 'hubble_ring_buffer'])
      expect(value(`fairlead_relay_flows_lost_total{source="${source}"}`)).toBeGreaterThanOrEqual(0);
    const flows = '{grpc_method="GetFlows",grpc_service="observer.Observer",grpc_type="server_stream"}';
    expect(value(`grpc_server_handling_seconds_count${flows}`)).toBeGreaterThan(0);
    expect(value(`grpc_server_handling_seconds_sum${flows}`)).toBeGreaterThan(0);
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
