import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { failureSchema } from './failure.ts';
import { reads, streams, writes } from './procedure.ts';

/** The values of an installation, with the names that Cilium's chart has for them. */
export const valuesSchema = z.object({
  debug: z._default(z.boolean(), false),
  cluster: z._default(z.object({ name: z._default(z.string(), 'default') }), { name: 'default' }),
  routingMode: z._default(z.enum(['tunnel', 'native']), 'tunnel'),
  tunnelProtocol: z._default(z.enum(['vxlan']), 'vxlan'),
  autoDirectNodeRoutes: z._default(z.boolean(), false),
  ipv4NativeRoutingCIDR: z._default(z.string(), ''),
  kubeProxyReplacement: z._default(z.boolean(), true),
  k8sServiceHost: z._default(z.string(), ''),
  k8sServicePort: z._default(z.number(), 0),
  enableIPv4Masquerade: z._default(z.boolean(), true),
  ipam: z._default(z.object({ mode: z._default(z.enum(['kubernetes']), 'kubernetes') }), { mode: 'kubernetes' }),
  policyEnforcementMode: z._default(z.enum(['default', 'always', 'never']), 'default'),
  MTU: z._default(z.number(), 0),
  devices: z._default(z.readonly(z.array(z.string())), []),
});
export type Values = Readonly<z.infer<typeof valuesSchema>>;

export const installStepSchema = z.object({
  id: z.string(),
  title: z.string(),
  /** Node it runs on; "" for the cluster. */
  node: z.string(),
  state: z.enum(['waiting', 'running', 'done', 'failed', 'skipped']),
  message: z.string(),
  /** Lines of what happened, newest last. */
  log: z.readonly(z.array(z.string())),
  startedAt: z.optional(z.number()),
  endedAt: z.optional(z.number()),
  failure: z.optional(failureSchema),
});
export type InstallStep = Readonly<z.infer<typeof installStepSchema>>;

export const planSchema = z.object({
  /** Identifies exactly this plan: applying needs it, so that what was shown is what is done. */
  digest: z.string(),
  action: z.enum(['install', 'upgrade', 'uninstall']),
  objects: z.readonly(
    z.array(
      z.object({
        kind: z.string(),
        namespace: z.string(),
        name: z.string(),
        action: z.enum(['create', 'update', 'unchanged', 'delete']),
        /** YAML; secrets are shown by their keys only. */
        before: z.string(),
        after: z.string(),
      }),
    ),
  ),
  nodes: z.readonly(
    z.array(
      z.object({
        name: z.string(),
        changes: z.readonly(z.array(z.string())),
        image: z.enum(['present', 'side-load', 'pull', 'unknown']),
      }),
    ),
  ),
  /** What must be put right first; with any of these the plan cannot be applied. */
  obstacles: z.readonly(z.array(failureSchema)),
  warnings: z.readonly(z.array(z.string())),
});
export type Plan = Readonly<z.infer<typeof planSchema>>;

export const installProgressSchema = z.object({
  action: z.enum(['install', 'upgrade', 'uninstall']),
  state: z.enum(['running', 'done', 'failed', 'stopped']),
  steps: z.readonly(z.array(installStepSchema)),
});
export type InstallProgress = Readonly<z.infer<typeof installProgressSchema>>;

const cluster = z.object({ cluster: clusterIdSchema });

export const install = {
  /** What is installed now, its values if readable, and the image this console would install. */
  status: reads(
    cluster,
    z.object({
      installed: z.boolean(),
      version: z.string(),
      values: z.optional(valuesSchema),
      /** Image archive this console carries; "" if none was built. */
      image: z.string(),
      /** Values that fit the cluster as found. */
      suggested: valuesSchema,
      /** Why each suggestion, by field. */
      reasons: z.record(z.string(), z.string()),
    }),
  ),
  /** Writes nothing. */
  plan: reads(
    z.object({ cluster: clusterIdSchema, action: z.enum(['install', 'upgrade', 'uninstall']), values: valuesSchema }),
    planSchema,
  ),
  /** Starts applying a plan; progress comes from `watch`. */
  apply: writes(z.object({ cluster: clusterIdSchema, digest: z.string() }), z.object({})),
  stop: reads(cluster, z.object({})),
  /** Progress of the running or last apply; ends with it. */
  watch: streams(cluster, installProgressSchema),
} as const;
