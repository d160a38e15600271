import { failed, ok, type Result } from '../../../contract/failure.ts';
import type { ClusterConnection } from '../kube/cluster-connection.ts';

/** What a command in a container gave. */
export interface Executed {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface ExecuteOptions {
  readonly signal: AbortSignal;
  readonly seconds: number;
  /** Aborted to close standard input; without it, it is closed at once. */
  readonly until?: AbortSignal;
}

/** Runs a command in a container to its end and collects what it prints. */
export async function execute(
  connection: Pick<ClusterConnection, 'exec'>,
  target: {
    readonly namespace: string;
    readonly pod: string;
    readonly container: string;
    readonly command: readonly string[];
  },
  { signal, seconds, until }: ExecuteOptions,
): Promise<Result<Executed>> {
  const opened = await connection.exec({ ...target, tty: false });
  if (!opened.ok) return opened;
  const session = opened.value;
  using stack = new DisposableStack();
  stack.defer(() => session.close());
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    session[name].on('data', (chunk: Buffer | string) => {
      output[name] += chunk.toString();
    });
    session[name].on('error', () => undefined);
  }
  const closeInput = () => session.stdin.end();
  if (!until || until.aborted) closeInput();
  else {
    until.addEventListener('abort', closeInput, { once: true });
    stack.defer(() => until.removeEventListener('abort', closeInput));
  }
  const ended = await new Promise<Result<number> | 'late' | 'stopped'>((resolve) => {
    void session.exit.then(resolve);
    const timer = setTimeout(() => resolve('late'), seconds * 1000);
    stack.defer(() => clearTimeout(timer));
    const stop = () => resolve('stopped');
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    stack.defer(() => signal.removeEventListener('abort', stop));
  });
  if (ended === 'late')
    return failed({
      code: 'exec.late',
      what: `${target.command.slice(0, 3).join(' ')} did not end.`,
      why: `It was still running after ${seconds} s in ${target.namespace}/${target.pod}.`,
      fix: 'Look at the load of the node, and try again.',
    });
  if (ended === 'stopped')
    return failed({ code: 'cancelled', what: 'Stopped.', why: 'It was cancelled.', fix: 'Start it again.' });
  return ended.ok ? ok({ code: ended.value, ...output }) : ended;
}
