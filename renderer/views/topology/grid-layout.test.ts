import { expect, it } from 'vitest';
import { gridLayout } from './grid-layout.ts';

const nodes = Array.from({ length: 2000 }, (_, index) => ({ id: `n${index}`, parent: `g${index % 23}` })).concat(
  Array.from({ length: 23 }, (_, index) => ({ id: `g${index}`, parent: '' })),
);
const edges = Array.from({ length: 4000 }, (_, index) => ({
  source: `n${index % 2000}`,
  target: `n${(index * 7) % 2000}`,
}));

it('places 2,000 nodes without two in one place, and no group', () => {
  const positions = gridLayout(nodes, edges);
  expect(positions.size).toBe(2000);
  expect(positions.has('g0')).toBe(false);
  expect(new Set([...positions.values()].map(({ x, y }) => `${x} ${y}`)).size).toBe(2000);
});

it('keeps groups apart', () => {
  const positions = gridLayout(nodes, edges);
  const boxes = Array.from({ length: 23 }, (_, group) => {
    const own = nodes
      .filter((node) => node.parent === `g${group}`)
      .map((node) => positions.get(node.id) ?? { x: 0, y: 0 });
    const xs = own.map(({ x }) => x);
    const ys = own.map(({ y }) => y);
    return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
  });
  const overlaps = boxes.flatMap((a, at) =>
    boxes.slice(at + 1).filter((b) => a.left <= b.right && b.left <= a.right && a.top <= b.bottom && b.top <= a.bottom),
  );
  expect(overlaps).toEqual([]);
});

it('is the same each time, and copes with nothing', () => {
  expect([...gridLayout(nodes, edges)]).toEqual([...gridLayout(nodes, edges)]);
  expect(gridLayout([], []).size).toBe(0);
});
