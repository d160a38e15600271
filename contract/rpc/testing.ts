import { z } from 'zod/mini';
import type { ImplementationOf } from '../implementation.ts';
import { reads, streams } from '../procedure.ts';

/** A small contract for the tests of the protocol. */
export const testContract = {
  math: {
    double: reads(z.object({ value: z.number() }), z.object({ value: z.number() })),
    wrong: reads(z.object({}), z.object({ value: z.number() })),
    throws: reads(z.object({}), z.object({})),
    refuses: reads(z.object({}), z.object({})),
    waits: reads(z.object({}), z.object({})),
    length: reads(z.object({ text: z.string() }), z.object({ length: z.number() })),
    echo: streams(z.object({ bytes: z.instanceof(Uint8Array) }), z.object({ bytes: z.instanceof(Uint8Array) })),
    count: streams(z.object({ to: z.number(), perPush: z.number() }), z.number()),
    blocks: streams(z.object({ count: z.number(), bytes: z.number() }), z.string()),
    fails: streams(z.object({}), z.number()),
    bad: streams(z.object({}), z.number()),
  },
} as const;

/** What the implementation has seen; tests look at it. */
export interface Observed {
  produced: number;
  cancelled: number;
  finished: number;
}

/** Implements `testContract`, counting what it makes. */
export function testImplementation(observed: Observed): ImplementationOf<typeof testContract> {
  return {
    math: {
      double: async ({ value }) => ({ ok: true, value: { value: value * 2 } }),
      wrong: async () => ({ ok: true, value: { value: 'text' as unknown as number } }),
      throws: async () => {
        throw new Error('a bug');
      },
      refuses: async () => ({ ok: false, failure: { code: 'x.no', what: 'No.', why: 'Because.', fix: 'Ask nicely.' } }),
      waits: (_, { signal }) =>
        new Promise((resolve) => {
          signal.addEventListener('abort', () => {
            observed.cancelled += 1;
            resolve({ ok: true, value: {} });
          });
        }),
      length: async ({ text }) => ({ ok: true, value: { length: text.length } }),
      echo: async ({ bytes }, sink) => {
        await sink.push([{ bytes }]);
        return undefined;
      },
      count: async ({ to, perPush }, sink) => {
        try {
          while (observed.produced < to) {
            const items = Array.from(
              { length: Math.min(perPush, to - observed.produced) },
              (_, i) => observed.produced + i,
            );
            observed.produced += items.length;
            await sink.push(items);
          }
          return undefined;
        } finally {
          observed.finished += 1;
        }
      },
      blocks: async ({ count, bytes }, sink) => {
        for (let i = 0; i < count; i++) {
          observed.produced += 1;
          await sink.push(['x'.repeat(bytes)]);
        }
        return undefined;
      },
      fails: async (_, sink) => {
        await sink.push([1, 2]);
        return { code: 'x.broke', what: 'It broke.', why: 'It was old.', fix: 'Mend it.' };
      },
      bad: async (_, sink) => {
        await sink.push([1, 'two' as unknown as number]);
        return undefined;
      },
    },
  };
}
