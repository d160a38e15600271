/** A line with its time, and when it arrived here. */
export interface TimedLine {
  readonly source: number;
  readonly time: number;
  readonly text: string;
  readonly arrived: number;
}

/**
 * Puts lines of several sources in the order of their times. Every line is held for a moment, because another source's
 * older line may still be on its way; lines of one source never overtake each other.
 */
export class Merge {
  #held: TimedLine[] = [];
  readonly #hold: number;
  constructor(holdMilliseconds: number) {
    this.#hold = holdMilliseconds;
  }

  get size(): number {
    return this.#held.length;
  }

  add(line: TimedLine): void {
    this.#held.push(line);
  }

  /** The lines that have waited long enough, or all of them, in order. */
  take(now: number, all = false): readonly TimedLine[] {
    const ready = this.#held.filter((line) => all || line.arrived + this.#hold <= now);
    if (ready.length === 0) return [];
    const newest = Math.max(...ready.map((line) => line.time));
    // What is older than a line that goes out goes with it, however late it came.
    const out = this.#held.filter((line) => all || line.arrived + this.#hold <= now || line.time < newest);
    const gone = new Set(out);
    this.#held = this.#held.filter((line) => !gone.has(line));
    // Stable: equal times keep the order in which they came.
    return out.sort((a, b) => a.time - b.time);
  }
}

/** Splits "2026-01-02T03:04:05.123456789Z text" as the kubelet writes it; undefined where it is not of that form. */
export function splitLine(
  line: string,
): { readonly time: number; readonly stamp: string; readonly text: string } | undefined {
  const at = line.indexOf(' ');
  const stamp = at < 0 ? line : line.slice(0, at);
  if (!/^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$/.test(stamp)) return undefined;
  // Dates of JavaScript end at milliseconds; the rest keeps lines of one millisecond in order by their arrival.
  const time = Date.parse(stamp.replace(/(\.\d{3})\d+/, '$1'));
  return Number.isNaN(time) ? undefined : { time, stamp, text: at < 0 ? '' : line.slice(at + 1) };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
const control = /\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]/g;

/** A log is shown, not obeyed: colours and control characters of a terminal are taken out. */
export function plain(text: string): string {
  return text.replaceAll(control, '');
}
