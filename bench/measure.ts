import { type Client, good, type Measurement, measureInPod } from './pods.ts';
import { median } from './report.ts';

/** How long one measurement is and how often it is repeated. */
export interface Effort {
  readonly quick: boolean;
  readonly seconds: number;
  readonly repeats: number;
  /** How many turns those take that are compared by short ones. */
  readonly turns: number;
}

/** The length of a short turn in seconds: many times what an agent waits between two looks at its events. */
export const turn = 0.4;

export const trips = (m: Measurement): number => m.perSecond;
export const bits = (m: Measurement): number => m.bitsPerSecond ?? 0;

/** Two measurements in turns (A B A B …), since a machine's speed changes more over time than they differ. */
export async function inTurns(
  rounds: number,
  a: () => Promise<number>,
  b: () => Promise<number>,
): Promise<readonly [number, number]> {
  const first: number[] = [];
  const second: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    first.push(await a());
    second.push(await b());
  }
  return [median(first), median(second)];
}

/**
 * Lets clients measure in turns, every other round the other way about, so that none is always the one after a certain other.
 * Ends them all; gives the measurements in the order of the rounds.
 */
export async function takeTurns<N>(
  clients: ReadonlyMap<N, Client>,
  rounds: number,
): Promise<ReadonlyMap<N, readonly Measurement[]>> {
  const taken = new Map<N, Measurement[]>([...clients.keys()].map((name) => [name, []]));
  try {
    const order = [...clients];
    for (let round = 0; round < rounds; round += 1)
      for (const [name, client] of round % 2 === 0 ? order : order.toReversed())
        taken.get(name)?.push(await client.turn());
  } finally {
    await Promise.all([...clients.values()].map((client) => client.end()));
  }
  return taken;
}

/** Runs one client in a pod and gives its rate. */
export async function rateInPod(pod: string, mode: string, to: string, seconds: number): Promise<number> {
  return good(await measureInPod(pod, [mode, '--to', to, '--seconds', String(seconds)])).perSecond;
}
