import { ok, type Result } from '../../../contract/failure.ts';
import type { AgentLink, Agents, ClusterAgents } from '../agents/agent-pool.ts';
import { podAddresses, workloadOf } from '../clusters/inventory-rows.ts';
import { type ClusterConnection, type KubeObject, type LiveCollection, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import { withKind } from '../policies/kinds.ts';
import type { PolicyPod } from '../policies/wasm/types.ts';
import type { TopologyPod } from './aggregate.ts';
import { EdgeStore } from './edge-store.ts';
import { findIsolation } from './isolation.ts';

/** Longest window that may be asked for, in seconds. */
export const longestWindow = 900;
const edgeInterval = 1000;

interface PodObject extends KubeObject {
  readonly spec?: { readonly nodeName?: string; readonly hostNetwork?: boolean };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

interface EndpointObject extends KubeObject {
  readonly status?: { readonly identity?: { readonly id?: number } };
}

/** What all views of one cluster's topology share: agents' edges, pods, policies. Lives while somebody looks. */
export class ClusterTopology implements Disposable {
  readonly store = new EdgeStore(longestWindow);
  readonly #stack = new DisposableStack();
  readonly #end = new AbortController();
  readonly #agents: ClusterAgents;
  readonly #log: Log;
  readonly #pods;
  readonly #namespaces;
  readonly #endpoints;
  readonly #policies: readonly { readonly kind: string; readonly live: LiveCollection<KubeObject> }[];
  readonly #readers = new Map<AgentLink, { readonly stop: AbortController; good: boolean }>();
  #lost = 0;
  #rows: readonly TopologyPod[] | undefined;
  #onStale: () => void = () => undefined;
  #making: Promise<readonly TopologyPod[]> | undefined;

  static async open(connection: ClusterConnection, agents: Agents, log: Log): Promise<Result<ClusterTopology>> {
    const opened = await agents.open(connection.cluster);
    if (!opened.ok) return opened;
    return ok(new ClusterTopology(connection, opened.value, log));
  }

  private constructor(connection: ClusterConnection, agents: ClusterAgents, log: Log) {
    this.#agents = this.#stack.use(agents);
    this.#log = log;
    this.#pods = this.#stack.use(connection.watch<PodObject>(resources.pods));
    this.#namespaces = this.#stack.use(connection.watch<KubeObject>(resources.namespaces));
    this.#endpoints = this.#stack.use(connection.watch<EndpointObject>(resources.ciliumEndpoints));
    this.#policies = [
      resources.ciliumNetworkPolicies,
      resources.ciliumClusterwideNetworkPolicies,
      resources.networkPolicies,
    ].map((type) => ({ kind: type.kind, live: this.#stack.use(connection.watch<KubeObject>(type)) }));
    const stale = () => {
      this.#rows = undefined;
      this.#onStale();
    };
    for (const live of [this.#pods, this.#namespaces, this.#endpoints, ...this.#policies.map((one) => one.live)])
      this.#stack.use(live.onChange(stale));
    this.#stack.use(agents.onChange(() => this.#sync()));
    this.#sync();
  }

  /** Resolves when pods are known. */
  ready(): Promise<Result<void>> {
    return this.#pods.ready();
  }

  get lost(): number {
    return this.#lost;
  }

  /** Nodes whose agents do not tell of their edges. */
  missing(): readonly string[] {
    return [...this.#readers].filter(([, reader]) => !reader.good).map(([link]) => link.node);
  }

  /** The cluster's signal: aborted on disconnect. */
  get signal(): AbortSignal {
    return this.#agents.signal;
  }

  #sync(): void {
    const links = new Set(this.#agents.links());
    for (const [link, reader] of this.#readers)
      if (!links.has(link)) {
        reader.stop.abort();
        this.#readers.delete(link);
      }
    for (const link of links) {
      if (this.#readers.has(link)) continue;
      const reader = { stop: new AbortController(), good: false };
      this.#readers.set(link, reader);
      void this.#read(link, reader, AbortSignal.any([reader.stop.signal, this.#end.signal]));
    }
  }

  async #read(link: AgentLink, reader: { good: boolean }, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const client = await link.client();
      if (signal.aborted) return;
      if (!client.ok) {
        reader.good = false;
        if (client.failure.code === 'agent.closed') return;
        continue;
      }
      try {
        for await (const batch of client.value.agent.watchEdges({ intervalMilliseconds: edgeInterval }, { signal })) {
          reader.good = true;
          this.#lost += Number(batch.lost) + Number(batch.overflow);
          this.store.add(batch.edges, Date.now());
        }
      } catch (error) {
        if (signal.aborted) return;
        this.#log.debug('topology', `edges of ${link.node}: ${String(error)}`);
      }
      reader.good = false;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  /** Pods as the picture needs them; made anew only when something has changed. */
  async pods(): Promise<readonly TopologyPod[]> {
    if (this.#rows) return this.#rows;
    this.#making ??= this.#makeRows().finally(() => {
      this.#making = undefined;
    });
    return this.#making;
  }

  async #makeRows(): Promise<readonly TopologyPod[]> {
    const objects = [...this.#pods.items().values()].filter(
      (pod) => pod.status?.phase !== 'Succeeded' && pod.status?.phase !== 'Failed' && !pod.spec?.hostNetwork,
    );
    const namespaces = this.#namespaces.items();
    const asPolicyPods = objects.map(
      ({ metadata }): PolicyPod => ({
        namespace: metadata.namespace ?? '',
        name: metadata.name,
        labels: metadata.labels ?? {},
        namespaceLabels: namespaces.get(metadata.namespace ?? '')?.metadata.labels ?? {},
      }),
    );
    const policies = this.#policies.flatMap(({ kind, live }) =>
      [...live.items().values()].map((object) => withKind(object, kind)),
    );
    const rows: TopologyPod[] = [];
    let stale = false;
    this.#onStale = () => {
      stale = true;
    };
    const isolation = await findIsolation(policies, asPolicyPods);
    const endpoints = this.#endpoints.items();
    for (const [index, pod] of objects.entries()) {
      const { metadata, spec, status } = pod;
      const endpoint = endpoints.get(`${metadata.namespace}/${metadata.name}`);
      rows.push({
        namespace: metadata.namespace ?? '',
        name: metadata.name,
        host: spec?.nodeName ?? '',
        addresses: podAddresses(status),
        identity: endpoint?.status?.identity?.id ?? 0,
        labels: Object.entries(metadata.labels ?? {})
          .filter(([key]) => !noise.has(key))
          .map(([key, value]) => `${key}=${value}`),
        workload: workloadOf(pod),
        ready: status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ?? false,
        isolatedIngress: isolation.ingress.has(index),
        isolatedEgress: isolation.egress.has(index),
      });
    }
    // What changed during the wait would be missing until the next change.
    if (!stale) this.#rows = rows;
    return rows;
  }

  [Symbol.dispose](): void {
    this.#end.abort();
    this.#stack.dispose();
  }
}

/** Labels that controllers add and that differ from pod to pod or from rollout to rollout. */
const noise: ReadonlySet<string> = new Set([
  'pod-template-hash',
  'controller-revision-hash',
  'pod-template-generation',
  'statefulset.kubernetes.io/pod-name',
  'apps.kubernetes.io/pod-index',
]);
