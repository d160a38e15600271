import { type Measurement, measureInPod } from './pods.ts';
import { median } from './report.ts';

/** How long one measurement is and how often it is repeated. */
export interface Effort {
  readonly quick: boolean;
  readonly seconds: number;
  readonly repeats: number;
}

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

/** The measurement, if nothing in it failed. */
export function good(measurement: Measurement): Measurement {
  if (measurement.errors > 0)
    throw new Error(`a measurement failed ${measurement.errors} times: ${measurement.firstError ?? ''}`);
  return measurement;
}

/** Runs one client in a pod and gives its rate. */
export async function rateInPod(pod: string, mode: string, to: string, seconds: number): Promise<number> {
  return good(await measureInPod(pod, [mode, '--to', to, '--seconds', String(seconds)])).perSecond;
}
