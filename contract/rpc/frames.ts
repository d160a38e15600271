import { z } from 'zod/mini';
import { failureSchema } from '../failure.ts';

/** What a consumer allows a producer to have under way, in items and (estimated) bytes. */
export const creditSchema = z.object({ items: z.number(), bytes: z.number() });
export type Credit = Readonly<z.infer<typeof creditSchema>>;

const id = z.int().check(z.nonnegative());

/** What a client says. `method` is "capability.verb". */
export const clientFrameSchema = z.discriminatedUnion('t', [
  z.object({ t: z.literal('call'), id, method: z.string(), input: z.unknown() }),
  z.object({ t: z.literal('open'), id, method: z.string(), input: z.unknown(), credit: creditSchema }),
  z.object({ t: z.literal('credit'), id, credit: creditSchema }),
  z.object({ t: z.literal('cancel'), id }),
]);
export type ClientFrame = Readonly<z.infer<typeof clientFrameSchema>>;

/** What a server says. A batch names its cost, so that both ends count the same. */
export const serverFrameSchema = z.discriminatedUnion('t', [
  z.object({ t: z.literal('value'), id, value: z.unknown() }),
  z.object({ t: z.literal('failure'), id, failure: failureSchema }),
  z.object({ t: z.literal('batch'), id, items: z.readonly(z.array(z.unknown())), bytes: z.number() }),
  z.object({ t: z.literal('end'), id, failure: z.optional(failureSchema) }),
]);
export type ServerFrame = Readonly<z.infer<typeof serverFrameSchema>>;

/**
 * A message channel that keeps order and loses nothing until it closes. `onMessage` and `onClose` are called once each
 * with the one listener; `onClose` is told why, in words, and no message follows it.
 */
export interface Wire {
  readonly send: (frame: unknown) => void;
  readonly onMessage: (listener: (frame: unknown) => void) => void;
  readonly onClose: (listener: (reason: string) => void) => void;
  readonly close: () => void;
}

/** Limits of the protocol. Sizes are estimates of `sizeOf`, in bytes. */
export const limits = {
  /** Largest input of a call or stream, and of a WebSocket message towards the engine. */
  inputBytes: 8 << 20,
  /** Largest answer and largest single item of a stream. */
  outputBytes: 128 << 20,
  /** Calls and streams under way at once, per connection. */
  concurrent: 1024,
  /** What a client allows a stream to have under way. */
  window: { items: 4096, bytes: 4 << 20 },
  /** A batch waits at most this long for company, in milliseconds. */
  flushMilliseconds: 16,
  batchItems: 512,
  batchBytes: 512 << 10,
} as const;

/**
 * Roughly how many bytes a value takes on a wire: strings by length, numbers as eight, byte arrays as they are. Stops
 * counting beyond `most` and is bounded in depth, so that a hostile value costs no more than an honest one.
 */
export function sizeOf(value: unknown, most = Number.POSITIVE_INFINITY, depth = 0): number {
  if (typeof value === 'string') return value.length + 2;
  if (typeof value !== 'object' || value === null) return 8;
  if (ArrayBuffer.isView(value)) return value.byteLength + 4;
  if (depth > 64) return most;
  let size = 4;
  if (Array.isArray(value)) {
    for (const item of value) {
      size += sizeOf(item, most - size, depth + 1);
      if (size > most) return size;
    }
    return size;
  }
  for (const key in value) {
    size += key.length + 1 + sizeOf((value as Readonly<Record<string, unknown>>)[key], most - size, depth + 1);
    if (size > most) return size;
  }
  return size;
}
