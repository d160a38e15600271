import type { Sink } from '../../contract/implementation.ts';

/**
 * Streams whole pictures: one at once, and one after each change, however many changes came while the last one was on
 * its way. Ends with the signal, or after the picture that `isLast`.
 */
export async function streamWholePictures<T>(
  listeners: Set<() => void>,
  sink: Sink<T>,
  signal: AbortSignal,
  picture: () => T,
  isLast: (picture: T) => boolean = () => false,
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
        const shown = picture();
        await sink.push([shown]);
        if (isLast(shown)) break;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    listeners.delete(listener);
    signal.removeEventListener('abort', listener);
  }
  return undefined;
}
