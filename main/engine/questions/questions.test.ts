import { describe, expect, it } from 'vitest';
import type { Question } from '../../../contract/questions.ts';
import { createQuestions } from './index.ts';

const context = (signal = new AbortController().signal) => ({ signal, connection: 'test' });

/** Follows the questions that wait. */
function follow(questions: ReturnType<typeof createQuestions>) {
  const stop = new AbortController();
  let latest: readonly Question[] = [];
  let look: () => void = () => {};
  const ended = questions.implementation.watch(
    {},
    {
      async push(items) {
        latest = (items.at(-1)?.questions ?? []) as readonly Question[];
        look();
      },
    },
    context(stop.signal),
  );
  const until = (count: number) =>
    new Promise<readonly Question[]>((resolve) => {
      look = () => {
        if (latest.length === count) resolve(latest);
      };
      look();
    });
  return { until, stop, ended };
}

const secrets = {
  about: 'ops@box',
  title: 'Password',
  instructions: '',
  prompts: [{ label: 'Password', hidden: true }],
};

describe('questions', () => {
  it('reach whoever watches, take one answer, and are gone then', async () => {
    using questions = createQuestions();
    const { until, stop, ended } = follow(questions);
    const answer = questions.secrets(secrets, context().signal);
    const [question] = await until(1);
    if (!question) throw new Error('no question');
    const { implementation: api } = questions;
    expect(await api.decide({ id: question.id, accept: true }, context())).toMatchObject({ ok: false });
    expect(await api.answer({ id: question.id, answers: [] }, context())).toMatchObject({
      ok: false,
      failure: { code: 'question.incomplete' },
    });
    expect(await api.answer({ id: question.id, answers: ['s3cret'] }, context())).toEqual({ ok: true, value: {} });
    expect(await answer).toEqual(['s3cret']);
    await until(0);
    expect(await api.answer({ id: question.id, answers: ['again'] }, context())).toMatchObject({
      ok: false,
      failure: { code: 'question.gone' },
    });
    stop.abort();
    expect(await ended).toBeUndefined();
  });

  it('end with nobody’s answer when given up, when what asked has ended, and with the engine', async () => {
    const questions = createQuestions();
    const { until } = follow(questions);
    const asking = new AbortController();
    const key = { about: 'box', host: 'box', algorithm: 'ssh-ed25519', fingerprint: 'SHA256:x' };
    const first = questions.hostKey(key, asking.signal);
    const second = questions.hostKey(key, context().signal);
    const third = questions.secrets(secrets, context().signal);
    const waiting = await until(3);
    asking.abort();
    expect(await first).toBe(false);
    const id = waiting.find((question) => question.kind === 'secrets')?.id ?? '';
    await questions.implementation.cancel({ id }, context());
    expect(await third).toBeUndefined();
    questions[Symbol.dispose]();
    expect(await second).toBe(false);
    expect(await questions.hostKey(key, context().signal)).toBe(false);
  });

  it('tell a login in the browser that the person gave up', async () => {
    using questions = createQuestions();
    const { until } = follow(questions);
    const shown = questions.browser(
      { about: 'prod', title: 'Log in', url: 'https://login.example', kept: 'In memory.' },
      context().signal,
    );
    const [question] = await until(1);
    await questions.implementation.cancel({ id: question?.id ?? '' }, context());
    expect(shown.signal.aborted).toBe(true);
    const done = questions.browser(
      { about: 'prod', title: 'Log in', url: 'https://login.example', kept: 'In memory.' },
      context().signal,
    );
    await until(1);
    done[Symbol.dispose]();
    await until(0);
  });
});
