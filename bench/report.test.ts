import { expect, it } from 'vitest';
import { absolute, median, met, paired, quantile, ratio, short, table } from './report.ts';

it('judges a ratio by at least and a value by its own side', () => {
  expect(met(ratio('a', 95, 100, 'b', 0.95))).toBe(true);
  expect(met(ratio('a', 94, 100, 'b', 0.95))).toBe(false);
  expect(met(ratio('a', 94, 100, 'b'))).toBeUndefined();
  expect(met(absolute('a', 60, 'MiB', 60, 'most'))).toBe(true);
  expect(met(absolute('a', 60.1, 'MiB', 60, 'most'))).toBe(false);
  expect(met(absolute('a', 99_999, 'per second', 100_000, 'least'))).toBe(false);
});

it('never calls a figure that is missing met', () => {
  expect(met(ratio('a', Number.NaN, 100, 'b', 0.95))).toBe(false);
  expect(met(absolute('a', Number.NaN, 'ms', 500, 'most'))).toBe(false);
});

it('says a missed budget, and notes below', () => {
  const text = table([ratio('fast', 2, 1, 'slow', 1.5), absolute('big', 70, 'MiB', 60, 'most', 'because')]);
  expect(text).toMatch(/^fast +2\.00 +1\.00 +slow +2\.00 +≥ 1\.50 +met$/m);
  expect(text).toMatch(/^big +70 MiB .*≤ 60 +MISSED$/m);
  expect(text).toMatch(/^big: because$/m);
});

it('finds the middle and the tail', () => {
  const values = Array.from({ length: 100 }, (_, index) => 100 - index);
  expect(median([3, 1, 2])).toBe(2);
  expect(quantile(values, 0.99)).toBe(99);
  expect(quantile(values, 1)).toBe(100);
  expect(quantile([], 0.5)).toBeNaN();
  expect([short(4.56e9), short(12_300), short(523), short(0.5)]).toEqual(['4.6 G', '12.3 k', '523', '0.50']);
});

it('compares what took turns round by round', () => {
  const row = paired('fast', [10, 200, 30, 50], [10, 100, 10, 20], 'slow', 1.5);
  expect([row.value, row.baseline, row.ratio]).toEqual([50, 20, 2.5]);
  expect(row.note).toBe('the middle half of 4 turns is 1.00 to 2.50');
  expect(met(paired('fast', [1, 2], [1], 'slow', 0.1))).toBe(false);
});
