import type { Client, StreamHandlers } from '../../contract/client.ts';
import { ok, type Result } from '../../contract/failure.ts';
import { agentSilent } from './fixture-data.ts';

const soon = <T>(value: T): Promise<Result<T>> => new Promise((resolve) => setTimeout(() => resolve(ok(value)), 60));
const failing = <T>(handlers: StreamHandlers<T>) => {
  const timer = setTimeout(() => handlers.end(agentSilent), 80);
  return () => clearTimeout(timer);
};

/** Logs, support bundles and questions of a fixture: nothing is asked, and agents do not answer. */
export const fixtureSupport: Pick<Client, 'logs' | 'questions' | 'rights' | 'support'> = {
  support: {
    items: () => soon({ items: [] }),
    preview: () => soon({ files: [], failures: [] }),
    collect: (_input, handlers) => failing(handlers),
  },
  logs: { follow: (_input, handlers) => failing(handlers) },
  rights: { review: () => soon({ user: 'operator', rights: [] }) },
  questions: {
    watch: (_input, handlers) => {
      void handlers.batch([{ questions: [] }]);
      return () => {};
    },
    decide: () => soon({}),
    answer: () => soon({}),
    cancel: () => soon({}),
  },
};
