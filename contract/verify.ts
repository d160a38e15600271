import { z } from 'zod/mini';
import { checkBatchSchema } from './checks.ts';
import { clusterIdSchema } from './clusters.ts';
import { streams } from './procedure.ts';

/** Which checks: of these nodes, with these ids; all without. */
const selection = z.object({
  cluster: clusterIdSchema,
  nodes: z.optional(z.readonly(z.array(z.string()))),
  checks: z.optional(z.readonly(z.array(z.string()))),
});

export const verify = {
  /** Can the agent be installed here? Asks every node, through its agent, over SSH, or by a short-lived pod. */
  preflight: streams(selection, checkBatchSchema),
  /** Is everything as it should be? With the evidence. */
  run: streams(selection, checkBatchSchema),
} as const;
