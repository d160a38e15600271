import type { z } from 'zod/mini';

/** One request, one answer. `writes` marks what changes a cluster or a file: such calls are refused on protected clusters. */
export interface Procedure<I extends z.ZodMiniType, O extends z.ZodMiniType> {
  readonly kind: 'procedure';
  readonly input: I;
  readonly output: O;
  readonly writes: boolean;
}

/** One request, many items in batches, ended by the producer, by a failure, or by the consumer's cancel. */
export interface Stream<I extends z.ZodMiniType, T extends z.ZodMiniType> {
  readonly kind: 'stream';
  readonly input: I;
  readonly item: T;
}

/** Declares a procedure that only reads. */
export function reads<I extends z.ZodMiniType, O extends z.ZodMiniType>(input: I, output: O): Procedure<I, O> {
  return { kind: 'procedure', input, output, writes: false };
}

/** Declares a procedure that changes something outside the console. */
export function writes<I extends z.ZodMiniType, O extends z.ZodMiniType>(input: I, output: O): Procedure<I, O> {
  return { kind: 'procedure', input, output, writes: true };
}

/** Declares a stream. */
export function streams<I extends z.ZodMiniType, T extends z.ZodMiniType>(input: I, item: T): Stream<I, T> {
  return { kind: 'stream', input, item };
}

/** Any contract: capabilities, their verbs, and what each takes and gives. */
export type AnyContract = Readonly<
  Record<
    string,
    Readonly<Record<string, Procedure<z.ZodMiniType, z.ZodMiniType> | Stream<z.ZodMiniType, z.ZodMiniType>>>
  >
>;
