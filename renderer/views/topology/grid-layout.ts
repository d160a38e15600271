/** What is placed: `parent` is the group's id or "". */
export interface GridNode {
  readonly id: string;
  readonly parent: string;
}

export interface GridEdge {
  readonly source: string;
  readonly target: string;
}

/** Room for one node with its label, in the graph's units. */
const cell = { width: 172, height: 96 };
/** Room between groups, which also holds their titles. */
const gap = 76;

/** Orders ids so that what is connected stands close together: breadth first from the busiest. */
function byConnection(ids: readonly string[], neighbours: ReadonlyMap<string, readonly string[]>): readonly string[] {
  const waiting = new Set(ids);
  const degree = (id: string) => neighbours.get(id)?.length ?? 0;
  const ordered: string[] = [];
  for (const start of [...ids].sort((a, b) => degree(b) - degree(a))) {
    const queue = waiting.delete(start) ? [start] : [];
    for (let at = 0; at < queue.length; at += 1) {
      const id = queue[at];
      if (id === undefined) break;
      ordered.push(id);
      for (const next of neighbours.get(id) ?? []) if (waiting.delete(next)) queue.push(next);
    }
  }
  return ordered;
}

/**
 * Places nodes in rows, group by group, so that nothing overlaps: at once, and readable at any size. Groups themselves
 * are not placed: they enclose their nodes. Deterministic.
 */
export function gridLayout(
  nodes: readonly GridNode[],
  edges: readonly GridEdge[],
): ReadonlyMap<string, { readonly x: number; readonly y: number }> {
  const groupIds = new Set(nodes.map((node) => node.parent).filter((parent) => parent !== ''));
  const groups = new Map<string, string[]>();
  for (const node of nodes) {
    if (groupIds.has(node.id)) continue;
    const group = groups.get(node.parent);
    if (group) group.push(node.id);
    else groups.set(node.parent, [node.id]);
  }
  const neighbours = new Map<string, string[]>();
  for (const { source, target } of edges) {
    for (const [one, other] of [
      [source, target],
      [target, source],
    ] as const) {
      const known = neighbours.get(one);
      if (known) known.push(other);
      else neighbours.set(one, [other]);
    }
  }
  const blocks = [...groups.values()].map((ids) => {
    const columns = Math.ceil(Math.sqrt(ids.length * 0.9));
    const rows = Math.ceil(ids.length / columns);
    return { ids: byConnection(ids, neighbours), columns, width: columns * cell.width, height: rows * cell.height };
  });
  blocks.sort((a, b) => b.height - a.height || b.width - a.width);
  const area = blocks.reduce((sum, block) => sum + (block.width + gap) * (block.height + gap), 0);
  const shelf = Math.max(Math.sqrt(area * 1.7), ...blocks.map((block) => block.width));
  const positions = new Map<string, { x: number; y: number }>();
  let left = 0;
  let top = 0;
  let height = 0;
  for (const block of blocks) {
    if (left > 0 && left + block.width > shelf) {
      left = 0;
      top += height + gap;
      height = 0;
    }
    block.ids.forEach((id, index) => {
      positions.set(id, {
        x: left + ((index % block.columns) + 0.5) * cell.width,
        y: top + (Math.floor(index / block.columns) + 0.5) * cell.height,
      });
    });
    left += block.width + gap;
    height = Math.max(height, block.height);
  }
  return positions;
}
