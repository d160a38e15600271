import cytoscape from 'cytoscape';
import { diffGraph, type Graph, type GraphEdge, type GraphNode } from './graph-elements.ts';
import { graphStyle } from './graph-style.ts';
import type { LayoutAnswer, LayoutRequest } from './layout-worker.ts';

/** Positions per drawing (cluster, scope, grouping): they outlive the view, so that coming back finds the same picture. */
const remembered = new Map<string, Map<string, { x: number; y: number }>>();

/** Above this many edges labels and arrows only hide what matters. */
const manyEdges = 500;

/** cytoscape takes an empty parent for one that is missing. */
function nodeData(node: GraphNode): cytoscape.NodeDataDefinition {
  const { parent, ...data } = node;
  return parent ? { ...data, parent } : data;
}

/** Owns the cytoscape instance: applies changes, asks the worker for a layout, never moves what a person looks at. */
export class GraphController {
  readonly #cy: cytoscape.Core;
  readonly #worker: Worker;
  #graph: Graph = { nodes: [], edges: [] };
  #key = '';
  #round = 0;
  #touched = false;
  #onLayout: (pending: boolean) => void;

  constructor(
    container: HTMLElement,
    onSelect: (id: string | undefined) => void,
    onLayout: (pending: boolean) => void,
  ) {
    this.#onLayout = onLayout;
    this.#cy = cytoscape({
      container,
      style: graphStyle(),
      minZoom: 0.08,
      maxZoom: 3,
      wheelSensitivity: 0.3,
      boxSelectionEnabled: false,
      pixelRatio: 'auto' as unknown as number,
    });
    this.#worker = new Worker(new URL('./layout-worker.ts', import.meta.url), { type: 'module' });
    this.#worker.onmessage = (event: MessageEvent<LayoutAnswer>) => this.#place(event.data);
    this.#cy.on('tap', (event) => onSelect(event.target === this.#cy ? undefined : (event.target.id() as string)));
    // Whoever has moved or zoomed has chosen a view; from then on nothing is fitted or laid out unasked.
    this.#cy.on('viewport dragfree', (event) => {
      if (event.type === 'dragfree') this.#keepPositions();
    });
    for (const kind of ['mousedown', 'wheel', 'touchstart'] as const) {
      container.addEventListener(
        kind,
        () => {
          this.#touched = true;
        },
        { passive: true },
      );
    }
  }

  /** Draws a graph; `key` names the drawing whose positions are used and kept. */
  update(key: string, graph: Graph): void {
    if (key !== this.#key) {
      this.#keepPositions();
      this.#key = key;
      this.#touched = false;
      this.#cy.elements().remove();
      this.#graph = { nodes: [], edges: [] };
    }
    const change = diffGraph(this.#graph, graph);
    const first = this.#graph.nodes.length === 0;
    this.#graph = graph;
    const known = remembered.get(this.#key);
    this.#cy.batch(() => {
      // Children are moved out before their group goes, or it would take them along.
      for (const item of change.changed) this.#change(item);
      for (const id of change.removed) this.#cy.getElementById(id).remove();
      const fresh: GraphNode[] = [];
      for (const node of change.addedNodes) {
        const position = known?.get(node.id);
        this.#cy.add({ group: 'nodes', data: nodeData(node), ...(position ? { position: { ...position } } : {}) });
        if (!position && node.kind !== 'group') fresh.push(node);
      }
      for (const edge of change.addedEdges) this.#cy.add({ group: 'edges', data: { ...edge } });
      this.#cy.edges().toggleClass('many', graph.edges.length > manyEdges);
      if (!first) this.#placeBeside(fresh);
    });
    if (first && graph.nodes.length > 0) {
      const all = graph.nodes.every((node) => node.kind === 'group' || known?.has(node.id));
      if (all) this.fit();
      else this.layout();
    }
  }

  #change(item: GraphNode | GraphEdge): void {
    const element = this.#cy.getElementById(item.id);
    if ('parent' in item) {
      const parent = element.parent().first();
      const now = parent.empty() ? '' : parent.id();
      if (now !== item.parent) element.move({ parent: item.parent || null });
    }
    element.data(item);
  }

  /** New things appear beside what they talk to, or at the edge of their group; nothing else moves. */
  #placeBeside(fresh: readonly GraphNode[]): void {
    fresh.forEach((node, index) => {
      const element = this.#cy.getElementById(node.id);
      const neighbours = element.neighborhood('node').filter((one) => !fresh.some((other) => other.id === one.id()));
      const siblings = node.parent
        ? this.#cy
            .getElementById(node.parent)
            .children()
            .filter((one) => one.id() !== node.id)
        : this.#cy.collection();
      const anchor = siblings.nonempty()
        ? siblings.boundingBox()
        : neighbours.nonempty()
          ? neighbours.boundingBox()
          : this.#cy.nodes().boundingBox();
      element.position({ x: anchor.x2 + 60, y: anchor.y1 + 40 + (index % 6) * 74 });
    });
  }

  /** Asks the worker for a new layout of everything. */
  layout(): void {
    this.#round += 1;
    this.#onLayout(true);
    const request: LayoutRequest = {
      round: this.#round,
      nodes: this.#graph.nodes.map((node) => ({
        id: node.id,
        parent: node.parent,
        width: Math.max(46, Math.min(150, node.label.length * 6)),
        height: 58,
      })),
      edges: this.#graph.edges.map(({ id, source, target }) => ({ id, source, target })),
    };
    this.#worker.postMessage(request);
  }

  #place({ round, positions }: LayoutAnswer): void {
    if (round !== this.#round) return;
    this.#onLayout(false);
    this.#cy.batch(() => {
      for (const [id, x, y] of positions) {
        const node = this.#cy.getElementById(id);
        if (node.nonempty() && !node.isParent()) node.position({ x, y });
      }
    });
    this.#keepPositions();
    if (!this.#touched) this.fit();
  }

  #keepPositions(): void {
    if (this.#key === '' || this.#cy.destroyed()) return;
    const kept = remembered.get(this.#key) ?? new Map<string, { x: number; y: number }>();
    for (const node of this.#cy.nodes()) if (!node.isParent()) kept.set(node.id(), { ...node.position() });
    remembered.set(this.#key, kept);
  }

  /** Shows everything. */
  fit(): void {
    this.#cy.resize();
    this.#cy.fit(undefined, 46);
    if (this.#cy.zoom() > 1.35) {
      this.#cy.zoom(1.35);
      this.#cy.center();
    }
  }

  /** Zooms about the middle. */
  zoom(factor: number): void {
    this.#touched = true;
    this.#cy.zoom({
      level: this.#cy.zoom() * factor,
      renderedPosition: { x: this.#cy.width() / 2, y: this.#cy.height() / 2 },
    });
  }

  /** Marks the selected element, fades what has nothing to do with it. */
  select(id: string | undefined, center: boolean): void {
    this.#cy.batch(() => {
      this.#cy.elements().unselect().removeClass('faded');
      if (!id) return;
      const element = this.#cy.getElementById(id);
      if (element.empty()) return;
      element.select();
      const near = element.isEdge()
        ? this.#cy.collection().union(element).union(element.connectedNodes())
        : this.#cy.collection().union((element as cytoscape.NodeSingular).closedNeighborhood());
      const kept = near
        .union(near.parents())
        .union(element.descendants())
        .union(element.descendants().closedNeighborhood());
      this.#cy.elements().difference(kept).not(':parent').addClass('faded');
    });
    if (id && center) {
      const element = this.#cy.getElementById(id);
      if (element.nonempty()) this.#cy.center(element);
    }
  }

  /** Marks what a search found and brings it into sight. */
  find(ids: readonly string[], show: boolean): void {
    this.#cy.batch(() => {
      this.#cy.nodes('.found').removeClass('found');
      for (const id of ids) this.#cy.getElementById(id).addClass('found');
    });
    const found = this.#cy.nodes('.found');
    if (show && found.nonempty()) {
      this.#touched = true;
      this.#cy.fit(found.closedNeighborhood(), 120);
      if (this.#cy.zoom() > 1.4) {
        this.#cy.zoom(1.4);
        this.#cy.center(found);
      }
    }
  }

  /** Colours have changed. */
  restyle(): void {
    this.#cy.style(graphStyle());
  }

  /** The whole graph as a PNG data URL. */
  png(): string {
    const background = getComputedStyle(document.documentElement).getPropertyValue('--bg').trim();
    return this.#cy.png({ full: true, scale: 2, bg: background, maxWidth: 8000, maxHeight: 8000 });
  }

  resize(): void {
    this.#cy.resize();
    if (!this.#touched) this.fit();
  }

  destroy(): void {
    this.#keepPositions();
    this.#worker.terminate();
    this.#cy.destroy();
  }
}
