import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { failureSchema } from './failure.ts';
import { reads, streams } from './procedure.ts';

/** One part of a support bundle that can be left out. Secrets are part of none: they are never read for it. */
export const supportItemSchema = z.object({
  id: z.string(),
  title: z.string(),
  /** What is in it, in words. */
  contents: z.string(),
  /** What of it somebody may not want to give away: names, addresses; "" for nothing. */
  sensitive: z.string(),
  /** Rough size in bytes before compression, from the cluster's present size. */
  estimate: z.number(),
  /** Chosen unless somebody takes it out. */
  chosen: z.boolean(),
});
export type SupportItem = Readonly<z.infer<typeof supportItemSchema>>;

export const supportProgressSchema = z.union([
  z.object({
    kind: z.literal('item'),
    id: z.string(),
    state: z.enum(['running', 'done', 'failed']),
    files: z.number(),
    bytes: z.number(),
    /** What of the item could not be had; the rest is in the bundle all the same. */
    failures: z.readonly(z.array(failureSchema)),
  }),
  /** A piece of the archive (tar, gzip), in order. */
  z.object({ kind: z.literal('piece'), data: z.instanceof(Uint8Array) }),
]);
export type SupportProgress = Readonly<z.infer<typeof supportProgressSchema>>;

export const support = {
  items: reads(z.object({ cluster: clusterIdSchema }), z.object({ items: z.readonly(z.array(supportItemSchema)) })),
  /** Collects one item and shows it, exactly as it would be in the bundle; long files are cut for the view. */
  preview: reads(
    z.object({ cluster: clusterIdSchema, item: z.string() }),
    z.object({
      files: z.readonly(z.array(z.object({ name: z.string(), bytes: z.number(), text: z.string() }))),
      failures: z.readonly(z.array(failureSchema)),
    }),
  ),
  /** Collects the chosen items; the archive comes in pieces and is kept nowhere by the engine. */
  collect: streams(
    z.object({ cluster: clusterIdSchema, items: z.readonly(z.array(z.string())) }),
    supportProgressSchema,
  ),
} as const;
