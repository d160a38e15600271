import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { streams } from './procedure.ts';

/** A container whose log is read. */
export const logSourceSchema = z.object({
  namespace: z.string(),
  pod: z.string(),
  container: z.string(),
});
export type LogSource = Readonly<z.infer<typeof logSourceSchema>>;

export const logItemSchema = z.union([
  z.object({
    kind: z.literal('line'),
    /** Index into the request's sources. */
    source: z.number(),
    /** Unix milliseconds, from the node's clock. */
    time: z.number(),
    text: z.string(),
  }),
  /** A source's state changed. `waiting`: it ended or is not there yet and is tried again. */
  z.object({
    kind: z.literal('state'),
    source: z.number(),
    state: z.enum(['open', 'waiting', 'ended', 'failed']),
    message: z.string(),
  }),
]);
export type LogItem = Readonly<z.infer<typeof logItemSchema>>;

export const logs = {
  /** Lines of several containers in the order of their times, from the newest `tail` lines of each on. */
  follow: streams(
    z.object({
      cluster: clusterIdSchema,
      sources: z.readonly(z.array(logSourceSchema)),
      tail: z.number(),
      follow: z.boolean(),
    }),
    logItemSchema,
  ),
} as const;
