import type { Sink } from '../../../contract/implementation.ts';
import type { TerminalEvent } from '../../../contract/terminals.ts';

/** Output is passed on in pieces of at most this many bytes. */
const pieceBytes = 64 << 10;
/** So much without a pause is a flood: more than a screen's worth is on its way. */
const floodBytes = 256 << 10;
/** A silence that ends a flood, in milliseconds. */
const pause = 200;
/** After an interrupt, output is passed over until a silence, but no longer than this. */
const longestSkip = 5_000;
/** Kept of what is passed over: the prompt is at its end. */
const tailBytes = 4 << 10;

/** The output of one shell on its way to its screen. */
export interface Pump {
  /** Passes a stream on, reading no faster than the view takes it; resolves at its end. */
  readonly run: (output: NodeJS.ReadableStream) => Promise<void>;
  /**
   * Somebody pressed Ctrl+C. In a flood much is on its way (in pipes, sockets, proxies) that nobody wants to see any more:
   * it is read at full speed and passed over, and the view is told how much that was.
   */
  readonly interrupt: () => void;
}

export function createPump(sink: Sink<TerminalEvent>): Pump {
  let flowing = 0;
  let lastChunk = 0;
  /** The push under way; pushes go one after the other. */
  let pushing: Promise<void> = Promise.resolve();
  let pending = 0;
  let skip: { readonly until: number; bytes: number; tail: Buffer } | undefined;
  let wake: () => void = () => undefined;
  let quiet: NodeJS.Timeout | undefined;

  const push = (events: readonly TerminalEvent[]) => {
    pending += 1;
    pushing = pushing
      .then(() => sink.push(events))
      .finally(() => {
        pending -= 1;
      });
    // Whoever waits for it sees its failure; it must not be an unhandled one before.
    pushing.catch(() => undefined);
  };
  const endSkip = () => {
    clearTimeout(quiet);
    if (!skip) return;
    const { bytes, tail } = skip;
    skip = undefined;
    flowing = 0;
    if (bytes === 0) return;
    // Begins with a whole line where there is one, so that no half of an escape sequence is drawn.
    const line = bytes > tail.length ? tail.indexOf(10) + 1 : 0;
    const rest = tail.subarray(line);
    push([
      { kind: 'skipped', bytes: bytes - rest.length },
      { kind: 'data', data: Uint8Array.from(rest) },
    ]);
  };

  return {
    async run(output) {
      for await (const chunk of output as AsyncIterable<Buffer | string>) {
        const bytes = typeof chunk === 'string' ? Buffer.from(chunk, 'utf8') : chunk;
        const now = performance.now();
        flowing = now - lastChunk > pause && pending === 0 ? bytes.length : flowing + bytes.length;
        lastChunk = now;
        for (let offset = 0; offset < bytes.length; offset += pieceBytes) {
          const piece = bytes.subarray(offset, offset + pieceBytes);
          if (!skip && pending > 0)
            await Promise.race([
              pushing,
              new Promise<void>((resolve) => {
                wake = resolve;
              }),
            ]);
          if (skip) {
            skip.bytes += piece.length;
            skip.tail = Buffer.concat([skip.tail, piece]).subarray(-tailBytes);
            clearTimeout(quiet);
            if (performance.now() > skip.until) endSkip();
            else quiet = setTimeout(endSkip, pause);
            continue;
          }
          // A copy: the buffer's memory may be part of a pool that is written again.
          push([{ kind: 'data', data: Uint8Array.from(piece) }]);
        }
      }
      endSkip();
      await pushing;
    },
    interrupt() {
      const flood = flowing >= floodBytes && (pending > 0 || performance.now() - lastChunk < pause);
      if (!flood || skip) return;
      skip = { until: performance.now() + longestSkip, bytes: 0, tail: Buffer.alloc(0) };
      quiet = setTimeout(endSkip, pause);
      wake();
    },
  };
}
