import { describe, expect, it } from 'vitest';
import { append, emptyBuffer, levelOf } from './log-buffer.ts';

describe('the buffer of lines', () => {
  it('keeps the newest and counts the others', () => {
    const line = (text: string) => ({ kind: 'line' as const, source: 0, time: 1, text });
    const first = append(
      emptyBuffer,
      [line('a'), line('b'), { kind: 'state', source: 2, state: 'open', message: '' }],
      3,
    );
    const second = append(first, [line('c'), line('d'), line('e')], 3);
    expect(second.rows.map((row) => row.text)).toEqual(['c', 'd', 'e']);
    expect(second.rows.map((row) => row.key)).toEqual([2, 3, 4]);
    expect(second.forgotten).toBe(2);
    expect(second.states.get(2)?.state).toBe('open');
    expect(first.rows).toHaveLength(2);
  });
  it.each([
    ['E0102 03:04:05 x.go:1] no', 'bad'],
    ['time=2026 level=ERROR msg=x', 'bad'],
    ['{"level":"info"}', undefined],
    ['W0102 03:04:05 x', 'warn'],
    ['level=WARN msg="slow"', 'warn'],
    ['errors: 0', undefined],
    ['no error here', undefined],
  ])('reads the level of %s', (text, level) => {
    expect(levelOf(text)).toBe(level);
  });
});
