import type { Sink } from '../implementation.ts';
import { type Credit, limits, sizeOf } from './frames.ts';

/** The server's end of a stream: gathers items into batches and lets them go as far as the consumer's credit reaches. */
export interface StreamSink extends Sink<unknown> {
  readonly allow: (credit: Credit) => void;
  /** Resolves when everything pushed has been sent. */
  readonly drained: () => Promise<void>;
}

/** Thrown into a producer that pushes after its consumer has gone. */
export class StreamCancelled extends Error {
  override readonly name = 'AbortError';
  constructor() {
    super('the stream was cancelled by its consumer');
  }
}

/**
 * Credit may be overdrawn by one item: an item larger than the window still passes, alone. `push` resolves when all
 * its items have been sent or wait in a batch that credit already covers, so a producer that awaits it is never ahead
 * of its consumer by more than the window and one push. It rejects with `StreamCancelled` once `signal` aborts.
 */
export function createSink(
  initial: Credit,
  signal: AbortSignal,
  send: (items: readonly unknown[], bytes: number) => void,
): StreamSink {
  let items = initial.items;
  let bytes = initial.bytes;
  let queue: { readonly value: unknown; readonly size: number }[] = [];
  let head = 0;
  let queuedBytes = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let lastFlush = 0;
  let waiters: (() => void)[] = [];

  const queued = () => queue.length - head;

  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    if (signal.aborted) return;
    lastFlush = performance.now();
    while (queued() > 0 && items > 0 && bytes > 0) {
      const batch: unknown[] = [];
      let size = 0;
      while (queued() > 0 && items > 0 && bytes > 0 && batch.length < limits.batchItems && size < limits.batchBytes) {
        const next = queue[head++];
        if (!next) break;
        batch.push(next.value);
        size += next.size;
        queuedBytes -= next.size;
        items -= 1;
        bytes -= next.size;
      }
      send(batch, size);
    }
    if (head > 0) {
      queue = queue.slice(head);
      head = 0;
    }
    wake();
  };

  const wake = () => {
    const woken = waiters;
    waiters = [];
    for (const resolve of woken) resolve();
  };

  /** True while everything queued is covered by credit. */
  const covered = () => queued() < items && queuedBytes < bytes;

  const wait = () =>
    new Promise<void>((resolve) => {
      waiters.push(resolve);
    });

  signal.addEventListener(
    'abort',
    () => {
      clearTimeout(timer);
      timer = undefined;
      queue = [];
      head = 0;
      queuedBytes = 0;
      wake();
    },
    { once: true },
  );

  const check = () => {
    if (signal.aborted) throw new StreamCancelled();
  };

  return {
    async push(pushed) {
      check();
      for (const value of pushed) {
        const size = sizeOf(value);
        queue.push({ value, size });
        queuedBytes += size;
      }
      if (queued() >= limits.batchItems || performance.now() - lastFlush >= limits.flushMilliseconds) flush();
      else timer ??= setTimeout(flush, limits.flushMilliseconds - (performance.now() - lastFlush));
      while (queued() > 0 && !covered()) {
        await wait();
        check();
      }
    },
    allow(credit) {
      items += Math.max(0, credit.items);
      bytes += Math.max(0, credit.bytes);
      if (queued() > 0 && timer === undefined) flush();
      else wake();
    },
    async drained() {
      if (queued() > 0) flush();
      while (queued() > 0) {
        check();
        await wait();
      }
    },
  };
}
