import { type Failure, failed, type Result } from '../../../contract/failure.ts';

/** Something that changes and tells so. */
export interface Watched {
  readonly onChange: (listener: () => void) => Disposable;
}

/**
 * Waits until `check` gives a value, looking whenever one of `sources` changes. `check` may give a failure to end the
 * wait early. After `seconds` the failure of `late` is the result.
 */
export async function waitFor<T>(
  sources: readonly Watched[],
  signal: AbortSignal,
  seconds: number,
  check: () => Result<T> | undefined,
  late: () => Failure,
): Promise<Result<T>> {
  using stack = new DisposableStack();
  return await new Promise<Result<T>>((resolve) => {
    const look = () => {
      const found = check();
      if (found) resolve(found);
    };
    for (const source of sources) stack.use(source.onChange(look));
    const timer = setTimeout(() => resolve(failed(late())), seconds * 1000);
    stack.defer(() => clearTimeout(timer));
    const abort = () =>
      resolve(failed({ code: 'cancelled', what: 'Stopped.', why: 'The wait was cancelled.', fix: 'Start again.' }));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    stack.defer(() => signal.removeEventListener('abort', abort));
    look();
  });
}
