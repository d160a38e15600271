import { z } from 'zod/mini';
import { failureSchema } from './failure.ts';
import { reads, streams, writes } from './procedure.ts';

/** Opaque to the renderer; stable for a kubeconfig context as long as its file and name stay. */
export const clusterIdSchema = z.string();

/** Where a cluster's data comes from. `ssh`: its kubeconfig is read on a machine and everything travels through it.
 * `recording` replays a recorded case; nothing can be changed there. */
export const clusterSourceSchema = z.enum(['kubeconfig', 'ssh', 'lab', 'recording']);

/**
 * The one visible state of a cluster. `idle`: never asked to connect. `degraded`: reachable, but something named in
 * `failure` does not work. `offline`: not reachable, will be tried again at `retryAt`.
 */
export const connectionStateSchema = z.enum(['idle', 'connecting', 'online', 'degraded', 'needs-login', 'offline']);
export type ConnectionState = z.infer<typeof connectionStateSchema>;

export const clusterSchema = z.object({
  id: clusterIdSchema,
  /** Context name as in the kubeconfig, or the recording's title. */
  name: z.string(),
  source: clusterSourceSchema,
  /** Display name of the file it comes from (no directory), e.g. "config". */
  origin: z.string(),
  /** Host and port of the API server, for display. */
  server: z.string(),
  user: z.string(),
  state: connectionStateSchema,
  failure: z.optional(failureSchema),
  /** Round trip of the last API request in milliseconds. */
  latencyMilliseconds: z.optional(z.number()),
  /** Unix milliseconds of the newest data held. */
  dataAt: z.optional(z.number()),
  retryAt: z.optional(z.number()),
  serverVersion: z.optional(z.string()),
  /** How often something was refused for want of a right; with each the user's rights are to be asked anew. */
  refusals: z.optional(z.number()),
  /** Read-only until unlocked. */
  protected: z.boolean(),
  /** TLS verification is switched off in the kubeconfig: shown in red. */
  insecure: z.boolean(),
  /** How requests travel, e.g. ["direct"] or ["ssh bastion", "ssh node1"]. */
  route: z.readonly(z.array(z.string())),
  /** Chosen by the user ("#rrggbb"); otherwise the console takes one that follows from the id. */
  colour: z.optional(z.string()),
  /** The program that the context runs to log in. `locked`: none may run here, and nobody can allow one. */
  execPlugin: z.optional(z.object({ command: z.string(), allowed: z.boolean(), locked: z.boolean() })),
});
export type Cluster = Readonly<z.infer<typeof clusterSchema>>;

/** State of Fairlead's agent on a node. `foreign`: another CNI serves the node. */
export const agentStateSchema = z.enum([
  'absent',
  'starting',
  'ready',
  'degraded',
  'failing',
  'unreachable',
  'foreign',
]);
export type AgentState = z.infer<typeof agentStateSchema>;

export const componentSchema = z.object({
  name: z.string(),
  state: z.enum(['ok', 'degraded', 'failing', 'off']),
  message: z.string(),
  fix: z.string(),
});

export const nodeSchema = z.object({
  name: z.string(),
  ready: z.boolean(),
  /** Why it is not ready, in the kubelet's words. */
  reason: z.optional(z.string()),
  /** The one that Kubernetes names first. */
  address: z.string(),
  /** Its others: with two families that of the other. Absent where it has one, and in recordings of earlier versions. */
  moreAddresses: z.optional(z.readonly(z.array(z.string()))),
  podCIDR: z.string(),
  kernel: z.string(),
  os: z.string(),
  kubelet: z.string(),
  runtime: z.string(),
  pods: z.number(),
  /** Host alias of the SSH configuration by which the node can be reached, if any. */
  ssh: z.optional(z.string()),
  agent: z.object({
    state: agentStateSchema,
    version: z.optional(z.string()),
    message: z.optional(z.string()),
    routingMode: z.optional(z.string()),
    masquerade: z.optional(z.string()),
    kubeProxyReplacement: z.optional(z.string()),
    memoryBytes: z.optional(z.number()),
    endpoints: z.optional(z.number()),
    identities: z.optional(z.number()),
    flowsPerSecond: z.optional(z.number()),
    flowsLost: z.optional(z.number()),
    components: z.optional(z.readonly(z.array(componentSchema))),
  }),
});
export type ClusterNode = Readonly<z.infer<typeof nodeSchema>>;

export const podSchema = z.object({
  namespace: z.string(),
  name: z.string(),
  node: z.string(),
  /** As of a node. */
  address: z.string(),
  moreAddresses: z.optional(z.readonly(z.array(z.string()))),
  phase: z.string(),
  ready: z.boolean(),
  hostNetwork: z.boolean(),
  labels: z.record(z.string(), z.string()),
  workload: z.object({ kind: z.string(), name: z.string() }),
  containers: z.readonly(z.array(z.string())),
  identity: z.optional(z.number()),
  endpointState: z.optional(z.string()),
});
export type Pod = Readonly<z.infer<typeof podSchema>>;

export const serviceSchema = z.object({
  namespace: z.string(),
  name: z.string(),
  type: z.string(),
  clusterIP: z.string(),
  externalIPs: z.readonly(z.array(z.string())),
  ports: z.readonly(
    z.array(
      z.object({
        name: z.string(),
        port: z.number(),
        targetPort: z.string(),
        protocol: z.string(),
        nodePort: z.optional(z.number()),
      }),
    ),
  ),
  backends: z.number(),
});
export type Service = Readonly<z.infer<typeof serviceSchema>>;

/** What the connected cluster holds, in one consistent picture; sent whole on change, at most twice a second. */
export const inventorySchema = z.object({
  at: z.number(),
  nodes: z.readonly(z.array(nodeSchema)),
  namespaces: z.readonly(z.array(z.object({ name: z.string(), labels: z.record(z.string(), z.string()) }))),
  pods: z.readonly(z.array(podSchema)),
  services: z.readonly(z.array(serviceSchema)),
});
export type Inventory = Readonly<z.infer<typeof inventorySchema>>;

const clusterInput = z.object({ cluster: clusterIdSchema });

export const clusters = {
  /** All known clusters; one item per change, each the whole list. */
  watch: streams(
    z.object({}),
    z.object({ clusters: z.readonly(z.array(clusterSchema)), problems: z.readonly(z.array(failureSchema)) }),
  ),
  /** Adds a kubeconfig file by its text (browser) or lets the shell choose one; nothing is written to the file. */
  addKubeconfig: reads(
    z.object({ name: z.string(), text: z.string() }),
    z.object({ added: z.readonly(z.array(clusterIdSchema)) }),
  ),
  /** Adds a kubeconfig file by path on the machine where the engine runs. */
  addKubeconfigPath: reads(z.object({ path: z.string() }), z.object({ added: z.readonly(z.array(clusterIdSchema)) })),
  /** Lets the person choose a file with the system's own dialog (desktop only) and adds it by its path. */
  chooseKubeconfig: reads(z.object({}), z.object({ added: z.readonly(z.array(clusterIdSchema)) })),
  /** Hosts of the user's SSH configuration. */
  sshHosts: reads(z.object({}), z.object({ hosts: z.readonly(z.array(z.string())) })),
  /**
   * Adds the clusters whose kubeconfig lies on a machine reached by SSH: an alias of the configuration or
   * user@host:port. Looks in the usual places unless a path is given. May ask questions on the way (see questions).
   */
  addSsh: reads(
    z.object({ host: z.string(), path: z.optional(z.string()) }),
    z.object({ added: z.readonly(z.array(clusterIdSchema)), problems: z.readonly(z.array(failureSchema)) }),
  ),
  /** Gives a cluster a colour ("#rrggbb"), or takes it away (""). */
  setColour: reads(z.object({ cluster: clusterIdSchema, colour: z.string() }), z.object({})),
  /** Forgets a cluster in Fairlead's list; the user's file is left alone. */
  forget: reads(clusterInput, z.object({})),
  connect: reads(clusterInput, z.object({})),
  disconnect: reads(clusterInput, z.object({})),
  /** Allows the context's login program, by the hash of what was shown. */
  allowExecPlugin: reads(z.object({ cluster: clusterIdSchema, hash: z.string() }), z.object({})),
  /** What a context's login program would be; `env` ("NAME=value") is added to its environment. */
  describeExecPlugin: reads(
    clusterInput,
    z.object({
      command: z.string(),
      resolved: z.string(),
      args: z.readonly(z.array(z.string())),
      env: z.readonly(z.array(z.string())),
      hash: z.string(),
    }),
  ),
  setProtected: reads(
    z.object({ cluster: clusterIdSchema, protected: z.boolean(), typedName: z.optional(z.string()) }),
    z.object({}),
  ),
  /** Nodes, pods, services and agents of a connected cluster. */
  inventory: streams(clusterInput, inventorySchema),
  /** Removes one pod, so that its controller makes it anew. */
  deletePod: writes(z.object({ cluster: clusterIdSchema, namespace: z.string(), name: z.string() }), z.object({})),
} as const;
