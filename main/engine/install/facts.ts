import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { Failure } from '../../../contract/index.ts';
import { type ClusterConnection, type KubeObject, type ResourceType, resources } from '../kube/cluster-connection.ts';
import type { SshConnector } from '../ssh/ssh-connector.ts';
import { embeddedNetworks, type ForeignNetwork, foreignNetworks } from './foreign.ts';
import { type ProxyFacts, proxyBackupName, proxyFacts } from './kube-proxy.ts';
import { agentName, agentNamespace, cleanupName } from './names.ts';
import { isNotFound } from './secrets.ts';
import type { ValueFacts } from './values.ts';

/** The verbs with which a plan may look at a cluster: none of them changes anything. */
export type ReadOnlyConnection = Pick<ClusterConnection, 'get' | 'list' | 'raw'>;

export interface NodeFacts {
  readonly name: string;
  readonly address: string;
  readonly podCIDRs: readonly string[];
  readonly podCIDRs6: readonly string[];
  readonly ready: boolean;
  /** Its kubelet has ceased to report: nothing that is wanted of the node happens. */
  readonly silent?: boolean;
  readonly unschedulable: boolean;
  readonly controlPlane: boolean;
  readonly os: string;
  readonly kernel: string;
  readonly runtime: string;
  /** Every name of every image that the kubelet lists. */
  readonly images: readonly string[];
  /** Version of the kubelet, e.g. v1.34.4+k3s1. */
  readonly version: string;
  /** Name of the operating system. */
  readonly image: string;
  /** The machine as its cloud names it, e.g. aws:///eu-west-1a/i-0123; "" elsewhere. */
  readonly providerID: string;
  /** How k3s or RKE2 was started there, as they write on the node; empty elsewhere. */
  readonly arguments: readonly string[];
  /** k3s' own flannel gives this node's pods their network. */
  readonly flannel: boolean;
  /** Host alias of the SSH configuration. */
  readonly ssh: string | undefined;
}

/** Everything that a plan depends on besides the values. */
export interface ClusterFacts extends ValueFacts {
  readonly machines: readonly NodeFacts[];
  readonly foreign: readonly ForeignNetwork[];
  /** Our DaemonSet as it is now. */
  readonly installed: KubeObject | undefined;
  /** The DaemonSet that cleans up: there while an uninstall runs, or after one that broke off. */
  readonly cleanup: KubeObject | undefined;
  /** Who translates service addresses besides the agent. */
  readonly proxy: ProxyFacts;
}

interface NodeObject extends KubeObject {
  readonly spec?: {
    readonly podCIDR?: string;
    readonly podCIDRs?: readonly string[];
    readonly providerID?: string;
    readonly unschedulable?: boolean;
  };
  readonly status?: {
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly images?: readonly { readonly names?: readonly string[] }[];
    readonly nodeInfo?: {
      readonly operatingSystem?: string;
      readonly kernelVersion?: string;
      readonly kubeletVersion?: string;
      readonly osImage?: string;
      readonly containerRuntimeVersion?: string;
    };
  };
}

/** Whether a node's conditions say that its kubelet does not report any more. */
export function isSilent(conditions: readonly { readonly type: string; readonly status: string }[] = []): boolean {
  return conditions.some((one) => one.type === 'Ready' && one.status === 'Unknown');
}

interface EndpointsObject extends KubeObject {
  readonly subsets?: readonly {
    readonly addresses?: readonly { readonly ip: string }[];
    readonly ports?: readonly { readonly name?: string; readonly port: number }[];
  }[];
}

/** The command line that k3s and RKE2 write on their nodes. */
function argumentsOf({ metadata: { annotations = {} } }: NodeObject): readonly string[] {
  try {
    const line: unknown = JSON.parse(annotations['k3s.io/node-args'] ?? annotations['rke2.io/node-args'] ?? '[]');
    return Array.isArray(line) ? line.filter((word) => typeof word === 'string') : [];
  } catch {
    return [];
  }
}

/** The server in a kubeconfig, as the ConfigMap of kube-proxy holds one under different keys. */
export function serverOf(map: KubeObject | undefined): { readonly host: string; readonly port: number } | undefined {
  const { data = {} } = (map ?? {}) as { readonly data?: Readonly<Record<string, string>> };
  for (const text of Object.values(data)) {
    const found = /^\s*(?:cluster:.*\b)?server:\s*["']?(https:\/\/[^\s"',}]+)/m.exec(text)?.[1] ?? '';
    if (!URL.canParse(found)) continue;
    const { hostname, port } = new URL(found);
    return { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 443) };
  }
  return undefined;
}

async function readNode(node: NodeObject, ssh: SshConnector | undefined): Promise<NodeFacts> {
  const address = node.status?.addresses?.find((entry) => entry.type === 'InternalIP')?.address ?? '';
  const cidrs = node.spec?.podCIDRs ?? (node.spec?.podCIDR ? [node.spec.podCIDR] : []);
  return {
    name: node.metadata.name,
    address,
    podCIDRs: cidrs.filter((cidr) => cidr.includes('.')),
    podCIDRs6: cidrs.filter((cidr) => cidr.includes(':')),
    ready: node.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ?? false,
    silent: isSilent(node.status?.conditions),
    unschedulable: node.spec?.unschedulable ?? false,
    controlPlane: node.metadata.labels?.['node-role.kubernetes.io/control-plane'] !== undefined,
    os: node.status?.nodeInfo?.operatingSystem ?? 'linux',
    kernel: node.status?.nodeInfo?.kernelVersion ?? '',
    runtime: node.status?.nodeInfo?.containerRuntimeVersion ?? '',
    version: node.status?.nodeInfo?.kubeletVersion ?? '',
    image: node.status?.nodeInfo?.osImage ?? '',
    providerID: node.spec?.providerID ?? '',
    images: node.status?.images?.flatMap((image) => image.names ?? []) ?? [],
    arguments: argumentsOf(node),
    flannel: node.metadata.annotations?.['flannel.alpha.coreos.com/backend-type'] !== undefined,
    ssh: await ssh?.aliasFor({ name: node.metadata.name, address }).catch(() => undefined),
  };
}

/** Reads what a plan depends on. Only GET requests are made. */
export async function readFacts(
  connection: ReadOnlyConnection,
  ssh: SshConnector | undefined,
): Promise<Result<ClusterFacts>> {
  const [nodes, daemonSets, endpoints, backup, staticPods, proxyConfig, services] = await Promise.all([
    connection.list<NodeObject>(resources.nodes),
    connection.list<KubeObject>(resources.daemonSets),
    connection.get<EndpointsObject>(resources.endpoints, 'kubernetes', 'default'),
    connection.get<KubeObject>(resources.configMaps, proxyBackupName, agentNamespace),
    connection.list<KubeObject>(resources.pods, { namespace: agentNamespace, labelSelector: 'component=kube-proxy' }),
    connection.get<KubeObject>(resources.configMaps, 'kube-proxy', agentNamespace),
    connection.list<KubeObject>(resources.services),
  ]);
  if (!nodes.ok) return nodes;
  if (!daemonSets.ok) return daemonSets;
  if (!backup.ok && !isNotFound(backup.failure.code)) return backup;
  const machines = await Promise.all(nodes.value.map((node) => readNode(node, ssh)));
  machines.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
  const subset = endpoints.ok ? endpoints.value.subsets?.[0] : undefined;
  const own = (name: string) =>
    daemonSets.value.find((set) => set.metadata.name === name && set.metadata.namespace === agentNamespace);
  const host = subset?.addresses?.[0]?.ip;
  const proxy = proxyFacts({
    daemonSets: daemonSets.value,
    backup: backup.ok ? backup.value : undefined,
    staticPods: staticPods.ok ? staticPods.value : [],
    machines,
    services: services.ok ? services.value : [],
  });
  const port = (subset?.ports?.find((entry) => entry.name === 'https') ?? subset?.ports?.[0])?.port;
  return ok({
    machines,
    podCIDRs: machines.flatMap((machine) => machine.podCIDRs),
    podCIDRs6: machines.flatMap((machine) => machine.podCIDRs6),
    nodes: machines.length,
    apiEndpoint: host && port ? { host, port } : undefined,
    proxyServer: serverOf(proxyConfig.ok ? proxyConfig.value : undefined),
    apiServers: subset?.addresses?.length ?? 0,
    kubeProxy: proxy.kind !== 'none' && proxy.kind !== 'removed',
    proxy,
    foreign: [...foreignNetworks(daemonSets.value), ...embeddedNetworks(machines)],
    installed: own(agentName),
    cleanup: own(cleanupName),
  });
}

/** Image of our DaemonSet that is there: the agent's, or what an uninstall that broke off has left. */
export function installedImage(facts: Pick<ClusterFacts, 'installed' | 'cleanup'>): string | undefined {
  const set = (facts.installed ?? facts.cleanup) as
    | {
        readonly spec?: {
          readonly template?: { readonly spec?: { readonly containers?: readonly { readonly image?: string }[] } };
        };
      }
    | undefined;
  return set?.spec?.template?.spec?.containers?.[0]?.image;
}

/** One right that applying needs. */
export interface Right {
  readonly verb: string;
  readonly type: ResourceType;
  readonly namespace: string;
}

interface Review extends KubeObject {
  readonly status?: { readonly allowed?: boolean; readonly reason?: string };
}

const reviews: ResourceType = {
  group: 'authorization.k8s.io',
  version: 'v1',
  plural: 'selfsubjectaccessreviews',
  kind: 'SelfSubjectAccessReview',
  namespaced: false,
};

/** Asks the API server "may I?": a question in the form of an object, which is answered and stored nowhere. */
export type AskRight = (right: Right) => Promise<Result<{ readonly allowed: boolean; readonly reason: string }>>;

/** Makes the question for a connection. */
export function askRights(connection: Pick<ClusterConnection, 'create'>): AskRight {
  return async ({ verb, type, namespace }) => {
    const answer = await connection.create<Review>(reviews, {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SelfSubjectAccessReview',
      metadata: {},
      spec: {
        resourceAttributes: {
          verb,
          group: type.group,
          version: type.version,
          resource: type.plural,
          ...(namespace === '' ? {} : { namespace }),
        },
      },
    } as unknown as KubeObject);
    if (!answer.ok) return failed(answer.failure);
    return ok({ allowed: answer.value.status?.allowed ?? false, reason: answer.value.status?.reason ?? '' });
  };
}

/** Rights that applying would miss, one failure for all of them. */
export async function missingRights(ask: AskRight, rights: readonly Right[]): Promise<readonly Failure[]> {
  const distinct = new Map(
    rights.map((right) => [`${right.verb} ${right.type.group}/${right.type.plural} ${right.namespace}`, right]),
  );
  const answers = await Promise.all([...distinct.values()].map(async (right) => ({ right, answer: await ask(right) })));
  const refused = answers.flatMap(({ right, answer }) =>
    answer.ok && !answer.value.allowed
      ? [
          `${right.verb} ${right.type.plural}${right.type.group ? `.${right.type.group}` : ''}${right.namespace ? ` in ${right.namespace}` : ''}`,
        ]
      : [],
  );
  if (refused.length === 0) return [];
  return [
    {
      code: 'install.rights',
      what: 'This user may not do everything that is needed.',
      why: `The API server would refuse: ${refused.join(', ')}.`,
      fix: 'Use a context with cluster-admin rights for the installation; day-to-day use needs far less.',
    },
  ];
}
