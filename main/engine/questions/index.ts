import { randomUUID } from 'node:crypto';
import { type Failure, failed, ok } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { Question } from '../../../contract/questions.ts';
import { streamWholePictures } from '../whole-pictures.ts';

/** A question as who asks it knows it: without an id. */
type Asked<K extends Question['kind']> = Omit<Extract<Question, { readonly kind: K }>, 'id' | 'kind'>;

/** How capabilities ask a person. Undefined or false: nobody answered, or the person gave up. */
export interface Questions {
  readonly hostKey: (question: Asked<'host-key'>, signal: AbortSignal) => Promise<boolean>;
  readonly secrets: (question: Asked<'secrets'>, signal: AbortSignal) => Promise<readonly string[] | undefined>;
  /** Shown while a login in the browser goes on; the signal given ends when the person gives up. */
  readonly browser: (question: Asked<'browser'>, signal: AbortSignal) => Disposable & { readonly signal: AbortSignal };
}

interface Waiting {
  readonly question: Question;
  readonly settle: (answer: boolean | readonly string[] | undefined) => void;
}

const gone = (id: string): Failure => ({
  code: 'question.gone',
  what: 'This question does not wait any more.',
  why: `It was answered in another window, or what asked it has ended (${id}).`,
  fix: 'Connect again if the connection was not made.',
});

/** Keeps the questions that wait, and hands each answer to whoever asked. Answers are never kept or logged. */
export function createQuestions(): Questions & {
  readonly implementation: CapabilityImplementation<'questions'>;
  readonly asksToOpen: (address: string) => boolean;
} & Disposable {
  const waiting = new Map<string, Waiting>();
  const listeners = new Set<() => void>();
  const end = new AbortController();
  const changed = () => {
    for (const listener of [...listeners]) listener();
  };

  const ask = (
    question: Question,
    signal: AbortSignal,
    answered: (answer: boolean | readonly string[] | undefined) => void,
  ): (() => void) => {
    const ending = AbortSignal.any([signal, end.signal]);
    const settle = (answer: boolean | readonly string[] | undefined) => {
      if (!waiting.delete(question.id)) return;
      ending.removeEventListener('abort', giveUp);
      changed();
      answered(answer);
    };
    const giveUp = () => settle(undefined);
    if (ending.aborted) {
      answered(undefined);
      return () => {};
    }
    waiting.set(question.id, { question, settle });
    ending.addEventListener('abort', giveUp, { once: true });
    changed();
    return giveUp;
  };

  return {
    hostKey: (question, signal) =>
      new Promise((resolve) => {
        ask({ kind: 'host-key', id: randomUUID(), ...question }, signal, (answer) => resolve(answer === true));
      }),
    secrets: (question, signal) =>
      new Promise((resolve) => {
        ask({ kind: 'secrets', id: randomUUID(), ...question }, signal, (answer) =>
          resolve(Array.isArray(answer) ? (answer as readonly string[]) : undefined),
        );
      }),
    browser(question, signal) {
      const given = new AbortController();
      const close = ask({ kind: 'browser', id: randomUUID(), ...question }, signal, () => given.abort());
      return { signal: given.signal, [Symbol.dispose]: close };
    },
    asksToOpen: (address) =>
      [...waiting.values()].some(({ question }) => question.kind === 'browser' && question.url === address),
    implementation: {
      watch: async (_input, sink, { signal }) =>
        await streamWholePictures(listeners, sink, signal, () => ({
          questions: [...waiting.values()].map(({ question }) => question),
        })),
      async decide({ id, accept }) {
        const entry = waiting.get(id);
        if (entry?.question.kind !== 'host-key') return failed(gone(id));
        entry.settle(accept);
        return ok({});
      },
      async answer({ id, answers }) {
        const entry = waiting.get(id);
        if (entry?.question.kind !== 'secrets') return failed(gone(id));
        if (answers.length !== entry.question.prompts.length)
          return failed({
            code: 'question.incomplete',
            what: 'The answer was not sent.',
            why: `It has ${answers.length} texts for ${entry.question.prompts.length} prompts.`,
            fix: 'Fill in every field.',
          });
        entry.settle(answers);
        return ok({});
      },
      async cancel({ id }) {
        const entry = waiting.get(id);
        if (!entry) return failed(gone(id));
        entry.settle(undefined);
        return ok({});
      },
    },
    [Symbol.dispose]: () => end.abort(),
  };
}
