import type { z } from 'zod/mini';
import type { Failure, Result } from './failure.ts';
import type { Contract } from './index.ts';
import type { AnyContract, Procedure, Stream } from './procedure.ts';

/** Receives a stream. `batch` may return a promise: credits are given back when it settles, so a slow consumer slows the producer. */
export interface StreamHandlers<T> {
  readonly batch: (items: readonly T[]) => void | Promise<void>;
  /** Called exactly once, unless cancelled by the caller: without a failure when the producer ended. */
  readonly end: (failure?: Failure) => void;
  /** What may be under way at once; the protocol's usual window unless told. */
  readonly window?: { readonly items: number; readonly bytes: number };
}

/** Cancels a stream; idempotent. */
export type Cancel = () => void;

type Method<P> =
  P extends Procedure<infer I, infer O>
    ? (input: z.input<I>, options?: { readonly signal?: AbortSignal }) => Promise<Result<z.output<O>>>
    : P extends Stream<infer I, infer T>
      ? (input: z.input<I>, handlers: StreamHandlers<z.output<T>>) => Cancel
      : never;

/** What the renderer holds: `client.clusters.connect({cluster})`, `client.flows.watch({...}, {batch, end})`. */
export type Client = ClientOf<Contract>;

/** The same for any contract. */
export type ClientOf<K extends AnyContract> = {
  readonly [C in keyof K]: { readonly [V in keyof K[C]]: Method<K[C][V]> };
};

/** A connection to an engine: the client and its own state. */
export interface Connection<K extends AnyContract = Contract> {
  readonly client: ClientOf<K>;
  /** `lost` carries why; the transport reconnects by itself and streams end with code `connection.lost`. */
  readonly state: () => 'connecting' | 'open' | 'lost';
  readonly onState: (listener: (state: 'connecting' | 'open' | 'lost') => void) => Cancel;
  readonly close: () => void;
}
