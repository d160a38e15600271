import { z } from 'zod/mini';
import { reads, streams } from './procedure.ts';

/**
 * Something that only a person can answer while a connection is being made. Every window shows it; the first answer
 * counts. What is asked says who asks (`about`), so that a password is never typed for the wrong machine.
 */
export const questionSchema = z.union([
  /** A host key that nobody has vouched for. A changed or revoked key is never asked about. */
  z.object({
    kind: z.literal('host-key'),
    id: z.string(),
    about: z.string(),
    host: z.string(),
    algorithm: z.string(),
    /** "SHA256:…" as ssh prints it. */
    fingerprint: z.string(),
  }),
  /** One or more texts: a passphrase, a password, or what a server asks (a code from a device). */
  z.object({
    kind: z.literal('secrets'),
    id: z.string(),
    about: z.string(),
    title: z.string(),
    /** The server's own words, if it has any. */
    instructions: z.string(),
    prompts: z.readonly(z.array(z.object({ label: z.string(), hidden: z.boolean() }))),
  }),
  /** A login in the system's browser. Answered by the browser; the person can only give up. */
  z.object({
    kind: z.literal('browser'),
    id: z.string(),
    about: z.string(),
    title: z.string(),
    /** Where what the login gives is kept, in a sentence. */
    kept: z.string(),
    /** Opened in the system's browser; shown so that it can be opened by hand. */
    url: z.string(),
  }),
]);
export type Question = Readonly<z.infer<typeof questionSchema>>;

export const questions = {
  /** All questions that wait; one item per change, each the whole list. */
  watch: streams(z.object({}), z.object({ questions: z.readonly(z.array(questionSchema)) })),
  /** Answers a host key question. */
  decide: reads(z.object({ id: z.string(), accept: z.boolean() }), z.object({})),
  /** Answers with texts, one for each prompt, in their order. They are used once and kept nowhere. */
  answer: reads(z.object({ id: z.string(), answers: z.readonly(z.array(z.string())) }), z.object({})),
  /** Gives up: whatever asked ends with a failure that says so. */
  cancel: reads(z.object({ id: z.string() }), z.object({})),
} as const;
