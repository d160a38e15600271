import type { z } from 'zod/mini';
import type { Failure, Result } from './failure.ts';
import type { Contract } from './index.ts';
import type { AnyContract, Procedure, Stream } from './procedure.ts';

/** Who asks, and until when. */
export interface CallContext {
  /** Aborted when the caller cancels or its connection ends. */
  readonly signal: AbortSignal;
  /** Unique per connection; for resources that belong to one window. */
  readonly connection: string;
}

/** Where a stream's producer puts items. `push` waits while the consumer has no credit left: back-pressure reaches the source. */
export interface Sink<T> {
  readonly push: (items: readonly T[]) => Promise<void>;
}

type Handler<P> =
  P extends Procedure<infer I, infer O>
    ? (input: z.output<I>, context: CallContext) => Promise<Result<z.input<O>>>
    : P extends Stream<infer I, infer T>
      ? /** Resolves when the stream ends: with a failure, or undefined for a normal end. */
        (input: z.output<I>, sink: Sink<z.input<T>>, context: CallContext) => Promise<Failure | undefined>
      : never;

/** What the engine provides for one capability. */
export type CapabilityImplementation<C extends keyof Contract> = {
  readonly [V in keyof Contract[C]]: Handler<Contract[C][V]>;
};

/** What the engine provides. */
export type Implementation = ImplementationOf<Contract>;

/** The same for any contract. */
export type ImplementationOf<K extends AnyContract> = {
  readonly [C in keyof K]: { readonly [V in keyof K[C]]: Handler<K[C][V]> };
};
