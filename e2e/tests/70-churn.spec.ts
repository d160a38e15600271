import { expect, test } from '@playwright/test';
import { apply, eventually, kubectl, on } from '../../lab/client.ts';
import { agentJSON, agentPod, nodes, trafficPod } from '../support/cluster.ts';

interface Footprint {
  readonly interfaces: number;
  readonly endpoints: number;
  readonly addresses: number;
  readonly policyLines: number;
  readonly ipcache: number;
  readonly pins: number;
}

/** Everything that a pod leaves a trace in. */
async function footprint(node: string): Promise<Footprint> {
  const status = await agentJSON<{ allocations?: readonly unknown[] }>(node, ['status']);
  const endpoints = await agentJSON<{ endpoints?: readonly unknown[] }>(node, ['endpoints']);
  const policy = await agentJSON<unknown>(node, ['bpf', 'policy', 'list']);
  const ipcache = await agentJSON<{ ips?: readonly unknown[] }>(node, ['bpf', 'ipcache', 'list']);
  const pins = await on(node, [
    'sh',
    '-c',
    `nsenter -t $(pgrep -o -x fairlead-agent) -m find /sys/fs/bpf -type f | wc -l`,
  ]);
  return {
    interfaces: Number((await on(node, ['sh', '-c', 'ip -o link show type veth | wc -l'])).trim()),
    endpoints: endpoints.endpoints?.length ?? 0,
    addresses: status.allocations?.length ?? 0,
    policyLines: JSON.stringify(policy).length,
    ipcache: ipcache.ips?.length ?? 0,
    pins: Number(pins.trim()),
  };
}

/** 200 pods come and go over three nodes, and nothing of them stays. */
test('200 pods created and deleted leave nothing behind', async () => {
  test.setTimeout(600_000);
  await kubectl(['create', 'namespace', 'churn']);
  try {
    const before = new Map<string, Footprint>();
    for (const node of nodes) before.set(node, await footprint(node));
    const names = Array.from({ length: 200 }, (_, index) => `boat-${index}`);
    for (let first = 0; first < names.length; first += 40) {
      const batch = names.slice(first, first + 40);
      await apply(
        batch.map((name, index) =>
          trafficPod(
            name,
            nodes[(first + index) % nodes.length] ?? 'node1',
            { app: 'boat', batch: String(first) },
            'churn',
          ),
        ),
      );
      await kubectl(['-n', 'churn', 'wait', '--for=condition=Ready', 'pod', '-l', `batch=${first}`, '--timeout=120s']);
      const addresses = (await kubectl(['-n', 'churn', 'get', 'pods', '-o', 'jsonpath={.items[*].status.podIP}']))
        .trim()
        .split(/\s+/);
      expect(new Set(addresses).size).toBe(addresses.length);
      await kubectl(['-n', 'churn', 'delete', 'pod', '-l', `batch=${first}`, '--now', '--wait=true']);
    }
    await eventually('endpoints of deleted pods are gone', 30, async () => {
      const left = (await kubectl(['-n', 'churn', 'get', 'ciliumendpoints', '-o', 'name'])).trim();
      return left === '' ? true : undefined;
    });
    for (const node of nodes) {
      await eventually(`${node} is as before`, 60, async () => {
        const after = await footprint(node);
        if (JSON.stringify(after) !== JSON.stringify(before.get(node))) {
          throw new Error(`before ${JSON.stringify(before.get(node))}, now ${JSON.stringify(after)}`);
        }
        return true;
      });
    }
    expect(await agentPod('node1')).toBeTruthy();
  } finally {
    await kubectl(['delete', 'namespace', 'churn', '--wait=true']);
  }
});
