import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { type CheckResult, type Values, valuesSchema } from '../../../contract/index.ts';
import { GetStatusResponseSchema, ListMapsResponseSchema } from '../agents/gen/fairlead/v1/agent_pb.ts';
import { runChecks } from '../checks/runner.ts';
import type { ClusterFacts } from '../install/facts.ts';
import { agentConfiguration } from '../install/manifests.ts';
import { resources } from '../kube/cluster-connection.ts';
import { FakeCluster, fakeSsh } from '../testing/fake-cluster.ts';
import { clusterChecks } from './cluster-checks.ts';
import { judgeNode } from './node-checks.ts';
import type { PrintedFacts } from './node-facts.ts';
import { preflightChecks, readPreflight } from './preflight.ts';

const values: Values = valuesSchema.parse({});
const facts: PrintedFacts = {
  kernel: '6.1',
  interfaces: [
    { name: 'eth0', kind: 'device', mtu: 1500, up: true, addresses: ['192.0.2.1/24'] },
    { name: 'fairlead_host', kind: 'veth', mtu: 1500, up: true, addresses: ['10.77.1.1/32'] },
    { name: 'fl1', kind: 'veth', mtu: 1500, up: true, addresses: [], peer: true },
  ],
  cards: [{ interface: 'eth0', driver: 'ena', version: '2.9', firmware: '', bus: '0000:00:05.0', xdp: 'native' }],
  rules: [{ table: 'inet fairlead', chain: 'postrouting', owner: 'fairlead', text: 'masquerade' }],
  noTrack: [],
  serviceChains: { nftables: 0, legacy: 0 },
  configuration: agentConfiguration(values),
};
const status = {
  ready: true,
  routingMode: 'tunnel',
  tunnelProtocol: 'vxlan',
  masquerade: 'nftables (v4)',
  kubeProxyReplacement: 'true',
  policyEnforcementMode: 'default',
  routerAddress: '10.77.1.1',
  podCidr: '10.77.1.0/24',
  nodes: [{ name: 'n2', address: '192.0.2.2', reachable: true, latencyMilliseconds: 1 }],
  components: [{ name: 'datapath', state: 'ok', message: 'fine' }],
};
const maps = create(ListMapsResponseSchema, {
  maps: [{ name: 'ipcache', type: 'LPMTrie', maxEntries: 100, entries: 5n }],
});

function judged(changed: Partial<PrintedFacts> = {}, agent: object = {}, wanted: Values = values) {
  const told = create(GetStatusResponseSchema, { ...status, ...agent });
  const results = judgeNode('n1', { ...facts, ...changed }, { status: told, maps }, wanted);
  return new Map(results.map((result) => [result.id, result]));
}

describe('a node', () => {
  test('where all is well passes every check, each with what it rests on', () => {
    for (const result of judged().values()) {
      expect(result.status, result.id).toBe('passed');
      expect(result.evidence.length, result.id).toBeGreaterThan(3);
    }
    expect(judged().get('nic')?.evidence).toContain('0000:00:05.0');
  });

  test('of both families shows both, and is judged by each', () => {
    const links = [
      ...facts.interfaces.slice(0, 1),
      { name: 'fairlead_host', kind: 'veth', mtu: 1500, up: true, addresses: ['10.77.1.1/32', 'fd00:77:1::1/128'] },
    ];
    const reached = { reachable: true, latencyMilliseconds: 1, error: '' };
    const dual = {
      nodeAddress: '192.0.2.1,2001:db8::1',
      routerAddress: '10.77.1.1,fd00:77:1::1',
      podCidr: '10.77.1.0/29,fd00:77:1::/64',
      allocations: [
        { address: '10.77.1.2', owner: 'a/b' },
        { address: 'fd00:77:1::2', owner: 'a/b' },
      ],
      nodes: [
        {
          ...{ name: 'n2', address: '192.0.2.2', ...reached, icmp: reached },
          ...{ endpointAddress: '10.77.2.1', endpointHttp: reached, endpointIcmp: reached },
          morePaths: [
            { address: '2001:db8::2', http: reached, icmp: reached },
            { address: 'fd00:77:2::1', http: reached, icmp: reached },
          ],
        },
      ],
    };
    const well = judged({ interfaces: links }, dual);
    for (const result of well.values()) expect(result.status, `${result.id}: ${result.found}`).toBe('passed');
    expect(well.get('interfaces')?.found).toContain('router address 10.77.1.1, fd00:77:1::1');
    expect(well.get('configuration')?.evidence).toContain('192.0.2.1 2001:db8::1');
    expect(well.get('addresses')?.found).toBe('1 of 5 in 10.77.1.0/29, 1 of 1073741821 in fd00:77:1::/64');
    expect(well.get('node-health')?.evidence).toMatch(/n2\s+IPv6\s+fd00:77:2::1\s+1\.00 ms\s+1\.00 ms/);

    expect(judged({}, dual).get('interfaces')).toMatchObject({ status: 'failed' });
    expect(judged({}, dual).get('interfaces')?.found).toContain('fd00:77:1::1 is on none');
    const full = Array.from({ length: 5 }, (_, i) => ({ address: `10.77.1.${i + 2}`, owner: 'a/b' }));
    expect(judged({}, { ...dual, allocations: full }).get('addresses')?.status).toBe('warning');
    const silent = {
      address: 'fd00:77:2::1',
      http: { ...reached, reachable: false, error: 'timed out' },
      icmp: reached,
    };
    const partly = judged({}, { ...dual, nodes: dual.nodes.map((node) => ({ ...node, morePaths: [silent] })) });
    expect(partly.get('node-health')).toMatchObject({ status: 'warning', found: '1 nodes; not in every way: n2' });
    expect(partly.get('node-health')?.evidence).toContain('no: timed out');
  });

  test('says for each device whether XDP serves there, and why', () => {
    const why = 'eth0: off (a virtual cable)';
    const told = judged({}, { components: [{ name: 'xdp', state: 'off', message: why }] });
    expect(told.get('configuration')?.evidence).toContain(why);
    expect(judged().get('configuration')?.evidence).toMatch(/XDP prefilter\s+off/);
  });

  const wrong: readonly (readonly [string, Map<string, CheckResult>, string, string, string])[] = [
    ['chains of kube-proxy', judged({ serviceChains: { nftables: 3, legacy: 1 } }), 'nat', 'warning', '4 chains'],
    ['no router address', judged({ interfaces: facts.interfaces.slice(0, 1) }), 'interfaces', 'failed', '10.77.1.1'],
    [
      'NOTRACK that nobody asked for',
      judged({ noTrack: [{ table: 'raw', chain: 'x', owner: 'fairlead', text: 'notrack' }] }),
      'notrack',
      'failed',
      '1 rules',
    ],
    [
      'NOTRACK that is missing',
      judged({}, {}, { ...values, installNoConntrackIptablesRules: true }),
      'notrack',
      'failed',
      'no rule',
    ],
    ['another routing mode', judged({}, { routingMode: 'native' }), 'configuration', 'failed', 'routingMode'],
    ['an older configuration', judged({ configuration: 'debug: true\n' }), 'configuration', 'failed', 'config.yaml'],
    [
      'a part that fails',
      judged({}, { components: [{ name: 'dns', state: 'failing', message: 'no port', fix: 'free it' }] }),
      'components',
      'failed',
      'no port',
    ],
    [
      'a node out of reach',
      judged({}, { nodes: [{ name: 'n2', address: '', reachable: false, latencyMilliseconds: 0, error: 'timeout' }] }),
      'node-health',
      'failed',
      'n2',
    ],
    ['lost flows', judged({}, { flowsLost: 5n }), 'flows', 'warning', '5 lost'],
  ];
  test.each(wrong)('%s', (_name, results, id, expected, says) => {
    expect(results.get(id)).toMatchObject({ status: expected });
    expect(results.get(id)?.found).toContain(says);
    expect(results.get(id)?.fix).not.toBe('');
  });

  test('without an agent is judged by what it says itself', () => {
    expect(judgeNode('n1', facts, undefined, undefined).map((result) => result.id)).toEqual([
      'interfaces',
      'nat',
      'nic',
      'notrack',
    ]);
  });
});

async function run(checks: Parameters<typeof runChecks>[0]) {
  const results = new Map<string, CheckResult>();
  await runChecks(checks, new AbortController().signal, 4, async (batch) => {
    for (const result of batch) results.set(`${result.node}/${result.id}`, result);
  });
  return results;
}

test('the cluster as a whole: what is missing is named', async () => {
  const cluster = new FakeCluster();
  cluster.put(resources.nodes, {
    metadata: { name: 'n1' },
    status: { conditions: [{ type: 'Ready', status: 'False' }] },
  });
  cluster.put(resources.pods, { metadata: { name: 'p', namespace: 'default' }, status: { phase: 'Running' } });
  const results = await run(clusterChecks(cluster));
  expect(results.get('/inventory')).toMatchObject({ status: 'failed' });
  expect(results.get('/definitions')?.found).toContain('ciliumnodes.cilium.io: not served');
  expect(results.get('/cilium-nodes')?.found).toBe('0 of 1 nodes');
  expect(results.get('/cilium-endpoints')?.found).toContain('default/p');
  cluster.put(resources.ciliumEndpoints, {
    metadata: { name: 'p', namespace: 'default' },
    status: { state: 'ready', identity: { id: 7 } },
  });
  expect((await run(clusterChecks(cluster))).get('/cilium-endpoints')).toMatchObject({ status: 'passed' });
});

describe('preflight', () => {
  const cluster = new FakeCluster();
  const commands = {
    connection: cluster,
    ssh: fakeSsh(),
    binary: undefined,
    image: undefined,
    values,
    refused: 'It is protected.',
  };
  const machine = {
    name: 'n1',
    address: '192.0.2.1',
    podCIDRs: [],
    podCIDRs6: [],
    os: 'linux',
    images: [],
    kernel: '',
    image: '',
    ssh: undefined,
  };
  const cluster_ = {
    machines: [machine],
    foreign: [],
    kubeProxy: true,
    proxy: { kind: 'daemonset', text: 'kube-proxy runs' },
    apiEndpoint: undefined,
  } as unknown as ClusterFacts;

  test('names what is missing, and a node that cannot be asked is a failure with a way out', async () => {
    const results = await run(preflightChecks(commands, cluster_, async () => [], undefined, undefined));
    expect(results.get('n1/pod-cidr')).toMatchObject({ status: 'failed' });
    expect(results.get('n1/image')?.fix).toContain('Add a Host for n1');
    expect(results.get('n1/node')).toMatchObject({ status: 'failed' });
    expect(results.get('n1/node')?.fix).toContain('SSH configuration');
    expect(results.get('/kube-proxy')).toMatchObject({ status: 'warning' });
    expect(results.get('/rights')).toMatchObject({ status: 'passed' });
    expect(cluster.writes()).toEqual([]);
  });

  test('one check alone is one check', async () => {
    const results = await run(preflightChecks(commands, cluster_, async () => [], ['n1'], ['pod-cidr']));
    expect([...results.keys()]).toEqual(['n1/pod-cidr']);
  });

  test('what the agent prints is read with its statuses', () => {
    const text = JSON.stringify({
      checks: [
        { id: 'btf', title: 'BTF', status: 'fail', found: 'none', expected: 'some', fix: 'boot another' },
        { id: 'jit', title: 'JIT', status: 'skip', found: 'unseen', expected: 'on' },
      ],
    });
    expect(readPreflight('n1', text).map(({ id, status: now, fix }) => [id, now, fix])).toEqual([
      ['node.btf', 'failed', 'boot another'],
      ['node.jit', 'skipped', ''],
    ]);
    expect(() => readPreflight('n1', 'sh: not found')).toThrow();
  });
});
