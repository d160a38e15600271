import { expect, test } from 'vitest';
import { seeded } from '../../dev/fixture-data.ts';
import { type Box, type LabelCandidate, labelScale, leastLetters, placeLabels } from './label-layout.ts';

const at = (id: string, x: number, importance = 0, width = 80): LabelCandidate => ({
  id,
  importance,
  box: { x1: x, x2: x + width, y1: 0, y2: 14 },
});

test('labels that have room are all there', () => {
  expect([...placeLabels([at('a', 0), at('b', 100), at('c', 200)])].sort()).toEqual(['a', 'b', 'c']);
});

test('of two that overlap the more important one stays, and of equals always the same', () => {
  expect([...placeLabels([at('a', 0), at('b', 40, 1)])]).toEqual(['b']);
  expect([...placeLabels([at('b', 40), at('a', 0)])]).toEqual(['a']);
});

test('what else is drawn is not covered', () => {
  const box: Box = { x1: 70, x2: 110, y1: 10, y2: 30 };
  expect([...placeLabels([at('a', 0), at('b', 120)], [box])]).toEqual(['b']);
});

test('letters are at least as large as the least at any zoom that is not far out, and never shrink in the drawing', () => {
  for (let zoom = 0.13; zoom <= 3; zoom += 0.01) {
    const scale = labelScale(zoom);
    expect(scale).toBeGreaterThanOrEqual(1);
    expect(scale * zoom * leastLetters, `zoom ${zoom}`).toBeGreaterThanOrEqual(leastLetters - 1e-9);
  }
  expect(labelScale(0)).toBe(8);
});

test('no two of those that are placed overlap, and none is left out that has room beside them', () => {
  const random = seeded(11);
  const cross = (a: Box, b: Box) => a.x1 < b.x2 + 3 && b.x1 < a.x2 + 3 && a.y1 < b.y2 + 3 && b.y1 < a.y2 + 3;
  let left = 0;
  for (let round = 0; round < 200; round += 1) {
    const candidates = Array.from({ length: Math.floor(random() * 60) }, (_, index): LabelCandidate => {
      const [x, y] = [random() * 1000 - 500, random() * 600 - 300];
      const importance = Math.floor(random() * 4);
      return { id: String(index), importance, box: { x1: x, y1: y, x2: x + random() * 200, y2: y + 14 } };
    });
    const placed = placeLabels(candidates);
    const there = candidates.filter(({ id }) => placed.has(id));
    left += candidates.length - there.length;
    for (const one of candidates)
      expect(there.some((other) => other !== one && cross(other.box, one.box))).toBe(!placed.has(one.id));
  }
  expect(left).toBeGreaterThan(100);
});
