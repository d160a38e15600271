import { describe, expect, test } from 'vitest';
import { type Values, valuesSchema } from '../../../contract/index.ts';
import { parsePrefix, prefixContains } from './addresses.ts';
import { withSetting } from './cli.ts';
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
  expect(() => withSetting(plain, 'routingMode=bgp')).toThrow('routingMode');
});
