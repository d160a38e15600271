import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { eventually, kubectl, lab, on, root } from '../../lab/client.ts';
import { agentPod } from '../support/cluster.ts';
import { applyDemoPolicy, deathstar, removePolicies } from '../support/demo.ts';
import { buildHubble, ClientCertificate, refusal } from '../support/hubble.ts';

/** The stock hubble command line against our agents: same flows, same words. The demo runs while it looks. */
test.describe('the stock hubble command line', () => {
  let hubble = '';
  test.beforeAll(async () => {
    test.setTimeout(900_000);
    hubble = await buildHubble();
    // Other files change policies, and agents that they restart forget their flows: what is looked for is made here.
    await applyDemoPolicy();
    const node = await deathstarNode();
    await eventually('the deathstar’s node has dropped and forwarded', 60, async () => {
      const seen = async (verdict: string, ship: string) =>
        (await onSocket(node, ['observe', '--last', '20', '--verdict', verdict, '--from-pod', `galaxy/${ship}`])) !==
        '';
      return (await seen('DROPPED', 'xwing')) && (await seen('FORWARDED', 'tiefighter')) ? true : undefined;
    });
  });
  test.afterAll(async () => {
    await removePolicies();
  });

  /** Runs it on a node, against the agent's Unix socket. */
  const onSocket = (node: string, args: readonly string[]): Promise<string> =>
    on(node, [hubble, ...args, '--server', 'unix:///var/run/cilium/hubble.sock']);

  const deathstarNode = () => deathstar('spec.nodeName');

  test('status says healthy, with flows', async () => {
    const output = await onSocket('node1', ['status']);
    expect(output).toContain('Healthcheck (via unix:///var/run/cilium/hubble.sock): Ok');
    expect(output).toMatch(/Current\/Max Flows: [\d,]+\/[\d,]+/);
  });

  test('observe shows forwarded and denied in its own words', async () => {
    const node = await deathstarNode();
    const dropped = await onSocket(node, [
      'observe',
      '--last',
      '20',
      '--verdict',
      'DROPPED',
      '--to-namespace',
      'galaxy',
    ]);
    expect(dropped).toContain('galaxy/xwing');
    expect(dropped).toMatch(/policy denied/i);
    expect(dropped).toContain('DROPPED');
    const forwarded = await onSocket(node, [
      'observe',
      '--last',
      '50',
      '--verdict',
      'FORWARDED',
      '--from-pod',
      'galaxy/tiefighter',
    ]);
    expect(forwarded).toContain('galaxy/deathstar');
    expect(forwarded).toContain('FORWARDED');
  });

  test('json carries policy, identity and labels', async () => {
    const output = await onSocket(await deathstarNode(), [
      'observe',
      '--last',
      '10',
      '--verdict',
      'DROPPED',
      '--from-pod',
      'galaxy/xwing',
      '-o',
      'json',
    ]);
    const flow = (JSON.parse(output.trim().split('\n')[0] ?? '{}') as { flow: Record<string, unknown> }).flow;
    expect(flow.drop_reason_desc).toBe('POLICY_DENIED');
    expect(JSON.stringify(flow.source)).toContain('k8s:org=alliance');
    expect(JSON.stringify(flow.ingress_denied_by)).toContain('rule1');
  });

  test('follow with filters delivers new flows', async () => {
    const filters = '--from-pod galaxy/xwing --verdict DROPPED -o compact';
    const follow = `timeout 20 ${hubble} observe --follow --since 0s ${filters} --server unix:///var/run/cilium/hubble.sock`;
    // The first line is enough; its reader ends then, and with it the one that writes.
    const output = await on(await deathstarNode(), ['sh', '-c', `${follow} | head -n 1`]);
    // Either event of the drop may come first.
    expect(output).toMatch(/galaxy\/xwing.*(INGRESS DENIED|DROPPED)/);
  });

  test('the same over mutual TLS, and not without a certificate', async () => {
    using certificate = await ClientCertificate.fromCluster();
    const node = await deathstarNode();
    const address = `${(await kubectl(['get', 'node', node, '-o', 'jsonpath={.status.addresses[0].address}'])).trim()}:4244`;
    const name = `${node}.default.hubble-grpc.cilium.io`;
    const server = certificate.arguments(address, name);
    const output = await on('node1', [hubble, 'observe', '--last', '20', '--from-pod', 'galaxy/xwing', ...server]);
    expect(output).toMatch(/policy denied/i);
    expect(await refusal(hubble, certificate.arguments(address, name, { certificate: false }))).not.toContain('): Ok');
  });

  test('nodes are listed', async () => {
    const output = await onSocket('node2', ['list', 'nodes']);
    expect(output).toContain('node2');
  });

  test('the agent answers its own command line', async () => {
    const pod = await agentPod('node1');
    for (const args of [
      ['status'],
      ['endpoints'],
      ['identities'],
      ['services'],
      ['bpf', 'policy', 'list'],
      ['bpf', 'ct', 'list'],
      ['bpf', 'ipcache', 'list'],
      ['bpf', 'lb', 'list'],
      ['bpf', 'metrics', 'list'],
      ['journal'],
    ]) {
      const output = await kubectl(['-n', 'kube-system', 'exec', pod, '--', '/fairlead-agent', ...args]);
      expect(output.length, args.join(' ')).toBeGreaterThan(20);
    }
    const monitor = spawn(join(root, 'lab/lab'), [
      'kubectl',
      '-n',
      'kube-system',
      'exec',
      pod,
      '--',
      '/fairlead-agent',
      'monitor',
    ]);
    try {
      await new Promise<void>((resolve, reject) => {
        monitor.stdout.once('data', () => resolve());
        monitor.once('exit', () => reject(new Error('monitor ended without a line')));
      });
    } finally {
      monitor.kill('SIGTERM');
    }
    await lab(['status']);
  });
});
