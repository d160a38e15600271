import type { PolicyReference } from '../../../contract/flows.ts';
import type { Topology, TopologyEdge, TopologyNode, TopologyScope } from '../../../contract/topology.ts';
import type { EdgeEnd, ObservedEdge } from './edge-store.ts';

/** A pod as far as the picture needs it. */
export interface TopologyPod {
  readonly namespace: string;
  readonly name: string;
  readonly host: string;
  /** Of each of its families. */
  readonly addresses: readonly string[];
  readonly identity: number;
  readonly labels: readonly string[];
  readonly workload: { readonly kind: string; readonly name: string };
  readonly ready: boolean;
  readonly isolatedIngress: boolean;
  readonly isolatedEgress: boolean;
}

export interface AggregateInput {
  readonly scope: TopologyScope;
  /** Only these namespaces and their direct peers; empty: all. */
  readonly namespaces: readonly string[];
  readonly windowSeconds: number;
  readonly pods: readonly TopologyPod[];
  readonly edges: readonly ObservedEdge[];
  /** Unix milliseconds. */
  readonly at: number;
  readonly lost: number;
  readonly missing: readonly string[];
}

/** More than this is never drawn. */
export const mostElements = 2000;
const mostPorts = 20;
const mostListed = 50;

interface NodeDraft {
  readonly id: string;
  readonly kind: TopologyNode['kind'];
  readonly label: string;
  readonly namespace: string;
  pods: number;
  ready: boolean;
  isolatedIngress: boolean;
  isolatedEgress: boolean;
  readonly hosts: Set<string>;
  readonly identities: Set<number>;
  readonly addresses: Set<string>;
  /** Labels that all its pods have; undefined before the first. */
  labels: Set<string> | undefined;
}

interface PortDraft {
  readonly protocol: string;
  readonly port: number;
  service: string;
  forwarded: number;
  dropped: number;
}

interface EdgeDraft {
  readonly id: string;
  readonly source: string;
  readonly target: string;
  forwarded: number;
  dropped: number;
  connections: number;
  bytes: number;
  lastSeen: number;
  dropReason: string;
  readonly ports: Map<string, PortDraft>;
  /** Made when the first comes: most edges have none. */
  deniedBy: Map<string, PolicyReference> | undefined;
  allowedBy: Map<string, PolicyReference> | undefined;
}

function draft(id: string, kind: TopologyNode['kind'], label: string, namespace: string): NodeDraft {
  return {
    id,
    kind,
    label,
    namespace,
    pods: 0,
    ready: true,
    isolatedIngress: false,
    isolatedEgress: false,
    hosts: new Set(),
    identities: new Set(),
    addresses: new Set(),
    labels: undefined,
  };
}

interface Place {
  readonly namespace: string;
  readonly pod: string;
  readonly workload: { readonly kind: string; readonly name: string };
}

function idOf(scope: TopologyScope, { namespace, pod, workload }: Place): string {
  switch (scope) {
    case 'namespace':
      return `namespace:${namespace}`;
    case 'workload':
      return `workload:${namespace}/${workload.kind}/${workload.name}`;
    case 'pod':
      return `pod:${namespace}/${pod}`;
  }
}

/** Finds or makes the node that stands for a place in a scope. */
function nodeFor(nodes: Map<string, NodeDraft>, scope: TopologyScope, place: Place): NodeDraft {
  const id = idOf(scope, place);
  const there = nodes.get(id);
  if (there) return there;
  const label = { namespace: place.namespace, workload: place.workload.name, pod: place.pod }[scope];
  const made = draft(id, scope, label, place.namespace);
  nodes.set(id, made);
  return made;
}

function addPod(node: NodeDraft, pod: TopologyPod): void {
  node.pods += 1;
  node.ready &&= pod.ready;
  node.isolatedIngress ||= pod.isolatedIngress;
  node.isolatedEgress ||= pod.isolatedEgress;
  if (pod.host !== '') node.hosts.add(pod.host);
  if (pod.identity > 0) node.identities.add(pod.identity);
  for (const address of pod.addresses) if (node.addresses.size < mostListed) node.addresses.add(address);
  if (node.labels === undefined) node.labels = new Set(pod.labels);
  else for (const label of node.labels) if (!pod.labels.includes(label)) node.labels.delete(label);
}

const entityLabels: Readonly<Record<string, string>> = {
  'remote-node': 'other nodes',
  'kube-apiserver': 'kube-apiserver',
  unmanaged: 'unmanaged pods',
  init: 'starting pods',
};

/** Finds or makes the node of an end that is no known pod. */
function entityNode(nodes: Map<string, NodeDraft>, end: EdgeEnd): NodeDraft {
  const id = `entity:${end.entity}`;
  let node = nodes.get(id);
  if (!node) {
    node = draft(id, 'entity', entityLabels[end.entity] ?? end.entity, '');
    nodes.set(id, node);
  }
  if (end.address !== '' && node.addresses.size < mostListed) node.addresses.add(end.address);
  if (end.identity > 0 && node.identities.size < mostListed) node.identities.add(end.identity);
  return node;
}

function nameOf(policy: PolicyReference): string {
  return `${policy.kind} ${policy.namespace}/${policy.name} ${policy.section ?? ''}`;
}

function addEdge(edge: EdgeDraft, seen: ObservedEdge): void {
  edge.forwarded += seen.forwarded;
  edge.dropped += seen.dropped;
  edge.connections += seen.connections;
  edge.bytes += seen.bytes;
  edge.lastSeen = Math.max(edge.lastSeen, seen.lastSeen);
  if (seen.dropReason !== '') edge.dropReason = seen.dropReason;
  if (seen.deniedBy) {
    edge.deniedBy ??= new Map();
    edge.deniedBy.set(nameOf(seen.deniedBy), seen.deniedBy);
  }
  if (seen.allowedBy) {
    edge.allowedBy ??= new Map();
    edge.allowedBy.set(nameOf(seen.allowedBy), seen.allowedBy);
  }
  const key = `${seen.protocol}/${seen.port}`;
  const port = edge.ports.get(key);
  if (port) {
    port.forwarded += seen.forwarded;
    port.dropped += seen.dropped;
    port.service ||= seen.service;
  } else
    edge.ports.set(key, {
      protocol: seen.protocol,
      port: seen.port,
      service: seen.service,
      forwarded: seen.forwarded,
      dropped: seen.dropped,
    });
}

function finishNode(node: NodeDraft): TopologyNode {
  return {
    id: node.id,
    kind: node.kind,
    label: node.label,
    namespace: node.namespace,
    pods: node.pods,
    hosts: [...node.hosts].sort(),
    identities: [...node.identities].sort((a, b) => a - b),
    labels: [...(node.labels ?? [])].sort(),
    addresses: [...node.addresses].sort(),
    ready: node.ready,
    isolatedIngress: node.isolatedIngress,
    isolatedEgress: node.isolatedEgress,
  };
}

function finishEdge(edge: EdgeDraft, windowSeconds: number): TopologyEdge {
  const rate = (count: number) => Math.round((count / windowSeconds) * 100) / 100;
  const ports = [...edge.ports.values()].sort(
    (a, b) => b.forwarded + b.dropped - a.forwarded - a.dropped || a.port - b.port,
  );
  return {
    id: edge.id,
    source: edge.source,
    target: edge.target,
    verdict: edge.dropped === 0 ? 'forwarded' : edge.forwarded === 0 ? 'dropped' : 'mixed',
    connectionsPerSecond: rate(edge.connections),
    eventsPerSecond: rate(edge.forwarded + edge.dropped),
    droppedPerSecond: rate(edge.dropped),
    bytesPerSecond: rate(edge.bytes),
    forwarded: edge.forwarded,
    dropped: edge.dropped,
    ports: ports.slice(0, mostPorts),
    dropReason: edge.dropReason,
    deniedBy: [...(edge.deniedBy?.values() ?? [])],
    allowedBy: [...(edge.allowedBy?.values() ?? [])],
    lastSeen: edge.lastSeen,
  };
}

/** A picture before it is put into its final form, which is the costly part. */
interface Sketch {
  readonly nodes: readonly NodeDraft[];
  readonly edges: readonly EdgeDraft[];
}

/** The picture in exactly one scope, whatever its size. */
export function aggregateScope(input: AggregateInput, scope: TopologyScope): Pick<Topology, 'nodes' | 'edges'> {
  return finish(sketchScope(input, scope), input.windowSeconds);
}

function finish({ nodes, edges }: Sketch, windowSeconds: number): Pick<Topology, 'nodes' | 'edges'> {
  const seconds = Math.max(1, windowSeconds);
  return {
    nodes: nodes.map(finishNode).sort((a, b) => (a.id < b.id ? -1 : 1)),
    edges: edges.map((edge) => finishEdge(edge, seconds)).sort((a, b) => (a.id < b.id ? -1 : 1)),
  };
}

/** One pass over pods and one over edges. */
function sketchScope(input: AggregateInput, scope: TopologyScope): Sketch {
  const nodes = new Map<string, NodeDraft>();
  const byPod = new Map<string, NodeDraft>();
  for (const pod of input.pods) {
    const node = nodeFor(nodes, scope, { namespace: pod.namespace, pod: pod.name, workload: pod.workload });
    addPod(node, pod);
    byPod.set(`${pod.namespace}/${pod.name}`, node);
  }
  const nodeOf = (end: EdgeEnd): NodeDraft => {
    if (end.pod === '') return entityNode(nodes, end);
    const known = byPod.get(`${end.namespace}/${end.pod}`);
    if (known) return known;
    // The pod is gone already, but within the window it spoke.
    const workload =
      end.workload !== '' ? { kind: end.workloadKind, name: end.workload } : { kind: 'Pod', name: end.pod };
    const there = nodeFor(nodes, scope, { namespace: end.namespace, pod: end.pod, workload });
    if (end.identity > 0) there.identities.add(end.identity);
    if (end.host !== '') there.hosts.add(end.host);
    byPod.set(`${end.namespace}/${end.pod}`, there);
    return there;
  };

  const edges = new Map<string, EdgeDraft>();
  for (const seen of input.edges) {
    const source = nodeOf(seen.source);
    const target = nodeOf(seen.destination);
    const id = `${source.id}>${target.id}`;
    let edge = edges.get(id);
    if (!edge) {
      edge = {
        id,
        source: source.id,
        target: target.id,
        forwarded: 0,
        dropped: 0,
        connections: 0,
        bytes: 0,
        lastSeen: 0,
        dropReason: '',
        ports: new Map(),
        deniedBy: undefined,
        allowedBy: undefined,
      };
      edges.set(id, edge);
    }
    addEdge(edge, seen);
  }

  let keptEdges = [...edges.values()];
  let keptNodes = [...nodes.values()];
  if (input.namespaces.length > 0) {
    const wanted = new Set(input.namespaces);
    const inside = new Set(keptNodes.filter((node) => wanted.has(node.namespace)).map((node) => node.id));
    keptEdges = keptEdges.filter((edge) => inside.has(edge.source) || inside.has(edge.target));
    const shown = new Set(inside);
    for (const edge of keptEdges) {
      shown.add(edge.source);
      shown.add(edge.target);
    }
    keptNodes = keptNodes.filter((node) => shown.has(node.id));
  }
  return { nodes: keptNodes, edges: keptEdges };
}

const coarser: Readonly<Record<TopologyScope, TopologyScope | undefined>> = {
  pod: 'workload',
  workload: 'namespace',
  namespace: undefined,
};
const plural: Readonly<Record<TopologyScope, string>> = { pod: 'pods', workload: 'workloads', namespace: 'namespaces' };

/** The busiest part of a picture that is too large even in the coarsest scope. */
function busiest(picture: Sketch): Sketch {
  const weight = new Map<string, number>();
  for (const edge of picture.edges)
    for (const end of [edge.source, edge.target])
      weight.set(end, (weight.get(end) ?? 0) + edge.forwarded + edge.dropped * 10 + 1);
  const nodes = picture.nodes
    .toSorted((a, b) => (weight.get(b.id) ?? 0) - (weight.get(a.id) ?? 0))
    .slice(0, mostElements / 2);
  const kept = new Set(nodes.map((node) => node.id));
  const edges = picture.edges
    .filter((edge) => kept.has(edge.source) && kept.has(edge.target))
    .toSorted((a, b) => b.dropped - a.dropped || b.forwarded - a.forwarded)
    .slice(0, mostElements - nodes.length);
  return { nodes, edges };
}

/**
 * Who talks to whom, in the scope that was asked for or, above 2,000 elements, in the next coarser one that is small
 * enough, and says so. Pure.
 */
export function aggregate(input: AggregateInput): Topology {
  const { at, lost, missing } = input;
  let scope = input.scope;
  let asked = 0;
  if (scope === 'pod' && input.namespaces.length === 0 && input.pods.length > mostElements) {
    // One node per pod is too many whatever the edges are: there is no need to sketch that first.
    asked = input.pods.length + input.edges.length;
    scope = 'workload';
  }
  let sketch = sketchScope(input, scope);
  const size = () => sketch.nodes.length + sketch.edges.length;
  asked ||= size();
  while (size() > mostElements) {
    const next = coarser[scope];
    if (!next) break;
    scope = next;
    sketch = sketchScope(input, scope);
  }
  const fits = size() <= mostElements;
  const picture = finish(fits ? sketch : busiest(sketch), input.windowSeconds);
  if (asked <= mostElements) return { at, scope, ...picture, lost, missing: [...missing] };
  const how = fits
    ? `shown by ${plural[scope]} instead of ${plural[input.scope]}. Choose namespaces to see their ${plural[input.scope]}.`
    : `only the busiest ${plural[scope]} are shown. Choose namespaces to see the others.`;
  const text = `${asked.toLocaleString('en')} elements are too many to draw: ${how}`;
  return {
    at,
    scope,
    ...picture,
    summarised: { from: input.scope, elements: asked, text },
    lost,
    missing: [...missing],
  };
}
