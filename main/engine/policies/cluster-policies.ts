import { ok, type Result } from '../../../contract/failure.ts';
import type { PolicyKind, PolicyProblem, PolicySummary } from '../../../contract/policies.ts';
import { unaryTimeout } from '../agents/agent-connection.ts';
import { type AgentLink, type Agents, type ClusterAgents, pause } from '../agents/agent-pool.ts';
import type { PolicyInfo } from '../agents/gen/fairlead/v1/agent_pb.ts';
import { podAddresses } from '../clusters/inventory-rows.ts';
import { type ClusterConnection, type KubeObject, type LiveCollection, resources } from '../kube/cluster-connection.ts';
import { nowhere } from './document.ts';
import { idOf, policyKinds, policyTypes, withKind } from './kinds.ts';
import { managerOf } from './text.ts';
import type { Surroundings } from './validate.ts';
import type { PolicyEngine } from './wasm/policy-engine.ts';
import type { PolicyPod, Validation } from './wasm/types.ts';

interface PodObject extends KubeObject {
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostNetwork?: boolean;
    readonly serviceAccountName?: string;
    readonly containers?: readonly {
      readonly ports?: readonly {
        readonly name?: string;
        readonly containerPort: number;
        readonly protocol?: string;
      }[];
    }[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
  };
}

interface PolicyObject extends KubeObject {
  readonly spec?: { readonly description?: string };
  readonly specs?: readonly { readonly description?: string }[];
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly message?: string }[];
  };
}

const protocolNumbers: Readonly<Record<string, number>> = { TCP: 6, UDP: 17, SCTP: 132 };
const enforcementInterval = 3000;

function portsOf(pod: PodObject): PolicyPod['ports'] {
  const ports: Record<string, { protocol: number; port: number }[]> = {};
  for (const { ports: declared } of pod.spec?.containers ?? [])
    for (const { name, containerPort, protocol } of declared ?? []) {
      if (!name) continue;
      const key = name.toLowerCase();
      ports[key] = [...(ports[key] ?? []), { protocol: protocolNumbers[protocol ?? 'TCP'] ?? 6, port: containerPort }];
    }
  return ports;
}

/** Everything that is live about policies of one cluster, shared by list and validation. */
export class ClusterPolicies implements Disposable {
  readonly #stack = new DisposableStack();
  readonly #pods;
  readonly #namespaces;
  readonly #kinds: readonly { readonly kind: PolicyKind; readonly live: LiveCollection<PolicyObject> }[];
  #policyPods: readonly PolicyPod[] | undefined;
  /** Judgements by object: live objects keep their identity until they change. */
  readonly #judged = new WeakMap<KubeObject, Validation>();
  readonly connection: ClusterConnection;

  constructor(connection: ClusterConnection) {
    this.connection = connection;
    this.#pods = this.#stack.use(connection.watch<PodObject>(resources.pods));
    this.#namespaces = this.#stack.use(connection.watch<KubeObject>(resources.namespaces));
    this.#kinds = policyKinds.map((kind) => ({
      kind,
      live: this.#stack.use(connection.watch<PolicyObject>(policyTypes[kind])),
    }));
    const stale = () => {
      this.#policyPods = undefined;
    };
    this.#stack.use(this.#pods.onChange(stale));
    this.#stack.use(this.#namespaces.onChange(stale));
  }

  /** Resolves when pods and the kinds that are installed have been listed. */
  async ready(): Promise<Result<void>> {
    const [pods] = await Promise.all([
      this.#pods.ready(),
      this.#namespaces.ready(),
      ...this.#kinds.map(({ live }) => live.ready()),
    ]);
    return pods;
  }

  onChange(listener: () => void): Disposable {
    const registrations = new DisposableStack();
    for (const live of [this.#pods, this.#namespaces, ...this.#kinds.map((one) => one.live)])
      registrations.use(live.onChange(listener));
    return registrations;
  }

  /** Live pods as the policy engine knows them; made anew only when something has changed. */
  pods(): readonly PolicyPod[] {
    this.#policyPods ??= [...this.#pods.items().values()]
      .filter((pod) => pod.status?.phase !== 'Succeeded' && pod.status?.phase !== 'Failed')
      .map((pod) => ({
        namespace: pod.metadata.namespace ?? '',
        name: pod.metadata.name,
        labels: pod.metadata.labels ?? {},
        namespaceLabels: this.#namespaces.items().get(pod.metadata.namespace ?? '')?.metadata.labels ?? {},
        serviceAccount: pod.spec?.serviceAccountName ?? 'default',
        node: pod.spec?.nodeName ?? '',
        hostNetwork: pod.spec?.hostNetwork ?? false,
        ports: portsOf(pod) ?? {},
        addresses: podAddresses(pod.status),
      }));
    return this.#policyPods;
  }

  surroundings(): Surroundings {
    return {
      pods: this.pods(),
      namespaces: this.#namespaces.synced() ? new Set(this.#namespaces.items().keys()) : undefined,
    };
  }

  /** The list as the view shows it. `enforced` tells per policy on how many nodes it is in force. */
  summaries(engine: PolicyEngine, enforced: Enforcement): readonly PolicySummary[] {
    const pods = this.pods();
    return this.#kinds
      .flatMap(({ kind, live }) =>
        [...live.items().values()].map((object) => this.#summary(object, kind, engine, pods, enforced)),
      )
      .sort((a, b) => keyOf(a.id).localeCompare(keyOf(b.id)));
  }

  #summary(
    object: PolicyObject,
    kind: PolicyKind,
    engine: PolicyEngine,
    pods: readonly PolicyPod[],
    enforced: Enforcement,
  ): PolicySummary {
    const document = withKind(object, kind);
    let judged = this.#judged.get(object);
    if (!judged) {
      judged = engine.validate(document);
      this.#judged.set(object, judged);
    }
    const id = idOf(object, kind);
    const problems: PolicyProblem[] = judged.problems.map((problem) => ({ ...problem, ...nowhere }));
    const condition = object.status?.conditions?.find((one) => one.type === 'Valid');
    if (condition?.status === 'False' && judged.valid)
      problems.push({
        severity: 'error',
        code: 'refused',
        path: '',
        ...nowhere,
        what: 'The network of this cluster does not take this policy.',
        why: condition.message ?? 'It says Valid=False without a reason.',
        fix: 'Correct what the message names.',
      });
    const valid = condition ? condition.status === 'True' : judged.valid;
    const selects = judged.valid
      ? engine.selected({ policy: document, pods }).pods.flatMap((index) => {
          const pod = pods[index];
          return pod ? [`${pod.namespace}/${pod.name}`] : [];
        })
      : [];
    return {
      id,
      selector: judged.selector,
      description: object.spec?.description ?? object.specs?.find((one) => one.description)?.description ?? '',
      selects,
      directions: [
        ...(judged.defaultDenyIngress ? (['ingress'] as const) : []),
        ...(judged.defaultDenyEgress ? (['egress'] as const) : []),
      ],
      status: valid ? 'valid' : 'invalid',
      problems,
      enforcedOn: enforced.nodesWith(keyOf(id)),
      expectedOn: enforced.nodes(),
      createdAt: Date.parse(object.metadata.creationTimestamp ?? '') || 0,
      managedBy: managerOf(object),
    };
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

export function keyOf(id: { readonly kind: string; readonly namespace: string; readonly name: string }): string {
  return `${id.kind} ${id.namespace}/${id.name}`;
}

/** Which node has which policy in force. */
export interface Enforcement {
  readonly nodesWith: (key: string) => number;
  readonly nodes: () => number;
}

/** Asks every agent for its policies every 3 s until aborted. */
export class EnforcementPoll implements Enforcement, Disposable {
  readonly #held = new Map<AgentLink, ReadonlySet<string>>();
  readonly #agents: ClusterAgents;
  readonly #end = new AbortController();
  readonly #changed: () => void;

  static async open(cluster: string, agents: Agents, changed: () => void): Promise<Result<EnforcementPoll>> {
    const opened = await agents.open(cluster);
    return opened.ok ? ok(new EnforcementPoll(opened.value, changed)) : opened;
  }

  private constructor(agents: ClusterAgents, changed: () => void) {
    this.#agents = agents;
    this.#changed = changed;
    void this.#run();
  }

  async #run(): Promise<void> {
    const { signal } = this.#end;
    await this.#agents.ready();
    const busy = new Set<AgentLink>();
    while (!signal.aborted) {
      const links = new Set(this.#agents.links());
      for (const link of [...this.#held.keys()])
        if (!links.has(link)) {
          this.#held.delete(link);
          this.#changed();
        }
      for (const link of links) {
        if (busy.has(link)) continue;
        busy.add(link);
        void this.#ask(link).finally(() => busy.delete(link));
      }
      await pause(enforcementInterval, signal);
    }
  }

  async #ask(link: AgentLink): Promise<void> {
    let policies: readonly PolicyInfo[] = [];
    const client = await link.client();
    if (client.ok)
      try {
        policies = (await client.value.agent.listPolicies({}, { timeoutMs: unaryTimeout })).policies;
      } catch {
        // A node that cannot be asked enforces nothing as far as anybody knows; the inventory says why.
      }
    if (this.#end.signal.aborted) return;
    const names = new Set(policies.filter((policy) => policy.valid).map(keyOf));
    const before = this.#held.get(link);
    if (before && before.size === names.size && [...names].every((name) => before.has(name))) return;
    this.#held.set(link, names);
    this.#changed();
  }

  nodesWith(key: string): number {
    let count = 0;
    for (const names of this.#held.values()) if (names.has(key)) count += 1;
    return count;
  }

  nodes(): number {
    return this.#agents.links().length;
  }

  [Symbol.dispose](): void {
    this.#end.abort();
    this.#agents[Symbol.dispose]();
  }
}
