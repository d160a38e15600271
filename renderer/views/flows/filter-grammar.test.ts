import { describe, expect, it } from 'vitest';
import { formatFilter, hasToken, parseFilter, toggleToken } from './filter-grammar.ts';

describe('parseFilter', () => {
  it.each([
    ['verdict:dropped', [{ verdict: ['DROPPED'] }], []],
    ['from-pod:default/xwing to-port:80', [{ fromPod: ['default/xwing'], toPort: ['80'] }], []],
    ['namespace:a,b', [{ namespace: ['a', 'b'] }], []],
    ['namespace:a namespace:b', [{ namespace: ['a', 'b'] }], []],
    ['pod:a/x or pod:b/y', [{ pod: ['a/x'] }, { pod: ['b/y'] }], []],
    ['not port:53', [], [{ port: ['53'] }]],
    ['!port:53 not ip:10.0.0.0/8', [], [{ port: ['53'] }, { ip: ['10.0.0.0/8'] }]],
    ['not not port:53', [{ port: ['53'] }], []],
    ['label:a=b,c=d', [{ label: ['a=b,c=d'] }], []],
    ['from-label:reserved:world', [{ fromLabel: ['reserved:world'] }], []],
    ['ip:fd00::1', [{ ip: ['fd00::1'] }], []],
    ['identity:1,4 reply:true direction:egress', [{ identity: [1, 4], reply: true, direction: ['EGRESS'] }], []],
    ['workload:"shop/a b"', [{ workload: ['shop/a b'] }], []],
    ['', [], []],
    ['or or', [], []],
  ])('reads %s', (line, allow, deny) => {
    const parsed = parseFilter(line);
    expect(parsed.problems).toEqual([]);
    expect(parsed.allow).toEqual(allow);
    expect(parsed.deny).toEqual(deny);
  });

  it.each([
    ['xwing', 'no key'],
    ['colour:red', 'no key “colour”'],
    ['verdict:MAYBE', 'A verdict is one of'],
    ['to-port:http', 'A port is a number'],
    ['port:70000', 'A port is a number'],
    ['direction:up', 'INGRESS or EGRESS'],
    ['reply:perhaps', 'true or false'],
    ['identity:abc', 'whole number'],
    ['pod:', 'needs a value'],
  ])('names what is wrong with %s and leaves it out', (line, text) => {
    const parsed = parseFilter(`${line} namespace:a`);
    expect(parsed.problems).toHaveLength(1);
    expect(parsed.problems[0]).toContain(text);
    expect(parsed.allow).toEqual([{ namespace: ['a'] }]);
  });
});

describe('formatFilter', () => {
  it.each([
    'verdict:DROPPED',
    'pod:a/x to-port:80,443 or pod:b/y',
    'namespace:a not port:53 not identity:1,4,6',
    'label:a=b,c=d label:e=f reply:false',
    'workload:"shop/a b"',
  ])('writes what parseFilter reads back: %s', (line) => {
    const first = parseFilter(line);
    const second = parseFilter(formatFilter(first.allow, first.deny));
    expect(second.allow).toEqual(first.allow);
    expect(second.deny).toEqual(first.deny);
    expect(second.problems).toEqual([]);
  });
});

describe('toggleToken', () => {
  it('adds and removes, whatever way the negation is written', () => {
    const on = toggleToken('pod:a/x', 'not port:53');
    expect(on).toBe('pod:a/x not port:53');
    expect(hasToken('pod:a/x !port:53', 'not port:53')).toBe(true);
    expect(toggleToken('pod:a/x !port:53', 'not port:53')).toBe('pod:a/x');
  });
});
