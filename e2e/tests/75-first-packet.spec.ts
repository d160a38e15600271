import { expect, test } from '@playwright/test';
import { apply, kubectl } from '../../lab/client.ts';
import { nodes, podAddress, ready, trafficPod } from '../support/cluster.ts';

const total = 200;

/** A pod whose only act is one connection, as its very first packet; its exit code says whether it got through. */
function first(name: string, node: string, to: string, labels: Readonly<Record<string, string>>): unknown {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'harbour', labels },
    spec: {
      nodeName: node,
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 0,
      containers: [
        { name: 'first', image: 'fairlead.lab/traffic:1', imagePullPolicy: 'Never', args: ['once', '--to', to] },
      ],
    },
  };
}

/** Identity and policy are in every node's maps before a new pod's first packet. */
test('of 200 new pods that policy admits none is dropped, and of those it denies none passes', async () => {
  test.setTimeout(900_000);
  await kubectl(['create', 'namespace', 'harbour']);
  try {
    await apply([
      trafficPod('gate', 'node1', { app: 'gate' }, 'harbour'),
      {
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumNetworkPolicy',
        metadata: { name: 'gate', namespace: 'harbour' },
        spec: {
          endpointSelector: { matchLabels: { app: 'gate' } },
          ingress: [
            {
              fromEndpoints: [{ matchLabels: { admitted: 'yes' } }],
              toPorts: [{ ports: [{ port: '9000', protocol: 'TCP' }] }],
            },
          ],
        },
      },
    ]);
    await ready(['gate'], 'harbour');
    const to = `${await podAddress('gate', 'harbour')}:9000`;
    for (let from = 0; from < total; from += 40) {
      // Each pod has labels of its own, so each has a new identity: nothing can have been there before it.
      await apply(
        Array.from({ length: 40 }, (_, offset) => {
          const index = from + offset;
          const admitted = index % 2 === 0 ? 'yes' : 'no';
          return first(`ship-${index}`, nodes[index % nodes.length] ?? 'node1', to, {
            admitted,
            batch: String(from),
            hull: String(index),
          });
        }),
      );
      await kubectl([
        '-n',
        'harbour',
        'wait',
        '--for=jsonpath={.status.phase}=Succeeded',
        'pod',
        '-l',
        `batch=${from},admitted=yes`,
        '--timeout=120s',
      ]);
      await kubectl([
        '-n',
        'harbour',
        'wait',
        '--for=jsonpath={.status.phase}=Failed',
        'pod',
        '-l',
        `batch=${from},admitted=no`,
        '--timeout=120s',
      ]);
      const logs = await kubectl([
        '-n',
        'harbour',
        'logs',
        '-l',
        `batch=${from},admitted=yes`,
        '--tail=1',
        '--max-log-requests=40',
      ]);
      const times = logs
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { p50Microseconds: number }).p50Microseconds);
      expect(times.length).toBe(20);
      // A lost SYN costs a second at least: below that, the first packet got through.
      expect(Math.max(...times), 'slowest first connection in microseconds').toBeLessThan(900_000);
      await kubectl(['-n', 'harbour', 'delete', 'pod', '-l', `batch=${from}`, '--now']);
    }
  } finally {
    await kubectl(['delete', 'namespace', 'harbour', '--wait=true']);
  }
});
