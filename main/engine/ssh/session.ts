import { stat } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Client, ClientChannel } from 'ssh2';
import { type Failure, failed, ok, type Result } from '../../../contract/failure.ts';
import type { SshCommandResult, SshSession, SshShell } from './ssh-connector.ts';

const largestOutput = 64 << 20;

function broke(host: string, doing: string, error: unknown): Failure {
  return {
    code: 'ssh.broke',
    what: `${doing} on ${host} failed.`,
    why: error instanceof Error ? error.message : String(error),
    fix: 'Check the machine and its sshd (it may forbid this), then try again.',
  };
}

interface Running {
  readonly ended: Promise<Result<SshCommandResult>>;
}

/**
 * Collects what a command writes and how it ends. To be called in ssh2's own callback: the answer "it has begun" and all
 * that follows, to the end, may have come in one piece, and is told in one go. Whoever listened only after a promise, as
 * microtasks run when all of it has been told, would miss the exit status.
 */
function collect(
  host: string,
  doing: string,
  channel: ClientChannel,
  options: Parameters<SshSession['run']>[1] & object,
): Promise<Result<SshCommandResult>> {
  return new Promise<Result<SshCommandResult>>((resolve) => {
    const stdout: Buffer[] = [];
    let size = 0;
    let stderr = '';
    let code: number | null = null;
    let exited = false;
    let ended: string | undefined;
    const abort = () => {
      channel.signal('KILL');
      channel.close();
      resolve(
        failed({
          code: 'cancelled',
          what: `${doing} on ${host} was ended.`,
          why: 'It was no longer needed.',
          fix: 'Nothing to do.',
        }),
      );
    };
    options.signal?.addEventListener('abort', abort, { once: true });
    channel.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > largestOutput) {
        ended = `it wrote more than ${largestOutput >> 20} MiB`;
        channel.close();
      } else stdout.push(chunk);
    });
    channel.stderr.on('data', (chunk: Buffer) => {
      if (stderr.length < 1 << 20) stderr += chunk.toString('utf8');
    });
    channel.on('exit', (status: number | null) => {
      exited = true;
      code = status;
    });
    channel.on('error', (error: Error) => {
      ended = error.message;
    });
    channel.on('close', () => {
      options.signal?.removeEventListener('abort', abort);
      if (ended !== undefined || !exited)
        return resolve(failed(broke(host, doing, ended ?? 'the connection was lost')));
      resolve(ok({ code, stdout: Buffer.concat(stdout), stderr }));
    });
    if (options.signal?.aborted) return abort();
    if (options.input) {
      // A command that ends before it has read everything is judged by its exit code.
      pipeline(options.input, channel, { end: true }).catch(() => {});
    } else channel.end();
  });
}

/** A shell over a channel; in ssh2's own callback, for the reason of `collect`. */
function shellOf(channel: ClientChannel): SshShell {
  const exit = Promise.withResolvers<{ readonly code: number | null; readonly signal: string | null }>();
  channel.on('exit', (code: number | null, signal?: string) => exit.resolve({ code, signal: signal ?? null }));
  channel.on('close', () => exit.resolve({ code: null, signal: null }));
  channel.on('error', () => {});
  return {
    stream: channel,
    exit: exit.promise,
    resize: (columns, rows) => channel.setWindow(rows, columns, 0, 0),
    close: () => channel.close(),
  };
}

/** Dresses an authenticated client. `close` ends it and every hop below it. */
export function createSession(
  route: readonly string[],
  client: Client,
  closed: AbortSignal,
  close: () => void,
): SshSession {
  const host = route.at(-1) ?? '';
  const open = <T>(
    doing: string,
    start: (done: (error: Error | undefined, channel: T) => void) => void,
  ): Promise<Result<T>> =>
    new Promise((resolve) => {
      if (closed.aborted) return resolve(failed(broke(host, doing, 'the connection is closed')));
      const lost = () => resolve(failed(broke(host, doing, 'the connection was lost')));
      closed.addEventListener('abort', lost, { once: true });
      const settle = (result: Result<T>) => {
        closed.removeEventListener('abort', lost);
        resolve(result);
      };
      try {
        start((error, channel) => settle(error ? failed(broke(host, doing, error)) : ok(channel)));
      } catch (error) {
        settle(failed(broke(host, doing, error)));
      }
    });

  return {
    host,
    route,
    closed,
    close,
    async run(command, options = {}) {
      const doing = `Running ${command.split(' ')[0]}`;
      const opened = await open<Running>(doing, (done) =>
        client.exec(command, (error, channel) =>
          done(error, error ? (undefined as never) : { ended: collect(host, doing, channel, options) }),
        ),
      );
      return opened.ok ? await opened.value.ended : opened;
    },
    async shell(columns, rows) {
      const opened = await open<SshShell>('Opening a shell', (done) =>
        client.shell({ term: 'xterm-256color', cols: columns, rows, width: 0, height: 0 }, (error, channel) =>
          done(error, error ? (undefined as never) : shellOf(channel)),
        ),
      );
      return opened;
    },
    async upload(localPath, remotePath, progress) {
      const doing = `Copying to ${remotePath}`;
      let total: number;
      try {
        total = (await stat(localPath)).size;
      } catch (error) {
        return failed(broke(host, doing, error));
      }
      const opened = await open<import('ssh2').SFTPWrapper>(doing, (done) => client.sftp(done));
      if (!opened.ok) return opened;
      const sftp = opened.value;
      return new Promise<Result<void>>((resolve) => {
        const lost = () => resolve(failed(broke(host, doing, 'the connection was lost')));
        closed.addEventListener('abort', lost, { once: true });
        sftp.fastPut(localPath, remotePath, { step: (sent) => progress?.(sent, total) }, (error) => {
          closed.removeEventListener('abort', lost);
          sftp.end();
          resolve(error ? failed(broke(host, doing, error)) : ok(undefined));
        });
      });
    },
    streamTo: (target, port) =>
      open<Duplex>(`Connecting to ${target}:${port}`, (done) => client.forwardOut('127.0.0.1', 0, target, port, done)),
  };
}
