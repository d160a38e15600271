import { z } from 'zod/mini';

/**
 * What went wrong, in words for an operator. Every error that crosses the contract has this shape; nothing else does.
 * `code` is stable and machine readable (`cluster.unreachable`); `what` is one sentence; `why` the cause as far as known;
 * `fix` the next action. `details` may carry the verbatim text of the thing that failed (never secrets).
 */
export const failureSchema = z.object({
  code: z.string(),
  what: z.string(),
  why: z.string(),
  fix: z.string(),
  details: z.optional(z.string()),
});
export type Failure = Readonly<z.infer<typeof failureSchema>>;

/** A value or a failure. Expected failures are values; exceptions are bugs. */
export type Result<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly failure: Failure };

/** Wraps a value. */
export function ok<T>(value: T): Result<T> {
  return { ok: true, value };
}

/** Wraps a failure. */
export function failed<T = never>(failure: Failure): Result<T> {
  return { ok: false, failure };
}
