import cytoscape from 'cytoscape';
import fcose from 'cytoscape-fcose';

/** What the layout needs of a graph. Nodes with a position keep it. */
export interface LayoutRequest {
  readonly round: number;
  readonly nodes: readonly {
    readonly id: string;
    readonly parent: string;
    readonly width: number;
    readonly height: number;
  }[];
  readonly edges: readonly { readonly id: string; readonly source: string; readonly target: string }[];
}

export interface LayoutAnswer {
  readonly round: number;
  readonly positions: readonly (readonly [string, number, number])[];
}

cytoscape.use(fcose);

self.onmessage = (event: MessageEvent<LayoutRequest>) => {
  const { round, nodes, edges } = event.data;
  const graph = cytoscape({
    headless: true,
    styleEnabled: true,
    elements: [
      ...nodes.map(({ id, parent, width, height }) => ({
        data: { id, width, height, ...(parent ? { parent } : {}) },
      })),
      ...edges.map((data) => ({ data })),
    ],
    style: [
      { selector: 'node', style: { width: 'data(width)', height: 'data(height)', shape: 'rectangle' } },
      { selector: ':parent', style: { padding: '26px' } },
    ],
  });
  const layout = graph.layout({
    name: 'fcose',
    animate: false,
    fit: false,
    randomize: true,
    quality: 'default',
    nodeSeparation: 120,
    idealEdgeLength: 150,
    nodeRepulsion: 14000,
    packComponents: true,
    tile: true,
    numIter: nodes.length > 80 ? 1200 : 2500,
  } as cytoscape.LayoutOptions);
  layout.one('layoutstop', () => {
    const answer: LayoutAnswer = {
      round,
      positions: graph.nodes().map((node) => [node.id(), node.position('x'), node.position('y')] as const),
    };
    self.postMessage(answer);
    graph.destroy();
  });
  layout.run();
};
