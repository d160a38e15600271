import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { failureSchema } from './failure.ts';
import { reads, streams, writes } from './procedure.ts';
import { valuesSchema } from './values.ts';

export const installActionSchema = z.enum(['install', 'upgrade', 'rollback', 'uninstall']);

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
  action: installActionSchema,
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
  /** In this order nodes are changed: the first alone, then batch by batch. */
  batches: z.readonly(z.array(z.readonly(z.array(z.string())))),
  /** Pods that got their network from another plugin: they have none until they are restarted. */
  restarts: z.readonly(
    z.array(z.object({ namespace: z.string(), name: z.string(), node: z.string(), controlled: z.boolean() })),
  ),
  /** Who translates service addresses besides the agent, and what becomes of it. */
  kubeProxy: z.object({
    kind: z.enum(['daemonset', 'removed', 'static', 'embedded', 'none']),
    text: z.string(),
    change: z.enum(['none', 'remove', 'restore']),
    /** It is gone, but its rules may still be on some nodes. */
    unfinished: z.boolean(),
    /** Nodes that do not answer and so stand in the way of its removal; `leaveOut` goes on without them. */
    silent: z.readonly(z.array(z.string())),
    /** Nodes that do not answer and that this plan leaves out. */
    leavesOut: z.readonly(z.array(z.string())),
  }),
  /** What must be put right first; with any of these the plan cannot be applied. */
  obstacles: z.readonly(z.array(failureSchema)),
  warnings: z.readonly(z.array(z.string())),
});
export type Plan = Readonly<z.infer<typeof planSchema>>;

export const installProgressSchema = z.object({
  action: installActionSchema,
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
      /** The last application, as the cluster remembers it; any console can go on with it. */
      last: z.optional(
        z.object({
          action: installActionSchema,
          state: z.enum(['running', 'interrupted', 'done', 'failed', 'stopped']),
          startedAt: z.number(),
          nodes: z.record(z.string(), z.enum(['waiting', 'running', 'done', 'failed'])),
          values: valuesSchema,
          /** What a rollback would go back to. */
          previous: z.optional(valuesSchema),
        }),
      ),
      /** Who translates service addresses besides the agent. */
      kubeProxy: z.object({
        kind: z.enum(['daemonset', 'removed', 'static', 'embedded', 'none']),
        text: z.string(),
      }),
      /** Values for kinds of clusters; the one that was recognised is marked. */
      profiles: z.readonly(
        z.array(
          z.object({
            id: z.string(),
            title: z.string(),
            text: z.string(),
            recognised: z.boolean(),
            values: valuesSchema,
          }),
        ),
      ),
    }),
  ),
  /** Holds values against the facts of the cluster: what is refused, each with its field in the code, and what to know. */
  check: reads(
    z.object({ cluster: clusterIdSchema, values: valuesSchema }),
    z.object({ obstacles: z.readonly(z.array(failureSchema)), warnings: z.readonly(z.array(z.string())) }),
  ),
  /** Writes nothing. */
  plan: reads(
    z.object({
      cluster: clusterIdSchema,
      action: installActionSchema,
      /** For a rollback they are those from before, whatever is given. */
      values: valuesSchema,
      rollout: z.optional(
        z.object({
          canary: z.optional(z.string()),
          batch: z.optional(z.number()),
          /** Restart pods that got their network from another plugin. */
          restart: z.optional(z.boolean()),
          /** What becomes of kube-proxy's DaemonSet; it is left alone unless told. */
          kubeProxy: z.optional(z.enum(['keep', 'remove', 'restore'])),
          /** Nodes that its removal goes on without where they do not answer, by the operator's explicit word. */
          leaveOut: z.optional(z.readonly(z.array(z.string()))),
        }),
      ),
    }),
    planSchema,
  ),
  /** Starts applying a plan; progress comes from `watch`. */
  apply: writes(z.object({ cluster: clusterIdSchema, digest: z.string() }), z.object({})),
  stop: reads(cluster, z.object({})),
  /** Progress of the running or last apply; ends with it. */
  watch: streams(cluster, installProgressSchema),
} as const;
