import { createContext, useCallback, useContext, useEffect, useRef, useState } from 'react';
import type { Cancel, Client, Connection, StreamHandlers } from '../../contract/client.ts';
import type { Failure, Result } from '../../contract/failure.ts';

/** The one connection to the engine. */
export const ConnectionContext = createContext<Connection | undefined>(undefined);

/** The connection; the frame provides it. */
export function useConnection(): Connection {
  const connection = useContext(ConnectionContext);
  if (!connection) throw new Error('no connection was provided');
  return connection;
}

/** The engine's procedures and streams. */
export function useClient(): Client {
  return useConnection().client;
}

/** Whether the engine answers. */
export function useConnectionState(): 'connecting' | 'open' | 'lost' {
  const connection = useConnection();
  const [state, setState] = useState(connection.state);
  useEffect(() => {
    setState(connection.state());
    return connection.onState(setState);
  }, [connection]);
  return state;
}

/** What a view has of something: the value (perhaps from before a failure), the failure, and a way to try again. */
export interface Loaded<T> {
  readonly value: T | undefined;
  readonly failure: Failure | undefined;
  /** True until the first value or failure. */
  readonly pending: boolean;
  readonly retry: () => void;
}

/** Seconds until a failed stream is opened again by itself. */
const retrySeconds = [2, 5, 15, 30];

/**
 * Opens a stream while the component is there and hands its batches on. It is opened anew when the engine comes back
 * and, after other failures, with growing pauses; `retry` does it at once. `open` undefined: nothing is opened.
 * `key` says when it is another stream.
 */
export function useStream<T>(
  key: string,
  open: ((client: Client, handlers: StreamHandlers<T>) => Cancel) | undefined,
  onBatch: (items: readonly T[]) => void | Promise<void>,
  onOpen?: () => void,
  /** For streams that do something: opened again by `retry` only. */
  once = false,
): { readonly failure: Failure | undefined; readonly ended: boolean; readonly retry: () => void } {
  const connection = useConnection();
  const [round, setRound] = useState(0);
  const [state, setState] = useState<{ failure: Failure | undefined; ended: boolean }>({
    failure: undefined,
    ended: false,
  });
  const latest = useRef({ open, onBatch, onOpen });
  latest.current = { open, onBatch, onOpen };
  const attempts = useRef({ key, count: 0 });
  const wanted = open !== undefined;

  // biome-ignore lint/correctness/useExhaustiveDependencies: `round` opens it again
  useEffect(() => {
    setState({ failure: undefined, ended: false });
    if (!wanted || !latest.current.open) return;
    if (attempts.current.key !== key) attempts.current = { key, count: 0 };
    let timer: ReturnType<typeof setTimeout> | undefined;
    let offState: Cancel | undefined;
    const again = () => setRound((value) => value + 1);
    latest.current.onOpen?.();
    const cancel = latest.current.open(connection.client, {
      batch: (items) => {
        if (items.length > 0) {
          attempts.current.count = 0;
          setState((old) => (old.failure ? { failure: undefined, ended: false } : old));
        }
        return latest.current.onBatch(items);
      },
      end: (failure) => {
        setState({ failure, ended: failure === undefined });
        if (!failure || once) return;
        if (failure.code === 'connection.lost' || connection.state() !== 'open') {
          offState = connection.onState((next) => {
            if (next === 'open') again();
          });
          if (connection.state() === 'open') timer = setTimeout(again, 500);
        } else {
          const seconds = retrySeconds[Math.min(attempts.current.count, retrySeconds.length - 1)] ?? 30;
          attempts.current.count += 1;
          timer = setTimeout(again, seconds * 1000);
        }
      },
    });
    return () => {
      clearTimeout(timer);
      offState?.();
      cancel();
    };
  }, [connection, key, wanted, round, once]);

  const retry = useCallback(() => {
    attempts.current.count = 0;
    setRound((value) => value + 1);
  }, []);
  return { ...state, retry };
}

/** The newest item of a stream whose items are whole pictures. The last value stays through failures of the same key. */
export function useLatest<T>(
  key: string,
  open: ((client: Client, handlers: StreamHandlers<T>) => Cancel) | undefined,
): Loaded<T> {
  const [held, setHeld] = useState<{ key: string; value: T } | undefined>(undefined);
  const { failure, ended, retry } = useStream<T>(key, open, (items) => {
    const value = items.at(-1);
    if (value !== undefined) setHeld({ key, value });
  });
  const value = held?.key === key && open ? held.value : undefined;
  return { value, failure, pending: value === undefined && !failure && !ended && open !== undefined, retry };
}

/** Asks once per `key` while the component is there; cancelled when it goes. `call` undefined: nothing is asked. */
export function useProcedure<T>(
  key: string,
  call: ((client: Client, signal: AbortSignal) => Promise<Result<T>>) | undefined,
): Loaded<T> {
  const connection = useConnection();
  const [round, setRound] = useState(0);
  const [held, setHeld] = useState<{ key: string; result: Result<T> } | undefined>(undefined);
  const latest = useRef(call);
  latest.current = call;
  const wanted = call !== undefined;
  // biome-ignore lint/correctness/useExhaustiveDependencies: `round` asks again
  useEffect(() => {
    if (!wanted || !latest.current) return;
    const abort = new AbortController();
    void latest.current(connection.client, abort.signal).then((result) => {
      if (!abort.signal.aborted) setHeld({ key, result });
    });
    return () => abort.abort();
  }, [connection, key, wanted, round]);
  const result = held?.key === key ? held.result : undefined;
  return {
    value: result?.ok ? result.value : undefined,
    failure: result && !result.ok ? result.failure : undefined,
    pending: wanted && !result,
    retry: useCallback(() => setRound((value) => value + 1), []),
  };
}

/** An action that a person starts: runs one at a time and keeps the failure for the view. */
export function useAction<A extends readonly unknown[], T>(
  action: (client: Client, ...args: A) => Promise<Result<T>>,
): {
  readonly run: (...args: A) => Promise<T | undefined>;
  readonly pending: boolean;
  readonly failure: Failure | undefined;
  readonly clear: () => void;
} {
  const client = useClient();
  const [pending, setPending] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const alive = useRef(true);
  useEffect(() => {
    alive.current = true;
    return () => {
      alive.current = false;
    };
  }, []);
  const latest = useRef(action);
  latest.current = action;
  const run = useCallback(
    async (...args: A) => {
      setPending(true);
      setFailure(undefined);
      const result = await latest.current(client, ...args);
      if (alive.current) {
        setPending(false);
        if (!result.ok) setFailure(result.failure);
      }
      return result.ok ? result.value : undefined;
    },
    [client],
  );
  return { run, pending, failure, clear: useCallback(() => setFailure(undefined), []) };
}
