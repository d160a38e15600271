import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Flow, FlowItem } from '../../../contract/flows.ts';
import { FlowStore } from './flow-store.ts';

function flow(sequence: number): FlowItem {
  return { kind: 'flow', flow: { sequence } as Flow };
}
const sequences = (store: FlowStore) => store.picture().rows.map((row) => row.sequence);

describe('FlowStore', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('keeps the newest, newest first, when the ring goes round', () => {
    const store = new FlowStore(3);
    store.subscribe(() => {});
    store.take([1, 2, 3, 4, 5].map(flow));
    vi.advanceTimersByTime(200);
    expect(sequences(store)).toEqual([5, 4, 3]);
    expect(store.picture().total).toBe(5);
  });

  it('redraws at most ten times a second however many batches come', () => {
    const store = new FlowStore(100);
    const listener = vi.fn();
    store.subscribe(listener);
    for (let at = 0; at < 100; at += 1) {
      store.take([flow(at)]);
      vi.advanceTimersByTime(10);
    }
    expect(listener.mock.calls.length).toBeLessThanOrEqual(11);
    expect(listener.mock.calls.length).toBeGreaterThanOrEqual(8);
  });

  it('holds the picture and counts what waits, then shows it', () => {
    const store = new FlowStore(100);
    store.subscribe(() => {});
    store.take([flow(1)]);
    vi.advanceTimersByTime(200);
    store.hold(true);
    store.take([flow(2), flow(3)]);
    vi.advanceTimersByTime(200);
    expect(sequences(store)).toEqual([1]);
    expect(store.picture().waiting).toBe(2);
    store.hold(false);
    expect(sequences(store)).toEqual([3, 2, 1]);
    expect(store.picture().waiting).toBe(0);
  });

  it('compares losses only with what came after the stream began', () => {
    const store = new FlowStore(100);
    store.subscribe(() => {});
    store.clear();
    const at = (time: number): FlowItem => ({ kind: 'flow', flow: { sequence: time, time } as Flow });
    store.take([at(Date.now() - 60_000), at(Date.now())]);
    vi.advanceTimersByTime(200);
    expect(store.picture()).toMatchObject({ total: 2, live: 1 });
  });

  it('forgets everything for another request, even while held', () => {
    const store = new FlowStore(100);
    store.subscribe(() => {});
    store.take([flow(1)]);
    store.hold(true);
    store.clear();
    expect(store.picture()).toMatchObject({ rows: [], total: 0, waiting: 0 });
  });
});
