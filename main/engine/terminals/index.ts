import { type Failure, failed, ok } from '../../../contract/failure.ts';
import type { CapabilityImplementation, Sink } from '../../../contract/implementation.ts';
import type { TerminalEvent } from '../../../contract/terminals.ts';
import type { Connections } from '../capability.ts';
import { type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import type { HostKeyQuestion } from '../ssh/ssh-connector.ts';
import { openShell, type Shell } from './session.ts';

export interface TerminalsOptions {
  readonly connections: Connections;
  readonly log: Log;
}

/** One open terminal of one window. */
interface Entry {
  /** The shell once it is open; undefined when it never opened. */
  readonly ready: Promise<Shell | undefined>;
  shell: Shell | undefined;
  columns: number;
  rows: number;
  /** Answers a host-key question that waits. */
  answer: ((accept: boolean) => void) | undefined;
}

/** Output is passed on in pieces of at most this many bytes. */
const pieceBytes = 64 << 10;

const unknownSession: Failure = {
  code: 'terminal.unknown',
  what: 'This terminal is not open.',
  why: 'It has ended, or belongs to another window.',
  fix: 'Open a new one.',
};

/** Passes a stream on, reading no faster than the view takes it. */
async function pump(output: NodeJS.ReadableStream, sink: Sink<TerminalEvent>): Promise<void> {
  for await (const chunk of output as AsyncIterable<Buffer | string>) {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk, 'utf8') : chunk;
    for (let offset = 0; offset < bytes.length; offset += pieceBytes)
      // A copy: the buffer's memory may be part of a pool that is written again.
      await sink.push([{ kind: 'data', data: Uint8Array.from(bytes.subarray(offset, offset + pieceBytes)) }]);
  }
}

/** Shells in pods and on nodes. */
export function createTerminals({
  connections,
  log,
}: TerminalsOptions): CapabilityImplementation<'terminals'> & Disposable {
  /** Keys are of one window each, so that no window can type into another's terminal. */
  const sessions = new Map<string, Entry>();
  const end = new AbortController();
  const key = (connection: string, session: string) => `${connection} ${session}`;

  return {
    async open({ session, target, columns, rows }, sink, context) {
      // A shell can change anything: where nothing may be changed there is none.
      const writable = connections.writable(target.cluster);
      if (!writable.ok) return writable.failure;
      const name = key(context.connection, session);
      if (sessions.has(name))
        return {
          code: 'terminal.exists',
          what: 'There is a terminal of this name already.',
          why: `“${session}” is open.`,
          fix: 'Choose another name.',
        };
      const signal = AbortSignal.any([context.signal, end.signal]);
      const { promise: ready, resolve: settle } = Promise.withResolvers<Shell | undefined>();
      const entry: Entry = { ready, shell: undefined, columns, rows, answer: undefined };
      sessions.set(name, entry);
      const askHostKey = async (question: HostKeyQuestion): Promise<boolean> => {
        await sink.push([{ kind: 'host-key', ...question }]);
        return await new Promise<boolean>((resolve) => {
          entry.answer = resolve;
          signal.addEventListener('abort', () => resolve(false), { once: true });
        });
      };
      const subject = target.kind === 'pod' ? `pod ${target.namespace}/${target.pod}` : `node ${target.node}`;
      try {
        const opened = await openShell({ connections, target, columns, rows, signal, askHostKey });
        if (!opened.ok) return opened.failure;
        const shell = opened.value;
        const close = () => shell.close();
        signal.addEventListener('abort', close, { once: true });
        try {
          if (signal.aborted) return undefined;
          entry.shell = shell;
          settle(shell);
          // The window may have been resized while the connection was made.
          shell.resize(entry.columns, entry.rows);
          log.info('terminals', `opened on ${subject}`);
          await sink.push([{ kind: 'opened', title: shell.title }]);
          // A stream that breaks has told why in `ended`.
          await Promise.all(shell.output.map((output) => pump(output, sink).catch(() => undefined)));
          const { code, reason } = await shell.ended;
          if (!signal.aborted) await sink.push([{ kind: 'exited', code, reason }]);
        } finally {
          signal.removeEventListener('abort', close);
          shell.close();
          log.info('terminals', `closed on ${subject}`);
        }
        return undefined;
      } finally {
        settle(undefined);
        sessions.delete(name);
      }
    },

    async input({ session, data }, context) {
      // What is typed while the connection is made waits for the shell: nothing typed is lost.
      const shell = await sessions.get(key(context.connection, session))?.ready;
      if (!shell) return failed(unknownSession);
      await shell.write(data);
      return ok({});
    },

    async resize({ session, columns, rows }, context) {
      const entry = sessions.get(key(context.connection, session));
      if (!entry) return failed(unknownSession);
      entry.columns = columns;
      entry.rows = rows;
      entry.shell?.resize(columns, rows);
      return ok({});
    },

    async answerHostKey({ session, accept }, context) {
      const entry = sessions.get(key(context.connection, session));
      if (!entry?.answer) return failed(unknownSession);
      entry.answer(accept);
      entry.answer = undefined;
      return ok({});
    },

    async sshHosts({ cluster }) {
      const ssh = connections.ssh(cluster);
      const hosts = await ssh.hosts();
      if (!hosts.ok) return hosts;
      const connection = await connections.get(cluster);
      const nodes = connection.ok ? await connection.value.list<NodeObject>(resources.nodes) : undefined;
      const nodeOf = new Map<string, string>();
      for (const node of nodes?.ok ? nodes.value : []) {
        const address = node.status?.addresses?.find((entry) => entry.type === 'InternalIP')?.address ?? '';
        const alias = await ssh.aliasFor({ name: node.metadata.name, address });
        if (alias !== undefined) nodeOf.set(alias, node.metadata.name);
      }
      return ok({ hosts: hosts.value.map((alias) => ({ alias, node: nodeOf.get(alias) ?? '' })) });
    },

    [Symbol.dispose]: () => end.abort(),
  };
}

interface NodeObject extends KubeObject {
  readonly status?: { readonly addresses?: readonly { readonly type: string; readonly address: string }[] };
}
