import { describe, expect, it } from 'vitest';
import { matches, toCsv } from './audit-rows.ts';

const entry = {
  time: Date.UTC(2026, 0, 2, 3, 4, 5),
  cluster: 'prod',
  action: 'policies.update',
  subject: 'CiliumNetworkPolicy galaxy/rule1',
  result: 'done',
  who: 'anna@desk',
  before: '',
  after: '',
};

describe('the audit log', () => {
  it('finds entries by any words of what is shown', () => {
    expect(matches(entry, '')).toBe(true);
    expect(matches(entry, 'anna RULE1')).toBe(true);
    expect(matches(entry, 'anna rule2')).toBe(false);
  });
  it('is a CSV that no spreadsheet takes for formulas', () => {
    expect(toCsv([{ ...entry, subject: '=HYPERLINK("x")', result: 'a, "b"\nc' }])).toBe(
      'time,cluster,action,subject,who,result\r\n2026-01-02T03:04:05.000Z,prod,policies.update,"\'=HYPERLINK(""x"")",anna@desk,"a, ""b""\nc"\r\n',
    );
  });
});
