import { z } from 'zod/mini';
import { clusterIdSchema } from './clusters.ts';
import { policyReferenceSchema } from './flows.ts';
import { streams } from './procedure.ts';

/** What one drawn thing stands for. */
export const topologyScopeSchema = z.enum(['namespace', 'workload', 'pod']);
export type TopologyScope = z.infer<typeof topologyScopeSchema>;

export const topologyNodeSchema = z.object({
  /** Stable across updates: "pod:ns/name", "workload:ns/Deployment/name", "namespace:ns", "entity:world". */
  id: z.string(),
  kind: z.enum(['namespace', 'workload', 'pod', 'entity']),
  label: z.string(),
  namespace: z.string(),
  /** Pods behind it (1 for a pod, 0 for an entity). */
  pods: z.number(),
  /** Kubernetes nodes that host its pods; groups are drawn by the first when there is exactly one. */
  hosts: z.readonly(z.array(z.string())),
  identities: z.readonly(z.array(z.number())),
  labels: z.readonly(z.array(z.string())),
  addresses: z.readonly(z.array(z.string())),
  ready: z.boolean(),
  /** True where some policy puts default deny on in that direction. */
  isolatedIngress: z.boolean(),
  isolatedEgress: z.boolean(),
});
export type TopologyNode = Readonly<z.infer<typeof topologyNodeSchema>>;

export const topologyEdgeSchema = z.object({
  /** `${source}>${target}`. */
  id: z.string(),
  source: z.string(),
  target: z.string(),
  verdict: z.enum(['forwarded', 'dropped', 'mixed']),
  /** Per second over the last window. */
  connectionsPerSecond: z.number(),
  eventsPerSecond: z.number(),
  droppedPerSecond: z.number(),
  bytesPerSecond: z.number(),
  forwarded: z.number(),
  dropped: z.number(),
  ports: z.readonly(
    z.array(
      z.object({
        protocol: z.string(),
        port: z.number(),
        service: z.string(),
        forwarded: z.number(),
        dropped: z.number(),
      }),
    ),
  ),
  dropReason: z.string(),
  deniedBy: z.readonly(z.array(policyReferenceSchema)),
  allowedBy: z.readonly(z.array(policyReferenceSchema)),
  /** Unix milliseconds. */
  lastSeen: z.number(),
});
export type TopologyEdge = Readonly<z.infer<typeof topologyEdgeSchema>>;

/** The whole picture, at most once a second. `summarised` says that there was more than may be drawn, and what was done. */
export const topologySchema = z.object({
  at: z.number(),
  scope: topologyScopeSchema,
  nodes: z.readonly(z.array(topologyNodeSchema)),
  edges: z.readonly(z.array(topologyEdgeSchema)),
  summarised: z.optional(z.object({ from: topologyScopeSchema, elements: z.number(), text: z.string() })),
  lost: z.number(),
  /** Nodes whose agents did not answer: their part of the picture is missing. */
  missing: z.readonly(z.array(z.string())),
});
export type Topology = Readonly<z.infer<typeof topologySchema>>;

export const topology = {
  watch: streams(
    z.object({
      cluster: clusterIdSchema,
      scope: topologyScopeSchema,
      /** Only these namespaces and their direct peers; empty: all. */
      namespaces: z.readonly(z.array(z.string())),
      /** How long an edge stays after its last event, in seconds. */
      windowSeconds: z.number(),
    }),
    topologySchema,
  ),
} as const;
