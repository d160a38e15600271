import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads, streams, writes } from './procedure.ts';

/** One named case of the connectivity test, before it has run. */
export const connectivityCaseSchema = z.object({
  id: z.string(),
  title: z.string(),
  group: z.string(),
  /** What it needs beside a cluster with an agent, e.g. "two nodes". */
  needs: z.readonly(z.array(z.string())),
});
export type ConnectivityCase = Readonly<z.infer<typeof connectivityCaseSchema>>;

export const connectivityResultSchema = z.object({
  id: z.string(),
  state: z.enum(['waiting', 'running', 'passed', 'failed', 'skipped']),
  /** What was seen, or why it was left out. */
  message: z.string(),
  /** What was expected. */
  expected: z.string(),
  milliseconds: z.number(),
  /** Each attempt: who asked what, and what came back. */
  attempts: z.readonly(z.array(z.string())),
  /** Flows that the agents saw meanwhile; for failures. */
  flows: z.readonly(z.array(z.string())),
});
export type ConnectivityResult = Readonly<z.infer<typeof connectivityResultSchema>>;

export const connectivityProgressSchema = z.object({
  state: z.enum(['preparing', 'running', 'cleaning', 'done', 'failed', 'stopped']),
  /** What is going on, or what went wrong. */
  message: z.string(),
  namespace: z.string(),
  nodes: z.readonly(z.array(z.string())),
  startedAt: z.number(),
  results: z.readonly(z.array(connectivityResultSchema)),
});
export type ConnectivityProgress = Readonly<z.infer<typeof connectivityProgressSchema>>;

const cluster = z.object({ cluster: clusterIdSchema });

export const connectivity = {
  cases: reads(z.object({}), z.object({ cases: z.readonly(z.array(connectivityCaseSchema)) })),
  /** Makes pods in a namespace of their own and runs the cases; progress comes from `watch`. */
  start: writes(
    z.object({
      cluster: clusterIdSchema,
      /** All unless told. */
      cases: z.optional(z.readonly(z.array(z.string()))),
      /** Image with the probe; that of the installed agent unless told. */
      image: z.optional(z.string()),
      /** A server outside of the cluster that answers HTTP with the address it sees: "http://192.0.2.1/". */
      outside: z.optional(z.string()),
    }),
    z.object({}),
  ),
  /** Ends it; everything that was made is removed all the same. */
  stop: reads(cluster, z.object({})),
  /** Progress of the running or last test; ends with it. */
  watch: streams(cluster, connectivityProgressSchema),
} as const;
