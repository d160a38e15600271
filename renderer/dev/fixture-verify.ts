import type { CheckBatch, CheckResult } from '../../contract/checks.ts';
import type { Cancel, Client, StreamHandlers } from '../../contract/client.ts';
import type { Inventory } from '../../contract/clusters.ts';

function results(inventory: Inventory, kind: 'preflight' | 'run'): readonly CheckResult[] {
  const one = (
    node: string,
    id: string,
    title: string,
    status: CheckResult['status'],
    more: Partial<CheckResult>,
  ): CheckResult => ({
    id,
    title,
    node,
    status,
    found: '',
    expected: '',
    fix: '',
    docs: '',
    evidence: '',
    group: kind === 'run' ? 'B8 Status' : 'Node',
    ...more,
  });
  return [
    one('', 'rights', 'Rights of this user', 'passed', {
      found: 'everything is allowed',
      expected: 'everything that applying needs',
    }),
    one('', 'kube-proxy', 'kube-proxy', 'warning', { found: 'runs', expected: 'either', fix: 'None needed.' }),
    ...inventory.nodes.slice(0, 3).flatMap((node, index) => [
      one(node.name, 'kernel', 'Kernel', 'passed', { found: node.kernel, expected: '5.15 or newer' }),
      one(node.name, 'nat', 'Address translation', 'passed', {
        found: 'no KUBE-SVC chain; rules of: fairlead',
        expected: 'no chain of kube-proxy',
        evidence:
          'TABLE          CHAIN        OWNER     RULE\ninet fairlead  postrouting  fairlead  oifname == eth0 masquerade',
      }),
      one(node.name, 'ports', 'Ports', index === 1 ? 'failed' : 'passed', {
        found: index === 1 ? '4240/tcp taken' : 'free',
        expected: '4240, 4244, 4245, 9962, 8472/udp and 6081/udp free',
        fix: index === 1 ? 'stop what listens there (ss -lntup)' : '',
      }),
    ]),
  ];
}

/** Checks of made-up nodes, one after the other. */
export function createFixtureVerify(inventory: () => Inventory): Client['verify'] {
  const play =
    (kind: 'preflight' | 'run') =>
    (_input: unknown, handlers: StreamHandlers<CheckBatch>): Cancel => {
      const all = results(inventory(), kind);
      const timer = setTimeout(() => {
        void handlers.batch([{ results: all }]);
        handlers.end();
      }, 150);
      return () => clearTimeout(timer);
    };
  return { preflight: play('preflight'), run: play('run') };
}
