import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  changedValues,
  consoleValues,
  defaultValues,
  importValues,
  type Values,
  valueAt,
  valueFields,
  valueLeaves,
  valuesJSONSchema,
  valuesSchema,
  withValue,
} from '../../../contract/index.ts';
import { parsePrefix, prefixContains, rangeContains } from './addresses.ts';
import { withSetting } from './cli.ts';
import { agentConfiguration } from './manifests.ts';
import { durationOf } from './value-rules.ts';
import { checkValues, suggestValues, type ValueFacts } from './values.ts';

const plain: Values = valuesSchema.parse({ k8sServiceHost: '10.0.0.1', k8sServicePort: 6443 });
const facts: ValueFacts = {
  podCIDRs: ['10.77.1.0/24', '10.77.2.0/24', '10.77.3.0/24'],
  apiEndpoint: { host: '172.31.77.10', port: 6443 },
  kubeProxy: false,
  nodes: 3,
};

describe('checkValues', () => {
  const refused: readonly (readonly [string, Partial<Values>, Partial<ValueFacts>, string])[] = [
    ['native routing without a range', { routingMode: 'native' }, {}, 'install.value.ipv4NativeRoutingCIDR'],
    ['a range that is none', { ipv4NativeRoutingCIDR: '10.0.0.0/33' }, {}, 'install.value.ipv4NativeRoutingCIDR'],
    [
      'a range that misses a pod CIDR',
      { routingMode: 'native', ipv4NativeRoutingCIDR: '10.77.0.0/23' },
      {},
      'install.value.ipv4NativeRoutingCIDR',
    ],
    ['direct routes in a tunnel', { autoDirectNodeRoutes: true }, {}, 'install.value.autoDirectNodeRoutes'],
    ['no address of the API server without kube-proxy', { k8sServiceHost: '' }, {}, 'install.value.k8sServiceHost'],
    ['nobody to translate services', { kubeProxyReplacement: false }, {}, 'install.value.kubeProxyReplacement'],
    ['a host without a port', { k8sServicePort: 0 }, {}, 'install.value.k8sServicePort'],
    ['an MTU that cannot carry IPv6', { MTU: 900 }, {}, 'install.value.MTU'],
    ['a cluster name with dots', { cluster: { name: 'a.b' } }, {}, 'install.value.cluster.name'],
    ['a device that is a path', { devices: ['../eth0'] }, {}, 'install.value.devices'],
  ];
  test.each(refused)('refuses %s, and says why', (_name, values, more, code) => {
    const { obstacles } = checkValues({ ...plain, ...values }, { ...facts, ...more });
    expect(obstacles.map((one) => one.code)).toContain(code);
    for (const one of obstacles) {
      expect(one.why.length).toBeGreaterThan(10);
      expect(one.fix.length).toBeGreaterThan(5);
    }
  });

  test('takes what fits', () => {
    expect(checkValues(plain, facts).obstacles).toEqual([]);
    const native = { ...plain, routingMode: 'native' as const, ipv4NativeRoutingCIDR: '10.77.0.0/16' };
    expect(checkValues(native, facts).obstacles).toEqual([]);
    expect(checkValues(native, facts).warnings.join()).toContain('autoDirectNodeRoutes');
    expect(checkValues({ ...native, autoDirectNodeRoutes: true }, facts).warnings).toEqual([]);
  });

  test('what is suggested can be installed, also as native routing', () => {
    const { values, reasons } = suggestValues(valuesSchema.parse({}), facts);
    expect(values).toMatchObject({
      k8sServiceHost: '172.31.77.10',
      k8sServicePort: 6443,
      ipv4NativeRoutingCIDR: '10.77.0.0/22',
    });
    expect(reasons.k8sServiceHost).toContain('API server');
    expect(checkValues({ ...values, routingMode: 'native', autoDirectNodeRoutes: true }, facts).obstacles).toEqual([]);
  });

  test('what the operator has set is not overwritten', () => {
    expect(suggestValues(plain, facts).values.k8sServiceHost).toBe('10.0.0.1');
  });
});

describe('every combination that cannot work is refused by its field', () => {
  const native = { routingMode: 'native', ipv4NativeRoutingCIDR: '10.77.0.0/16', autoDirectNodeRoutes: true } as const;
  const set = (to: Readonly<Record<string, Parameters<typeof withValue>[2]>>, on: Values = plain) =>
    Object.entries(to).reduce<Values>((all, [path, value]) => withValue(all, path, value), on);
  const refused: readonly (readonly [string, Values, string, string])[] = [
    ['no family at all', set({ 'ipv4.enabled': false }), 'ipv4.enabled', 'no addresses'],
    ['IPv6 that no node has', set({ 'ipv6.enabled': true }), 'ipv6.enabled', '--cluster-cidr'],
    [
      'no connection tracking in a tunnel',
      set({ installNoConntrackIptablesRules: true, 'bpf.masquerade': true }),
      'installNoConntrackIptablesRules',
      'tunnel',
    ],
    [
      'no connection tracking with netfilter',
      set({ ...native, installNoConntrackIptablesRules: true, 'bpf.masquerade': false }),
      'installNoConntrackIptablesRules',
      'bpf.masquerade',
    ],
    [
      'exceptions from no masquerading at all',
      set({ 'ipMasqAgent.enabled': true, enableIPv4Masquerade: false, enableIPv6Masquerade: false }),
      'ipMasqAgent.enabled',
      'enableIPv4Masquerade',
    ],
    [
      'an exception that is no range',
      set({ 'ipMasqAgent.config.nonMasqueradeCIDRs': ['10/8'] }),
      'ipMasqAgent.config.nonMasqueradeCIDRs',
      '10/8',
    ],
    ['DSR in a tunnel', set({ 'loadBalancer.mode': 'dsr' }), 'loadBalancer.mode', 'native'],
    [
      'DSR by Geneve',
      set({ ...native, 'loadBalancer.mode': 'dsr', 'loadBalancer.dsrDispatch': 'geneve' }),
      'loadBalancer.dsrDispatch',
      'Geneve',
    ],
    [
      'XDP beside kube-proxy',
      set({ ...native, kubeProxyReplacement: false, 'bpf.masquerade': false, 'loadBalancer.acceleration': 'native' }),
      'kubeProxyReplacement',
      'kube-proxy',
    ],
    ['networks for a prefilter that is off', set({ 'xdpPrefilter.cidrGroups': ['bad'] }), 'enableXDPPrefilter', 'off'],
    [
      'a prefilter of everybody',
      set({ enableXDPPrefilter: true, 'xdpPrefilter.cidrs': ['0.0.0.0/0'] }),
      'xdpPrefilter.cidrs',
      '0.0.0.0/0',
    ],
    [
      'an odd Maglev table',
      set({ 'loadBalancer.algorithm': 'maglev', 'maglev.tableSize': 1000 }),
      'maglev.tableSize',
      'prime',
    ],
    ['a reversed port range', set({ 'nodePort.range': '32767,30000' }), 'nodePort.range', 'comma'],
    [
      'a lease shorter than its renewal',
      set({ 'l2announcements.enabled': true, 'l2announcements.leaseDuration': '3s' }),
      'l2announcements.leaseDuration',
      '3s',
    ],
    [
      'a relay without flows',
      set({ 'hubble.enabled': false, 'hubble.relay.enabled': true }),
      'hubble.relay.enabled',
      'hubble.enabled',
    ],
    ['a ring of any size', set({ 'hubble.eventBufferCapacity': 4096 }), 'hubble.eventBufferCapacity', 'power of two'],
    ['metrics on the port of Hubble', set({ 'prometheus.port': 4244 }), 'prometheus.port', 'Hubble'],
    ['a CNI directory out of the tree', set({ 'cni.binPath': '/opt/../etc' }), 'cni.binPath', 'absolute'],
  ];
  test.each(refused)('%s', (_name, values, field, word) => {
    const { obstacles } = checkValues(values, { ...facts, podCIDRs6: [] });
    const found = obstacles.filter((one) => one.code === `install.value.${field}`);
    expect(found.length, JSON.stringify(obstacles)).toBeGreaterThan(0);
    expect(found.map((one) => `${one.what} ${one.why} ${one.fix}`).join()).toContain(word);
  });

  test('what needs each other is taken together', () => {
    const values = set({
      ...native,
      'bpf.masquerade': true,
      installNoConntrackIptablesRules: true,
      'ipMasqAgent.enabled': true,
      'loadBalancer.mode': 'dsr',
      'loadBalancer.algorithm': 'maglev',
      'loadBalancer.acceleration': 'native',
      enableXDPPrefilter: true,
      'xdpPrefilter.cidrs': ['203.0.113.0/24', '2001:db8:bad::/48'],
    });
    expect(checkValues(values, facts).obstacles).toEqual([]);
  });

  test('a value that the carried agent does not know is refused before anything is changed', () => {
    const values = set({ 'bandwidthManager.enabled': true });
    const agentKeys = ['k8sServiceHost', 'k8sServicePort'];
    expect(checkValues(values, { ...facts, agentKeys }).obstacles[0]?.what).toContain('bandwidthManager.enabled');
    expect(checkValues(values, { ...facts, agentKeys: [...agentKeys, 'bandwidthManager.enabled'] }).obstacles).toEqual(
      [],
    );
  });
});

test('every value is explained, once, and the JSON Schema says the same', () => {
  expect(valueFields.map((field) => field.path).sort()).toEqual(
    valueLeaves(defaultValues)
      .map(([path]) => path)
      .sort(),
  );
  const schema = valuesJSONSchema() as { properties: Record<string, { properties?: Record<string, unknown> }> };
  expect(schema.properties.bpf?.properties?.masquerade).toMatchObject({ type: 'boolean', title: 'Masquerade in eBPF' });
  expect(schema.properties.routingMode).toMatchObject({ enum: ['tunnel', 'native'], default: 'tunnel' });
  for (const field of valueFields) expect(field.text.length, field.path).toBeGreaterThan(8);
});

/** Values of the contract that no agent keeps yet; each is refused when it is changed. */
const ahead: readonly string[] = [
  'healthChecking',
  'l2announcements.enabled',
  'l2announcements.leaseDuration',
  'l2announcements.leaseRenewDeadline',
  'l2announcements.leaseRetryPeriod',
];

test('the contract has a line for every value that the agent knows, and no other but the console’s own', () => {
  const keys = readFileSync(new URL('../../../node-agent/internal/config/testdata/keys.txt', import.meta.url), 'utf8')
    .trim()
    .split('\n');
  const values = valueLeaves(defaultValues).map(([path]) => path);
  expect(keys.filter((key) => !values.includes(key))).toEqual([]);
  const others = values.filter((path) => !keys.includes(path));
  expect(others.filter((path) => !consoleValues.includes(path) && !ahead.includes(path))).toEqual([]);
  for (const path of others.filter((one) => ahead.includes(one))) {
    const before = valueAt(defaultValues, path);
    const changed = withValue(plain, path, typeof before === 'boolean' ? !before : '99s');
    const { obstacles } = checkValues(changed, { ...facts, agentKeys: keys });
    expect(obstacles.map((one) => one.what).join(), path).toContain(`does not know ${path}`);
  }
});

test('exceptions from masquerading work with nftables as well, as the agent has it', () => {
  expect(
    checkValues(withValue(withValue(plain, 'ipMasqAgent.enabled', true), 'bpf.masquerade', false), facts),
  ).toMatchObject({ obstacles: [] });
});

test('the agent is told only what differs from its defaults, and nothing that is the console’s', () => {
  expect(agentConfiguration(defaultValues)).toBe('{}\n');
  const values = [
    ['bpf.masquerade', false],
    ['cni.binPath', '/opt/k3s/bin'],
    ['cni.exclusive', true],
  ].reduce<Values>((all, [path, value]) => withValue(all, path as string, value as boolean), defaultValues);
  expect(agentConfiguration(values)).toBe('bpf:\n  masquerade: false\ncni:\n  exclusive: true\n');
});

describe('a values file of Cilium', () => {
  const file = {
    tunnel: 'disabled',
    kubeProxyReplacement: 'strict',
    k8sServicePort: '6443',
    nativeRoutingCIDR: '10.0.0.0/8',
    ipam: { mode: 'cluster-pool' },
    operator: { replicas: 2 },
    bpf: { masquerade: false },
    encryption: { enabled: true },
    policyCIDRMatchMode: 'nodes',
    hubble: { relay: { enabled: true }, ui: { enabled: true } },
    wrong: 1,
  };
  const read = importValues(file);

  test('is taken over with its synonyms and types', () => {
    expect(changedValues(read.values)).toEqual({
      routingMode: 'native',
      k8sServicePort: 6443,
      ipv4NativeRoutingCIDR: '10.0.0.0/8',
      bpf: { masquerade: false },
      policyCIDRMatchMode: ['nodes'],
      hubble: { relay: { enabled: true } },
    });
  });

  test('what has no equivalent is listed with the reason, and what is not possible as well', () => {
    const why = new Map(read.ignored.map((one) => [one.path, one.why]));
    expect([...why.keys()].sort()).toEqual(['encryption.enabled', 'hubble.ui.enabled', 'operator.replicas', 'wrong']);
    expect(why.get('operator.replicas')).toContain('no operator');
    expect(read.problems).toEqual([{ path: 'ipam.mode', why: 'It must be one of kubernetes.' }]);
  });

  test('what was exported reads back the same, and nonsense is a problem, not an exception', () => {
    expect(importValues(changedValues(read.values))).toMatchObject({ values: read.values, ignored: [], problems: [] });
    for (const nonsense of [[], 'text', 5]) expect(importValues(nonsense).problems.length).toBe(1);
    expect(importValues(null).values).toEqual(defaultValues);
  });
});

test('durations', () => {
  expect(['15s', '500ms', '2m30s', '1h'].map(durationOf)).toEqual([15_000, 500, 150_000, 3_600_000]);
  for (const bad of ['', '15', 's', '15 s', '-5s']) expect(durationOf(bad)).toBeUndefined();
});

test('ranges of both families', () => {
  expect(rangeContains('fd00::/8', 'fd00:77:1::/64')).toBe(true);
  expect(rangeContains('fd00:77::/32', 'fd00:78::/64')).toBe(false);
  expect(rangeContains('fd00::/64', 'fd00::/8')).toBe(false);
  expect(rangeContains('10.0.0.0/8', 'fd00::/8')).toBe(false);
  expect(rangeContains('10.0.0.0/8', '10.1.0.0/16')).toBe(true);
});

test('prefixes', () => {
  const inside = (outer: string, inner: string) => {
    const a = parsePrefix(outer);
    const b = parsePrefix(inner);
    return a && b ? prefixContains(a, b) : undefined;
  };
  expect(inside('0.0.0.0/0', '255.1.2.3/32')).toBe(true);
  expect(inside('10.0.0.0/8', '10.255.0.0/16')).toBe(true);
  expect(inside('10.0.0.0/16', '10.0.0.0/8')).toBe(false);
  expect(inside('192.168.0.0/24', '192.168.1.0/24')).toBe(false);
  for (const bad of ['10.0.0.0', '10.0.0/8', '256.0.0.0/8', '10.0.0.0/33', 'x'])
    expect(parsePrefix(bad)).toBeUndefined();
});

test('settings of the command line take the type of their field', () => {
  expect(withSetting(plain, 'routingMode=native').routingMode).toBe('native');
  expect(withSetting(plain, 'autoDirectNodeRoutes=true').autoDirectNodeRoutes).toBe(true);
  expect(withSetting(plain, 'MTU=1400').MTU).toBe(1400);
  expect(withSetting(plain, 'cluster.name=lab').cluster.name).toBe('lab');
  expect(withSetting(plain, 'devices=eth0,eth1').devices).toEqual(['eth0', 'eth1']);
  expect(() => withSetting(plain, 'nothing=1')).toThrow('there is no nothing');
  expect(() => withSetting(plain, 'routingMode=bgp')).toThrow('routingMode=bgp: It must be one of tunnel, native.');
  expect(() => withSetting(plain, 'autoDirectNodeRoutes=yes')).toThrow('It must be one of true, false.');
});
