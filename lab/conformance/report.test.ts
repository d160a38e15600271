import { describe, expect, it } from 'vitest';
import { routesOf } from './cluster.ts';
import { ended, type GinkgoReport, markdown, results } from './report.ts';
import { exactly, exclusionsFor, namesOf, select } from './selection.ts';

const spec = (name: string, State: string, Message?: string): NonNullable<GinkgoReport['SpecReports']>[number] => ({
  ContainerHierarchyTexts: ['[sig-network] Services'],
  LeafNodeType: 'It',
  LeafNodeText: name,
  State,
  RunTime: 1.26e9,
  ...(Message === undefined ? {} : { Failure: { Message } }),
});
const full = (name: string): string => `[sig-network] Services ${name}`;

describe('selection', () => {
  const listing = [
    'The following spec names can be used:',
    '    k8s.io/x.go:1: [sig-network] Services should serve [Conformance]',
    '    k8s.io/x.go:2: [sig-network] Services should proxy ',
    '    k8s.io/y.go:3: [sig-storage] Volumes should mount',
    '    k8s.io/z.go:4: [sig-network] LoadBalancers [Feature:LoadBalancer] should work',
    '    k8s.io/z.go:5: [sig-network] Netpol [Feature:SCTPConnectivity] should deny [Feature:NetworkPolicy]',
  ].join('\n');

  it('takes the tests of sig-network and gives a reason for each that cannot run', () => {
    const names = namesOf(listing);
    expect(names).toHaveLength(4);
    const rules = exclusionsFor({ sctp: false, dualStack: false });
    expect(select(names, /./, rules).map(({ reason }) => reason?.split(' ')[0])).toEqual([
      undefined,
      undefined,
      'needs',
      'sends',
    ]);
    expect(select(names, /Netpol/, exclusionsFor({ sctp: true, dualStack: true }))).toEqual([
      {
        name: '[sig-network] Netpol [Feature:SCTPConnectivity] should deny [Feature:NetworkPolicy]',
        reason: undefined,
      },
    ]);
  });

  it('makes an expression that fits these names and no other', () => {
    const names = namesOf(listing);
    for (const name of names) {
      const expression = new RegExp(exactly([name]));
      expect(names.filter((other) => expression.test(`Kubernetes e2e suite ${other} `))).toEqual([name]);
    }
  });
});

describe('results', () => {
  const reports = [
    {
      SpecReports: [
        spec('a', 'passed'),
        spec('b', 'failed', 'wanted 3\n\n  got 2'),
        spec('c', 'skipped', 'needs 2 zones'),
        spec('d', 'skipped'),
        spec('e', 'interrupted', 'Interrupted by Timeout'),
      ],
    },
  ];
  const names = ['a', 'b', 'c', 'd', 'e'].map(full);

  it('says what became of each test, also of those of which Ginkgo says nothing', () => {
    expect(results(names, ended(reports, true)).map(({ outcome, reason }) => [outcome, reason])).toEqual([
      ['passed', undefined],
      ['failed', 'wanted 3 got 2'],
      ['not run', 'the test itself says: needs 2 zones'],
      ['not run', 'the time given to this run was over'],
      ['not run', 'the time given to this run was over'],
    ]);
  });

  it('counts an interrupted test as failed when there was time left', () => {
    expect(results(names, ended(reports, false)).at(-1)?.outcome).toBe('failed');
  });

  it('names in the table all that failed and all that did not run', () => {
    const text = markdown(results(names, ended(reports, true)), ['# T']);
    expect(text).toContain('| all | 1 | 1 | 3 |');
    expect(text).toContain('- Services b: wanted 3 got 2');
    expect(text).toContain('- the time given to this run was over (2):');
  });
});

describe('the lab', () => {
  it('routes each range of a node by its address of the same family', () => {
    expect(routesOf('10.77.1.0/24 fd00:10:77:1::/64\n172.31.77.11 fd00:172:31:77::11\n')).toEqual([
      ['10.77.1.0/24', '172.31.77.11'],
      ['fd00:10:77:1::/64', 'fd00:172:31:77::11'],
    ]);
    expect(routesOf('10.77.1.0/24\n172.31.77.11')).toEqual([['10.77.1.0/24', '172.31.77.11']]);
    expect(routesOf('fd00:10:77:1::/64\n172.31.77.11')).toEqual([]);
  });
});
