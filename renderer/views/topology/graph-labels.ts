import type cytoscape from 'cytoscape';
import { type Box, type LabelCandidate, labelScale, placeLabels } from './label-layout.ts';

/** How labels are drawn, in pixels of the drawing: the style and the search for room must agree. */
export const labelStyle = {
  family: 'Inter Variable, system-ui, sans-serif',
  node: { size: 11, weight: 500, widest: 150, margin: 5 },
  group: { size: 12, weight: 600, widest: 260, margin: 5 },
  edge: { size: 10, weight: 500 },
} as const;

/** Height of a line of text for its size. */
const lineHeight = 1.3;
/** Milliseconds after the last movement until labels are chosen anew. */
const settle = 80;

/** From this importance on a label may stand over the body of another node. */
const vital = 400;

/** Names that have room on the screen, and names that have none. */
export interface NamesShown {
  readonly shown: number;
  readonly hidden: number;
}

/**
 * Keeps labels readable: letters never become smaller than on paper, and where there is no room for all, those are drawn
 * that matter most. What was chosen or found, groups, whoever is denied something, what is not ready, then the busiest.
 */
export class GraphLabels {
  readonly #cy: cytoscape.Core;
  readonly #onNames: (names: NamesShown) => void;
  readonly #widths = new Map<string, number>();
  readonly #pen = document.createElement('canvas').getContext('2d');
  #timer: ReturnType<typeof setTimeout> | undefined;
  #scale = 1;

  constructor(cy: cytoscape.Core, onNames: (names: NamesShown) => void) {
    this.#cy = cy;
    this.#onNames = onNames;
    cy.on('viewport resize dragfree', () => this.later());
    cy.on('mouseover', 'node', (event) => void (event.target as cytoscape.NodeSingular).addClass('pointed'));
    cy.on('mouseout', 'node', (event) => void (event.target as cytoscape.NodeSingular).removeClass('pointed'));
  }

  /** Factor on the size of letters, for the style. */
  readonly scale = (): number => this.#scale;

  /** Chooses when nothing has moved for a moment. */
  later(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.place(), settle);
  }

  /** Chooses now. */
  place(): void {
    clearTimeout(this.#timer);
    if (this.#cy.destroyed() || this.#cy.width() === 0) return;
    const scale = labelScale(this.#cy.zoom());
    const rescaled = scale !== this.#scale;
    this.#scale = scale;
    const nodes = this.#nodes();
    const bodies = this.#bodies();
    const first = placeLabels(nodes.filter(({ importance }) => importance >= vital));
    const boxes = (ids: ReadonlySet<string>, all: readonly LabelCandidate[]) =>
      all.filter(({ id }) => ids.has(id)).map(({ box }) => box);
    const rest = nodes.filter(({ importance }) => importance < vital);
    const second = placeLabels(rest, [...bodies, ...boxes(first, nodes)]);
    const edges = this.#edges();
    const third = placeLabels(edges, [...bodies, ...boxes(first, nodes), ...boxes(second, rest)]);
    this.#cy.batch(() => {
      for (const element of [...this.#cy.nodes(), ...this.#cy.edges()]) {
        const id = element.id();
        element.toggleClass('unnamed', !first.has(id) && !second.has(id) && !third.has(id));
      }
    });
    if (rescaled) this.#cy.style().update();
    const named = nodes.filter(({ group }) => !group);
    const shown = named.filter(({ id }) => first.has(id) || second.has(id)).length;
    this.#onNames({ shown, hidden: named.length - shown });
  }

  /** With every label, in the size of the drawing, for as long as `draw` takes. */
  all<T>(draw: () => T): T {
    const scale = this.#scale;
    const unnamed = this.#cy.elements('.unnamed');
    this.#scale = 1;
    unnamed.removeClass('unnamed');
    this.#cy.style().update();
    try {
      return draw();
    } finally {
      this.#scale = scale;
      unnamed.addClass('unnamed');
      this.#cy.style().update();
    }
  }

  destroy(): void {
    clearTimeout(this.#timer);
  }

  /** Pixels on the screen for one in a label. */
  #pixels(): number {
    return this.#cy.zoom() * this.#scale;
  }

  #width(text: string, { size, weight }: { readonly size: number; readonly weight: number }): number {
    const key = `${weight} ${size}px ${text}`;
    const known = this.#widths.get(key);
    if (known !== undefined) return known;
    if (this.#pen) this.#pen.font = `${weight} ${size}px ${labelStyle.family}`;
    const width = this.#pen?.measureText(text).width ?? text.length * size * 0.6;
    if (this.#widths.size > 5000) this.#widths.clear();
    this.#widths.set(key, width);
    return width;
  }

  #inSight({ x1, y1, x2, y2 }: Box): boolean {
    return x2 > 0 && y2 > 0 && x1 < this.#cy.width() && y1 < this.#cy.height();
  }

  #nodes(): readonly (LabelCandidate & { readonly group: boolean })[] {
    const denied = new Set<string>();
    const busy = new Map<string, number>();
    for (const edge of this.#cy.edges()) {
      const { source, target, verdict, width } = edge.data() as cytoscape.EdgeDataDefinition;
      for (const end of [source, target]) {
        busy.set(end, (busy.get(end) ?? 0) + (width as number));
        if (verdict !== 'forwarded') denied.add(end);
      }
    }
    const pixels = this.#pixels();
    const zoom = this.#cy.zoom();
    return this.#cy
      .nodes()
      .toArray()
      .map((element) => {
        const node = element as cytoscape.NodeSingular;
        const group = node.data('kind') === 'group';
        const style = group ? labelStyle.group : labelStyle.node;
        const half = (Math.min(style.widest, this.#width(node.data('label') as string, style)) * pixels) / 2;
        const height = style.size * lineHeight * pixels;
        const { x, y } = node.renderedPosition();
        const edge = (node.outerHeight() / 2) * zoom + style.margin * pixels;
        const top = group ? y - edge - height : y + edge;
        const importance =
          (node.selected() ? 4000 : node.hasClass('found') ? 3000 : 0) +
          (group ? 2000 : denied.has(node.id()) ? 1000 : node.data('ready') === false ? vital : 0) +
          Math.min(vital - 1, busy.get(node.id()) ?? 0) -
          (node.hasClass('faded') ? 10_000 : 0);
        return {
          id: node.id(),
          group,
          importance,
          box: { x1: x - half, x2: x + half, y1: top, y2: top + height },
        };
      })
      .filter(({ box }) => this.#inSight(box));
  }

  #bodies(): readonly Box[] {
    const zoom = this.#cy.zoom();
    return this.#cy
      .nodes('[kind != "group"]')
      .toArray()
      .map((element) => {
        const node = element as cytoscape.NodeSingular;
        const { x, y } = node.renderedPosition();
        const [width, height] = [(node.outerWidth() / 2) * zoom, (node.outerHeight() / 2) * zoom];
        return { x1: x - width, x2: x + width, y1: y - height, y2: y + height };
      })
      .filter((box) => this.#inSight(box));
  }

  #edges(): readonly LabelCandidate[] {
    const pixels = this.#pixels();
    return this.#cy
      .edges()
      .not('.many')
      .toArray()
      .map((element) => {
        const edge = element as cytoscape.EdgeSingular;
        const { label, verdict, width } = edge.data() as cytoscape.EdgeDataDefinition;
        const [x, y] = Object.values(edge.renderedMidpoint()) as [number, number];
        const [from, to] = [edge.source().position(), edge.target().position()];
        const angle = Math.atan2(to.y - from.y, to.x - from.x);
        const [long, high] = [
          this.#width(label as string, labelStyle.edge) * pixels,
          labelStyle.edge.size * lineHeight * pixels,
        ];
        // The box around the turned text.
        const [cos, sin] = [Math.abs(Math.cos(angle)), Math.abs(Math.sin(angle))];
        const [halfWidth, halfHeight] = [(long * cos + high * sin) / 2, (long * sin + high * cos) / 2];
        const faded = edge.hasClass('faded') ? -10_000 : 0;
        return {
          id: edge.id(),
          importance: (edge.selected() ? 4000 : 0) + (verdict === 'forwarded' ? 0 : 1000) + (width as number) + faded,
          box: { x1: x - halfWidth, x2: x + halfWidth, y1: y - halfHeight, y2: y + halfHeight },
        };
      })
      .filter(({ box }) => this.#inSight(box));
  }
}
