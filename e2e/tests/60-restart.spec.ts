import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { apply, eventually, kubectl, must, on, root } from '../../lab/client.ts';
import {
  agent,
  agentJSON,
  agentPod,
  agentProcess,
  nodes,
  podAddress,
  ready,
  traffic,
  trafficPod,
} from '../support/cluster.ts';

interface Endpoints {
  readonly endpoints: readonly {
    readonly id: number;
    readonly identity: number;
    readonly addresses: readonly string[];
  }[];
}

/** Traffic does not notice the agent going away: 200 held connections and 50 new ones a second run through every case. */
test.describe('the agent can be killed and upgraded under load', () => {
  test.beforeAll(async () => {
    test.setTimeout(240_000);
    await apply([trafficPod('harbour', 'node1', { app: 'harbour' }), trafficPod('fleet', 'node2', { app: 'fleet' })]);
    await apply([
      {
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumNetworkPolicy',
        metadata: { name: 'harbour', namespace: 'default' },
        spec: {
          endpointSelector: { matchLabels: { app: 'harbour' } },
          ingress: [
            {
              fromEndpoints: [{ matchLabels: { app: 'fleet' } }],
              toPorts: [{ ports: [{ port: '9000', protocol: 'TCP' }] }],
            },
          ],
        },
      },
    ]);
    await ready(['harbour', 'fleet']);
  });
  test.afterAll(async () => {
    await kubectl(['delete', 'cnp', 'harbour', '--ignore-not-found']);
    await kubectl(['delete', 'pod', 'harbour', 'fleet', '--now', '--ignore-not-found']);
  });

  async function under(load: () => Promise<void>, seconds: number): Promise<void> {
    const to = `${await podAddress('harbour')}:9000`;
    const crowd = traffic('fleet', [
      'crowd',
      '--to',
      to,
      '--seconds',
      String(seconds),
      '--connections',
      '200',
      '--rate',
      '50',
    ]);
    await eventually('200 connections are up', 20, async () => {
      const open = await on('node1', [
        'sh',
        '-c',
        `nsenter -t $(pgrep -f 'traffic serve' | head -1) -n ss -tn state established '( sport = :9000 )' | wc -l`,
      ]);
      return Number(open.trim()) > 200 ? true : undefined;
    });
    await load();
    const result = await crowd;
    expect(result.firstError ?? '').toBe('');
    expect(result.broken).toBe(0);
    expect(result.errors).toBe(0);
    expect(result.opened ?? 0).toBeGreaterThan(seconds * 40);
  }

  test('SIGKILL breaks nothing; ready again in 2 s with the same endpoints', async () => {
    const before = new Map<string, Endpoints>();
    for (const node of nodes) before.set(node, await agentJSON<Endpoints>(node, ['endpoints']));
    await under(async () => {
      for (const node of ['node1', 'node2']) {
        const old = await agentProcess(node);
        await on(node, ['kill', '-9', String(old)]);
        await eventually(`the agent of ${node} runs again`, 30, async () => {
          const now = await agentProcess(node);
          return now !== old && Number.isFinite(now) ? now : undefined;
        });
        const started = performance.now();
        await eventually(`the agent of ${node} is ready`, 20, async () => {
          const answer = await on(node, [
            'curl',
            '-s',
            '-o',
            '/dev/null',
            '-w',
            '%{http_code}',
            'http://127.0.0.1:9879/healthz',
          ]);
          return answer.trim() === '200' ? true : undefined;
        });
        const own = Number(
          /^fairlead_start_to_ready_seconds (\S+)$/m.exec(
            await on(node, ['curl', '-s', 'http://127.0.0.1:9962/metrics']),
          )?.[1],
        );
        expect(own, `start to ready on ${node}, measured by the agent`).toBeLessThanOrEqual(2);
        expect(performance.now() - started).toBeLessThan(20_000);
      }
    }, 25);
    const key = (list: Endpoints): string =>
      JSON.stringify(list.endpoints.map((e) => [e.id, e.identity, e.addresses]).sort());
    for (const node of nodes) {
      const after = await agentJSON<Endpoints>(node, ['endpoints']);
      expect(key(after), node).toBe(key(before.get(node) ?? { endpoints: [] }));
    }
  });

  test('nobody misses an API server that hangs for 45 s, and it is obeyed when it goes on', async () => {
    const server = (await on('cp', ['pgrep', '-f', 'kube-apiserver'])).trim().split('\n')[0] ?? '';
    const before = new Map<string, number>();
    for (const node of ['node1', 'node2']) before.set(node, await agentProcess(node));
    await under(async () => {
      await on('cp', ['kill', '-STOP', server]);
      try {
        await new Promise((resolve) => setTimeout(resolve, 45_000));
      } finally {
        await on('cp', ['kill', '-CONT', server]);
      }
    }, 60);
    for (const node of ['node1', 'node2']) expect(await agentProcess(node), node).toBe(before.get(node));
    await kubectl(['label', 'pod', 'fleet', 'app=stranger', '--overwrite']);
    const to = `${await podAddress('harbour')}:9000`;
    await eventually('the policy keeps out who has no label any more', 30, async () => {
      const { errors } = await traffic('fleet', ['once', '--to', to]).catch(() => ({ errors: 1 }));
      return errors > 0 ? true : undefined;
    });
    await kubectl(['label', 'pod', 'fleet', 'app=fleet', '--overwrite']);
  });

  test('an upgraded image breaks nothing', async () => {
    const old = await agentPod('node1');
    await under(async () => {
      await must(process.execPath, [join(root, 'scripts/install-agent.mjs'), '--lab', '--set', 'debug=true'], {
        seconds: 200,
      });
    }, 60);
    expect(await agentPod('node1')).not.toBe(old);
    expect(await agent('node1', ['status'])).toContain('node1');
  });
});
