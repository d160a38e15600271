import { expect, it } from 'vitest';
import { type Column, leastWidth, sortRows } from './data-grid.tsx';

interface Row {
  readonly name: string;
  readonly size: number;
}
const columns: readonly Column<Row>[] = [
  { id: 'name', title: '', width: '', render: () => null, sort: (row) => row.name },
  { id: 'size', title: '', width: '', render: () => null, sort: (row) => row.size },
  { id: 'fixed', title: '', width: '', render: () => null },
];
const rows: readonly Row[] = [
  { name: 'pod-10', size: 2 },
  { name: 'pod-2', size: 10 },
  { name: 'pod-1', size: 2 },
];

it('sorts names with numbers as people do, and numbers by value', () => {
  expect(sortRows(rows, columns, { column: 'name', descending: false }).map((row) => row.name)).toEqual([
    'pod-1',
    'pod-2',
    'pod-10',
  ]);
  expect(sortRows(rows, columns, { column: 'size', descending: true }).map((row) => row.size)).toEqual([10, 2, 2]);
});

it('keeps the order of equal rows, and of columns that do not sort', () => {
  expect(sortRows(rows, columns, { column: 'size', descending: false }).map((row) => row.name)).toEqual([
    'pod-10',
    'pod-1',
    'pod-2',
  ]);
  expect(sortRows(rows, columns, { column: 'fixed', descending: false })).toBe(rows);
});

it('adds up what the columns need at least', () => {
  expect(leastWidth([{ width: '98px' }, { width: 'minmax(120px, 2fr)' }, { width: '1fr' }])).toBe(218);
});
