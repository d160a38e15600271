import type { Sink } from '../../contract/implementation.ts';

/**
 * Streams whole pictures: one at once, and one after each change, however many changes came while the last one was on
 * its way. Ends with the signal.
 */
export async function streamWholePictures<T>(
  listeners: Set<() => void>,
  sink: Sink<T>,
  signal: AbortSignal,
  picture: () => T,
): Promise<undefined> {
  let wake: () => void = () => {};
  let dirty = true;
  const listener = () => {
    dirty = true;
    wake();
  };
  listeners.add(listener);
  signal.addEventListener('abort', listener, { once: true });
  try {
    while (!signal.aborted) {
      if (dirty) {
        dirty = false;
        await sink.push([picture()]);
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    listeners.delete(listener);
  }
  return undefined;
}
