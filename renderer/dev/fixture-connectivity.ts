import type { Client } from '../../contract/client.ts';
import type { ConnectivityCase, ConnectivityProgress, ConnectivityResult } from '../../contract/connectivity.ts';
import { ok } from '../../contract/failure.ts';

const cases: readonly ConnectivityCase[] = [
  { id: 'pod-http-near', title: 'HTTP, same node', group: 'Pod to pod', needs: [] },
  { id: 'pod-http-far', title: 'HTTP, other node', group: 'Pod to pod', needs: ['two nodes'] },
  { id: 'service-balanced', title: 'ClusterIP is balanced', group: 'Services', needs: [] },
  {
    id: 'outside-masquerade',
    title: 'The server outside sees a node’s address',
    group: 'Outside',
    needs: ['a server outside'],
  },
  { id: 'policy-deny-ingress', title: 'NetworkPolicy: nobody may come in', group: 'Policies', needs: [] },
];

function resultOf({ id }: ConnectivityCase, index: number): ConnectivityResult {
  const state = id === 'service-balanced' ? 'failed' : id === 'outside-masquerade' ? 'skipped' : 'passed';
  return {
    id,
    state,
    message: {
      failed: 'only one pod ever answers (near 24×)',
      skipped: 'no server outside of the cluster was named',
      passed: 'near in 0.9 ms',
    }[state],
    expected: 'both pods answer',
    milliseconds: 40 + index,
    attempts: state === 'skipped' ? [] : ['client: http http://10.96.12.7:80/: ok near'],
    flows: state === 'failed' ? ['12:00:00.120 node1 client:41000 → near:8080 TCP FORWARDED TCP Flags: SYN'] : [],
  };
}

/** A test that ends at once, with one of each outcome. */
export function createFixtureConnectivity(): Client['connectivity'] {
  let progress: ConnectivityProgress | undefined;
  return {
    cases: async () => ok({ cases }),
    start: async () => {
      progress = {
        state: 'done',
        message: 'everything was removed',
        namespace: 'fairlead-test-a1b2c3',
        nodes: ['node1', 'node2'],
        startedAt: Date.now(),
        results: cases.map(resultOf),
      };
      return ok({});
    },
    stop: async () => ok({}),
    watch: (_input, handlers) => {
      const timer = setTimeout(() => {
        if (progress) void handlers.batch([progress]);
        handlers.end();
      }, 60);
      return () => clearTimeout(timer);
    },
  };
}
