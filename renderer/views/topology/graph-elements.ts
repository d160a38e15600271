import type { Topology, TopologyEdge, TopologyNode } from '../../../contract/topology.ts';

export type Grouping = 'node' | 'namespace' | 'none';

/** A drawn thing, as plain data: what cytoscape gets as `data`. */
export interface GraphNode {
  readonly id: string;
  readonly parent: string;
  readonly label: string;
  readonly kind: TopologyNode['kind'] | 'group';
  readonly ready: boolean;
  readonly isolated: boolean;
}

export interface GraphEdge {
  readonly id: string;
  readonly source: string;
  readonly target: string;
  readonly verdict: TopologyEdge['verdict'];
  readonly label: string;
  /** Line width in pixels, 1 to 7, by the logarithm of the rate. */
  readonly width: number;
}

export interface Graph {
  readonly nodes: readonly GraphNode[];
  readonly edges: readonly GraphEdge[];
}

export interface GraphOptions {
  readonly grouping: Grouping;
  /** Ids that the person has hidden. */
  readonly hidden: ReadonlySet<string>;
  readonly rate: (perSecond: number) => string;
}

/** Group that a node is drawn in; "" for none. A thing that spans several Kubernetes nodes stands outside of them. */
export function groupOf(node: TopologyNode, grouping: Grouping): string {
  switch (grouping) {
    case 'none':
      return '';
    case 'namespace':
      return node.namespace && node.kind !== 'namespace' ? `group:namespace ${node.namespace}` : '';
    case 'node':
      return node.hosts.length === 1 && node.kind !== 'entity' ? `group:node ${node.hosts[0]}` : '';
  }
}

/** Width of an edge for its rate. */
export function edgeWidth(eventsPerSecond: number): number {
  return Math.round(Math.min(7, 1.4 + Math.log2(1 + Math.max(0, eventsPerSecond)) * 0.6) * 10) / 10;
}

/** Label of an edge: its rate; a denied one says so in words as well as in colour. */
export function edgeLabel(edge: TopologyEdge, rate: (perSecond: number) => string): string {
  switch (edge.verdict) {
    case 'forwarded':
      return rate(edge.eventsPerSecond);
    case 'dropped':
      return `⊘ denied ${rate(edge.droppedPerSecond)}`;
    case 'mixed':
      return `⊘ ${rate(edge.droppedPerSecond)} of ${rate(edge.eventsPerSecond)}`;
  }
}

/** What is to be drawn of a topology. */
export function toGraph(topology: Topology, options: GraphOptions): Graph {
  const visible = topology.nodes.filter((node) => !options.hidden.has(node.id));
  const ids = new Set(visible.map((node) => node.id));
  const groups = new Map<string, GraphNode>();
  const nodes = visible.map((node): GraphNode => {
    const parent = groupOf(node, options.grouping);
    if (parent && !groups.has(parent)) {
      groups.set(parent, {
        id: parent,
        parent: '',
        label: parent.slice(parent.indexOf(' ') + 1),
        kind: 'group',
        ready: true,
        isolated: false,
      });
    }
    return {
      id: node.id,
      parent,
      label: node.kind !== 'pod' && node.pods > 1 ? `${node.label} (${node.pods})` : node.label,
      kind: node.kind,
      ready: node.ready,
      isolated: node.isolatedIngress || node.isolatedEgress,
    };
  });
  const edges = topology.edges
    .filter((edge) => ids.has(edge.source) && ids.has(edge.target))
    .map(
      (edge): GraphEdge => ({
        id: edge.id,
        source: edge.source,
        target: edge.target,
        verdict: edge.verdict,
        label: edgeLabel(edge, options.rate),
        width: edgeWidth(edge.eventsPerSecond),
      }),
    );
  return { nodes: [...groups.values(), ...nodes], edges };
}

export interface GraphChange {
  readonly removed: readonly string[];
  readonly addedNodes: readonly GraphNode[];
  readonly addedEdges: readonly GraphEdge[];
  /** Same id, other data. A node that changes its group is here too: it is moved, not made anew. */
  readonly changed: readonly (GraphNode | GraphEdge)[];
}

function same(a: object, b: object): boolean {
  const left = a as Readonly<Record<string, unknown>>;
  const right = b as Readonly<Record<string, unknown>>;
  return Object.keys(left).every((key) => left[key] === right[key]);
}

/** What must be done to a drawn graph so that it becomes the next one. Edges of removed nodes are removed by id too. */
export function diffGraph(before: Graph, after: Graph): GraphChange {
  const old = new Map<string, GraphNode | GraphEdge>([...before.nodes, ...before.edges].map((one) => [one.id, one]));
  const next = new Set([...after.nodes, ...after.edges].map((one) => one.id));
  const changed = [...after.nodes, ...after.edges].filter((one) => {
    const was = old.get(one.id);
    return was !== undefined && !same(was, one);
  });
  return {
    removed: [...old.keys()].filter((id) => !next.has(id)),
    addedNodes: after.nodes.filter((node) => !old.has(node.id)),
    addedEdges: after.edges.filter((edge) => !old.has(edge.id)),
    changed,
  };
}

/** Does a search fit a node: its label, namespace, a label or an address? */
export function matchesFind(node: TopologyNode, text: string): boolean {
  const wanted = text.trim().toLowerCase();
  if (wanted === '') return false;
  return [node.label, `${node.namespace}/${node.label}`, ...node.labels, ...node.addresses].some((one) =>
    one.toLowerCase().includes(wanted),
  );
}
