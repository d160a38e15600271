import { describe, expect, test } from 'vitest';
import { groupSteps } from './explain-steps.ts';

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
