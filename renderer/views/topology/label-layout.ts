/** A rectangle of the screen, in pixels. */
export interface Box {
  readonly x1: number;
  readonly y1: number;
  readonly x2: number;
  readonly y2: number;
}

/** A label that could be drawn. */
export interface LabelCandidate {
  readonly id: string;
  readonly box: Box;
  /** The higher is placed first. */
  readonly importance: number;
}

/** Least size of letters on the screen, in pixels, and the size that labels of nodes have in the drawing itself. */
export const leastLetters = 11;
/** Labels are not drawn larger than so many times their size in the drawing: far out they would hide it. */
const mostScale = 8;
/** Room between two labels, in pixels of the screen. */
const gap = 3;
/** Side of a square of the index over placed labels, in pixels. */
const cell = 64;

/** Factor by which letters of `leastLetters` have to grow in the drawing so that they are readable at this zoom; in steps, so that a little zooming redraws nothing. */
export function labelScale(zoom: number): number {
  if (zoom >= 1) return 1;
  return Math.min(mostScale, Math.ceil((1 / Math.max(zoom, 0.01)) * 10) / 10);
}

const overlap = (a: Box, b: Box) => a.x1 < b.x2 + gap && b.x1 < a.x2 + gap && a.y1 < b.y2 + gap && b.y1 < a.y2 + gap;

/** Boxes that are taken, found by the squares of the screen that they touch. */
class Taken {
  readonly #cells = new Map<string, Box[]>();

  *#squares(box: Box): Generator<string> {
    for (let x = Math.floor((box.x1 - gap) / cell); x <= Math.floor((box.x2 + gap) / cell); x += 1)
      for (let y = Math.floor((box.y1 - gap) / cell); y <= Math.floor((box.y2 + gap) / cell); y += 1) yield `${x} ${y}`;
  }

  free(box: Box): boolean {
    for (const square of this.#squares(box))
      if (this.#cells.get(square)?.some((other) => overlap(other, box))) return false;
    return true;
  }

  add(box: Box): void {
    for (const square of this.#squares(box)) {
      const there = this.#cells.get(square);
      if (there) there.push(box);
      else this.#cells.set(square, [box]);
    }
  }
}

/**
 * Ids of the labels that have room: by importance, and then by id, so that the same drawing always has the same labels.
 * None covers another or one of the `obstacles`.
 */
export function placeLabels(
  candidates: readonly LabelCandidate[],
  obstacles: readonly Box[] = [],
): ReadonlySet<string> {
  const taken = new Taken();
  for (const box of obstacles) taken.add(box);
  const placed = new Set<string>();
  const ordered = [...candidates].sort((a, b) => b.importance - a.importance || (a.id < b.id ? -1 : 1));
  for (const { id, box } of ordered) {
    if (!taken.free(box)) continue;
    taken.add(box);
    placed.add(id);
  }
  return placed;
}
