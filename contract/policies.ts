import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { reads, streams, writes } from './procedure.ts';

export const policyKindSchema = z.enum(['CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy', 'NetworkPolicy']);
export type PolicyKind = z.infer<typeof policyKindSchema>;

export const policyIdSchema = z.object({ kind: policyKindSchema, namespace: z.string(), name: z.string() });
export type PolicyId = Readonly<z.infer<typeof policyIdSchema>>;

/** A problem found in a policy's text. Lines and columns start at 1; both are 0 where the place is not known. */
export const policyProblemSchema = z.object({
  severity: z.enum(['error', 'warning', 'info']),
  code: z.string(),
  path: z.string(),
  line: z.number(),
  column: z.number(),
  endLine: z.number(),
  endColumn: z.number(),
  what: z.string(),
  why: z.string(),
  fix: z.string(),
});
export type PolicyProblem = Readonly<z.infer<typeof policyProblemSchema>>;

export const policySummarySchema = z.object({
  id: policyIdSchema,
  /** Text of the selector, e.g. "org=empire, class=deathstar". */
  selector: z.string(),
  description: z.string(),
  /** "namespace/pod" that it selects, from live pods. */
  selects: z.readonly(z.array(z.string())),
  /** Directions in which it puts default deny on. */
  directions: z.readonly(z.array(z.enum(['ingress', 'egress']))),
  status: z.enum(['valid', 'invalid', 'unknown']),
  problems: z.readonly(z.array(policyProblemSchema)),
  /** Nodes that enforce it / nodes that should. */
  enforcedOn: z.number(),
  expectedOn: z.number(),
  /** Unix milliseconds. */
  createdAt: z.number(),
  /** Argo CD, Flux, Helm …: edits here would be reverted by it. "" if none. */
  managedBy: z.string(),
});
export type PolicySummary = Readonly<z.infer<typeof policySummarySchema>>;

export const policyValidationSchema = z.object({
  id: z.optional(policyIdSchema),
  problems: z.readonly(z.array(policyProblemSchema)),
  /** Live pods ("namespace/pod") that it would select. */
  selects: z.readonly(z.array(z.string())),
  /** Plain sentences of what it means. */
  meaning: z.readonly(z.array(z.string())),
});
export type PolicyValidation = Readonly<z.infer<typeof policyValidationSchema>>;

export const policyChangeSchema = z.object({
  action: z.enum(['create', 'update', 'unchanged', 'delete']),
  /** YAML as in the cluster ("" when new) and as the server would store it, without noise (managedFields, status). */
  before: z.string(),
  after: z.string(),
  /** Version of what was in the cluster; "" when there was nothing. Given to `apply`, it holds apply to this change. */
  resourceVersion: z.string(),
  warnings: z.readonly(z.array(z.string())),
});

const text = z.object({ cluster: clusterIdSchema, text: z.string() });
const one = z.object({ cluster: clusterIdSchema, id: policyIdSchema });

export const policies = {
  /** All policies of all kinds; the whole list on change. */
  watch: streams(
    z.object({ cluster: clusterIdSchema }),
    z.object({ policies: z.readonly(z.array(policySummarySchema)) }),
  ),
  /** The policy's YAML, without managedFields and status. */
  read: reads(one, z.object({ text: z.string(), resourceVersion: z.string() })),
  /** Schema, semantics and what it would select. Pure: asks nothing of the API server. */
  validate: reads(text, policyValidationSchema),
  /** Server-side dry run: what the server would store. Changes nothing. */
  dryRun: reads(text, policyChangeSchema),
  /**
   * Applies; `resourceVersion` of what was read guards against overwriting somebody else's change, and "" says that
   * there was nothing: a policy that has appeared since is a conflict.
   */
  apply: writes(
    z.object({ cluster: clusterIdSchema, text: z.string(), resourceVersion: z.optional(z.string()) }),
    z.object({ id: policyIdSchema, action: z.enum(['create', 'update', 'unchanged']) }),
  ),
  remove: writes(one, z.object({})),
  /** JSON Schema of a kind, for completion and hover. */
  schema: reads(z.object({ kind: policyKindSchema }), z.object({ schema: z.string() })),
} as const;
