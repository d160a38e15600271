import { describe, expect, test } from 'vitest';
import type { Inventory } from '../../../contract/clusters.ts';
import { makeInventory } from '../../dev/fixture-data.ts';
import { familyOf, groupSteps, hasBothFamilies } from './explain-steps.ts';

function step(node: string, hook: string, text: string) {
  const rest = { kind: 'policy', map: '', key: '', value: '', rule: '', rewrite: '', verdict: '' };
  return { node, hook, text, ...rest, dropReason: '', source: '' };
}

describe('steps', () => {
  test('stand together by run of a program, in their order', () => {
    const groups = groupSteps([
      step('a', 'connect', '1'),
      step('a', 'from_pod', '2'),
      step('a', 'from_pod', '3'),
      step('b', 'from_netdev', '4'),
      step('a', 'from_pod', '5'),
    ]);
    expect(groups.map((group) => [group.node, group.hook, group.steps.map((one) => one.text).join('')])).toEqual([
      ['a', 'connect', '1'],
      ['a', 'from_pod', '23'],
      ['b', 'from_netdev', '4'],
      ['a', 'from_pod', '5'],
    ]);
    expect(new Set(groups.map((group) => group.key)).size).toBe(groups.length);
  });

  test('none give no groups', () => expect(groupSteps([])).toEqual([]));
});

describe('families', () => {
  test('are read from an address, whatever it says', () =>
    expect([undefined, '', 'either', 'ipv4', 'ipv6', 'IPX'].map(familyOf)).toEqual([
      ...['either', 'either', 'either', 'ipv4', 'ipv6', 'either'],
    ]));

  test('matter where a pod has both', () => {
    const inventory = makeInventory('galaxy');
    const withMore = (change: Partial<Inventory['pods'][number]>) => ({
      ...inventory,
      pods: inventory.pods.map((pod, index) => (index === 1 ? { ...pod, ...change } : pod)),
    });
    expect(hasBothFamilies(undefined)).toBe(false);
    expect(hasBothFamilies(inventory)).toBe(false);
    expect(hasBothFamilies(withMore({ moreAddresses: ['fd00::1'] }))).toBe(true);
    expect(hasBothFamilies(withMore({ moreAddresses: ['fd00::1'], hostNetwork: true }))).toBe(false);
    expect(hasBothFamilies(withMore({ moreAddresses: ['10.1.2.3'] }))).toBe(false);
  });
});
