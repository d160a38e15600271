/** A flow on its way to the view: when it happened, and what it is. */
export interface Timed<T> {
  /** Unix milliseconds. */
  readonly time: number;
  readonly value: T;
}

interface Waiting<T> {
  readonly item: Timed<T>;
  readonly arrived: number;
}

/**
 * Puts the flows of many nodes into one order. Items wait `window` milliseconds, so that what happened before but
 * arrives later from another node finds its place; what arrives later still keeps the order of its arrival. Holds at
 * most `capacity` items: the oldest give way, and are counted.
 */
export class MergeBuffer<T> {
  #items: Waiting<T>[] = [];
  #lost = 0;
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** How many items had to be dropped so far. */
  get lost(): number {
    return this.#lost;
  }

  get size(): number {
    return this.#items.length;
  }

  add(item: Timed<T>, now: number): void {
    this.#items.push({ item, arrived: now });
    // Cutting costs a copy, so it is done for many at once.
    if (this.#items.length > this.#capacity * 1.25) this.#cut();
  }

  #cut(): void {
    const surplus = this.#items.length - this.#capacity;
    if (surplus <= 0) return;
    this.#items.sort((a, b) => a.item.time - b.item.time);
    this.#items = this.#items.slice(surplus);
    this.#lost += surplus;
  }

  /** Takes what arrived before `until`, in order of time; at most `most`. */
  take(until: number, most = Number.POSITIVE_INFINITY): readonly T[] {
    this.#cut();
    const ready: Timed<T>[] = [];
    const rest: Waiting<T>[] = [];
    for (const entry of this.#items)
      if (entry.arrived <= until) ready.push(entry.item);
      else rest.push(entry);
    // Of what is ready and older than the newest ready item, nothing may stay behind the window.
    ready.sort((a, b) => a.time - b.time);
    const taken = ready.slice(0, most);
    this.#items = [...ready.slice(most).map((item) => ({ item, arrived: until })), ...rest];
    return taken.map((item) => item.value);
  }
}
