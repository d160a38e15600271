import { describe, expect, it } from 'vitest';
import type { Topology, TopologyEdge, TopologyNode } from '../../../contract/topology.ts';
import { diffGraph, edgeLabel, edgeWidth, groupOf, matchesFind, toGraph } from './graph-elements.ts';

function node(id: string, change: Partial<TopologyNode> = {}): TopologyNode {
  return {
    id,
    kind: 'pod',
    label: id,
    namespace: 'shop',
    pods: 1,
    hosts: ['node1'],
    identities: [1],
    labels: ['k8s:app=cart'],
    addresses: ['10.0.0.1'],
    ready: true,
    isolatedIngress: false,
    isolatedEgress: false,
    ...change,
  };
}
function edge(source: string, target: string, change: Partial<TopologyEdge> = {}): TopologyEdge {
  return {
    id: `${source}>${target}`,
    source,
    target,
    verdict: 'forwarded',
    connectionsPerSecond: 1,
    eventsPerSecond: 4,
    droppedPerSecond: 0,
    bytesPerSecond: 0,
    forwarded: 1,
    dropped: 0,
    ports: [],
    dropReason: '',
    deniedBy: [],
    allowedBy: [],
    lastSeen: 0,
    ...change,
  };
}
function topology(nodes: readonly TopologyNode[], edges: readonly TopologyEdge[]): Topology {
  return { at: 0, scope: 'pod', nodes, edges, lost: 0, missing: [] };
}
const rate = (value: number) => `${value}/s`;
const options = { grouping: 'node', hidden: new Set<string>(), rate } as const;

describe('toGraph', () => {
  it('makes one group per Kubernetes node and leaves out what spans several', () => {
    const graph = toGraph(
      topology([node('a'), node('b', { hosts: ['node1', 'node2'] }), node('world', { kind: 'entity', hosts: [] })], []),
      options,
    );
    expect(graph.nodes.map(({ id, parent }) => [id, parent])).toEqual([
      ['group:node node1', ''],
      ['a', 'group:node node1'],
      ['b', ''],
      ['world', ''],
    ]);
  });

  it('groups by namespace, but a namespace is not inside itself', () => {
    expect(groupOf(node('a'), 'namespace')).toBe('group:namespace shop');
    expect(groupOf(node('n', { kind: 'namespace' }), 'namespace')).toBe('');
    expect(groupOf(node('a'), 'none')).toBe('');
  });

  it('drops hidden nodes with their edges', () => {
    const graph = toGraph(topology([node('a'), node('b')], [edge('a', 'b')]), { ...options, hidden: new Set(['b']) });
    expect(graph.edges).toEqual([]);
  });

  it('says a denial in words, not by colour alone', () => {
    expect(edgeLabel(edge('a', 'b', { verdict: 'dropped', droppedPerSecond: 2 }), rate)).toBe('⊘ denied 2/s');
    expect(edgeLabel(edge('a', 'b', { verdict: 'mixed', droppedPerSecond: 2 }), rate)).toBe('⊘ 2/s of 4/s');
  });

  it('keeps widths between 1 and 7 whatever the rate', () => {
    expect(edgeWidth(-1)).toBeGreaterThan(1);
    expect(edgeWidth(1e9)).toBe(7);
    expect(edgeWidth(100)).toBeGreaterThan(edgeWidth(10));
  });
});

describe('diffGraph', () => {
  const before = toGraph(topology([node('a'), node('b')], [edge('a', 'b')]), options);

  it('finds nothing to do for the same picture', () => {
    expect(diffGraph(before, before)).toEqual({ removed: [], addedNodes: [], addedEdges: [], changed: [] });
  });

  it('changes data in place instead of making things anew', () => {
    const after = toGraph(topology([node('a'), node('b')], [edge('a', 'b', { verdict: 'dropped' })]), options);
    const change = diffGraph(before, after);
    expect(change.changed.map((one) => one.id)).toEqual(['a>b']);
    expect([change.removed, change.addedNodes, change.addedEdges]).toEqual([[], [], []]);
  });

  it('adds, removes, and moves to another group', () => {
    const after = toGraph(topology([node('a', { hosts: ['node2'] }), node('c')], [edge('a', 'c')]), options);
    const change = diffGraph(before, after);
    expect(change.removed).toEqual(['b', 'a>b']);
    expect(change.addedNodes.map((one) => one.id)).toEqual(['group:node node2', 'c']);
    expect(change.addedEdges.map((one) => one.id)).toEqual(['a>c']);
    expect(change.changed).toMatchObject([{ id: 'a', parent: 'group:node node2' }]);
  });
});

it('finds by name, namespace, label and address', () => {
  const one = node('cart-1');
  expect(['CART', 'shop/cart', 'app=cart', '10.0.0.1'].map((text) => matchesFind(one, text))).toEqual([
    true,
    true,
    true,
    true,
  ]);
  expect(matchesFind(one, ' ')).toBe(false);
});
