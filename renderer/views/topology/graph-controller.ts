import cytoscape from 'cytoscape';
import { diffGraph, type Graph, type GraphEdge, type GraphNode } from './graph-elements.ts';
import { GraphLabels, type NamesShown } from './graph-labels.ts';
import { graphStyle } from './graph-style.ts';
import { gridLayout } from './grid-layout.ts';
import type { LayoutAnswer, LayoutRequest } from './layout-worker.ts';

/** Positions per drawing (cluster, scope, grouping): they outlive the view, so that coming back finds the same picture. */
const remembered = new Map<string, Map<string, { x: number; y: number }>>();

/** Above this many nodes a layout by force takes longer than people wait. */
const mostByForce = 160;

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
  readonly #labels: GraphLabels;
  #graph: Graph = { nodes: [], edges: [] };
  #key = '';
  #round = 0;
  #touched = false;
  #onLayout: (pending: boolean) => void;

  constructor(
    container: HTMLElement,
    onSelect: (id: string | undefined) => void,
    onLayout: (pending: boolean) => void,
    onNames: (names: NamesShown) => void,
  ) {
    this.#onLayout = onLayout;
    this.#cy = cytoscape({
      container,
      minZoom: 0.08,
      maxZoom: 3,
      boxSelectionEnabled: false,
    });
    this.#labels = new GraphLabels(this.#cy, onNames);
    this.restyle();
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
    let added: readonly GraphNode[] = [];
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
      this.#cy.elements().toggleClass('many', graph.edges.length > manyEdges);
      added = fresh;
      if (!first) this.#placeBeside(fresh);
    });
    if (first && graph.nodes.length > 0) {
      const all = graph.nodes.every((node) => node.kind === 'group' || known?.has(node.id));
      if (all) this.fit();
      else this.layout();
    } else if (change.addedNodes.length > 0 && !this.#touched) {
      // Nobody has looked closer yet: a picture that has grown much is arranged anew, a little growth is only shown,
      // and so is what has come back to where it was.
      if (added.length >= graph.nodes.length * 0.2) this.layout();
      else this.fit();
    }
    this.#labels.later();
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

  /** New things appear beside what they talk to, or in their group, where there is room; nothing else moves. */
  #placeBeside(fresh: readonly GraphNode[]): void {
    const waiting = new Set(fresh.map((node) => node.id));
    const taken: { x: number; y: number }[] = [];
    this.#cy.nodes().forEach((node) => {
      if (!node.isParent() && !waiting.has(node.id())) taken.push({ ...node.position() });
    });
    for (const node of fresh) {
      const element = this.#cy.getElementById(node.id);
      const known = (one: cytoscape.NodeSingular) => !waiting.has(one.id());
      const siblings = node.parent
        ? this.#cy.getElementById(node.parent).children().filter(known)
        : this.#cy.collection();
      const neighbours = element.neighborhood().nodes().filter(known);
      const anchor = (
        siblings.nonempty() ? siblings : neighbours.nonempty() ? neighbours : this.#cy.nodes()
      ).boundingBox();
      const spot = { x: (anchor.x1 + anchor.x2) / 2, y: anchor.y2 + 70 };
      while (taken.some(({ x, y }) => Math.abs(x - spot.x) < 130 && Math.abs(y - spot.y) < 84)) {
        spot.x += 150;
        if (spot.x > anchor.x2 + 460) Object.assign(spot, { x: anchor.x1, y: spot.y + 96 });
      }
      element.position(spot);
      taken.push({ ...spot });
    }
  }

  /** Arranges everything: at once in rows, and then, where that is quick enough, by force in the worker. */
  layout(): void {
    this.#round += 1;
    this.#set(gridLayout(this.#graph.nodes, this.#graph.edges));
    if (this.#graph.nodes.length > mostByForce) return;
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
    this.#set(new Map(positions.map(([id, x, y]) => [id, { x, y }])));
  }

  #set(positions: ReadonlyMap<string, { readonly x: number; readonly y: number }>): void {
    this.#cy.batch(() => {
      for (const [id, position] of positions) {
        const node = this.#cy.getElementById(id);
        if (node.nonempty() && !node.isParent()) node.position({ ...position });
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
    const { x1, y1, w, h } = this.#cy.elements().boundingBox({ includeLabels: false });
    const [width, height] = [this.#cy.width(), this.#cy.height()];
    // Names are drawn in their own size beside what is fitted: room for half of one on each side, and for the legend.
    const across = Math.min(90, width / 6);
    const [above, below] = [Math.min(40, height / 8), Math.min(76, height / 6)];
    const zoom = Math.max(
      this.#cy.minZoom(),
      Math.min(1.35, (width - 2 * across) / Math.max(w, 1), (height - above - below) / Math.max(h, 1)),
    );
    this.#cy.viewport({
      zoom,
      pan: { x: width / 2 - (x1 + w / 2) * zoom, y: above + (height - above - below) / 2 - (y1 + h / 2) * zoom },
    });
    this.#labels.place();
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
    this.#labels.later();
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
    this.#labels.later();
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
    this.#cy.style(graphStyle(this.#labels.scale));
  }

  /** The whole graph as a PNG data URL, with every name: who looks at it can come as close as needed. */
  png(): string {
    const background = getComputedStyle(document.documentElement).getPropertyValue('--bg').trim();
    return this.#labels.all(() =>
      this.#cy.png({ full: true, scale: 2, bg: background, maxWidth: 8000, maxHeight: 8000 }),
    );
  }

  resize(): void {
    this.#cy.resize();
    if (!this.#touched) this.fit();
  }

  destroy(): void {
    this.#keepPositions();
    this.#worker.terminate();
    this.#labels.destroy();
    this.#cy.destroy();
  }
}
