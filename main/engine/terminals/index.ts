import { type Failure, failed, ok } from '../../../contract/failure.ts';
import type { CapabilityImplementation } from '../../../contract/implementation.ts';
import type { TerminalTarget } from '../../../contract/terminals.ts';
import type { AuditLog, Connections } from '../capability.ts';
import { type ClusterConnection, type KubeObject, resources } from '../kube/cluster-connection.ts';
import type { Log } from '../log.ts';
import type { HostKeyQuestion } from '../ssh/ssh-connector.ts';
import { type Support, sweep } from './debug.ts';
import { debugImages } from './images.ts';
import type { Owner } from './owner.ts';
import { createPump, type Pump } from './pump.ts';
import { openShell, type Shell } from './session.ts';

export interface TerminalsOptions {
  readonly connections: Connections;
  readonly audit: AuditLog;
  readonly log: Log;
  readonly owner: Owner;
  /** How long what a lost session has left waits for being taken up again, in milliseconds. */
  readonly grace?: number;
}

/** Shells, and what they leave in clusters. */
export interface Terminals extends CapabilityImplementation<'terminals'>, Disposable {
  /** Called with each connection that has come up: removes what consoles that are gone have left. */
  readonly connected: (connection: ClusterConnection) => Promise<void>;
  /** Ends every shell and waits, for a while, until what was made for them is gone. */
  readonly close: () => Promise<void>;
}

/** One open terminal of one window. */
interface Entry {
  /** The shell once it is open; undefined when it never opened. */
  readonly ready: Promise<Shell | undefined>;
  shell: Shell | undefined;
  columns: number;
  rows: number;
  readonly pump: Pump;
  /** Answers a host-key question that waits. */
  answer: ((accept: boolean) => void) | undefined;
}

const unknownSession: Failure = {
  code: 'terminal.unknown',
  what: 'This terminal is not open.',
  why: 'It has ended, or belongs to another window.',
  fix: 'Open a new one.',
};

const subjectOf = (target: TerminalTarget): string => {
  switch (target.kind) {
    case 'pod':
    case 'debug':
      return `pod ${target.namespace}/${target.pod}`;
    case 'node':
    case 'node-pod':
      return `node ${target.node}`;
  }
};

/** Shells in pods and on nodes. */
export function createTerminals({ connections, audit, log, owner, grace = 120_000 }: TerminalsOptions): Terminals {
  /** Keys are of one window each, so that no window can type into another's terminal. */
  const sessions = new Map<string, Entry>();
  const end = new AbortController();
  const key = (connection: string, session: string) => `${connection} ${session}`;
  /** What sessions whose connection was lost have left, by their names; removed when nobody takes it up. */
  const left = new Map<
    string,
    { readonly cluster: string; readonly support: Support; readonly timer: NodeJS.Timeout }
  >();
  /** Pods that this console has made and has not given up. */
  const own = new Set<string>();
  const removals = new Set<Promise<void>>();
  /** Sessions that have not ended. */
  const busy = new Set<Promise<void>>();

  const remove = (cluster: string, support: Support): void => {
    const removal = support.remove().then((result) => {
      own.delete(support.place.pod);
      if (!result.ok)
        log.warn('terminals', `${support.subject} was not removed and ends by itself: ${result.failure.why}`);
      audit.record({
        cluster,
        action: `end ${support.action}`,
        subject: support.subject,
        result: result.ok ? 'done' : result.failure.code,
      });
    });
    removals.add(removal);
    void removal.finally(() => removals.delete(removal));
  };
  const take = (name: string): Support | undefined => {
    const found = left.get(name);
    if (!found) return undefined;
    clearTimeout(found.timer);
    left.delete(name);
    return found.support;
  };
  const leave = (name: string, cluster: string, support: Support): void => {
    const timer = setTimeout(() => {
      if (take(name)) remove(cluster, support);
    }, grace);
    timer.unref();
    left.set(name, { cluster, support, timer });
  };
  const dispose = () => {
    end.abort();
    for (const [name, { cluster, support }] of [...left]) if (take(name)) remove(cluster, support);
  };

  return {
    async open({ session, target, columns, rows, resumes, unattended }, sink, context) {
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
      const entry: Entry = { ready, shell: undefined, columns, rows, pump: createPump(sink), answer: undefined };
      sessions.set(name, entry);
      const over = Promise.withResolvers<void>();
      busy.add(over.promise);
      const askHostKey = async (question: HostKeyQuestion): Promise<boolean> => {
        await sink.push([{ kind: 'host-key', ...question }]);
        return await new Promise<boolean>((resolve) => {
          entry.answer = resolve;
          signal.addEventListener('abort', () => resolve(false), { once: true });
        });
      };
      const subject = subjectOf(target);
      const connected = await connections.get(target.cluster);
      const cluster = connected.ok ? connected.value.contextName : target.cluster;
      let support = resumes === undefined ? undefined : take(key(context.connection, resumes));
      let lost = false;
      const claimed: string[] = [];
      const made = (what: Support) => {
        // What could not be taken up again is over.
        if (support) remove(cluster, support);
        support = what;
        audit.record({ cluster, action: `make ${what.action}`, subject: what.subject, result: 'done' });
      };
      try {
        const opened = await openShell({
          connections,
          target,
          columns,
          rows,
          signal,
          unattended: unattended ?? false,
          // A window that has gone needs no news.
          progress: (text) => void sink.push([{ kind: 'progress', text }]).catch(() => undefined),
          owner: owner.name,
          support,
          claim(pod) {
            claimed.push(pod);
            own.add(pod);
          },
          made,
          askHostKey,
        });
        for (const pod of claimed) if (support?.place.pod !== pod) own.delete(pod);
        if (!opened.ok) {
          // The cluster may be away still: the next attempt takes it up.
          lost = !signal.aborted;
          return opened.failure;
        }
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
          await Promise.all(shell.output.map((output) => entry.pump.run(output).catch(() => undefined)));
          const { code, reason, lost: broke, failure } = await shell.ended;
          if (signal.aborted) return undefined;
          if (failure) return failure;
          lost = broke;
          await sink.push([{ kind: 'exited', code, reason, lost }]);
        } finally {
          signal.removeEventListener('abort', close);
          shell.close();
          log.info('terminals', `closed on ${subject}`);
        }
        return undefined;
      } finally {
        if (support) {
          if (lost && !end.signal.aborted) leave(name, cluster, support);
          else remove(cluster, support);
        }
        settle(undefined);
        sessions.delete(name);
        busy.delete(over.promise);
        over.resolve();
      }
    },

    async input({ session, data }, context) {
      // What is typed while the connection is made waits for the shell: nothing typed is lost.
      const entry = sessions.get(key(context.connection, session));
      const shell = await entry?.ready;
      if (!entry || !shell) return failed(unknownSession);
      if (data.includes('\x03')) entry.pump.interrupt();
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

    async debugImages({ cluster, node }) {
      const connection = await connections.get(cluster);
      if (!connection.ok) return connection;
      // Who may not read nodes still gets the well-known ones.
      const found = node === '' ? undefined : await connection.value.get<NodeObject>(resources.nodes, node);
      const held = found?.ok ? (found.value.status?.images ?? []).map((image) => image.names ?? []) : [];
      return ok({ images: debugImages(held) });
    },

    async connected(connection) {
      if (!connections.writable(connection.cluster).ok) return;
      // A pod of this console that no session knows is one whose removal failed: the cluster was away.
      const isOver = (name: string, pod: string) => (name === owner.name ? !own.has(pod) : owner.isGone(name));
      for (const pod of await sweep(connection, isOver)) {
        log.info('terminals', `removed ${pod}, left behind by a console that is gone`);
        audit.record({
          cluster: connection.contextName,
          action: 'end node debug pod',
          subject: `${pod}, left behind`,
          result: 'done',
        });
      }
    },

    async close() {
      dispose();
      const settled = async () => {
        // A session that ends leaves something to remove.
        while (busy.size + removals.size > 0) await Promise.all([...busy, ...removals]);
      };
      const late = new Promise<void>((resolve) => setTimeout(resolve, 5_000).unref());
      await Promise.race([settled(), late]);
    },

    [Symbol.dispose]: dispose,
  };
}

interface NodeObject extends KubeObject {
  readonly status?: {
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
    readonly images?: readonly { readonly names?: readonly string[] }[];
  };
}
