import type { Connection } from '../client.ts';
import { failed } from '../failure.ts';
import type { AnyContract } from '../procedure.ts';
import { type ClientOptions, connectionLost, createClient, createTransport, type Transport } from './client.ts';
import type { Wire } from './frames.ts';

export interface ConnectOptions extends ClientOptions {
  /** Opens a wire; rejects when it cannot. Called again after each loss. */
  readonly dial: () => Promise<Wire>;
  /** Delays between attempts in milliseconds; the last one repeats. Empty: never again after a loss. */
  readonly backoff?: readonly number[];
}

/**
 * A client that outlives its wires. Requests made while the first wire is being opened wait for it; requests made
 * while the connection is lost fail at once with `connection.lost`, and whoever needs a stream opens it again when
 * `onState` says `open`. Delays carry up to a quarter of jitter.
 */
export function connect<K extends AnyContract>(contract: K, options: ConnectOptions): Connection<K> {
  const backoff = options.backoff ?? [100, 250, 500, 1000, 2000, 5000];
  const listeners = new Set<(state: 'connecting' | 'open' | 'lost') => void>();
  let state: 'connecting' | 'open' | 'lost' = 'connecting';
  let transport: Transport | undefined;
  let wire: Wire | undefined;
  let reason = '';
  let attempt = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let closed = false;
  let first: (() => void)[] = [];

  const setState = (next: 'connecting' | 'open' | 'lost') => {
    if (state === next) return;
    state = next;
    for (const listener of [...listeners]) listener(next);
  };
  const settleFirst = () => {
    const waiting = first;
    first = [];
    for (const resolve of waiting) resolve();
  };
  const lose = (why: string) => {
    reason = why;
    transport = undefined;
    wire = undefined;
    setState('lost');
    settleFirst();
    const delay = backoff[Math.min(attempt, backoff.length - 1)];
    if (closed || delay === undefined) return;
    attempt += 1;
    timer = setTimeout(dial, delay * (1 + Math.random() / 4));
  };
  const dial = () => {
    options.dial().then(
      (opened) => {
        if (closed) return opened.close();
        wire = opened;
        const fresh = createTransport(opened, options);
        transport = fresh;
        attempt = 0;
        setState('open');
        settleFirst();
        fresh.onClosed(lose);
      },
      (error: unknown) => lose(error instanceof Error ? error.message : String(error)),
    );
  };

  const current = async (): Promise<Transport | undefined> => {
    if (state === 'connecting') await new Promise<void>((resolve) => first.push(resolve));
    return transport;
  };
  const outer: Transport = {
    async call(method, output, input, signal) {
      const live = transport ?? (await current());
      return live ? live.call(method, output, input, signal) : failed(connectionLost(reason));
    },
    open(method, item, input, handlers) {
      if (transport) return transport.open(method, item, input, handlers);
      let cancelled = false;
      let cancel = () => {
        cancelled = true;
      };
      void current().then((live) => {
        if (cancelled) return;
        if (live) cancel = live.open(method, item, input, handlers);
        else handlers.end(connectionLost(reason));
      });
      return () => cancel();
    },
  };
  dial();

  return {
    client: createClient(contract, outer),
    state: () => state,
    onState(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close() {
      closed = true;
      clearTimeout(timer);
      wire?.close();
      if (state !== 'lost') lose('The connection was closed.');
    },
  };
}
