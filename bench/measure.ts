import type { Client, Measurement } from './pods.ts';

/** How much is measured. */
export interface Effort {
  readonly quick: boolean;
  /** How many short turns each of those takes that are compared. */
  readonly turns: number;
}

/** The length of a short turn in seconds: many times what an agent waits between two looks at its events. */
export const turn = 0.4;

export const trips = (m: Measurement): number => m.perSecond;
export const bits = (m: Measurement): number => m.bitsPerSecond ?? 0;

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
