import type { Flow, FlowHealth, FlowItem } from '../../../contract/flows.ts';

/** What the view draws: newest first, and counts. A new object for each change that is shown. */
export interface FlowPicture {
  readonly rows: readonly Flow[];
  /** Flows that arrived since the view was held. */
  readonly waiting: number;
  readonly total: number;
  /** Of these, seen after the stream began: what losses since then can be compared with. */
  readonly live: number;
  readonly held: boolean;
  readonly health: FlowHealth | undefined;
}

/** Most flows that are kept; older ones make room. */
export const flowCapacity = 50_000;
/** Redraws per second at most. */
const redrawMilliseconds = 100;

/**
 * Keeps the newest flows outside of React and tells its listener at most ten times a second. While held, the picture
 * stays as it is and arriving flows are only counted; they are there when it is let go.
 */
export class FlowStore {
  readonly #capacity: number;
  #ring: Flow[] = [];
  /** Where the next flow goes once the ring is full. */
  #next = 0;
  #total = 0;
  #live = 0;
  #begun = Date.now();
  #heldAt: number | undefined;
  #health: FlowHealth | undefined;
  #picture: FlowPicture = { rows: [], waiting: 0, total: 0, live: 0, held: false, health: undefined };
  #listeners = new Set<() => void>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastDraw = 0;

  constructor(capacity = flowCapacity) {
    this.#capacity = capacity;
  }

  /** Takes a batch from the stream. */
  readonly take = (items: readonly FlowItem[]): void => {
    for (const item of items) {
      if (item.kind === 'health') {
        this.#health = item.health;
        continue;
      }
      this.#total += 1;
      if (item.flow.time >= this.#begun) this.#live += 1;
      if (this.#ring.length < this.#capacity) {
        this.#ring.push(item.flow);
      } else {
        this.#ring[this.#next] = item.flow;
        this.#next = (this.#next + 1) % this.#capacity;
      }
    }
    this.#schedule();
  };

  /** Forgets everything: another request has begun. */
  readonly clear = (): void => {
    this.#ring = [];
    this.#next = 0;
    this.#total = 0;
    this.#live = 0;
    this.#begun = Date.now();
    this.#health = undefined;
    if (this.#heldAt !== undefined) this.#heldAt = 0;
    this.#draw(true);
  };

  /** Holds the picture, or lets it go. */
  readonly hold = (held: boolean): void => {
    if (held === (this.#heldAt !== undefined)) return;
    if (held) this.#draw();
    this.#heldAt = held ? this.#total : undefined;
    this.#draw();
  };

  readonly picture = (): FlowPicture => this.#picture;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) {
        clearTimeout(this.#timer);
        this.#timer = undefined;
      }
    };
  };

  #schedule(): void {
    if (this.#timer !== undefined || this.#listeners.size === 0) return;
    const wait = Math.max(0, redrawMilliseconds - (performance.now() - this.#lastDraw));
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#draw();
    }, wait);
  }

  #newestFirst(): Flow[] {
    return [...this.#ring.slice(this.#next), ...this.#ring.slice(0, this.#next)].reverse();
  }

  #draw(renew = false): void {
    this.#lastDraw = performance.now();
    const held = this.#heldAt !== undefined;
    this.#picture = {
      rows: held && !renew ? this.#picture.rows : this.#newestFirst(),
      waiting: this.#heldAt === undefined ? 0 : this.#total - this.#heldAt,
      total: this.#total,
      live: this.#live,
      held,
      health: this.#health,
    };
    for (const listener of [...this.#listeners]) listener();
  }
}
