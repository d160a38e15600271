import { expect, it } from 'vitest';
import {
  formatAge,
  formatBitRate,
  formatBytes,
  formatCount,
  formatLatency,
  formatRate,
  formatShare,
  plural,
} from './format.ts';

it.each([
  [formatBytes(0), '0 B'],
  [formatBytes(1023), '1023 B'],
  [formatBytes(36.2 * 1024 * 1024), '36.2 MiB'],
  [formatBytes(Number.NaN), '–'],
  [formatCount(999), '999'],
  [formatCount(12_440), '12.4 k'],
  [formatCount(3_140_000), '3.1 M'],
  [formatRate(0), '0/s'],
  [formatRate(0.01), '<0.1/s'],
  [formatRate(9.96), '10/s'],
  [formatBitRate(125), '1.0 kbit/s'],
  [formatAge(0, 12_000), '12 s'],
  [formatAge(0, 3_600_000 * 30), '30 h'],
  [formatAge(5000, 0), '0 s'],
  [formatLatency(3.44), '3.4 ms'],
  [formatLatency(1340), '1.3 s'],
  [formatShare(0, 10), '0 %'],
  [formatShare(1, 1_000_000), '<0.1 %'],
  [formatShare(3, 100), '3.0 %'],
  [plural(1, 'pod'), '1 pod'],
  [plural(5000, 'policy', 'policies'), '5,000 policies'],
])('%s is %s', (got, wanted) => {
  expect(got).toBe(wanted);
});
