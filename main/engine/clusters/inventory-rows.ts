import type { ClusterNode, Pod, Service } from '../../../contract/clusters.ts';
import type { KubeObject } from '../kube/cluster-connection.ts';

interface NodeObject extends KubeObject {
  readonly spec?: { readonly podCIDR?: string; readonly podCIDRs?: readonly string[] };
  readonly status?: {
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
    readonly nodeInfo?: {
      readonly kernelVersion?: string;
      readonly osImage?: string;
      readonly kubeletVersion?: string;
      readonly containerRuntimeVersion?: string;
    };
  };
}

interface PodObject extends KubeObject {
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostNetwork?: boolean;
    readonly containers?: readonly { readonly name: string }[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly state?: { readonly waiting?: { readonly reason?: string } } }[];
  };
}

interface ServiceObject extends KubeObject {
  readonly spec?: {
    readonly type?: string;
    readonly clusterIP?: string;
    readonly clusterIPs?: readonly string[];
    readonly externalIPs?: readonly string[];
    readonly ports?: readonly {
      readonly name?: string;
      readonly port: number;
      readonly targetPort?: number | string;
      readonly protocol?: string;
      readonly nodePort?: number;
    }[];
  };
  readonly status?: {
    readonly loadBalancer?: { readonly ingress?: readonly { readonly ip?: string; readonly hostname?: string }[] };
  };
}

interface SliceObject extends KubeObject {
  readonly addressType?: string;
  readonly endpoints?:
    | readonly { readonly addresses?: readonly string[]; readonly conditions?: { readonly ready?: boolean } }[]
    | null;
}

interface EndpointObject extends KubeObject {
  readonly status?: { readonly identity?: { readonly id?: number }; readonly state?: string };
}

/** What a pod belongs to, as people name it: a ReplicaSet's Deployment rather than the ReplicaSet. */
export function workloadOf(pod: KubeObject): { readonly kind: string; readonly name: string } {
  const { ownerReferences, labels, name } = pod.metadata;
  const owner = ownerReferences?.find((reference) => reference.controller) ?? ownerReferences?.[0];
  if (!owner) return { kind: 'Pod', name };
  const hash = labels?.['pod-template-hash'];
  if (owner.kind === 'ReplicaSet' && hash && owner.name.endsWith(`-${hash}`)) {
    return { kind: 'Deployment', name: owner.name.slice(0, -hash.length - 1) };
  }
  return { kind: owner.kind, name: owner.name };
}

/** A pod's addresses, of each of its families, the one that Kubernetes prefers first; none where it has none yet. */
export function podAddresses(status: PodObject['status']): readonly string[] {
  return status?.podIPs?.map(({ ip }) => ip) ?? (status?.podIP ? [status.podIP] : []);
}

/** The addresses of a row, the first apart from the others. */
function addressFields([address = '', ...others]: readonly string[]): Pick<Pod, 'address' | 'moreAddresses'> {
  return { address, ...(others.length > 0 ? { moreAddresses: others } : {}) };
}

/** A row for a node; its agent and the number of its pods come from elsewhere. */
export function nodeRow(
  object: KubeObject,
  agent: ClusterNode['agent'],
  pods: number,
  ssh: string | undefined,
): ClusterNode {
  const { metadata, spec, status } = object as NodeObject;
  const condition = status?.conditions?.find((entry) => entry.type === 'Ready');
  const ready = condition?.status === 'True';
  const ofType = (type: string) =>
    (status?.addresses ?? []).filter((entry) => entry.type === type).map((entry) => entry.address);
  const internal = ofType('InternalIP');
  const info = status?.nodeInfo;
  return {
    name: metadata.name,
    ready,
    ...(ready ? {} : { reason: condition?.message || condition?.reason || 'The kubelet has not reported yet.' }),
    ...addressFields(internal.length > 0 ? internal : ofType('ExternalIP')),
    podCIDR: (spec?.podCIDRs ?? (spec?.podCIDR ? [spec.podCIDR] : [])).join(', '),
    kernel: info?.kernelVersion ?? '',
    os: info?.osImage ?? '',
    kubelet: info?.kubeletVersion ?? '',
    runtime: info?.containerRuntimeVersion ?? '',
    pods,
    ...(ssh === undefined ? {} : { ssh }),
    agent,
  };
}

/** A row for a pod, with what its endpoint says. */
export function podRow(object: KubeObject, endpoint: KubeObject | undefined): Pod {
  const { metadata, spec, status } = object as PodObject;
  const endpointStatus = (endpoint as EndpointObject | undefined)?.status;
  const waiting = status?.containerStatuses?.find((container) => container.state?.waiting?.reason)?.state?.waiting
    ?.reason;
  return {
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    node: spec?.nodeName ?? '',
    ...addressFields(podAddresses(status)),
    // As kubectl shows it: why it is not running says more than that it is pending.
    phase: metadata.deletionTimestamp ? 'Terminating' : (waiting ?? status?.phase ?? 'Unknown'),
    ready: status?.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True') ?? false,
    hostNetwork: spec?.hostNetwork ?? false,
    labels: metadata.labels ?? {},
    workload: workloadOf(object),
    containers: (spec?.containers ?? []).map((container) => container.name),
    ...(endpointStatus?.identity?.id === undefined ? {} : { identity: endpointStatus.identity.id }),
    ...(endpointStatus?.state === undefined ? {} : { endpointState: endpointStatus.state }),
  };
}

/** A row for a service. */
export function serviceRow(object: KubeObject, backends: number): Service {
  const { metadata, spec, status } = object as ServiceObject;
  const ingress = (status?.loadBalancer?.ingress ?? [])
    .map((entry) => entry.ip ?? entry.hostname ?? '')
    .filter((entry) => entry !== '');
  return {
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    type: spec?.type ?? 'ClusterIP',
    clusterIP: (spec?.clusterIPs ?? (spec?.clusterIP ? [spec.clusterIP] : [])).join(', '),
    externalIPs: [...(spec?.externalIPs ?? []), ...ingress],
    ports: (spec?.ports ?? []).map((port) => ({
      name: port.name ?? '',
      port: port.port,
      targetPort: String(port.targetPort ?? port.port),
      protocol: port.protocol ?? 'TCP',
      ...(port.nodePort ? { nodePort: port.nodePort } : {}),
    })),
    backends,
  };
}

/** Ready backends per "namespace/service". One of both families has an address in a slice of each, and is one backend. */
export function countBackends(slices: Iterable<KubeObject>): ReadonlyMap<string, number> {
  const addresses = new Map<string, Map<string, Set<string>>>();
  for (const slice of slices) {
    const service = slice.metadata.labels?.['kubernetes.io/service-name'];
    if (!service) continue;
    const key = `${slice.metadata.namespace}/${service}`;
    const families = addresses.get(key) ?? new Map<string, Set<string>>();
    const family = (slice as SliceObject).addressType ?? '';
    const known = families.get(family) ?? new Set<string>();
    for (const endpoint of (slice as SliceObject).endpoints ?? []) {
      // Unknown readiness counts as ready, as the API defines it.
      if (endpoint.conditions?.ready === false) continue;
      for (const address of endpoint.addresses ?? []) known.add(address);
    }
    addresses.set(key, families.set(family, known));
  }
  return new Map(
    [...addresses].map(([key, families]) => [key, Math.max(...[...families.values()].map(({ size }) => size))]),
  );
}
