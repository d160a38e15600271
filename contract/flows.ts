import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads, streams } from './procedure.ts';

export const verdictSchema = z.enum([
  'FORWARDED',
  'DROPPED',
  'ERROR',
  'AUDIT',
  'REDIRECTED',
  'TRACED',
  'TRANSLATED',
  'UNKNOWN',
]);
export type Verdict = z.infer<typeof verdictSchema>;

export const policyReferenceSchema = z.object({
  kind: z.string(),
  namespace: z.string(),
  name: z.string(),
  section: z.optional(z.string()),
});
export type PolicyReference = Readonly<z.infer<typeof policyReferenceSchema>>;

export const flowSideSchema = z.object({
  /** "namespace/pod", "namespace/service", entity ("world", "host", …) or address: what the table shows. */
  label: z.string(),
  namespace: z.string(),
  pod: z.string(),
  workload: z.string(),
  service: z.string(),
  /** reserved entity without its prefix, or "". */
  entity: z.string(),
  address: z.string(),
  port: z.number(),
  identity: z.number(),
  labels: z.readonly(z.array(z.string())),
  mac: z.string(),
  names: z.readonly(z.array(z.string())),
});
export type FlowSide = Readonly<z.infer<typeof flowSideSchema>>;

export const flowSchema = z.object({
  /** Unique within a stream; ascending in order of arrival. */
  sequence: z.number(),
  uuid: z.string(),
  /** Unix milliseconds with fraction (microseconds). */
  time: z.number(),
  node: z.string(),
  verdict: verdictSchema,
  /** Hubble's words, e.g. "POLICY_DENIED"; "" when not dropped. */
  dropReason: z.string(),
  /** The same for people: "Policy denied". */
  dropText: z.string(),
  /** What it means and what to do, for the details pane; "" when not dropped. */
  dropHelp: z.string(),
  direction: z.enum(['INGRESS', 'EGRESS', 'UNKNOWN']),
  /** null when unknown. */
  reply: z.nullable(z.boolean()),
  source: flowSideSchema,
  destination: flowSideSchema,
  protocol: z.string(),
  tcpFlags: z.readonly(z.array(z.string())),
  icmp: z.optional(z.object({ type: z.number(), code: z.number() })),
  /** "policy-verdict", "trace", "drop", "trace-sock", "l7". */
  event: z.string(),
  /** e.g. "to-endpoint", "pre-xlate-fwd". */
  observationPoint: z.string(),
  policyMatch: z.string(),
  allowedBy: z.readonly(z.array(policyReferenceSchema)),
  deniedBy: z.readonly(z.array(policyReferenceSchema)),
  interface: z.string(),
  summary: z.string(),
  socketCookie: z.string(),
});
export type Flow = Readonly<z.infer<typeof flowSchema>>;

/**
 * A filter as the flows view edits it and as the hubble CLI has it. Values of one field are OR-ed, fields AND-ed;
 * `either` fields match source or destination. Patterns of pods are "namespace/prefix"; "namespace/" is a whole namespace.
 */
export const flowFilterSchema = z.object({
  verdict: z.optional(z.readonly(z.array(verdictSchema))),
  namespace: z.optional(z.readonly(z.array(z.string()))),
  fromNamespace: z.optional(z.readonly(z.array(z.string()))),
  toNamespace: z.optional(z.readonly(z.array(z.string()))),
  pod: z.optional(z.readonly(z.array(z.string()))),
  fromPod: z.optional(z.readonly(z.array(z.string()))),
  toPod: z.optional(z.readonly(z.array(z.string()))),
  label: z.optional(z.readonly(z.array(z.string()))),
  fromLabel: z.optional(z.readonly(z.array(z.string()))),
  toLabel: z.optional(z.readonly(z.array(z.string()))),
  ip: z.optional(z.readonly(z.array(z.string()))),
  fromIP: z.optional(z.readonly(z.array(z.string()))),
  toIP: z.optional(z.readonly(z.array(z.string()))),
  port: z.optional(z.readonly(z.array(z.string()))),
  fromPort: z.optional(z.readonly(z.array(z.string()))),
  toPort: z.optional(z.readonly(z.array(z.string()))),
  protocol: z.optional(z.readonly(z.array(z.string()))),
  identity: z.optional(z.readonly(z.array(z.number()))),
  workload: z.optional(z.readonly(z.array(z.string()))),
  service: z.optional(z.readonly(z.array(z.string()))),
  node: z.optional(z.readonly(z.array(z.string()))),
  direction: z.optional(z.readonly(z.array(z.enum(['INGRESS', 'EGRESS'])))),
  event: z.optional(z.readonly(z.array(z.string()))),
  tcpFlags: z.optional(z.readonly(z.array(z.string()))),
  dropReason: z.optional(z.readonly(z.array(z.string()))),
  reply: z.optional(z.boolean()),
});
export type FlowFilter = Readonly<z.infer<typeof flowFilterSchema>>;

export const flowRequestSchema = z.object({
  cluster: clusterIdSchema,
  /** A flow passes when any of these matches (none given: all pass) … */
  allow: z.readonly(z.array(flowFilterSchema)),
  /** … and none of these does. */
  deny: z.readonly(z.array(flowFilterSchema)),
  /** How many past flows to start with, per node. */
  last: z.number(),
  /** Unix milliseconds. */
  since: z.optional(z.number()),
  until: z.optional(z.number()),
  follow: z.boolean(),
});

/** Nothing silent: what each node has seen, sent and lost, and what the console itself dropped to keep up. */
export const flowHealthSchema = z.object({
  nodes: z.readonly(
    z.array(
      z.object({
        node: z.string(),
        state: z.enum(['streaming', 'connecting', 'unreachable', 'ended']),
        message: z.string(),
        /** Lost in the kernel's ring buffer, in the agent's ring, since the stream began. */
        lostInKernel: z.number(),
        lostInAgent: z.number(),
      }),
    ),
  ),
  /** Dropped by the console because the view could not keep up. */
  lostInConsole: z.number(),
  /** Flows per second arriving, all nodes. */
  rate: z.number(),
});
export type FlowHealth = Readonly<z.infer<typeof flowHealthSchema>>;

export const flowItemSchema = z.union([
  z.object({ kind: z.literal('flow'), flow: flowSchema }),
  z.object({ kind: z.literal('health'), health: flowHealthSchema }),
]);
export type FlowItem = Readonly<z.infer<typeof flowItemSchema>>;

export const flows = {
  watch: streams(flowRequestSchema, flowItemSchema),
  /** The same request as a line for the hubble CLI. */
  asHubbleCommand: reads(
    z.object({
      allow: z.readonly(z.array(flowFilterSchema)),
      deny: z.readonly(z.array(flowFilterSchema)),
      last: z.number(),
      follow: z.boolean(),
    }),
    z.object({ command: z.string() }),
  ),
  /** Parses a `hubble observe …` line; flags that have no equivalent are a failure that names them. */
  fromHubbleCommand: reads(
    z.object({ command: z.string() }),
    z.object({ allow: z.readonly(z.array(flowFilterSchema)), deny: z.readonly(z.array(flowFilterSchema)) }),
  ),
} as const;
